"""How a command's process ends."""

import subprocess
import sys
import time

import pytest

from fcmae.cli.command import TO_END

HANGS = {
    "a thread": "import threading; threading.Thread(target=time.sleep, args=(300,)).start()",
    "at exit": "import atexit; atexit.register(time.sleep, 300)",
}
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


@pytest.mark.parametrize("hang", HANGS)
def test_after_an_error_the_console_script_ends_within_seconds(hang: str) -> None:
    code = f"import time; from fcmae.cli import command, main; {HANGS[hang]}; main.main = lambda: 1; main.run()"
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], timeout=200, check=False)
    assert done.returncode == 1
    assert TO_END <= time.monotonic() - started < 100


@pytest.mark.parametrize("status", [0, 1, 130])
def test_the_end_waits_for_no_destructor(status: int) -> None:
    """What is registered runs, what was written arrives, and the status is the one given."""
    code = ENDING.format(status=status)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (status, "last words, registered\n", "")
