"""Metrics of a run: metrics.jsonl, one JSON object per line, and the same values as TensorBoard events."""

import json
import math
from itertools import compress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from fcmae.files import write_text
from fcmae.runs.layout import EVENTS, METRICS, SUPERSEDED


class MetricsLog:
    """Appends to RUN/metrics.jsonl and to the TensorBoard events in RUN/tensorboard.

    Args:
        run: the run folder.
        start_step: step that the run resumes from. Later lines, written after the last checkpoint, are moved to
            metrics.superseded.jsonl because the resumed run writes them again.
    """

    def __init__(self, run: Path, start_step: int) -> None:
        self.path = run / METRICS
        if self.path.is_file():
            lines = self.path.read_text().splitlines()
            keeps = [start_step > 0 and _is_up_to(line, start_step) for line in lines]
            kept = list(compress(lines, keeps))
            if len(kept) < len(lines):
                with (run / SUPERSEDED).open("a") as superseded:
                    superseded.writelines(f"{line}\n" for line, keep in zip(lines, keeps, strict=True) if not keep)
                write_text(self.path, "".join(f"{line}\n" for line in kept))
        self._file = self.path.open("a")
        self._tensorboard = SummaryWriter(str(run / EVENTS), purge_step=start_step + 1 if start_step else None)

    def write(self, values: dict[str, Any], group: str = "train") -> None:
        """Write one line; ``values`` must contain ``step``. The values also go to TensorBoard, as ``group/name``."""
        # JSON has no NaN
        line = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for name, value in values.items():
            if name != "step":
                self._tensorboard.add_scalar(f"{group}/{name}", value, values["step"])

    def add_picture(self, name: str, picture: Image.Image, step: int) -> None:
        """Show an RGB picture in TensorBoard."""
        self._tensorboard.add_image(name, np.asarray(picture), step, dataformats="HWC")

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._tensorboard.close()


def _is_up_to(line: str, step: int) -> bool:
    """Whether a line is complete and its step is at most ``step``."""
    try:
        return json.loads(line)["step"] <= step
    except (ValueError, KeyError, TypeError):
        return False
