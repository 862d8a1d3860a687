"""A run folder as one HTML file, as a command (``fcmae report RUN``) and as a function.

from fcmae.report import report

report("runs/mine").file
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fcmae.cli.command import end, exit_status, say
from fcmae.cli.keywords import keyword_function
from fcmae.cli.parser import parse
from fcmae.errors import UserError
from fcmae.runs.layout import check_is_run

PROG = "python -m fcmae.report"


@dataclass(frozen=True)
class ReportConfig:
    """Write a run's facts, curves, reconstructions and configuration into one HTML file.

    The file loads nothing and sends nothing; it can be opened from disk, mailed or archived. An existing report is
    replaced; a file that is not a report is left alone.
    """

    run: str
    """Run folder of fcmae pretrain or fcmae finetune."""
    output: str | None = None
    """HTML file to write; unset: report.html in the run folder."""


@dataclass(frozen=True)
class ReportResult:
    """The report that was written."""

    file: Path
    size: int
    """Bytes."""


@keyword_function(ReportConfig)
def report(config: ReportConfig) -> ReportResult:
    """Write the report of a run folder.

    The settings are keywords, which :class:`ReportConfig` explains; a whole ``ReportConfig`` is accepted too.

    Raises:
        UserError: ``run`` is not a run folder, or ``output`` is something that a report must not replace.
    """
    if not config.run:
        raise UserError("RUN is empty; give a run folder, as written by fcmae pretrain --output")
    check_is_run(Path(config.run))
    from fcmae.report_page.write import write_report  # here, because these imports take seconds

    file = write_report(config.run, config.output)
    return ReportResult(file, file.stat().st_size)


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Run the command line; returns the exit status: 0, or 1 after an error."""
    return exit_status(prog, lambda: _show(report(parse(ReportConfig, argv, prog))))


def _show(result: ReportResult) -> None:
    size = f"{result.size / 1e6:.1f} MB" if result.size >= 1e6 else f"{result.size / 1e3:.0f} kB"
    say(f"{result.file} ({size})\n")


if __name__ == "__main__":
    end(main())
