"""A set of images, measured before training, as a command (``fcmae stats SOURCE``) and as a function.

from fcmae.stats import stats

found = stats("images/", output="stats.html")
found.flags
"""

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fcmae.called import command_line
from fcmae.cli.command import end, exit_status, say
from fcmae.cli.keywords import keyword_function
from fcmae.cli.parser import parse
from fcmae.config import check_least, check_seed, small_sets
from fcmae.config.source import OwnPixelsConfig
from fcmae.data.pixel_reading import Stack
from fcmae.data.sources.source import check_there
from fcmae.errors import UserError, in_a_line
from fcmae.files import check_writable, write_text
from fcmae.survey.result import StatsResult

logger = logging.getLogger("fcmae")

PROG = "python -m fcmae.stats"
NAMED = 5  # files and groups named in the printed summary


@dataclass(frozen=True)
class StatsDataConfig(OwnPixelsConfig):
    """How files, URLs and tables are read."""

    nodata: float | None = None
    """Value of pixels without data. Unset: a value far from all others is looked for; NaN and a TIFF's tag count."""
    stack: Stack = "auto"
    """What the pages of a TIFF are: channels of one image, or images."""


@dataclass(frozen=True)
class StatsConfig:
    """Measure a set of images before training, and print the flags of fcmae pretrain that suit it.

    Every file is decoded once. The values of the pixels are measured on a sample that the seed draws: up to 4,096
    pixels from each of 512 windows of 256×256 or more.
    """

    source: tuple[str, ...]
    """Images, as --data.path of fcmae pretrain takes them: a folder, a glob in quotes, a list of paths, or several."""
    output: str | None = None
    """HTML page to write: figures, histograms and a contact sheet. Unset: none. An older page is replaced."""
    json: str | None = None
    """File for all figures, damaged files and duplicates as JSON."""
    sample: int = 512
    """Files whose values are measured."""
    seed: int = 0
    """Draws the sample."""
    num_workers: int = 4
    """Processes that read the images; 0: the main process reads them. Does not change the result."""
    overwrite: bool = False
    """Replace the JSON file if it is there."""
    data: StatsDataConfig = field(default_factory=StatsDataConfig)

    def __post_init__(self) -> None:
        check_least(self, sample=1, num_workers=0)
        check_seed(self.seed)


@keyword_function(StatsConfig)
def stats(config: StatsConfig) -> StatsResult:
    """Measure a set of images.

    The settings are keywords, which :class:`StatsConfig` explains; a whole ``StatsConfig`` is accepted too.

    Raises:
        UserError: no images, none that can be read, files that would be overwritten.
    """
    check_there(config.source, "SOURCE")
    if config.json is not None:
        _check_json(Path(config.json), config.overwrite)
    written = {name: Path(file) for name in ("output", "json") if (file := getattr(config, name)) is not None}
    for name, file in written.items():
        check_writable(file, f"--{name}")  # before a survey that may take hours
    if len({file.resolve() for file in written.values()}) < len(written):
        raise UserError(f"--output and --json are the same file, {config.json}; give two")
    from fcmae.report_page.rendering import check_replaceable  # here, because these imports take seconds
    from fcmae.survey.page import write_stats_page
    from fcmae.survey.summary import summary
    from fcmae.survey.survey import survey

    if config.output is not None:
        check_replaceable(Path(config.output), "stats.html")
    reading = config.data.reading(config.data.stack)
    found = survey(config.source, reading, config.sample, config.seed, config.num_workers, config.data.access)
    result = summary(found)
    result = replace(result, flags=(*config.data.flags, *result.flags))
    if config.output is not None:
        line = command_line("pretrain", *pretrain_arguments(config.source, result.flags, result.images))
        write_stats_page(Path(config.output), found, result, config.source, line, reading, config.num_workers)
    if config.json is not None:
        write_text(Path(config.json), json.dumps(_valid(asdict(result)), indent=1) + "\n")
    return result


def _valid(value: Any) -> Any:
    """NaN and infinity, which JSON lacks, as null; a channel without data has them."""
    if isinstance(value, dict):
        return {name: _valid(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_valid(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _check_json(file: Path, overwrite: bool) -> None:
    if file.is_dir():
        raise UserError(f"--json {file} is a folder; give a file, such as {file / 'stats.json'}")
    if file.exists() and not overwrite:
        raise UserError(f"--json {file} exists; give another, or --overwrite")


def pretrain_arguments(source: Sequence[str], flags: Sequence[str], images: int) -> list[str]:
    """The arguments of ``fcmae pretrain`` for this set of so many images."""
    recipe = small_sets.AUTO if images < small_sets.LIMIT else "pretrain"
    return ["--config", recipe, "--data.path", ",".join(source), *flags]


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Run the command line; returns the exit status: 0, or 1 after an error."""

    def work() -> None:
        config = parse(StatsConfig, argv, prog)
        _show(stats(config), config)

    return exit_status(prog, work)


def _show(result: StatsResult, config: StatsConfig) -> None:
    say("".join(f"{name:12} {text}\n" for name, text in _rows(result)))
    for what, groups in (("equal files", result.equal), ("look alike", result.alike)):
        more = "" if len(groups) <= NAMED else f"             and {len(groups) - NAMED:,} more groups\n"
        say("".join(f"{what:12} {in_a_line(', '.join(group[:NAMED]))}\n" for group in groups[:NAMED]) + more)
    say("".join(f"{'damaged':12} {message}\n" for message in result.damaged[:NAMED]))
    if len(result.damaged) > NAMED:
        say(f"             and {len(result.damaged) - NAMED:,} more; --json lists them all\n")
    say("".join(f"{'note':12} {note}\n" for note in result.notes))
    say(command_line("pretrain", *pretrain_arguments(config.source, result.flags, result.images)) + "\n")
    for file in filter(None, (config.output, config.json)):
        say(f"{file}\n")


def _rows(result: StatsResult) -> list[tuple[str, str]]:
    low, middle, high = result.short_side
    rows = [
        ("images", f"{result.images:,} ({result.total_bytes / 1e6:,.1f} MB), {len(result.damaged):,} damaged"),
        ("files", ", ".join(f"{count:,} {ending}" for ending, count in result.endings.items())),
        ("channels", ", ".join(f"{count:,} of {kind}" for kind, count in result.kinds.items())),
        ("short side", f"{low:,} to {high:,} pixels, half of them at least {middle:,}"),
    ]
    for number, one in enumerate(result.channels, 1):
        missing = f", {one.nodata_share:.2%} without data" if one.nodata_share else ""
        text = f"{one.minimum:.5g} to {one.maximum:.5g}, mean {one.mean:.5g}, std {one.std:.5g}{missing}"
        rows.append((f"channel {number}", text))
    if result.one_color:
        rows.append(("one color", f"{len(result.one_color):,}, such as {in_a_line(result.one_color[0])}"))
    return rows


if __name__ == "__main__":
    end(main())
