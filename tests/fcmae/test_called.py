"""Commands to copy and paste: as the user can call them here, quoted."""

import shlex
import sys
from pathlib import Path

import pytest

from fcmae.called import command_line


def test_the_script_of_this_environment_or_this_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another environment's script on the PATH is not this fcmae."""
    by_python = [sys.executable, "-m", "fcmae.report"]
    arguments = [Path("my run"), "--output", "it's"]
    for folder, expected in ((tmp_path / "other", by_python), (tmp_path, ["fcmae", "report"])):
        folder.mkdir(exist_ok=True)
        (folder / "fcmae").touch(mode=0o755)
        monkeypatch.setenv("PATH", str(folder))
        if folder == tmp_path:
            monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
        assert shlex.split(command_line("report", *arguments)) == [*expected, *map(str, arguments)]
