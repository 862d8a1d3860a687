"""The index of archives is made once, by one process, and again when it is stale or broken."""

import logging
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fcmae.data.images import UnreadableImageError, read_image
from fcmae.data.sources.archives import index
from fcmae.data.sources.entries import Survey
from fcmae.data.sources.files import collect
from fcmae.data.stores.access import Access
from tests.fcmae.data.sources.packed import folder_of_images, make_tar, make_zip


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    return make_tar(tmp_path / "a.tar", folder_of_images(tmp_path / "set"))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every listing of an archive."""
    calls: list[object] = []
    listed = index.members

    def counted(path: str, survey: Survey, access: Access | None = None) -> object:
        calls.append(path)
        return listed(path, survey, access)

    monkeypatch.setattr(index, "members", counted)
    return calls


def _file(tmp_path: Path) -> Path:
    (file,) = (tmp_path / "runs" / ".fcmae").glob("*.index")
    return file


def test_it_is_made_once_and_kept_beside_the_run(tar: Path, tmp_path: Path, made: list[object]) -> None:
    """Several at once: one makes it. What it says of the rest of the archives is said again."""
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda n: collect(tar, leave_out=tmp_path / "runs" / f"run{n}"), range(4)))
    assert len(made) == 1
    assert {tuple(images.names) for images in found} == {tuple(found[0].names)}
    assert _file(tmp_path).stat().st_size > 0
    assert not (tmp_path / "runs" / "run0").exists()


def test_without_a_run_it_is_in_the_users_cache(
    tar: Path, tmp_path: Path, made: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    collect(tar)
    collect(tar)
    assert len(made) == 1
    assert len(list((tmp_path / "cache/fcmae/archives").glob("*.index"))) == 1


def test_it_says_again_what_was_left_out(tar: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "set/notes.txt").touch()
    make_tar(tar, tmp_path / "set")
    tar.write_bytes(tar.read_bytes()[:-3000])
    said = []
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            collect(tar, leave_out=tmp_path / "runs/a")
        said.append([line for line in caplog.messages if "passed over" in line or "damaged archives" in line])
    assert said[0] == said[1]
    assert len(said[0]) == 1


@pytest.mark.parametrize("fault", ["other archive", "truncated", "empty", "one bit", "not one"])
def test_a_stale_or_broken_index_is_made_anew(
    tar: Path, tmp_path: Path, fault: str, made: list[object], caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "runs/a"
    expected = list(collect(tar, leave_out=run).names)
    file = _file(tmp_path)
    data = file.read_bytes()
    if fault == "other archive":
        make_tar(tar, tmp_path / "set", ["cat/1.png"])
        expected = ["cat/1.png"]
    else:
        file.write_bytes(
            {"truncated": data[:-3], "empty": b"", "one bit": data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]}.get(
                fault, b"nonsense" * 99
            )
        )
    with caplog.at_level(logging.INFO):
        images = collect(tar, leave_out=run)
    assert list(images.names) == expected
    assert len(made) == 2
    assert len([line for line in caplog.messages if "is made anew" in line]) == 1
    collect(tar, leave_out=run)
    assert len(made) == 2


def test_where_nothing_can_be_written_it_is_in_memory(
    tar: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "runs").write_text("a file where the folder would be")
    with caplog.at_level(logging.INFO):
        images = collect(tar, leave_out=tmp_path / "runs/a")
    assert len(images) == 6
    assert "is kept in memory only" in caplog.text


def test_an_archive_that_changes_later_gives_no_other_pixels(tmp_path: Path) -> None:
    """Its images count as unreadable, as files that were replaced by damaged ones would."""
    folder = folder_of_images(tmp_path / "set")
    images = collect(make_zip(tmp_path / "a.zip", folder), leave_out=tmp_path / "runs/a")
    shutil.copy(make_tar(tmp_path / "b.tar", folder), tmp_path / "a.zip")
    os.utime(tmp_path / "a.zip", (1, 1))
    with pytest.raises(UnreadableImageError, match="has changed since its members were listed"):
        read_image(images[0])
