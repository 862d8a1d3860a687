"""Writes the report of a run folder; never overwrites a file that is not a report."""

import logging
from pathlib import Path

from fcmae.report_page.page import render_report
from fcmae.report_page.rendering import check_replaceable, write_page
from fcmae.runs.layout import METRICS
from fcmae.runs.reader import read_run
from fcmae.wording import counted

logger = logging.getLogger("fcmae")

REPORT = "report.html"


def write_report(run: str | Path, output: str | Path | None = None) -> Path:
    """Write the report of a run folder; returns the file, by default ``run``/report.html.

    Raises:
        UserError: ``run`` is not a run folder, or ``output`` exists and is not a report.
    """
    folder = Path(run)
    file = folder / REPORT if output is None else Path(output)
    check_replaceable(file, REPORT)
    found = read_run(folder)
    if found.broken_lines:
        logger.warning("%s: skipped %s", folder / METRICS, counted(found.broken_lines, "broken line"))
    write_page(file, render_report(found))
    return file
