"""What of a folder is taken: regular files, each once, in the order of before; never a run's own pictures."""

import errno
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import pytest
from timm.data.readers.reader_image_folder import find_images_and_targets

from fcmae.data.classes import in_label_order
from fcmae.data.endings import EXTENSIONS
from fcmae.data.folder import image_files
from fcmae.data.sources.entries import in_natural_order
from fcmae.data.sources.files import collect
from fcmae.errors import UserError
from tests.fcmae.data.sources.packed import make_tar

JPEG = b"\xff\xd8\xff\xe0"


def touch(folder: Path, *names: str, content: bytes = JPEG) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def names(folder: Path, **options: object) -> list[str]:
    return collect(folder, **options).names  # type: ignore[arg-type]


def test_the_order_is_that_of_timms_reader(tmp_path: Path) -> None:
    """Where no two names differ in case or zeros alone."""
    files = ("10.png", "9.JPG", "09.tif", "x2.tif", "X02.npy", "é.webp")
    some = [f"{folder}/{name}" for folder in ("b10", "b9", "B9x", "a/deep/er", "a") for name in files]
    touch(tmp_path, *some, "1.png", "02.png", "notes.txt", ".hidden.png", ".thumbs/a.png")
    listed, _ = find_images_and_targets(str(tmp_path), types=EXTENSIONS)
    expected = [Path(path) for path, _ in listed if "/." not in path.removeprefix(str(tmp_path))]
    assert len(expected) == 32
    assert image_files(tmp_path) == expected


