"""``fcmae pack``: shards in WebDataset's layout, the same bytes however often it was stopped."""

import io
import json
import logging
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
from PIL import Image

from fcmae import files
from fcmae.data.sources.files import collect
from fcmae.errors import UserError
from fcmae.pack import PackConfig, PackResult, main, pack
from tests.fcmae.data.reading.makers import dicom

R = np.random.default_rng(0)
SETTINGS = {"short_side": 24, "shard_size": "50kB", "num_workers": 0}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of twelve noisy images, one of them damaged, and two whose names differ by the ending."""
    folder = tmp_path_factory.mktemp("images")
    for name in ("cat", "dog"):
        (folder / name).mkdir()
        for n in range(12):
            Image.fromarray(R.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(folder / name / f"{n}.jpg")
    Image.new("L", (30, 30), 7).save(folder / "dog" / "1.png")
    (folder / "cat" / "5.jpg").write_bytes((folder / "cat" / "5.jpg").read_bytes()[:900])
    return folder


@pytest.fixture(scope="module")
def packed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> PackResult:
    return pack(str(source), str(tmp_path_factory.mktemp("shards") / "dst"), **SETTINGS)


def folder_of(result: PackResult) -> Path:
    return result.shards[0].parent


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if file.name != ".pack.lock"}


def test_members_are_images_with_their_labels(packed: PackResult) -> None:
    members = {}
    for shard in packed.shards:
        with tarfile.open(shard) as tar:
            members |= {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    images = [name for name in members if not name.endswith(".cls")]
    assert len(images) == packed.images == 24
    assert images[:6] == ["cat/0.jpg", "cat/1.jpg", "cat/2.jpg", "cat/3.jpg", "cat/4.jpg", "cat/6.jpg"]
    assert "dog/1-png.jpg" in images
    for name in images:
        assert members[name.rpartition(".")[0] + ".cls"] == (b"0" if name.startswith("cat") else b"1")
    assert (folder_of(packed) / "classes.txt").read_text() == "cat\ndog\n"


def test_classes_keep_their_names_in_finetuning_and_when_packed_again(packed: PackResult, tmp_path: Path) -> None:
    shards = str(folder_of(packed) / "*.tar")
    assert set(collect(shards).labels or ()) == {"cat", "dog"}
    assert collect(shards)[0].read_bytes().startswith(b"\xff\xd8\xff")
    again = pack(shards, str(tmp_path / "dst"), **SETTINGS)
    assert again.images == packed.images
    images = collect(str(tmp_path / "dst" / "*.tar"))
    assert [(name.partition("/")[0], label) for name, label in zip(images.names, images.labels or (), strict=True)] == (
        [("cat", "cat")] * 11 + [("dog", "dog")] * 13
    )


def test_classes_with_odd_names(source: Path, tmp_path: Path) -> None:
    """Whatever is no line break round-trips; that is refused. What cannot be read is one line of damaged.txt."""
    odd = ["a\x0bb", "a\x85b", "a\u2028b", "b"]
    for name in odd:
        (tmp_path / "set" / name).mkdir(parents=True)
        shutil.copy(source / "cat" / "0.jpg", tmp_path / "set" / name / "1.jpg")
    (tmp_path / "set" / "b" / "2\nc.jpg").write_bytes(b"\xff\xd8\xff")
    found = pack(str(tmp_path / "set"), str(tmp_path / "dst"), **SETTINGS)
    assert sorted(collect(str(tmp_path / "dst" / "*.tar")).labels or ()) == odd
    (line,) = (tmp_path / "dst" / "damaged.txt").read_text().splitlines()
    assert r"/2\nc.jpg: " in line
    assert found.damaged == (line,)
    for name in ("c\nd", "c\rd"):
        (tmp_path / "set" / "b").rename(tmp_path / "set" / name)
        with pytest.raises(UserError, match=r"^SOURCE: the name of the class c\\[nr]d has a line break"):
            pack(str(tmp_path / "set"), str(tmp_path / f"dst{name!r}"), **SETTINGS)
        (tmp_path / "set" / name).rename(tmp_path / "set" / "b")


def test_shards_have_at_most_their_size_and_say_what_is_left_out(packed: PackResult, source: Path) -> None:
    assert len(packed.shards) > 1
    assert [shard.name for shard in packed.shards] == [f"shard-{n:06}.tar" for n in range(len(packed.shards))]
    assert all(shard.stat().st_size <= 50_000 for shard in packed.shards)
    (damaged,) = packed.damaged
    assert damaged.startswith(str(source / "cat" / "5.jpg"))
    assert (folder_of(packed) / "damaged.txt").read_text() == damaged + "\n"
    assert packed.images_per_second_before > 0
    assert packed.images_per_second_after > 0


@pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
def test_a_process_that_dies_anywhere_goes_on_to_the_same_bytes(
    packed: PackResult, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_done: bool
) -> None:
    """It dies before or after each file gets its name in turn, and leaves what it was writing."""
    expected, replace = contents(folder_of(packed)), os.replace

    def dying(at: int, left: dict[Path, bytes]) -> Callable[[Path, Path], None]:
        calls = iter(range(1000))

        def call(old: Path, new: Path) -> None:
            if next(calls) < at:
                return replace(old, new)
            if is_done:
                replace(old, new)
            else:
                left[old] = old.read_bytes()
            raise KeyboardInterrupt

        return call

    for at in range(100):
        dst, left = tmp_path / str(at), dict[Path, bytes]()
        with monkeypatch.context() as patch:
            patch.setattr(files.os, "replace", dying(at, left))
            try:
                pack(str(source), str(dst), **SETTINGS)
                break
            except KeyboardInterrupt:
                for file, data in left.items():  # a killed process does not delete it
                    file.write_bytes(data)
        assert pack(str(source), str(dst), **SETTINGS).shards
        assert contents(dst) == expected
    assert 2 * len(packed.shards) < at < 100


def test_a_shard_that_is_lost_is_made_again(packed: PackResult, source: Path, tmp_path: Path) -> None:
    result = pack(str(source), str(tmp_path / "dst"), **SETTINGS)
    expected = contents(folder_of(result))
    result.shards[1].unlink()
    pack(str(source), str(tmp_path / "dst"), **SETTINGS)
    assert contents(folder_of(result)) == expected == contents(folder_of(packed))


def test_processes_do_not_change_a_byte(packed: PackResult, source: Path, tmp_path: Path) -> None:
    result = pack(str(source), str(tmp_path / "dst"), **SETTINGS | {"num_workers": 2})
    assert contents(folder_of(result)) == contents(folder_of(packed))


def test_other_contents_are_refused(packed: PackResult, source: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    for dst, reason in (
        (tmp_path / "mine", r"holds other files \(thesis\.txt\)"),
        (source, "holds other files"),
        (tmp_path / "mine" / "thesis.txt", "is a file"),
    ):
        with pytest.raises(UserError, match=reason):
            pack(str(source), str(dst), **SETTINGS)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"
    with pytest.raises(UserError, match=r"was made with --short_side 24; repeat that"):
        pack(str(source), str(folder_of(packed)), **SETTINGS | {"short_side": 16})
    Image.new("RGB", (50, 40)).save(tmp_path / "one.png")
    with pytest.raises(UserError, match="made of other images: other names"):
        pack(str(tmp_path / "*.png"), str(folder_of(packed)), **SETTINGS)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "pack.json").write_text("{")
    with pytest.raises(UserError, match=r"pack\.json was not written by fcmae pack"):
        pack(str(source), str(tmp_path / "broken"), **SETTINGS)


def test_a_set_without_one_readable_image_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(b"\xff\xd8\xffnothing")
    with pytest.raises(UserError, match=r"^the image cannot be read: .*a\.jpg"):
        pack(str(tmp_path / "images"), str(tmp_path / "dst"), **SETTINGS)


def test_names_that_are_not_text_are_kept(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    (tmp_path / "images").mkdir()
    Image.new("RGB", (50, 40)).save(tmp_path / "images" / name)
    result = pack(str(tmp_path / "images"), str(tmp_path / "dst"), **SETTINGS)
    with tarfile.open(result.shards[0]) as tar:
        assert [os.fsencode(one) for one in tar.getnames()] == [b"caf\xe9.jpg"]
    assert json.loads((tmp_path / "dst" / "pack.json").read_text())["complete"] is True


def test_sizes_of_shards_that_are_none() -> None:
    for wrong in ("", "big", "-1", "256 miles"):
        with pytest.raises(ValueError, match="shard_size must be a size such as 50GB"):
            PackConfig("a", "b", shard_size=wrong)
    with pytest.raises(ValueError, match="shard_size must be above 0, got 0"):
        PackConfig("a", "b", shard_size="0")


def test_a_column_of_a_table_is_packed(tmp_path: Path) -> None:
    def png(gray: int) -> bytes:
        written = io.BytesIO()
        Image.new("L", (30, 30), gray).save(written, "PNG")
        return written.getvalue()

    table = pa.table({"left": [png(1), png(2)], "right": [png(3), png(4)]})
    pq.write_table(table, tmp_path / "two.parquet")
    data = {"column": "right", "cache_dir": str(tmp_path / "cache")}
    result = pack(str(tmp_path / "two.parquet"), str(tmp_path / "dst"), format="png", data=data, **SETTINGS)
    images = collect([str(shard) for shard in result.shards])
    assert [int(np.asarray(Image.open(io.BytesIO(one.read_bytes())))[0, 0]) for one in images] == [3, 4]


def test_dicom_is_packed_as_its_window_shows_it_or_as_numbers(tmp_path: Path) -> None:
    (tmp_path / "ct").mkdir()
    values = np.arange(900, dtype=np.int16).reshape(30, 30)
    file = dicom(values, RescaleSlope=1, RescaleIntercept=-400, WindowCenter=40, WindowWidth=400)
    (tmp_path / "ct" / "1.dcm").write_bytes(file)
    settings = SETTINGS | {"short_side": 30}
    shown = pack(str(tmp_path / "ct"), str(tmp_path / "shown"), **settings)
    numbers = pack(str(tmp_path / "ct"), str(tmp_path / "numbers"), dicom_window=False, **settings)
    (jpeg,), (tiff,) = collect(str(shown.shards[0])), collect(str(numbers.shards[0]))
    assert np.asarray(Image.open(io.BytesIO(jpeg.read_bytes()))).dtype == np.uint8
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(tiff.read_bytes())), values - 400)
    with pytest.raises(UserError, match=r"was made with --data\.dicom_window true"):
        pack(str(tmp_path / "ct"), str(tmp_path / "shown"), dicom_window=False, **settings)


def test_the_command_says_what_was_gained(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    arguments = [str(source), str(tmp_path / "dst"), "--short_side", "24", "--num_workers", "0"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("24 images in 1 shard, ")
    assert "images per second of a core: " in printed
    assert f"--data.path '{tmp_path}/dst/shard-*.tar'" in printed
    assert main([*arguments, "--quality", "101"]) == 1
    assert caplog.messages[-1] == "fcmae.pack: error: --quality must be at most 100, got 101"
