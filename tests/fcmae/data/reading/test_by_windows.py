"""Large images behind URLs are read by windows: the pixels of the local file, and few of its bytes are sent."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torch import Tensor

from fcmae.data.images import UnreadableImageError, open_image
from fcmae.data.pixel_reading import PixelReading
from fcmae.data.reading import tiff_kept
from fcmae.data.sources.files import collect
from fcmae.data.stored import ImageRef
from fcmae.data.stores import fetching, parts, remote_file
from fcmae.data.stores.access import Access
from fcmae.errors import StoreError
from tests.fcmae.data.reading.makers import svs
from tests.fcmae.data.sources.packed import make_tar, make_zip
from tests.fcmae.data.stores.server import Server, serving

RANDOM = np.random.default_rng(0)
COLOR = RANDOM.integers(0, 255, (200, 260, 3), dtype=np.uint8)
DEEP = RANDOM.integers(0, 60000, (300, 400), dtype=np.uint16)
BLOCK, WHOLE = 2**13, 2**16
CROPS = ((140, 150, 8, 16), (0, 0, 100, 30), (40, 2, 1, 198))


def pyramid(path: Path) -> None:
    with tifffile.TiffWriter(path) as writer:
        for step in (1, 2, 4):
            part = np.ascontiguousarray(DEEP[::step, ::step])
            writer.write(part, tile=(64, 64), subfiletype=int(step > 1), metadata=None, compression="zlib")


def in_columns(path: Path) -> None:
    np.save(path, np.asfortranarray(COLOR))


MAKERS: dict[str, Callable[[Path], object]] = {
    "tiled.tif": lambda path: tifffile.imwrite(path, DEEP, tile=(64, 64)),
    "pyramid.tif": pyramid,
    "strips.tif": lambda path: tifffile.imwrite(path, DEEP, rowsperstrip=3, byteorder=">"),
    "strip.tif": lambda path: tifffile.imwrite(path, DEEP),
    "planes.tif": lambda path: tifffile.imwrite(path, DEEP.reshape(2, 150, 400), photometric="minisblack"),
    "planar.tif": lambda path: tifffile.imwrite(
        path, np.ascontiguousarray(COLOR.transpose(2, 0, 1)).astype(np.uint16), photometric="rgb", planarconfig=2
    ),
    "color.tif": lambda path: tifffile.imwrite(path, COLOR.astype(np.uint16), photometric="rgb"),
    "scan.svs": lambda path: path.write_bytes(svs(COLOR)),
    "gray.npy": lambda path: np.save(path, DEEP),
    "last.npy": lambda path: np.save(path, COLOR),
    "first.npy": lambda path: np.save(path, np.ascontiguousarray(COLOR.transpose(2, 0, 1))),
    "columns.npy": in_columns,
}  # fmt: skip
GRAY = ("tiled.tif", "pyramid.tif", "strips.tif", "strip.tif", "planes.tif", "gray.npy")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for name, make in MAKERS.items():
        make(folder / name)
        assert (folder / name).stat().st_size > WHOLE
    return folder


@pytest.fixture
def server(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(fetching, "WAITS", (0.01,))
    monkeypatch.setattr(parts, "WHOLE", WHOLE)
    monkeypatch.setattr("fcmae.data.sources.archives.member.WHOLE", WHOLE)
    for module in (parts, remote_file):
        monkeypatch.setattr(module, "BLOCK", BLOCK)
    monkeypatch.setattr(tiff_kept, "LARGE", 2**10)
    shutil.copytree(images, tmp_path / "www")
    with serving(tmp_path / "www") as found:
        yield found
    remote_file._in_memory.cache_clear()


@pytest.fixture
def access(tmp_path: Path) -> Access:
    return Access(str(tmp_path / "cache"), "20MB", timeout=2)


def reading_of(name: str) -> PixelReading:
    return PixelReading(1 if name in GRAY else 3, level=int(name.startswith("pyramid")), stack="images")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        *(("file", name) for name in MAKERS),
        *(("tar", name) for name in ("tiled.tif", "color.tif", "scan.svs", "last.npy")),
        *(("zip", "pyramid.tif"), ("listing", "strips.tif"), ("listing", "gray.npy")),
    ],
)
def test_the_same_pixels(images: Path, server: Server, access: Access, name: str, source: str, tmp_path: Path) -> None:
    """Bit for bit those of the local file, of windows and of the whole; with a cache and without one."""
    local = open_image(images / name, reading_of(name))
    if source in ("tar", "zip"):
        {"tar": make_tar, "zip": make_zip}[source](server.root / f"a.{source}", images, ["first.npy", name])
    url = {"file": f"{server.url}/{name}", "listing": server.url}.get(source, f"{server.url}/a.{source}")
    for size in ("20MB", "0"):
        found = collect(url, access=replace(access, cache_size=size), leave_out=tmp_path / "run")
        image = next(one for one in found if one.name == name)
        before = server.sent
        remote = open_image(image, reading_of(name))
        assert (remote.height, remote.width, remote.planes) == (local.height, local.width, local.planes)
        for n, crop in enumerate(CROPS):
            for plane in range(local.planes):
                assert np.array_equal(remote.crop(crop, 1, plane), local.crop(crop, 1, plane))
            if n == 0 and name != "columns.npy":
                assert 0 < server.sent - before < 0.5 * (images / name).stat().st_size
        if size != "0":
            assert np.array_equal(remote.decode(), local.decode())


def test_a_crop_of_a_big_file_is_a_small_part_of_it(tmp_path: Path, access: Access) -> None:
    """With the sizes that are used; and what was read is not fetched again, also by another process."""
    (tmp_path / "www").mkdir()
    pixels = RANDOM.integers(0, 60000, (3072, 4096), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "www/a.tif", pixels, tile=(256, 256))
    size = (tmp_path / "www/a.tif").stat().st_size
    assert size > parts.WHOLE
    with serving(tmp_path / "www") as server:
        (image,) = collect(f"{server.url}/a.tif", access=access)
        crop = open_image(image, 1).crop((1500, 2000, 224, 224))
        assert np.array_equal(crop[0] * 65535, pixels[1500:1724, 2000:2224].astype(np.float32))
        assert 0 < server.sent < 0.3 * size
        sent = server.sent
        for forget in (lambda: None, remote_file._in_memory.cache_clear):
            forget()
            tiff_kept._kept.clear()
            open_image(image, 1).crop((1500, 2000, 224, 224))
            assert server.sent == sent


def read(image: ImageRef, name: str) -> Tensor:
    """A crop, as a process that has read nothing yet does."""
    remote_file._in_memory.cache_clear()
    parts.parts_of.cache_clear()
    tiff_kept._kept.clear()
    return open_image(image, reading_of(name)).crop(CROPS[0])


@pytest.mark.parametrize("name", ["tiled.tif", "pyramid.tif", "scan.svs", "last.npy"])
def test_a_server_that_goes_away_in_the_middle(images: Path, server: Server, access: Access, name: str) -> None:
    """At whichever request: the run ends with a line, or the image is skipped for now; never other pixels."""
    found = collect(server.url, access=replace(access, cache_size="0"))
    image = next(one for one in found if one.name == name)
    expected = open_image(images / name, reading_of(name)).crop(CROPS[0])
    server.requests.clear()
    assert torch.equal(read(image, name), expected)
    for answered in range(len(server.requests)):
        server.requests.clear()
        server.fails_after, server.failing = answered, {"": 503}
        with pytest.raises(
            StoreError, match=rf"^{server.url}/{name} cannot be fetched: HTTP 503.*; neither can 3 other"
        ):
            read(image, name)
        server.requests.clear()
        server.failing = {name: 503}
        with pytest.raises(UnreadableImageError, match=rf"/{name}: HTTP 503") as caught:
            read(image, name)
        assert getattr(caught.value.__cause__, "errno", None)  # so it is tried again
    server.failing = {}
    assert torch.equal(open_image(image, reading_of(name)).crop(CROPS[0]), expected)


@pytest.mark.parametrize("name", ["tiled.tif", "strip.tif", "scan.svs", "last.npy"])
def test_truncated(images: Path, server: Server, access: Access, name: str) -> None:
    data = (images / name).read_bytes()
    for length in (WHOLE + 100, len(data) * 3 // 4 if name == "scan.svs" else len(data) - 1):
        (server.root / name).write_bytes(data[:length])
        (image,) = collect(f"{server.url}/{name}", access=access)
        with pytest.raises(UnreadableImageError, match=rf"^{server.url}/{name}: .*[Tt]runcated") as caught:
            read(image, name)
        assert getattr(caught.value.__cause__, "errno", None) is None
        with pytest.raises(UnreadableImageError):
            read(server.root / name, name)


@pytest.mark.parametrize("size", ["20MB", "0"])
def test_a_server_without_ranges_sends_whole_files(images: Path, server: Server, access: Access, size: str) -> None:
    """As before; with a cache once."""
    server.ranges = False
    name, access = "tiled.tif", replace(access, cache_size=size)
    (image,) = collect(f"{server.url}/{name}", access=access)
    expected = open_image(images / name, reading_of(name)).crop(CROPS[0])
    for _ in range(2):
        assert torch.equal(read(image, name), expected)
    assert size == "0" or server.count() == 1


def test_what_is_small_or_never_read_by_windows_comes_whole(server: Server, access: Access) -> None:
    small = RANDOM.integers(0, 255, (150, 170), dtype=np.uint8)
    tifffile.imwrite(server.root / "small.tif", small, tile=(16, 16))
    Image.fromarray(COLOR).save(server.root / "large.png")
    assert (server.root / "large.png").stat().st_size > WHOLE
    for name in ("small.tif", "large.png"):
        (image,) = collect(f"{server.url}/{name}", access=access)
        read(image, name)
        requests = [method for method, path in server.requests if path == f"/{name}"]
        assert requests == (["HEAD"] if name == "small.tif" else []) + ["GET"]
        read(image, name)
        assert server.count(name) == 1


@pytest.mark.parametrize("header", ["ETag", "Last-Modified", None])
def test_versions_of_a_file_are_never_mixed(server: Server, access: Access, header: str | None) -> None:
    """Of a store that names no version a file comes whole, as it did: cached parts could be of an older one."""
    server.version_header = header
    for value in (1000, 50000):
        np.save(server.root / "gray.npy", np.full((300, 400), value, np.uint16))
        (image,) = collect(f"{server.url}/gray.npy", access=access)
        assert not isinstance(image, Path)
        parts.parts_of.cache_clear()
        assert image.has_parts() == (header is not None)
        found = [(read(image, "gray.npy") * 65535).round().unique().tolist()]
        found.append((open_image(image, 1).crop((0, 0, 300, 400)) * 65535).round().unique().tolist())
        assert found == [[value if header else 1000]] * 2
