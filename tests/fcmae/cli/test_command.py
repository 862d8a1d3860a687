"""How a command ends its process."""

import subprocess
import sys

import pytest

ENDING = """
import atexit, sys, time
from fcmae.cli.command import end

class Slow:
    def __del__(self):
        time.sleep(3600)

slow = Slow()
atexit.register(print, "registered")
sys.stdout.write("last words, ")
end({status})
"""


@pytest.mark.parametrize("status", [0, 1, 130])
def test_the_end_waits_for_no_destructor(status: int) -> None:
    """What is registered runs, what was written arrives, and the status is the one given."""
    code = ENDING.format(status=status)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (status, "last words, registered\n", "")
