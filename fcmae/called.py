"""How the user calls the commands here: for lines to copy and paste."""

import shlex
import shutil
import sys
from pathlib import Path


def command_line(command: str, *arguments: object) -> str:
    """``fcmae COMMAND …`` if that is on the PATH and this environment's, else with this Python; quoted for a shell."""
    script = shutil.which("fcmae")
    ours = script is not None and Path(script).parent.samefile(Path(sys.executable).parent)
    start = ["fcmae", command] if ours else [sys.executable, "-m", f"fcmae.{command}"]
    return shlex.join([*start, *map(str, arguments)])
