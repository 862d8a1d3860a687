"""An error that ends a run unexpectedly: its traceback goes to a file, and one line says what to do."""

import os
import sys
import tempfile
import traceback
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import torch

import fcmae
from fcmae.config import BATCH_SIZE, OptimizationConfig
from fcmae.config.run import RunConfig
from fcmae.errors import UserError, advice, brief
from fcmae.runs import checkpoint as ckpt


def note_failure(error: Exception, config: RunConfig, folder: Path | None) -> None:
    """Write RUN/error-….txt and add a note to the error: one line that says what to do.

    Errors that say it themselves (:class:`UserError`, a file that cannot be written) stay as they are.
    """
    known = advice(error, _batch_size(config.train), f"--data.num_workers (now {config.data.num_workers})")
    says_it_itself = isinstance(error, UserError) or (isinstance(error, OSError) and error.filename is not None)
    if says_it_itself and known is None:
        return
    text = brief(error)
    line = known or f"unexpected {type(error).__name__}{f': {text}' if text else ''}"
    file = write_traceback(error, folder)
    where = f"; the traceback is in {file}" if file else ""
    error.add_note(f"{line}{where}{_how_to_resume(folder)}")
    if known is not None:  # the frames hold what filled the memory; a caller may want to try again
        traceback.clear_frames(error.__traceback__)


def write_traceback(error: Exception, folder: Path | None) -> Path | None:
    """The file that the traceback went to: in the run folder, or in the system's folder for temporary files."""
    rank = int(os.environ.get("RANK", "0"))
    name = f"error-{datetime.now():%Y%m%d-%H%M%S}{f'-rank{rank}' if rank else ''}.txt"
    head = f"fcmae {fcmae.__version__}, torch {torch.__version__}, process {rank}\n{' '.join(sys.argv)}\n\n"
    text = head + "".join(traceback.format_exception(error))
    for place in (folder, Path(tempfile.gettempdir())):
        if place is not None and place.is_dir():
            with suppress(OSError):
                file = place / name
                file.write_text(text, encoding="utf-8", errors="replace")
                return file
    return None


def _batch_size(train: OptimizationConfig) -> str:
    """The flag, its value, and the flag that keeps the size of a step."""
    size, processes = train.batch_size or BATCH_SIZE, int(os.environ.get("WORLD_SIZE", "1"))
    effective = train.effective_batch or size * (train.accumulation_steps or 1) * processes
    return f"--train.batch_size (now {size}; --train.effective_batch {effective} keeps the images per step)"


def _how_to_resume(folder: Path | None) -> str:
    with suppress(UserError):
        if folder is not None and (last := ckpt.last_checkpoint(folder)) is not None:
            return f"; the same command resumes from {last.name}"
    return ""
