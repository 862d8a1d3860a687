"""How a command's process ends."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from fcmae.cli.command import TO_END

ROOT = Path(__file__).parents[3]
HANGS = {
    "a thread": "import threading; threading.Thread(target=time.sleep, args=(300,)).start()",
    "at exit": "import atexit; atexit.register(time.sleep, 300)",
}


@pytest.mark.parametrize("hang", HANGS)
def test_after_an_error_the_console_script_ends_within_seconds(hang: str) -> None:
    code = f"import time; {HANGS[hang]}; from fcmae.cli import main; main.main = lambda: 1; main.run()"
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=200, check=False)
    assert done.returncode == 1
    assert TO_END <= time.monotonic() - started < 100
