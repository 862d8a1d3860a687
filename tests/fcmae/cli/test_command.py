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


def test_after_an_error_the_console_script_ends_within_seconds() -> None:
    """Whatever hangs. All are started first, because they do nothing but wait."""
    code = "import time; from fcmae.cli import command, main; {}; main.main = lambda: 1; main.run()"
    started = time.monotonic()
    processes = {hang: subprocess.Popen([sys.executable, "-c", code.format(how)]) for hang, how in HANGS.items()}
    time.sleep(max(0, started + TO_END - 0.1 - time.monotonic()))
    assert [hang for hang, process in processes.items() if process.poll() is not None] == []
    for hang, process in processes.items():
        assert process.wait(max(0.1, started + 100 - time.monotonic())) == 1, hang


@pytest.mark.parametrize("status", [0, 1, 130])
def test_the_end_waits_for_no_destructor(status: int) -> None:
    """What is registered runs, what was written arrives, and the status is the one given."""
    code = ENDING.format(status=status)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (status, "last words, registered\n", "")
