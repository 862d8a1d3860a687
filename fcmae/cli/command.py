"""Shared by the commands: exit status, one-line errors, standard output, and the output folder."""

import atexit
import faulthandler
import gc
import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from fcmae.cli.allocator import keep_freed_memory
from fcmae.cli.quiet import PlainFormatter, quiet_libraries
from fcmae.errors import OtherProcessError, UserError, advice

logger = logging.getLogger("fcmae")

TO_END = 5.0  # seconds that a process may take to end after an error


def exit_status(prog: str, work: Callable[[], object]) -> int:
    """Run ``work`` and return the exit status: 0, 1 after an error that can be put in a line, or 130 after Ctrl-C.

    ``prog`` is the command as the user called it; error messages start with it.
    """
    command = prog.removeprefix("python -m ")
    handler = logging.StreamHandler()
    handler.setFormatter(PlainFormatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    quiet_libraries()
    keep_freed_memory()
    atexit.register(gc.freeze)  # collecting what torch and Numba leave takes longer than all else at the end
    try:
        work()
    except OtherProcessError:  # the process that met the error says it
        return 1
    except Exception as error:
        message = _message(error)
        if message is None:
            raise
        logger.error("%s: error: %s", command, message)
        return 1
    except KeyboardInterrupt:
        logger.error("interrupted; unsaved work is lost")
        return 130
    return 0


def _message(error: Exception) -> str | None:
    """One line for the user; None: a bug, whose traceback is the message."""
    if notes := getattr(error, "__notes__", None):
        return notes[-1]
    if isinstance(error, UserError):
        # an error from a data loader worker is wrapped in that worker's traceback; the last line is the message
        kind = type(error)
        return str(error).strip().splitlines()[-1].removeprefix(f"{kind.__module__}.{kind.__qualname__}: ")
    known = advice(error)
    return known if known is not None or not isinstance(error, OSError) else _of_system(error)


def _of_system(error: OSError) -> str:
    """The file and the reason, without the number; not the temporary name that a file is written under."""
    if error.filename is None or error.strerror is None:
        return str(error)
    path = Path(os.fsdecode(error.filename))
    return f"{path.with_name(path.name.removeprefix('.new-'))}: {error.strerror}" if path.name else str(error)


_ends_with: list[int] = []
_in_a_hurry: list[bool] = []


def leave_soon() -> None:
    """Threads or libraries of this process may not end by themselves: :func:`end` then waits a few seconds at most."""
    _in_a_hurry[:] = [True]


def end(status: int) -> NoReturn:
    """End the process with this exit status, after an error also if threads or libraries do not end.

    What was registered to run at exit runs, but nothing is taken apart: that takes seconds on a busy machine, while
    other processes of a run wait for this one.
    """
    _ends_with[:] = [status]
    if status:
        # at once, not atexit: threads are waited for before that
        faulthandler.dump_traceback_later(TO_END, exit=True, file=open(os.devnull, "w"))  # noqa: SIM115
    elif _in_a_hurry:
        timer = threading.Timer(TO_END, os._exit, [status])
        timer.daemon = True
        timer.start()
    sys.exit(status)


@atexit.register  # on import, and therefore called after what libraries have registered since
def _leave() -> None:
    if _ends_with:
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):  # closed, or there is none
                stream.flush()
        os._exit(_ends_with[0])


def say(text: str) -> None:
    """Print a result to standard output."""
    try:
        sys.stdout.write(text)
    except UnicodeEncodeError:  # a file name in it that is not UTF-8, or a terminal that is not
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(text.encode(encoding, errors="backslashreplace").decode(encoding))
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
