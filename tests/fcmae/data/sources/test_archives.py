"""Images in archives: the same set as the folder they were made of, and nothing worse than a line for a damaged one."""

import io
import logging
import os
import pickle
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

from fcmae.data.classes import LabeledFiles, class_folder, class_parts
from fcmae.data.holdout import hold_out
from fcmae.data.images import UnreadableImageError, open_image, read_image
from fcmae.data.pixel_reading import PixelReading
from fcmae.data.sources.archives.images import ArchiveImages
from fcmae.data.sources.archives.names import expanded
from fcmae.data.sources.digest import digest
from fcmae.data.sources.files import collect
from fcmae.data.sources.image_set import fingerprint
from fcmae.data.sources.source import check_there
from fcmae.errors import UserError
from fcmae.finetuning.config import FinetuneDataConfig
from fcmae.finetuning.labels import labeled_set
from tests.fcmae.data.sources.packed import folder_of_images, make_tar, make_zip, members_of

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return folder_of_images(tmp_path / "set")


def _packed(folder: Path, kind: str) -> object:
    """As ``--data.path`` takes it."""
    out = folder.parent
    names = members_of(folder)
    if kind in ("stored zip", "deflated zip"):
        return make_zip(out / "a.zip", folder, method=zipfile.ZIP_STORED if "stored" in kind else zipfile.ZIP_DEFLATED)
    if kind in ("gnu tar", "ustar"):
        return make_tar(out / "a.tar", folder, format=tarfile.GNU_FORMAT if "gnu" in kind else tarfile.USTAR_FORMAT)
    if kind == "one tar":
        return make_tar(out / "a.TAR", folder, names[::-1])
    (out / "shards").mkdir()
    for n in range(3):
        make_tar(out / "shards" / f"s-{n + 9:03}.tar", folder, names[n::3])
    return {
        "braces": f"{out}/shards/s-{{009..011}}.tar",
        "glob": f"{out}/shards/*.tar",
        "folder of tars": out / "shards",
        "several": sorted((out / "shards").iterdir()),
    }[kind]


KINDS = ("stored zip", "deflated zip", "one tar", "gnu tar", "ustar", "braces", "glob", "folder of tars", "several")


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_set_as_the_folder(folder: Path, kind: str) -> None:
    """Order, names, sizes, sampled contents and pixels; also in a process that is not forked."""
    plain = collect(folder)
    images = collect(_packed(folder, kind))  # type: ignore[arg-type]
    assert isinstance(images, ArchiveImages)
    for ours in (images, pickle.loads(pickle.dumps(images))):
        assert list(ours.names) == list(plain.names)
        same = digest(ours).split()
        assert [same[n] for n in (0, 1, 2, 4)] == [digest(plain).split()[n] for n in (0, 1, 2, 4)]
        for image, path in zip(ours, plain, strict=True):
            assert torch.equal(read_image(image), read_image(path))
    tif = list(plain.names).index("dog/3.tif")
    assert open_image(images[tif]).crop((1, 2, 9, 8)).equal(open_image(plain[tif]).crop((1, 2, 9, 8)))
    assert str(images[0]).endswith("/cat/1.png")
    assert images.subset([2, 0]).fingerprint()[:2] == plain.subset([2, 0]).fingerprint()[:2]
    for some in (images.subset([3, 0, 5]), images.subset([4, 3, 0, 5]).subset([1, 2, 3]), images.subset([])):
        assert some.fingerprint() == fingerprint(some.names, some.stamps)
    for part, other in zip(hold_out(images, 0.5, 1), hold_out(plain, 0.5, 1), strict=True):
        assert list(part.names) == list(other.names)
        assert part.fingerprint()[:2] == other.fingerprint()[:2]