def test_names_that_differ_in_case_or_zeros_are_in_one_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the names themselves, however the file system lists them, and as in a tar, from a pattern and by URL."""
    expected = ["01.png", "1.png", "2.png", "A/x.png", "a/X.png", "a/x.png", "b09/1.png", "b9/1.png"]
    touch(tmp_path / "set", *expected)
    make_tar(tmp_path / "set.tar", tmp_path / "set", [expected[n] for n in (4, 1, 6, 0, 3, 7, 2, 5)])
    url = f"memory://{tmp_path.name}"
    for name in expected[::-1]:
        with fsspec.open(f"{url}/{name}", "wb") as file:
            file.write(JPEG)
    assert list(collect(tmp_path / "set.tar", leave_out=tmp_path / "run").names) == expected
    assert list(collect(url).names) == expected
    scandir = os.scandir
    for reverse in (False, True):

        @contextmanager
        def listed(folder: str, reverse: bool = reverse) -> Iterator[Iterator[Any]]:
            with scandir(folder) as inside:
                yield iter(sorted(inside, key=lambda one: one.name, reverse=reverse))

        monkeypatch.setattr(os, "scandir", listed)
        assert names(tmp_path / "set") == expected
        assert [str(path.relative_to(tmp_path / "set")) for path in collect(f"{tmp_path}/set/**/*.png")] == expected


def test_a_file_counts_once_whatever_its_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path / "set", "a/1.png", "a/2.png", "b/3.png")
    os.link(tmp_path / "set/a/1.png", tmp_path / "set/b/same.png")
    (tmp_path / "set/b/link.png").symlink_to("../a/2.png")
    (tmp_path / "set/again").symlink_to("a", target_is_directory=True)
    with caplog.at_level(logging.INFO):
        assert names(tmp_path / "set") == ["a/1.png", "a/2.png", "b/3.png"]
    assert "2 further names (links, or given twice) of files in the set are left out" in caplog.text
    both = collect([tmp_path / "set", tmp_path / "set/a"])
    assert [path.name for path in both] == ["1.png", "2.png", "3.png"]
    assert both.names == ["0/a/1.png", "0/a/2.png", "0/b/3.png"]


def test_links_to_other_places_are_followed(tmp_path: Path) -> None:
    """As in a git-annex repository, and a folder of classes made of links."""
    touch(tmp_path / "store", ".objects/x1", "far/2.png")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/1.jpg").symlink_to("../store/.objects/x1")
    (tmp_path / "set/far").symlink_to("../store/far", target_is_directory=True)
    assert names(tmp_path / "set") == ["1.jpg", "far/2.png"]


def test_links_that_lead_up_end(tmp_path: Path) -> None:
    """Two links to a folder above would be 2^40 paths; those out of the set bring nothing from beside it."""
    touch(tmp_path, "set/deep/1.png", "beside.png")
    for number in range(2):
        (tmp_path / "set/deep" / f"up{number}").symlink_to("..", target_is_directory=True)
        (tmp_path / "set" / f"out{number}").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "set/self").symlink_to("self")
    assert names(tmp_path / "set") == ["deep/1.png"]
    assert [path.name for path in collect(f"{tmp_path}/set/**/*.png")] == ["1.png"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX has FIFOs and sockets in folders")
def test_what_is_no_regular_file_is_named_and_never_opened(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "1.png")
    os.mkfifo(tmp_path / "2.png")
    os.mkfifo(tmp_path / "noending")
    (tmp_path / "3.png").symlink_to("nowhere.png")
    with socket.socket(socket.AF_UNIX) as opened, caplog.at_level(logging.INFO):
        monkeypatch.chdir(tmp_path)  # a socket's path must be short
        opened.bind("4.png")
        assert names(tmp_path) == ["1.png"]
    for name, what in (("2.png", "a FIFO"), ("3.png", "a broken link"), ("4.png", "a socket")):
        assert f"{tmp_path / name} ({what})" in caplog.text
    with pytest.raises(UserError, match=r"2\.png is a FIFO, not a folder"):
        collect(tmp_path / "2.png")
    (tmp_path / "list.txt").write_text("none.png")
    with pytest.raises(UserError, match=r"holds no images; .*none\.png \(No such file or directory\)"):
        collect(tmp_path / "list.txt")


def test_what_is_passed_over_is_counted_by_ending(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "1.jpg", "2", "3.bin", "4.jpg_large")
    touch(tmp_path, "a.psd", "b.PSD", "c", "d.doc", content=b"no image at all")
    touch(tmp_path, "note.txt", "raw.dng", content=b"II*\0")
    with caplog.at_level(logging.INFO):
        assert names(tmp_path) == ["1.jpg", "2", "3.bin", "4.jpg_large"]
    (line,) = [message for message in caplog.messages if "passed over" in message]
    assert line.startswith(f"{tmp_path}: passed over, no images that can be read: 2 .psd, 1 ")
    for what in ("1 without an ending", "1 .doc", "1 .txt", "1 .dng"):
        assert what in line


@pytest.mark.parametrize(
    "marks",
    [
        {"config.yaml": "# fcmae 0.1.0\nseed: 0\n"},
        {"metrics.jsonl": "", "tensorboard/events": ""},
        {"checkpoints/step-00000001/state.json": "{}"},
    ],
)
def test_run_folders_are_left_out(tmp_path: Path, marks: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    """Any run's, also a moved one's; from folders, globs and lists."""
    touch(tmp_path, "1.png", "runs/old/reconstructions/step-00000001.png")
    for name, text in marks.items():
        touch(tmp_path / "runs/old", name, content=text.encode())
    with caplog.at_level(logging.INFO):
        assert names(tmp_path) == ["1.png"]
    assert f"run folders left out: {tmp_path}/runs/old" in caplog.text
    (tmp_path / "list.txt").write_text("1.png\nruns/old/reconstructions/step-00000001.png\n")
    for source in (f"{tmp_path}/**/*.png", tmp_path / "list.txt"):
        assert [path.name for path in collect(source)] == ["1.png"]
    for inside in ("runs/old", "runs/old/reconstructions"):
        with pytest.raises(UserError, match="belongs to a run"):
            collect(tmp_path / inside)


def test_other_peoples_configurations_are_no_run(tmp_path: Path) -> None:
    touch(tmp_path, "set/1.png")
    touch(tmp_path, "set/config.yaml", content=b"names: [cat, dog]\n")
    touch(tmp_path, "set/metrics.jsonl", content=b"{}")
    assert names(tmp_path) == ["set/1.png"]


def test_the_runs_own_folder_is_not_the_set(tmp_path: Path) -> None:
    touch(tmp_path, "set/1.png", "out/2.png")
    assert names(tmp_path, leave_out=tmp_path / "out") == ["set/1.png"]
    with pytest.raises(UserError, match="is the folder of the images"):
        collect(tmp_path / "set", leave_out=tmp_path / "set")
    assert names(tmp_path / "set", leave_out=tmp_path) == ["1.png"]  # pictures go to another folder of the run


def test_folders_that_cannot_be_listed_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's refusal is made up here, because root may list everything."""
    touch(tmp_path, "1.png", "closed/2.png")
    scandir = os.scandir

    def refuse(folder: str | Path) -> Any:
        if Path(folder).name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with caplog.at_level(logging.INFO):
        assert names(tmp_path) == ["1.png"]
    assert "cannot be listed" in caplog.text
    assert str(tmp_path / "closed") in caplog.text
    with pytest.raises(
        UserError, match=r"^--data\.path .*/closed cannot be listed \(Permission denied\); a class would"
    ):
        collect(tmp_path, by_class=True)
    (tmp_path / "closed").rename(tmp_path / "lost+found")  # of the system's
    monkeypatch.setattr(os, "scandir", lambda folder: refuse(str(folder).replace("lost+found", "closed")))
    assert names(tmp_path, by_class=True) == ["1.png"]


def test_a_class_keeps_its_links_to_files_of_others(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/1.png").symlink_to("../a/1.png")
    assert names(tmp_path) == ["a/1.png"]
    assert names(tmp_path, by_class=True) == ["a/1.png", "b/1.png"]


def test_numbers_as_labels_have_one_order() -> None:
    """Whatever the order of a set, which changes from process to process."""
    zeros = ["0" * n + "1" for n in range(9, -1, -1)]
    for given in (zeros, zeros[::-1]):
        assert in_natural_order(["10", *given, "2"], str) == [*zeros, "2", "10"]
    assert in_label_order({*zeros, "2"}) == [*zeros, "2"]
