"""Writes the report of a run folder; never overwrites a file that is not a report."""

import logging
from pathlib import Path

from fcmae.errors import UserError
from fcmae.files import replacing
from fcmae.report_page.page import GENERATOR, render_report
from fcmae.runs.layout import METRICS
from fcmae.runs.reader import read_run

logger = logging.getLogger("fcmae")

REPORT = "report.html"


def write_report(run: str | Path, output: str | Path | None = None) -> Path:
    """Write the report of a run folder; returns the file, by default ``run``/report.html.

    Raises:
        UserError: ``run`` is not a run folder, or ``output`` exists and is not a report.
    """
    folder = Path(run)
    file = folder / REPORT if output is None else Path(output)
    _check_replaceable(file)
    found = read_run(folder)
    if found.broken_lines:
        logger.warning("%s: skipped %d broken line(s)", folder / METRICS, found.broken_lines)
    page = render_report(found).encode("utf-8", errors="replace")  # a path may contain bytes that are not valid text
    with replacing(file) as temporary:  # atomic: a browser that reloads sees the old or the new report
        temporary.write_bytes(page)
    return file


def _check_replaceable(file: Path) -> None:
    if file.is_dir():
        raise UserError(f"--output {file} is a folder; give a file, such as {file / REPORT}")
    if not file.exists():
        return
    with file.open("rb") as opened:
        if GENERATOR.encode() not in opened.read(1024):
            raise UserError(f"{file} exists and is not an fcmae report; give another --output, or move the file")