def test_archives_beside_images_are_passed_over_as_ever(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_tar(folder / "more.tar", folder)
    with caplog.at_level(logging.INFO):
        assert len(collect(folder)) == 6
    assert "passed over, no images that can be read: 1 .tar" in caplog.text


def test_a_set_of_folders_and_archives(folder: Path) -> None:
    images = collect([folder / "cat", make_zip(folder.parent / "a.zip", folder, ["dog/é.png"])])
    assert list(images.names) == ["0/1.png", "0/2.jpg", "0/10.png", "1/dog/é.png"]
    assert read_image(images[3]).equal(read_image(folder / "dog/é.png"))


def test_webdataset_shards(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Images are taken, the rest is counted; a file without a known ending by its first bytes, a hidden one never."""
    image = folder_of_images(tmp_path / "set") / "cat/1.png"
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name in ("0001.png", "0001.cls", "0001.json", "0002.png", "0002.cls", "0003.bin", "._0001.png"):
            tar.add(image if name.endswith(("png", "bin")) else __file__, f"./{name}")
    with caplog.at_level(logging.INFO):
        assert list(collect(tmp_path / "s.tar").names) == ["0001.png", "0002.png", "0003.bin"]
    assert next(line for line in caplog.messages if "passed over" in line).endswith("2 .cls, 1 .json")


def _add(tar: tarfile.TarFile, name: str, data: bytes = PNG, **about: object) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in about.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_odd_members_of_a_tar(tmp_path: Path, format: int, caplog: pytest.LogCaptureFixture) -> None:
    """Long names, names that are not UTF-8, hostile ones, links and devices. Nothing is written anywhere else."""
    long, before = "d" * 90 + "/" + "f" * 120 + ".png", set(tmp_path.rglob("*"))
    with tarfile.open(tmp_path / "odd.tar", "w", format=format, errors="surrogateescape") as tar:
        _add(tar, long)
        _add(tar, os.fsdecode(b"\xff\xfe.png"))
        _add(tar, "../../evil.png")
        _add(tar, "/etc/absolute.png")
        _add(tar, "./plain//a.png")
        _add(tar, "hard.png", b"", type=tarfile.LNKTYPE, linkname="plain/a.png")
        _add(tar, "soft.png", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        _add(tar, "fifo.png", b"", type=tarfile.FIFOTYPE)
        _add(tar, "folder.png", b"", type=tarfile.DIRTYPE)
        _add(tar, "last.png", PNG + b"second")
        _add(tar, "last.png", PNG + b"the last one counts")
    with caplog.at_level(logging.INFO):
        images = collect(tmp_path / "odd.tar")
    expected = {long, "etc/absolute.png", "evil.png", "last.png", "plain/a.png", os.fsdecode(b"\xff\xfe.png")}
    assert set(images.names) == expected
    assert images[list(images.names).index("last.png")].read_bytes() == PNG + b"the last one counts"
    assert "hard.png (a link)" in caplog.text
    assert "soft.png (a link)" in caplog.text
    assert "fifo.png (a device)" in caplog.text
    assert set(tmp_path.rglob("*")) - before - set((tmp_path / "cache").rglob("*")) == {
        tmp_path / "odd.tar", tmp_path / "cache",
    }  # fmt: skip


def test_odd_members_of_a_zip(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Encrypted ones and methods that are not read are named; a wrong checksum makes an image unreadable."""
    file = tmp_path / "odd.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("good.png", "../evil.png", "secret.png", "damaged.png", "__MACOSX/._good.png"):
            archive.writestr(name, PNG + name.encode() * 9)
        archive.writestr("lzma.png", PNG, zipfile.ZIP_LZMA)
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    data = bytearray(file.read_bytes())
    at = data.rindex(b"secret.png")
    data[at - 46 + 8] |= 1  # the flag in the central directory
    data[data.index(b"damaged.pngdamaged")] ^= 1
    file.write_bytes(data)
    with caplog.at_level(logging.INFO):
        images = collect(file)
    assert list(images.names) == ["damaged.png", "evil.png", "good.png"]
    assert images[2].read_bytes() == PNG + b"good.png" * 9
    for said in ("secret.png (encrypted)", "link.png (a link)", "lzma.png (compressed by lzma"):
        assert said in caplog.text
    with pytest.raises(UnreadableImageError, match=r"odd\.zip/damaged\.png: damaged: its checksum"):
        read_image(images[0])


def test_a_bomb_stays_small(tmp_path: Path) -> None:
    """A member that inflates to more than it promises."""
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(10**6))
    data = (tmp_path / "bomb.zip").read_bytes()
    (tmp_path / "bomb.zip").write_bytes(data.replace((10**6).to_bytes(4, "little"), (100).to_bytes(4, "little")))
    with pytest.raises(OSError, match="damaged: 101 bytes, its archive says 100"):
        collect(tmp_path / "bomb.zip")[0].read_bytes()


@pytest.mark.parametrize("cut", [300, 512 * 3, 512 * 7 + 100])
def test_a_truncated_tar_is_used_as_far_as_it_is_whole(
    tmp_path: Path, cut: int, caplog: pytest.LogCaptureFixture
) -> None:
    """In a header, between two files, and in a file's bytes; the other shards are whole."""
    for n in range(2):
        with tarfile.open(tmp_path / f"{n}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for place in range(4):
                _add(tar, f"{n}/{place}.png", PNG * 100)
    whole = (tmp_path / "0.tar").read_bytes()
    (tmp_path / "0.tar").write_bytes(whole[:cut])
    left = cut // 1536
    with caplog.at_level(logging.INFO):
        images = collect(f"{tmp_path}/*.tar")
    assert list(images.names) == [f"0/{n}.png" for n in range(left)] + [f"1/{n}.png" for n in range(4)]
    lines = [line for line in caplog.messages if "damaged archives" in line]
    assert len(lines) == 1
    assert f"0.tar (truncated; {left} file{'s' * (left != 1)} found)" in lines[0]


def test_a_truncated_zip_is_used_as_far_as_it_is_whole(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its list is lost with its end; each file has a header of its own."""
    file = make_zip(folder.parent / "a.zip", folder, method=zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(file) as archive:
        cut = archive.getinfo("dog/3.tif").header_offset + 100
    file.write_bytes(file.read_bytes()[:cut])
    with caplog.at_level(logging.INFO):
        images = collect(file)
    assert list(images.names) == ["cat/1.png", "cat/2.jpg", "cat/10.png"]
    assert read_image(images[2]).equal(read_image(folder / "cat/10.png"))
    assert "a.zip (truncated: its list of files is at its end; 3 files found)" in caplog.text


def test_a_damaged_header_ends_a_tar(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for place in range(3):
            _add(tar, f"{place}.png")
    data = bytearray((tmp_path / "a.tar").read_bytes())
    data[1024] ^= 1
    (tmp_path / "a.tar").write_bytes(data)
    with caplog.at_level(logging.INFO):
        assert list(collect(tmp_path / "a.tar").names) == ["0.png"]
    assert "damaged at byte 1024; 1 file found" in caplog.text


def test_what_cannot_be_read_by_position_is_refused(folder: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.add(folder)
    with pytest.raises(UserError, match=r"--data\.path .*a\.tar\.gz is compressed as a whole.*give a plain \.tar or"):
        collect(tmp_path / "a.tar.gz")
    (tmp_path / "a.tar.gz").rename(tmp_path / "b.tar")
    with pytest.raises(UserError, match=r"holds no images.*compressed as a whole"):
        collect(tmp_path / "b.tar")
    (tmp_path / "c.zip").write_bytes(b"no zip")
    with pytest.raises(UserError, match=r"holds no images.*c\.zip \(File is not a zip file; 0 files found"):
        collect(tmp_path / "c.zip")
    with pytest.raises(UserError, match=r"--data\.path .*s-002\.tar does not exist"):
        check_there(f"{tmp_path}/s-{{002..004}}.tar")


def test_ranges_of_names() -> None:
    assert expanded(["s-{08..11}.tar", "plain.tar"]) == [f"s-{n}.tar" for n in ("08", "09", "10", "11")] + ["plain.tar"]
    assert expanded(["{0..1}/{0..1}.tar"]) == ["0/0.tar", "0/1.tar", "1/0.tar", "1/1.tar"]
    assert expanded(["s-{3..1}.tar", "{a}.tar"]) == ["s-{3..1}.tar", "{a}.tar"]


def _labels(parts: tuple[LabeledFiles, LabeledFiles]) -> list[dict[str, int]]:
    return [dict(zip((image.name for image in part.paths), part.labels.tolist(), strict=True)) for part in parts]


def test_classes_are_folders_in_archives_too(folder: Path) -> None:
    """As in the folder; also below a folder that was packed with its own name, and divided into train/ and val/."""
    plain = class_folder(folder)
    assert _labels(class_folder(make_zip(folder.parent / "a.zip", folder))) == _labels(plain)
    make_tar(folder.parent / "outer.tar", folder.parent, [f"set/{name}" for name in members_of(folder)])
    assert _labels(class_folder(folder.parent / "outer.tar")) == _labels(plain)
    shutil.copy(folder / "cat/1.png", folder / "loose.png")
    make_tar(folder.parent / "loose.tar", folder.parent, [f"set/{name}" for name in members_of(folder)])
    assert _labels(class_folder(folder.parent / "loose.tar")) == _labels(plain)
    (folder / "loose.png").unlink()
    for name, part in zip(members_of(folder), ("train", "val", "train") * 2, strict=True):
        (folder.parent / "split/set" / part / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).rename(folder.parent / "split/set" / part / name)
    split = folder.parent / "split"
    assert _labels(class_folder(make_tar(folder.parent / "s.tar", split))) == _labels(class_folder(split / "set"))
    with pytest.raises(UserError, match=r"s\.txt does not exist; give a folder"):
        class_folder(folder.parent / "s.txt")


def test_classes_in_cls_files(folder: Path) -> None:
    """WebDataset's: one beside each image; numbers are in their order."""
    flat = folder.parent / "flat"
    flat.mkdir()
    for n, name in enumerate(members_of(folder)):
        shutil.copy(folder / name, flat / f"{n:04}{Path(name).suffix}")
        (flat / f"{n:04}.cls").write_text(f"{(10, 9)[n % 2]}\n")
    tar = make_tar(flat.parent / "flat.tar", flat)
    (found,) = class_parts(str(tar))
    assert {name: places.tolist() for name, places in found.places.items()} == {"9": [1, 3, 5], "10": [0, 2, 4]}
    loaded = labeled_set(FinetuneDataConfig(path=str(tar)), seed=0)
    assert loaded.classes == ("9", "10")
    assert sorted([*loaded.train.names, *loaded.val.names]) == [
        f"{n:04}{Path(m).suffix}" for n, m in enumerate(members_of(folder))
    ]
    image = loaded.train.open(0, PixelReading(3))
    assert image.decode().equal(read_image(flat / loaded.train.names[0]))
    make_tar(tar, flat, [name for name in members_of(flat) if name != "0003.cls"])
    with pytest.raises(UserError, match=r"flat\.tar.*0003\.\w+ has no \.cls file .*; 1 of 6 images lack one"):
        class_parts(str(tar))
    for number in range(6):
        (flat / f"{number:04}.cls").write_text("9")
    for load in (lambda: class_folder(make_tar(tar, flat)), lambda: labeled_set(FinetuneDataConfig(path=str(tar)), 1)):
        with pytest.raises(UserError, match=r"flat\.tar holds one class, 9; its labels need at least two"):
            load()
    (folder / members_of(folder)[0]).with_suffix(".cls").write_text("9")
    in_folders = make_tar(flat.parent / "f.tar", folder)
    with pytest.raises(UserError, match=r"has no \.cls file"):  # the folders are not taken for the classes instead
        class_parts(str(in_folders))
