"""Libraries that only some formats need: imported on use, and named in one line where they are missing."""

import importlib
import logging
from typing import Any


def needed(module: str, extra: str, what: str) -> Any:
    """The module, with its logger silent: what it finds wrong with a file ends in our own line about it.

    Raises:
        ValueError: it is not installed.
    """
    try:
        found = importlib.import_module(module)
    except ImportError:
        raise ValueError(f'{what} needs another package: pip install "fcmae[{extra}]"') from None
    logging.getLogger(module.partition(".")[0]).setLevel(logging.CRITICAL + 1)
    return found
