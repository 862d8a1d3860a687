"""How every ``python -m fcmae.<command>`` ends: results, or one line that says what was wrong."""

import logging
from collections.abc import Callable

from fcmae.errors import UserError

logger = logging.getLogger("fcmae")


def exit_status(command: str, work: Callable[[], object]) -> int:
    """Do the work of a command; 0, or 1 after an error that the user can mend, or 130 after Ctrl-C."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
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
