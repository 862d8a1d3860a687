"""Networks as files that other runtimes execute, as a command (``fcmae export RUN``) and as a function.

from fcmae.export import export

export("runs/mine", output="mine.onnx").difference
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fcmae.cli.command import end, exit_status, say
from fcmae.cli.keywords import keyword_function
from fcmae.cli.parser import parse
from fcmae.errors import UserError
from fcmae.files import check_writable
from fcmae.runs.layout import CHECKPOINTS, EXPORTS, is_run_folder
from fcmae.weights.place import check_weights

if TYPE_CHECKING:
    from torch import nn

PROG = "python -m fcmae.export"
SUFFIX = ".onnx"
TIMM = "timm"  # among the exports


@dataclass(frozen=True)
class ExportConfig:
    """Write a network as an ONNX file, checked against PyTorch with ONNX Runtime.

    With a classifier it gives logits [B, classes], or with --features what the classifier sees, [B, D]; without one the
    mean of the last feature map, [B, D]. It takes any number of images [B, C, H, W], normalized; the file's metadata
    says how.
    """

    ckpt: str
    """Run folder, checkpoint folder or weights file of any format that fcmae convert reads. Of a fine-tuned run, its
    best weights."""
    format: Literal["onnx"] = "onnx"
    """Format of the file; it needs pip install fcmae[onnx]."""
    output: str | None = None
    """File to write, .onnx. Unset: export/model.onnx in a run folder, model.onnx in another, a file's own name."""
    img_size: int | tuple[int, int] | None = None
    """Size of the images in pixels, one number or height,width; unset: the network's own."""
    features: bool = False
    """Write features even if there is a classifier."""
    overwrite: bool = False
    """Replace the file if it is there."""
    allow_pickle: bool = False
    """Unpickle whatever a weights file holds. This runs code from the file; only for files that you trust."""
    use_ema: bool = True
    """Where a weights file has weights and their average over the steps (EMA), take the average; false: the others."""

    def __post_init__(self) -> None:
        if self.image_hw is not None and min(self.image_hw) < 1:
            raise ValueError(f"img_size must be a number of pixels, or height,width, got {self.img_size}")
        if self.output is not None and Path(self.output).suffix.lower() != SUFFIX:
            raise ValueError(f"output must be a file that ends in {SUFFIX}, got {self.output!r}")

    @property
    def image_hw(self) -> tuple[int, int] | None:
        """Height and width, if they are given."""
        return (self.img_size, self.img_size) if isinstance(self.img_size, int) else self.img_size


@dataclass(frozen=True)
class ExportResult:
    """What was written."""

    model: str
    """Name of the network, such as convnextv2_tiny."""
    files: tuple[Path, ...]
    """The .onnx file, and for networks above 2 GB the file of its weights."""
    input_shape: tuple[int, int, int]
    """(C, H, W)."""
    output: str
    """logits or features."""
    difference: float
    """‖ONNX Runtime − PyTorch‖ / ‖PyTorch‖ on random images, at most 1e-4."""


@keyword_function(ExportConfig)
def export(config: ExportConfig) -> ExportResult:
    """Write a network as an ONNX file.

    The settings are keywords, which :class:`ExportConfig` explains; a whole ``ExportConfig`` is accepted too.

    Raises:
        UserError: weights that cannot be read, libraries that are missing, a file that would be overwritten, or one
            that does not compute what PyTorch computes.
    """
    given = Path(config.ckpt)
    # a fine-tuned run that was copied without its checkpoints
    is_bare = (given / EXPORTS / TIMM).is_dir() and not (given / CHECKPOINTS).is_dir()
    source = given / EXPORTS / TIMM if is_bare else given
    check_weights(config.ckpt if source == given else source)
    file = _file(config, given)
    if file.is_dir():
        raise UserError(f"--output {file} is a folder; give a file")
    if file.exists() and not config.overwrite:
        raise UserError(f"{file} exists; give another --output, or --overwrite")
    check_writable(file, "--output")

    from fcmae.data.crop_share import crop_share  # here, because these imports take seconds
    from fcmae.weights.dense import create_dense
    from fcmae.weights.onnx import Features, check_installed, write_onnx
    from fcmae.weights.settings import pixels
    from fcmae.weights.stated import stated_beside

    check_installed()
    network: Any = create_dense(source, None, allow_pickle=config.allow_pickle, use_ema=config.use_ema)
    chans, *own_hw = network.pretrained_cfg["input_size"]
    height, width = config.image_hw or own_hw
    is_classifier = network.num_classes > 0 and not config.features
    graph: nn.Module = network if is_classifier else Features(network)
    read_as, stated = pixels(source, chans), stated_beside(source)
    metadata: dict[str, Any] = {
        "model": network.pretrained_cfg["architecture"],
        "mean": list(read_as.mean),
        "std": list(read_as.std),
        "crop_pct": crop_share(stated.crop_pct if [height, width] == own_hw else None, (height, width)),
        **read_as.exported(),
    }
    if classes := stated.names(network.num_classes if is_classifier else 0):
        metadata |= {"classes": list(classes), "multi_label": stated.is_multi_label}
    output = "logits" if is_classifier else "features"
    written = write_onnx(graph, (chans, height, width), output, file, metadata)
    return ExportResult(metadata["model"], written.files, (chans, height, width), output, written.difference)


def _file(config: ExportConfig, given: Path) -> Path:
    if config.output is not None:
        return Path(config.output)
    if given.is_file():
        return given.with_suffix(SUFFIX)
    return (given / EXPORTS if is_run_folder(given) else given) / f"model{SUFFIX}"


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Run the command line; returns the exit status: 0, or 1 after an error."""
    return exit_status(prog, lambda: _show(export(parse(ExportConfig, argv, prog))))


def _show(result: ExportResult) -> None:
    chans, height, width = result.input_shape
    say(
        f"{result.model}: images [B, {chans}, {height}, {width}] → {result.output}; ONNX Runtime differs from "
        f"PyTorch by {result.difference:.1e}: {', '.join(str(file) for file in result.files)}\n"
    )


if __name__ == "__main__":
    end(main())
