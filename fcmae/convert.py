"""Weights for other libraries, as a command (``fcmae convert SRC DST --format …``) and as a function.

from fcmae.convert import convert

conversion = convert("runs/mine", "weights/timm", format="timm")
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fcmae.cli.command import end, exit_status, say
from fcmae.cli.keywords import keyword_function
from fcmae.cli.parser import parse
from fcmae.weights.destination import check_destination
from fcmae.weights.place import check_weights

if TYPE_CHECKING:
    from torch import Tensor

PROG = "python -m fcmae.convert"
TargetFormat = Literal["timm", "official", "transformers", "mmpretrain"]


@dataclass(frozen=True)
class ConvertConfig:
    """Convert the weights of a ConvNeXt V1 or V2 from any format to that of timm, transformers, the official code or
    mmpretrain (also for mmdet and mmseg).

    The format of SRC is recognized: fcmae, timm, transformers, mmpretrain, mmdet, mmseg, MMEarth, SparK, official
    (published, fine-tuned, detection and segmentation, or training checkpoints of MinkowskiEngine's layout).
    """

    src: str
    """Run folder (of a fine-tuned run its best weights, of another its newest checkpoint), checkpoint folder, or
    .safetensors, .pt, .pth or .bin file."""
    dst: str
    """Folder to write, with the configuration that the library needs and a model card; or a .safetensors, .pt or .pth
    file for the weights only."""
    format: TargetFormat = "timm"
    """Format of DST."""
    verbose: bool = False
    """Print the new name of each tensor."""
    overwrite: bool = False
    """Replace files that are in DST."""
    allow_pickle: bool = False
    """Unpickle whatever SRC holds. This runs code from the file; only for files that you trust."""
    use_ema: bool = True
    """Where SRC has weights and their average over the steps (EMA), take the average; false takes the others."""


@dataclass(frozen=True)
class ConvertResult:
    """What was converted, and where it was written."""

    model: str
    """Name of the network, such as convnextv2_tiny."""
    source_format: str
    """The format that was recognized."""
    format: str
    files: tuple[Path, ...]
    """The files that were written."""
    state: "dict[str, Tensor]" = field(repr=False)
    """The tensors in them, by their new names."""
    source_names: dict[str, str | None] = field(repr=False)
    """New name → name in the source; None: not in the source, written with its initial value."""
    left: tuple[str, ...] = field(repr=False)
    """Names of the source that have no place in the target."""
    usage: str | None
    """How to load the folder in Python; None: a single file was written."""


@keyword_function(ConvertConfig)
def convert(config: ConvertConfig) -> ConvertResult:
    """Convert weights to the format of another library, and write them.

    The settings are keywords, which :class:`ConvertConfig` explains; a whole ``ConvertConfig`` is accepted too.

    Raises:
        UserError: weights that cannot be read or have no place in the format, files that would be overwritten.
    """
    dst = Path(config.dst)
    check_weights(config.src)
    check_destination(config.dst, config.overwrite)
    from fcmae.progress import Progress  # here, because these imports take seconds
    from fcmae.weights.card import imports_first
    from fcmae.weights.convert import convert_weights
    from fcmae.weights.formats import targets
    from fcmae.weights.write import write

    with Progress("converted and written", 2) as progress:
        conversion = convert_weights(
            config.src, config.format, allow_pickle=config.allow_pickle, use_ema=config.use_ema
        )
        progress.update()
        files, state = write(conversion, config.src, dst, config.format, config.overwrite)
        progress.update()
    target = targets()[config.format][1]
    use = target.loaded_by(conversion.weights).replace("FOLDER", str(dst))
    use = "; ".join([*imports_first(conversion, config.format), use])
    return ConvertResult(
        model=conversion.weights.config.name,
        source_format=conversion.weights.format,
        format=config.format,
        files=tuple(files),
        state=state,
        source_names={name: conversion.source_names.get(name) for name in state},
        left=tuple(conversion.left),
        usage=use if dst.is_dir() else None,
    )


def conversion_table(result: ConvertResult) -> str:
    """Source's name → target's name and shape, aligned; then what has no place in the target."""
    started = "(starts as 1 and 0)"  # the norm that an encoder alone has not
    lines = [
        (result.source_names[name] or started, name, str(list(tensor.shape))) for name, tensor in result.state.items()
    ]
    lines += [(name, "no place in the target", "") for name in result.left]
    widths = [max(len(line[column]) for line in lines) for column in (0, 1)]
    rows = (f"{source:{widths[0]}}  →  {target:{widths[1]}}  {shape}" for source, target, shape in lines)
    return "".join(row.rstrip() + "\n" for row in rows)


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Run the command line; returns the exit status: 0, or 1 after an error."""

    def work() -> None:
        config = parse(ConvertConfig, argv, prog)
        _show(convert(config), config.verbose)

    return exit_status(prog, work)


def _show(result: ConvertResult, verbose: bool) -> None:
    if verbose:
        say(conversion_table(result))
    say(
        f"{result.model}: {len(result.state)} tensors from {result.source_format} to {result.format}: "
        f"{', '.join(str(file) for file in result.files)}\n"
    )
    if result.usage is not None:
        say(f"to use it: {result.usage}\n")


if __name__ == "__main__":
    end(main())
