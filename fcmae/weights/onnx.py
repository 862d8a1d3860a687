"""A dense network as an ONNX file that was checked: ONNX Runtime gives the same numbers from it as PyTorch."""

import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fcmae.errors import UserError
from fcmae.files import make_folder, naming, replacing

NEEDED = ("onnx", "onnxscript", "onnxruntime")
INPUT = "images"
TOLERANCE = 1e-4  # ‖ONNX − PyTorch‖ / ‖PyTorch‖
BATCHES = (2, 1, 3)  # images of the checks; the first is what is traced
DATA = ".data"  # ending of the file of the weights, where they exceed the 2 GB of one file


class Written(NamedTuple):
    """An ONNX file."""

    files: tuple[Path, ...]
    """The .onnx file; beside it its .data, for networks above 2 GB."""
    difference: float
    """The largest ‖ONNX − PyTorch‖ / ‖PyTorch‖ of the checks."""


class Features(nn.Module):
    """Feature vectors [B, D]: of a classifier what its last layer sees, as ``fcmae predict`` writes them; of a network
    without one the mean of the last feature map, which ``fcmae evaluate`` scores."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network: Any = network

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] → [B, D]."""
        x = self.network.forward_features(images)
        return self.network.forward_head(x, pre_logits=True) if self.network.num_classes else x.mean((2, 3))


def check_installed() -> None:
    """UserError if a library of the extra fcmae[onnx] is missing."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--format onnx needs {', '.join(missing)}: pip install 'fcmae[onnx]'")


def write_onnx(
    network: nn.Module, shape: tuple[int, int, int], output: str, file: Path, metadata: dict[str, Any]
) -> Written:
    """Write a network as ``file``, for any number of images, and check it with ONNX Runtime on a CPU.

    Args:
        network: [B, C, H, W] → [B, D].
        shape: (C, H, W).
        output: name of the result in the graph; the images are ``images``.
        file: replaced if it is there.
        metadata: written into the file, each value as JSON.

    Raises:
        UserError: images of a size that the network cannot take, or ONNX Runtime gives other numbers than PyTorch;
            nothing is written then.
    """
    network = network.eval().float().cpu()
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(count, *shape, generator=generator) for count in BATCHES]
    try:
        with torch.inference_mode():
            wanted = [network(some) for some in images]
    except RuntimeError as error:  # images that are too small
        raise UserError(f"--img_size {shape[1]},{shape[2]}: the network cannot take it: {error}") from None
    make_folder(file.parent)
    with TemporaryDirectory(prefix=".new-", dir=file.parent) as folder, naming(file):
        made = Path(folder) / file.name  # of the same name, since the graph names the file of the weights
        with quietly():
            program: Any = torch.onnx.export(
                network, (images[0],), input_names=[INPUT], output_names=[output], dynamo=True, verbose=False,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )  # fmt: skip
        program.model.metadata_props.update({name: json.dumps(value) for name, value in metadata.items()})
        program.save(made)
        difference = _difference(made, images, wanted)
        if not difference <= TOLERANCE:
            raise UserError(
                f"{file} is not written: ONNX Runtime's {output} differ from PyTorch's by {difference:.1e} of their "
                f"size, more than {TOLERANCE:g}"
            )
        data = made.with_name(made.name + DATA)
        parts = [data, made] if data.exists() else [made]  # the graph last: it is complete when it is there
        for part in parts:
            with replacing(file.with_name(part.name)) as temporary:
                part.replace(temporary)
    return Written(tuple(file.with_name(part.name) for part in reversed(parts)), difference)


def _difference(file: Path, batches: list[Tensor], wanted: list[Tensor]) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    worst = 0.0
    for images, of_torch in zip(batches, wanted, strict=True):
        got = _outputs(session, images)
        if got.shape != of_torch.shape:
            return float("inf")
        worst = max(worst, float((got - of_torch).norm() / of_torch.norm()))
    return worst


def _outputs(session: Any, images: Tensor) -> Tensor:
    (found,) = session.run(None, {INPUT: images.numpy()})
    return torch.from_numpy(found)


@contextmanager
def quietly() -> Iterator[None]:
    """The exporter warns and logs about its own inside."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
