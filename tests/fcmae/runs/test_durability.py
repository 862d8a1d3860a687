"""What was called saved is on disk: the order of calls, and a file system whose power is cut."""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fcmae import files
from fcmae.files import replacing, write_text
from fcmae.runs import checkpoint as ckpt
from fcmae.runs.metrics import MetricsLog
from tests.fcmae.runs.test_checkpoint import state, trained


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """fsync and renames, with the name of the file or folder."""
    made: list[tuple[str, str]] = []
    fsync, replace, rename = os.fsync, os.replace, Path.rename

    def note_fsync(descriptor: int) -> None:
        made.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        fsync(descriptor)

    def note_replace(source: Path, target: Path) -> None:
        made.append(("replace", Path(target).name))
        replace(source, target)

    def note_rename(self: Path, target: Path) -> Path:
        made.append(("rename", Path(target).name))
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    monkeypatch.setattr(Path, "rename", note_rename)
    return made


linux = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the names of descriptors are Linux's")


@linux
def test_a_file_is_synced_then_renamed_then_its_folder_is_synced(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    write_text(tmp_path / "new" / "file", "text")
    assert calls == [("sync", tmp_path.name), ("sync", ".new-file"), ("replace", "file"), ("sync", "new")]


@linux
def test_a_checkpoint_is_on_disk_before_the_pointer_moves(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    model, optimizer = trained()
    folder = ckpt.save_checkpoint(tmp_path, model, {}, optimizer, state(1))
    renamed, replaced = calls.index(("rename", folder.name)), calls.index(("replace", "last"))
    before = {name for what, name in calls[:renamed] if what == "sync"}
    assert before >= {file.name for file in folder.iterdir()}
    assert calls[renamed - 1][1].startswith(".partial-")
    assert calls[renamed + 1 : replaced] == [("sync", "checkpoints"), ("sync", ".new-last")]
    assert calls[replaced + 1 :] == [("sync", "checkpoints")]


@linux
def test_metrics_are_synced_when_asked(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    with MetricsLog(tmp_path, start_step=0) as log:
        assert calls[-1] == ("sync", tmp_path.name)  # the name of the new file
        log.write({"step": 1})
        log.sync()
        assert calls[-1] == ("sync", "metrics.jsonl")


def test_a_file_system_that_cannot_sync_folders_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def refuse_folders(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(files.os, "fsync", refuse_folders)
    write_text(tmp_path / "file", "text")
    assert (tmp_path / "file").read_text() == "text"


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    """A write to an open file raises an error without a name."""
    with pytest.raises(OSError, match=r"No space left on device: '.*file'") as error, replacing(tmp_path / "file"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert error.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


EXT4_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = struct.pack("I", 2)  # what is not on disk is lost


def mount(image: Path, place: Path) -> bool:
    return subprocess.run(["mount", "-o", "loop", image, place], capture_output=True).returncode == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A file system in a file, and where it is mounted."""
    image, place = tmp_path / "disk", tmp_path / "mounted"
    place.mkdir()
    with image.open("wb") as opened:
        opened.truncate(64 << 20)
    # Why skips: not every system has ext4, and only root may mount, not in every container. What is synced, and in
    # which order, is tested above on any machine; this shows on a real file system that it is enough.
    if not shutil.which("mkfs.ext4"):
        pytest.skip("mkfs.ext4 is not installed; Debian: e2fsprogs")
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    if not mount(image, place):
        pytest.skip("this machine may not mount a file system, which takes root")
    yield image, place
    subprocess.run(["umount", place], check=False)  # a test that failed may have left it unmounted


def test_what_was_saved_survives_cuts_of_power(disk: tuple[Path, Path]) -> None:
    """Cut right after a save; then ``last`` names a checkpoint that loads, and metrics.jsonl has its lines."""
    image, place = disk
    run = place / "runs" / "mine"
    run.mkdir(parents=True)
    step = 0
    for cut in range(int(os.environ.get("POWER_CUTS", "5"))):
        # closing the log writes to a disk that is gone; an error before that leaves a step that is not found below
        with contextlib.suppress(OSError), MetricsLog(run, step) as log:
            for _ in range(1 + cut % 3):
                step += 1
                log.write({"step": step, "loss": 0.5})
                log.sync()
                model, optimizer = trained()
                ckpt.save_checkpoint(run, model, {}, optimizer, state(step))
                ckpt.delete_old_checkpoints(run, 3)
            descriptor = os.open(place, os.O_RDONLY)
            fcntl.ioctl(descriptor, EXT4_IOC_SHUTDOWN, NO_LOG_FLUSH)
            os.close(descriptor)
        subprocess.run(["umount", place], check=True)
        assert mount(image, place)
        last = ckpt.last_checkpoint(run)
        assert last is not None
        assert ckpt.load_checkpoint(last, *trained()).step == step
        lines = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert lines == list(range(1, step + 1))
