"""An error ends a run with status 1 and a line that says what to do; its processes end, its traceback is in a file."""

import multiprocessing
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fcmae.errors import advice
from fcmae.pretrain import main, pretrain
from fcmae.training import loop
from tests.fcmae.test_pretrain_function import TINY_KEYWORDS

pytestmark = pytest.mark.usefixtures("small_network")

Args = Callable[..., list[str]]
CPU = (
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
)
GPU = "CUDA out of memory. Tried to allocate 20.00 GiB"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "out of memory: take a smaller --batch_size or fewer --data.num_workers"),
        (RuntimeError(CPU), "out of memory: take a smaller --batch_size"),
        (OSError(12, "Cannot allocate memory"), "out of memory"),
        (torch.OutOfMemoryError(GPU), "the GPU is out of memory: take a smaller --batch_size"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "was killed, as the system does"),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), "was killed, as the system does"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Segmentation fault. "), "a damaged image may"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is"), "/dev/shm"),
        (RuntimeError("DataLoader worker (pid 7) exited unexpectedly with exit code 75. Details"), "--shm-size"),
        (RuntimeError("DataLoader worker (pid 7) exited unexpectedly with exit code 76. Details"), "ulimit -n"),
        (OSError(24, "Too many open files"), "ulimit -n"),
        (ZeroDivisionError("division by zero"), None),
        (RuntimeError("Connection closed by peer"), None),  # of one process
    ],
)
def test_advice(error: Exception, said: str | None) -> None:
    found = advice(error)
    assert found is None if said is None else found is not None and said in found and "\n" not in found


def fail_at(monkeypatch: pytest.MonkeyPatch, step: int, error: Exception) -> None:
    real, done = loop._train_step, [0]

    def failing(*args: Any) -> torch.Tensor:
        done[0] += 1
        if done[0] == step:
            raise error
        return real(*args)

    monkeypatch.setattr(loop, "_train_step", failing)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(GPU), ZeroDivisionError("never seen")])
def test_an_error_ends_the_run_and_its_processes(
    tiny_args: Args, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    fail_at(monkeypatch, 7, error)
    assert main(tiny_args("run", "--data.num_workers", "2")) == 1
    assert multiprocessing.active_children() == []
    (file,) = (tmp_path / "run").glob("error-*.txt")
    text = file.read_text()
    assert "Traceback (most recent call last)" in text
    assert str(error) in text
    message = caplog.messages[-1]
    assert "Traceback" not in caplog.text
    assert "\n" not in message
    assert f"the traceback is in {file}; the same command resumes from step-00000005" in message
    if isinstance(error, ZeroDivisionError):
        assert "unexpected ZeroDivisionError: never seen" in message
    else:
        assert "--train.batch_size (now 4; --train.effective_batch 4 keeps the images per step)" in message


def test_from_python_the_error_is_raised(image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_at(monkeypatch, 2, torch.OutOfMemoryError(GPU))
    with pytest.raises(torch.OutOfMemoryError) as error:
        pretrain(data=image_folder, output=tmp_path / "run", **TINY_KEYWORDS | {"num_workers": 1})
    assert re.search(r"batch_size .*error-.*\.txt", error.value.__notes__[-1])
    assert multiprocessing.active_children() == []


def test_a_full_disk_is_one_line_that_names_the_file(
    tiny_args: Args, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While steps are logged: /dev/full takes nothing."""
    (tmp_path / "run").mkdir()
    monkeypatch.setattr("fcmae.runs.metrics.os.write", _full)
    assert main(tiny_args("run")) == 1
    assert caplog.messages[-1] == (
        f"fcmae.pretrain: error: {tmp_path / 'run' / 'metrics.jsonl'}: No space left on device"
    )
    assert not list((tmp_path / "run").glob("error-*"))


def _full(*_: object) -> int:
    raise OSError(28, "No space left on device")
