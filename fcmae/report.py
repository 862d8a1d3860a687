"""``python -m fcmae.report RUN``: a run folder as one HTML file that opens anywhere and needs nothing else."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from fcmae.cli.command import exit_status
from fcmae.errors import UserError
from fcmae.files import replacing
from fcmae.report_page.page import GENERATOR, render_report
from fcmae.runs.layout import METRICS
from fcmae.runs.reader import read_run

logger = logging.getLogger("fcmae")

REPORT = "report.html"

DESCRIPTION = """Write a run's facts, curves, reconstructions and configuration into one HTML file.

The file loads nothing and sends nothing; it can be opened from disk, mailed or archived. A report that is there already
is written anew; a file that is no report is left alone."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or 1 after an error that the user can mend."""
    options = build_parser().parse_args(argv)
    return exit_status("fcmae.report", lambda: _write_and_tell(options.run, options.output))


def build_parser() -> argparse.ArgumentParser:
    """The parser."""
    parser = argparse.ArgumentParser(
        prog="python -m fcmae.report",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN", help="run folder of python -m fcmae.pretrain")
    parser.add_argument("--output", metavar="FILE", help=f"HTML file to write (default: RUN/{REPORT})")
    return parser


def write_report(run: str | Path, output: str | Path | None = None) -> Path:
    """Write the report of a run folder; returns the file, ``run``/report.html unless ``output`` says otherwise.

    Raises:
        UserError: ``run`` is no run folder, or ``output`` is something that no report may replace.
    """
    folder = Path(run)
    file = folder / REPORT if output is None else Path(output)
    _check_replaceable(file)
    found = read_run(folder)
    if found.broken_lines:
        logger.warning("%s: %d broken line(s) left out", folder / METRICS, found.broken_lines)
    page = render_report(found).encode("utf-8", errors="replace")  # a path may hold bytes that are no text
    with replacing(file) as temporary:  # a browser that reloads sees the old report or the new
        temporary.write_bytes(page)
    return file


def _write_and_tell(run: str, output: str | None) -> None:
    file = write_report(run, output)
    size = file.stat().st_size
    sys.stdout.write(f"{file} ({size / 1e6:.1f} MB)\n" if size >= 1e6 else f"{file} ({size / 1e3:.0f} kB)\n")


def _check_replaceable(file: Path) -> None:
    if file.is_dir():
        raise UserError(f"--output {file} is a folder; give a file, such as {file / REPORT}")
    if not file.exists():
        return
    with file.open("rb") as opened:
        if GENERATOR.encode() not in opened.read(1024):
            raise UserError(f"{file} is there already and no report of fcmae; give another --output, or move it away")


if __name__ == "__main__":
    sys.exit(main())
