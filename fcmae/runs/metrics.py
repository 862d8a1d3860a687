"""Metrics of a run: metrics.jsonl, one JSON object per line, and the same values as TensorBoard events."""

import contextlib
import json
import math
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from fcmae.errors import UserError
from fcmae.files import naming, replacing, sync
from fcmae.runs.layout import EVENTS, METRICS, SUPERSEDED
from fcmae.runs.utf8_path import utf8_path


class Follower(Protocol):
    """What gets the same values as TensorBoard, and does not fail."""

    def write(self, values: dict[str, Any], group: str) -> None:
        """Values, of which ``step`` is one."""

    def add_picture(self, name: str, picture: Image.Image, step: int) -> None:
        """An RGB picture."""


class MetricsLog:
    """Appends to RUN/metrics.jsonl and to the TensorBoard events in RUN/tensorboard.

    Args:
        run: the run folder.
        start_step: step that the run resumes from. Later lines, written after the last checkpoint, and damaged ones are
            moved to metrics.superseded.jsonl because the resumed run writes them again.
        follower: gets the same values and pictures.

    Raises:
        UserError: metrics.jsonl is something other than a file.
        OSError: a file cannot be written, here or later; the error names it.
    """

    def __init__(self, run: Path, start_step: int, follower: Follower | None = None) -> None:
        self._follower = follower
        self.path, self._events = run / METRICS, run / EVENTS
        for file in (self.path, run / SUPERSEDED):
            if file.exists() and not file.is_file():
                raise UserError(f"{file} is not a file; move it away, or give another --output")
        self.kept = _set_aside_after(start_step, self.path, run / SUPERSEDED)
        self._file = self.path.open("ab", buffering=0)
        sync(run)
        self._opened = contextlib.ExitStack()
        with naming(self._events):
            self._events.mkdir(parents=True, exist_ok=True)
            events = self._opened.enter_context(utf8_path(self._events))
            self._tensorboard = SummaryWriter(events, purge_step=start_step + 1 if start_step else None)
        self._hook = threading.excepthook
        threading.excepthook = self._quiet(self._hook)

    def write(self, values: dict[str, Any], group: str = "train") -> None:
        """Write one line; ``values`` must contain ``step``. The values also go to TensorBoard, as ``group/name``."""
        # JSON has no NaN
        line = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        with naming(self.path):
            _write_all(self._file.fileno(), json.dumps(line).encode() + b"\n")
        with naming(self._events):
            for name, value in values.items():
                if name != "step":
                    self._tensorboard.add_scalar(f"{group}/{name}", value, values["step"])
        if self._follower:
            self._follower.write(values, group)

    def sync(self) -> None:
        """Make sure that the lines written so far are on disk."""
        with naming(self.path):
            os.fsync(self._file.fileno())
        with naming(self._events):
            self._tensorboard.flush()

    def add_picture(self, name: str, picture: Image.Image, step: int) -> None:
        """Show an RGB picture in TensorBoard."""
        self._tensorboard.add_image(name, np.asarray(picture), step, dataformats="HWC")
        if self._follower:
            self._follower.add_picture(name, picture, step)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        try:
            # after an error, another one about a full disk adds nothing
            with naming(self._events), contextlib.suppress(*(() if error is None else (OSError,))):
                self._tensorboard.close()
        finally:
            threading.excepthook = self._hook
            self._opened.close()

    @staticmethod
    def _quiet(hook: Callable[..., Any]) -> Callable[..., Any]:
        """A hook without the errors of the thread of TensorBoard: its next call raises them again in our thread."""

        def note(args: threading.ExceptHookArgs) -> None:
            if not (isinstance(args.exc_value, OSError) and type(args.thread).__module__.startswith("tensorboard.")):
                hook(args)

        return note


def _set_aside_after(step: int, file: Path, superseded: Path) -> list[dict[str, Any]]:
    """Move lines of later steps, and damaged ones, to ``superseded``. Returns the others, parsed."""
    if not file.is_file():
        return []
    content = file.read_bytes()
    lines = content.splitlines()
    parsed = [_up_to(line, step) for line in lines]
    kept = b"".join(line + b"\n" for line, values in zip(lines, parsed, strict=True) if values is not None)
    if kept != content:
        aside = b"".join(line + b"\n" for line, values in zip(lines, parsed, strict=True) if values is None)
        if aside:
            with naming(superseded), superseded.open("ab", buffering=0) as opened:
                _write_all(opened.fileno(), aside)
                os.fsync(opened.fileno())
        with replacing(file) as temporary:
            temporary.write_bytes(kept)
    return [values for values in parsed if values is not None]


def _up_to(line: bytes, step: int) -> dict[str, Any] | None:
    """The values of a line that is complete and whose step is at most ``step``; None otherwise, and if that is 0."""
    try:
        values = json.loads(line)
        return values if step > 0 and not isinstance(values["step"], bool) and 0 <= values["step"] <= step else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _write_all(descriptor: int, data: bytes) -> None:
    """Write all of it: a disk that is nearly full takes a part."""
    while data:
        data = data[os.write(descriptor, data) :]
