"""Other libraries' remarks do not reach the user of a command; ours do."""

import logging
import os
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest

from fcmae.cli.keywords import keyword_function
from fcmae.cli.quiet import PlainFormatter

ROOT = Path(__file__).parents[3]
CODE = """
import logging, warnings
from fcmae.cli.command import exit_status

def work():
    for module in ("torch.utils.data.dataloader", "timm.scheduler", "fcmae.training.loop"):
        warnings.warn_explicit("remark of " + module, UserWarning, "file.py", 1, module)
    warnings.warn_explicit("remark of the user", UserWarning, "file.py", 1, "mine")
    logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 1s")
    logging.getLogger("fcmae").warning("ours, of <_io.BytesIO object at 0x7f00aa>")

exit_status("fcmae test", work)
"""


@dataclass(frozen=True)
class NumberConfig:
    """A setting."""

    number: int = 1
    """A number."""


def run(*flags: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONWARNINGS"} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *flags, "-c", CODE], env=environment, capture_output=True, text=True)
    return done.stderr


def test_remarks_of_libraries_are_not_shown() -> None:
    shown = run()
    assert "remark of torch" not in shown
    assert "remark of timm" not in shown
    assert "remark of fcmae" not in shown  # a library's, attributed to the module that called it
    assert "Retrying" not in shown
    assert "remark of the user" in shown
    assert "ours, of _io.BytesIO\n" in shown


def test_python_shows_warnings_if_it_is_asked_to() -> None:
    assert "remark of torch" in run("-W", "default")


@keyword_function(NumberConfig)
def noisy(config: NumberConfig) -> int:
    """Warns as torch does of more loading processes than cores, and as a program's own module does."""
    warnings.warn_explicit("This DataLoader will create 4 worker processes", UserWarning, "file.py", 1, "fcmae.data")
    warnings.warn_explicit("of the user", UserWarning, "file.py", 1, "mine")
    logging.getLogger("timm.models").warning("Loading pretrained weights")
    return config.number


def test_functions_are_as_quiet_and_leave_the_program_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    warnings.simplefilter("always")
    before, level = list(warnings.filters), logging.getLogger("timm").level
    with warnings.catch_warnings(record=True) as seen:
        assert noisy(number=2) == 2
        warnings.warn_explicit("later", UserWarning, "file.py", 1, "torch.utils")
    assert [str(one.message) for one in seen] == ["of the user", "later"]
    assert caplog.messages == []
    assert (warnings.filters, logging.getLogger("timm").level) == (before, level)


def test_no_addresses() -> None:
    record = logging.LogRecord("fcmae", logging.INFO, "f", 1, "cannot read %s", ("<a.b.C object at 0xdeadBEEF>",), None)
    assert PlainFormatter("%(message)s").format(record) == "cannot read a.b.C"
