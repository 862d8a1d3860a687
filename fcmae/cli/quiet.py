"""Keeps the remarks of other libraries from who calls a command or a function: they are about nothing the user did."""

import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from fcmae.errors import in_a_line

# warnings name the module that calls: ours too, which warns by logging only
LIBRARIES = ("fcmae", "torch", "torchvision", "timm", "accelerate", "transformers", "huggingface_hub", "numba", "PIL",
             "tifffile", "imagecodecs", "matplotlib", "skimage", "sklearn", "tensorboard", "aim", "comet_ml",
             "mlflow", "sqlalchemy", "wandb")  # fmt: skip
LOGGERS = ("accelerate", "aim", "alembic", "comet_ml", "huggingface_hub", "httpx", "matplotlib", "mlflow", "numba",
           "PIL", "tifffile", "timm", "transformers", "urllib3", "wandb")  # fmt: skip
ADDRESS = re.compile(r"<([\w.]+) object at 0x[0-9a-fA-F]+>")


def quiet_libraries() -> None:
    """Silence library warnings, and library logs below errors, for the rest of this process.

    ``python -W default -m fcmae.…`` and PYTHONWARNINGS show the warnings.
    """
    if not sys.warnoptions and "PYTHONWARNINGS" not in os.environ:
        warnings.filterwarnings("ignore", module=rf"({'|'.join(LIBRARIES)})(\.|$)")
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.ERROR))


@contextmanager
def quieted() -> Iterator[None]:
    """As :func:`quiet_libraries`, for a block: the program of someone who calls a function stays as it is."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        quiet_libraries()
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


class PlainFormatter(logging.Formatter):
    """The message alone; objects by their kind, without addresses in memory."""

    def format(self, record: logging.LogRecord) -> str:
        """``<_io.BytesIO object at 0x7f…>`` → ``_io.BytesIO``; a file's name in a message steers no terminal."""
        lines = ADDRESS.sub(r"\1", super().format(record)).split("\n")
        return "\n".join(map(in_a_line, lines))
