"""What the commands share: how they end (after an error with one line), what they print, where they write."""

import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from fcmae.cli.allocator import keep_freed_memory
from fcmae.errors import UserError

logger = logging.getLogger("fcmae")


def exit_status(prog: str, work: Callable[[], object]) -> int:
    """Do the work of a command; 0, or 1 after an error that the user can fix, or 130 after Ctrl-C.

    ``prog`` is the command as the user called it; error lines begin with it.
    """
    command = prog.removeprefix("python -m ")
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
        logger.error("interrupted; unsaved work is lost")
        return 130
    return 0


def say(text: str) -> None:
    """Print a result of the command, on standard output."""
    sys.stdout.write(text)
    sys.stdout.flush()


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
