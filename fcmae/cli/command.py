"""What every ``python -m fcmae.<command>`` shares: checks of its options, and how it ends, if badly with one line."""

import argparse
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from fcmae.cli.allocator import keep_freed_memory
from fcmae.errors import UserError

logger = logging.getLogger("fcmae")


def exit_status(command: str, work: Callable[[], object]) -> int:
    """Do the work of a command; 0, or 1 after an error that the user can mend, or 130 after Ctrl-C."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    keep_freed_memory()
    try:
        work()
    except UserError as error:
        # one raised in a worker of the data loader comes wrapped in that worker's traceback; its last line is ours
        message = str(error).strip().splitlines()[-1].removeprefix(f"{UserError.__module__}.{UserError.__qualname__}: ")
        logger.error("%s: error: %s", command, message)
        return 1
    except OSError as error:  # a disk that is full, a folder that may not be written to; the message names the file
        logger.error("%s: error: %s", command, error)
        return 1
    except KeyboardInterrupt:
        logger.error("interrupted; what was not saved yet is lost")
        return 130
    return 0


def check_at_least(options: argparse.Namespace, **least: int) -> None:
    """UserError for a number that is given and smaller; ``num_workers`` is the option --data.num_workers."""
    for name, smallest in least.items():
        value = getattr(options, name)
        if value is not None and value < smallest:
            flag = "data.num_workers" if name == "num_workers" else name
            raise UserError(f"--{flag} must be at least {smallest}, got {value}")


def check_seed(seed: int) -> None:
    """UserError for what torch's generators do not take."""
    if not 0 <= seed < 2**63:
        raise UserError(f"--seed must be at least 0 and less than 2⁶³, got {seed}")


def output_folder(given: str, names: Sequence[str], overwrite: bool) -> Path:
    """The folder of --output, which need not be there yet.

    Raises:
        UserError: it is no folder, or, without ``overwrite``, one of the files of these names is in it.
    """
    if not given:
        raise UserError("--output is empty; give a folder")
    folder = Path(given)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output {folder} is a file; give a folder")
    if not overwrite and (there := [name for name in names if (folder / name).exists()]):
        raise UserError(f"--output {folder} holds {', '.join(there)} already; give another, or --overwrite")
    return folder
