"""A whole run, of any task: set up, trained, and whatever ends it noted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate.state import AcceleratorState

from fcmae.training.failure import note_failure
from fcmae.training.loop import Fitted, fit
from fcmae.training.run import Run

C = TypeVar("C", bound=Any)


def train(config: C, set_up: Callable[[C], Run[C]]) -> tuple[Run[C], Fitted]:
    """Set up a run and train it to its end, or until a signal.

    Raises:
        Exception: what ended it, with a note that says what to do; the traceback is in the run folder.
    """
    folder = None if config.output is None else Path(config.output)
    try:
        run = set_up(config)
        config, folder = run.config, run.folder
        fitted = fit(run)
        # after an error this would wait for processes that are gone
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    except Exception as error:
        note_failure(error, config, folder)
        raise
    finally:
        # accelerate keeps device and precision for the life of the process; a second run may want others
        AcceleratorState._reset_state(reset_partial_state=True)
    return run, fitted
