"""Shared by the commands: exit status, one-line errors, standard output, and the output folder."""

import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from fcmae.cli.allocator import keep_freed_memory
from fcmae.cli.quiet import PlainFormatter, quiet_libraries
from fcmae.errors import UserError

logger = logging.getLogger("fcmae")


def exit_status(prog: str, work: Callable[[], object]) -> int:
    """Run ``work`` and return the exit status: 0, 1 after an error that the user can fix, or 130 after Ctrl-C.

    ``prog`` is the command as the user called it; error messages start with it.
    """
    command = prog.removeprefix("python -m ")
    handler = logging.StreamHandler()
    handler.setFormatter(PlainFormatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    quiet_libraries()
    keep_freed_memory()
    try:
        work()
    except UserError as error:
        # an error from a data loader worker is wrapped in that worker's traceback; the last line is the message
        message = str(error).strip().splitlines()[-1].removeprefix(f"{UserError.__module__}.{UserError.__qualname__}: ")
        logger.error("%s: error: %s", command, message)
        return 1
    except OSError as error:  # full disk, no write permission; the message names the file
        logger.error("%s: error: %s", command, error)
        return 1
    except KeyboardInterrupt:
        logger.error("interrupted; unsaved work is lost")
        return 130
    return 0


def say(text: str) -> None:
    """Print a result to standard output."""
    sys.stdout.write(text)
    sys.stdout.flush()


def output_folder(given: str, names: Sequence[str], overwrite: bool) -> Path:
    """The folder given by --output, which may not exist yet.

    Raises:
        UserError: it is not a folder, or it holds one of the files ``names`` and ``overwrite`` is false.
    """
    if not given:
        raise UserError("--output is empty; give a folder")
    folder = Path(given)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output {folder} is a file; give a folder")
    if not overwrite and (there := [name for name in names if (folder / name).exists()]):
        raise UserError(f"--output {folder} holds {', '.join(there)} already; give another, or --overwrite")
    return folder
