"""``python -m fcmae.pretrain``: FCMAE pretraining.

The same command serves one process and many (``accelerate launch`` or ``torchrun``), on CPUs and GPUs.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate.state import AcceleratorState

from fcmae.cli.command import exit_status
from fcmae.cli.pretrain_parser import parse_config
from fcmae.config import PretrainConfig
from fcmae.training.loop import fit
from fcmae.training.setup import set_up


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, also after an interruption that was saved; 1 after an error."""
    return exit_status("fcmae.pretrain", lambda: pretrain(parse_config(sys.argv[1:] if argv is None else argv)))


def pretrain(config: PretrainConfig) -> Path:
    """Pretrain as configured; returns the run folder.

    Raises:
        UserError: something the user can mend: a missing folder, no readable image, a run folder that is taken.
        NonFiniteError: the loss became NaN or infinite; the last good checkpoint is kept.
    """
    try:
        run = set_up(config)
        fit(run)
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        # accelerate keeps device and precision for the life of the process; a second run may want others
        AcceleratorState._reset_state(reset_partial_state=True)
    return run.folder


if __name__ == "__main__":
    sys.exit(main())
