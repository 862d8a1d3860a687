"""The commands by name: ``fcmae COMMAND`` and ``python -m fcmae COMMAND`` are ``python -m fcmae.COMMAND``."""

import json
import runpy
import signal
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import fcmae
from fcmae.cli import command
from fcmae.cli.command import exit_status
from fcmae.cli.main import COMMANDS, main
from fcmae.cli.main import run as start
from fcmae.errors import UserError
from tests.fcmae.small_runs import save_run

ROOT = Path(__file__).parents[3]


def run(*args: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *args], cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_the_entry_point_ends_with_what_this_function_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, name = scripts["fcmae"].partition(":")
    assert getattr(import_module(module), name) is start


def test_every_command_is_listed_and_every_one_listed_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    modules = {file.stem for file in (ROOT / "fcmae").glob("*.py")} - {
        "__init__",
        "called",
        "__main__",
        "errors",
        "files",
        "progress",
        "wording",
    }
    assert set(COMMANDS) == modules
    for arguments in (["--help"], []):
        assert main(arguments) == 0
        printed = capsys.readouterr().out
        for name, about in COMMANDS.items():
            assert f"  {name} " in printed
            assert about in printed


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--version"], ["pretrain", "--version"]):
        assert main(arguments) == 0
        assert capsys.readouterr().out == f"fcmae {fcmae.__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_the_command_as_it_was_called(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for prog, call in (
        (f"fcmae {name}", lambda: main([name, "--help"])),
        (f"fcmae {name}", lambda: main(["help", name])),
        (f"python -m fcmae.{name}", lambda: import_module(f"fcmae.{name}").main(["--help"])),
    ):
        with pytest.raises(SystemExit, match="0"):
            call()
        assert " ".join(capsys.readouterr().out.split()).startswith(f"usage: {prog} ")


@pytest.mark.parametrize("name", COMMANDS)
def test_errors_are_one_line_that_begins_with_the_command(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """No usage in front of it, exit status 1."""
    for begins, call in (
        (f"fcmae {name}: error: ", lambda: main([name, "--nonsense"])),
        (f"fcmae.{name}: error: ", lambda: import_module(f"fcmae.{name}").main(["--nonsense"])),
    ):
        caplog.clear()
        assert call() == 1
        (record,) = caplog.records
        assert record.getMessage() == f"{begins}--nonsense is not an option"


@pytest.mark.parametrize("name", COMMANDS)
def test_modules_end_as_the_console_script_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through :func:`fcmae.cli.command.end`, which no thread or library can hold up."""
    ended: list[int] = []
    monkeypatch.setattr(sys, "argv", [name, "--nonsense"])
    monkeypatch.setattr(command, "end", ended.append)
    monkeypatch.delitem(sys.modules, f"fcmae.{name}", raising=False)
    runpy.run_module(f"fcmae.{name}", run_name="__main__")
    assert ended == [1]


def test_unknown_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretain", "--seed", "1"]) == 1
    assert capsys.readouterr().err == "fcmae: error: pretain is not a command; the nearest is pretrain\n"
    assert main(["--seed"]) == 1
    assert "--seed is not a command; the commands are pretrain, finetune, predict, evaluate" in capsys.readouterr().err


def test_a_process_of_its_own(tmp_path: Path) -> None:
    """stdout holds the result alone, stderr the one line of an error; both spellings say the same."""
    weights = save_run(tmp_path / "run") / "checkpoints" / "step-00000001" / "model.safetensors"
    done = run("-m", "fcmae", "convert", str(weights), str(tmp_path / "out.safetensors"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("convnextv2_atto: ")
    again = run("-m", "fcmae.convert", str(weights), str(tmp_path / "out.safetensors"))
    assert (again.returncode, again.stdout) == (1, "")
    error = f"fcmae.convert: error: {tmp_path}/out.safetensors exists; give another DST, or --overwrite"
    assert again.stderr.splitlines()[-1] == error


def test_help_imports_no_command() -> None:
    code = (
        "import sys, json; from fcmae.cli.main import main; main(['--help']); "
        "print(json.dumps([m for m in sys.modules if m.split('.')[0] in ('fcmae', 'torch', 'jsonargparse')]))"
    )
    loaded = json.loads(run("-c", code).stdout.splitlines()[-1])
    assert set(loaded) <= {"fcmae", "fcmae.cli", "fcmae.cli.main", "fcmae.cli.fields"}


def test_imports_print_nothing_and_leave_logging_alone() -> None:
    names = ", ".join(f"fcmae.{name}" for name in COMMANDS)
    code = f"import logging, {names}; assert not logging.root.handlers and logging.root.level == logging.WARNING"
    done = run("-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_exit_status(caplog: pytest.LogCaptureFixture) -> None:
    def raising(error: BaseException) -> int:
        def work() -> None:
            raise error

        return exit_status("fcmae test", work)

    assert exit_status("fcmae test", lambda: "anything") == 0
    assert raising(UserError("mend it")) == 1
    assert caplog.messages[-1] == "fcmae test: error: mend it"
    assert raising(OSError(28, "No space left on device", "/disk")) == 1
    assert caplog.messages[-1] == "fcmae test: error: /disk: No space left on device"
    assert raising(OSError(2, "No such file or directory", b"/a/.new-report.html")) == 1
    assert caplog.messages[-1] == "fcmae test: error: /a/report.html: No such file or directory"
    assert raising(KeyboardInterrupt()) == 130 == 128 + signal.SIGINT
    with pytest.raises(ZeroDivisionError):  # a bug keeps its traceback
        raising(ZeroDivisionError())
