"""The report of a run folder, written; never over a file that is no report."""

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
    """Write the report of a run folder; returns the file, ``run``/report.html unless ``output`` says otherwise.

    Raises:
        UserError: ``run`` is not a run folder, or ``output`` is something that a report must not replace.
    """
    folder = Path(run)
    file = folder / REPORT if output is None else Path(output)
    _check_replaceable(file)
    found = read_run(folder)
    if found.broken_lines:
        logger.warning("%s: skipped %d broken line(s)", folder / METRICS, found.broken_lines)
    page = render_report(found).encode("utf-8", errors="replace")  # a path may hold bytes that are not text
    with replacing(file) as temporary:  # a browser that reloads sees the old report or the new
        temporary.write_bytes(page)
    return file


def _check_replaceable(file: Path) -> None:
    if file.is_dir():
        raise UserError(f"--output {file} is a folder; give a file, such as {file / REPORT}")
    if not file.exists():
        return
    with file.open("rb") as opened:
        if GENERATOR.encode() not in opened.read(1024):
            raise UserError(f"{file} exists and is not a report of fcmae; give another --output, or move it away")
