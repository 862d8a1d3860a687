"""Keeps the remarks of other libraries from the user of a command: they are not about anything the user did."""

import logging
import os
import re
import sys
import warnings

# warnings name the module that calls: ours too, which warns by logging only
LIBRARIES = ("fcmae", "torch", "torchvision", "timm", "accelerate", "transformers", "huggingface_hub", "numba", "PIL",
             "tifffile", "imagecodecs", "matplotlib", "skimage", "sklearn", "tensorboard")  # fmt: skip
LOGGERS = ("accelerate", "huggingface_hub", "httpx", "matplotlib", "numba", "PIL", "tifffile", "timm", "transformers",
           "urllib3")  # fmt: skip
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


class PlainFormatter(logging.Formatter):
    """The message alone; objects by their kind, without addresses in memory."""

    def format(self, record: logging.LogRecord) -> str:
        """``<_io.BytesIO object at 0x7f…>`` → ``_io.BytesIO``."""
        return ADDRESS.sub(r"\1", super().format(record))
