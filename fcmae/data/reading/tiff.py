"""TIFF files: by Pillow where it knows the encoding and nothing is lost, else by tifffile, window by window."""

import contextlib
import io
import logging
import math
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import tifffile
from PIL import Image

from fcmae.data.pixel_reading import PixelReading
from fcmae.data.reading import limits, pillow, tiff_segments
from fcmae.data.reading.opened import LYING, Opened, Window, turned
from fcmae.data.reading.tiff_kept import LARGE, all_read, is_open, open_file, parsed
from fcmae.data.reading.tiff_levels import is_slide, levels_of, reduced, reductions
from fcmae.data.reading.tiff_mask import mask_page, read_mask
from fcmae.data.reading.tiff_pages import check_chain, check_segments
from fcmae.data.stored import ImageRef, Stored
from fcmae.data.stores.fetching import FetchError
from fcmae.errors import StoreError

# what tifffile finds wrong with a file ends in our own message about it, once
logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
ORIENTATION, GDAL_NODATA = 274, 42113
PILLOW_COMPRESSIONS = (1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946)
LOSSLESS = (1, 5, 8, 32773, 32946, 34925, 50000)
ALPHA = (1, 2)  # values of ExtraSamples


class Layout(NamedTuple):
    """Where the channels of one plane are: pages of the series, and samples of each page."""

    pages: tuple[tuple[int, ...], ...]
    """[P, pages per plane], positions in the series."""
    samples: int
    """Per page."""


def open_tiff(path: ImageRef, reading: PixelReading) -> Opened:
    """The first series of a TIFF, of a slide the largest; overviews and thumbnails are other series.

    Raises:
        ValueError: damaged, truncated, too large, or of a color space that is not read at this depth.
    """
    if not is_open(path):
        with path.open("rb") as file:
            check_chain(file, is_ndpi=path.name.lower().endswith(".ndpi"))
    with open_file(path) as kept:
        if (known := kept.facts.get(reading)) is not None:
            return known
        opened = _opened(path, kept.tiff, reading)
        if opened.windowed:  # others hold their pixels
            kept.facts[reading] = opened
        return opened


def _opened(path: ImageRef, tiff: tifffile.TiffFile, reading: PixelReading) -> Opened:
    levels = levels_of(tiff, reading.level)
    series, page = levels[0], levels[0].keyframe
    if page.samplesperpixel < 1 or not page.imagelength or not page.imagewidth:
        raise ValueError(f"an image of {page.imagelength}×{page.imagewidth} pixels")
    is_stack = bool(set(series.axes) - set("YXS")) or len(series.pages) > 1
    opened = None
    is_first = page is tiff.pages.first and not is_slide(series)  # the page that Pillow reads
    if is_first and not is_stack and _suits_pillow(page) and not _needs_windows(page):
        _check_pages([page], tiff.filehandle.size, reading)
        opened = _by_pillow(path, page, reading)
    opened = opened or _by_segments(path, tiff, reading)
    if is_stack:
        return opened
    if (mask := mask_page(tiff, page)) is not None:
        _check_pages([mask], tiff.filehandle.size, reading)
        opened.mask = partial(read_mask, path, mask.index, _orientation(page))
    elif opened.windowed:
        opened.reductions = reductions(levels)
        for level in levels[1 : len(opened.reductions)]:
            _check_pages(list(level.pages), tiff.filehandle.size, reading)
    return opened


def _suits_pillow(page: tifffile.TiffPage) -> bool:
    """Eight bits or less, and channels that its modes have."""
    if page.bitspersample > 8 or page.sampleformat != 1:
        return False
    extra = tuple(int(e) for e in page.extrasamples)
    name = _encoding(page)
    base = {"RGB": 3, "YCBCR": 3, "CIELAB": 3, "SEPARATED": 4}.get(name, 1)
    if page.samplesperpixel == base:
        return True
    return page.samplesperpixel == base + 1 and len(extra) == 1 and extra[0] in ALPHA and name in ("RGB", "MINISBLACK")


def _needs_windows(page: tifffile.TiffPage) -> bool:
    """Large, or tiled: a crop then needs only a part. The pixels are Pillow's, but for rounding in large JPEGs."""
    encoding = _encoding(page)
    if page.bitspersample != 8 or (
        encoding not in ("RGB", "MINISBLACK") and (encoding, page.compression) != ("YCBCR", 7)
    ):
        return False
    return page.imagelength * page.imagewidth > LARGE or (page.is_tiled and page.compression in LOSSLESS)


def _encoding(page: tifffile.TiffPage) -> str:
    try:
        return tifffile.PHOTOMETRIC(page.photometric).name
    except ValueError:
        return f"color space {page.photometric}"


def _by_pillow(path: ImageRef, page: tifffile.TiffPage, reading: PixelReading) -> Opened | None:
    """None if Pillow, or this build of it, cannot."""
    if page.compression not in PILLOW_COMPRESSIONS:
        return None
    file = io.BytesIO(path.read_bytes()) if isinstance(path, Stored) else path
    try:
        with what_libtiff_says() as said:
            size = len(file.getbuffer()) if isinstance(file, io.BytesIO) else file.stat().st_size
            opened = pillow.open_pillow(file, size, reading.max_pixels)
    except (OSError, SyntaxError, KeyError) as error:
        if isinstance(error, Image.UnidentifiedImageError):
            return None
        return _decoded_instead(path, reading, error)
    if said:
        raise ValueError(f"damaged: {said[0]}")
    opened.nodata = _nodata(page)
    return opened


@contextlib.contextmanager
def what_libtiff_says() -> Iterator[list[str]]:
    """Its errors, which it writes to the process's standard error and nowhere else, going on with noise for pixels."""
    said: list[str] = []
    with tempfile.TemporaryFile() as place:
        try:
            before = os.dup(2)
        except OSError:  # there is no standard error
            yield said
            return
        try:
            os.dup2(place.fileno(), 2)
            yield said
        finally:
            os.dup2(before, 2)
            os.close(before)
            place.seek(0)
            said += place.read(4096).decode(errors="replace").splitlines()


def _decoded_instead(path: ImageRef, reading: PixelReading, error: Exception) -> Opened:
    """tifffile's pixels where Pillow failed with ``error``, which is raised if tifffile fails too."""
    try:
        kept = parsed(path)
        with kept.tiff as tiff, all_read(kept.source):
            opened = _by_segments(path, tiff, reading)
        array = np.stack([opened.decode(1, None, plane) for plane in range(opened.planes)])
    except (MemoryError, StoreError, FetchError):  # say nothing about the file
        raise
    except Exception:  # decoders raise anything; the user gets the reason of the first reader, not of the last resort
        raise error from None
    return replace(opened, decode=pillow.in_memory(array).decode, windowed=False)


def _nodata(page: tifffile.TiffPage) -> float | None:
    """GDAL's tag, a number as text."""
    tag = page.tags.get(GDAL_NODATA)
    try:
        return None if tag is None else float(str(tag.value).strip().strip("\0"))
    except ValueError:
        return None


def _orientation(page: tifffile.TiffPage) -> int:
    tag = page.tags.get(ORIENTATION)
    return tag.value if tag is not None and isinstance(tag.value, int) else 1


def _check_pages(pages: list[Any], file_size: int, reading: PixelReading) -> None:
    tiff_segments.check(pages[0].keyframe, file_size, reading.max_pixels)
    for page in pages:
        check_segments(page.dataoffsets, page.databytecounts, tiff_segments.count(page.keyframe), file_size)


def _by_segments(path: ImageRef, tiff: tifffile.TiffFile, reading: PixelReading) -> Opened:
    """Read with tifffile, as far as a window needs."""
    series = levels_of(tiff, reading.level)[0]
    page, encoding = series.keyframe, _encoding(series.keyframe)
    if encoding not in ("RGB", "MINISBLACK", "MINISWHITE") and not (encoding == "YCBCR" and page.bitspersample == 8):
        raise ValueError(f"a TIFF of several pages or over 8 bits must be RGB or MINISBLACK, not {encoding}")
    if page.dtype is None:
        raise ValueError(f"values of {page.bitspersample} bits and sample format {page.sampleformat} are not read")
    if page.imagedepth != 1:
        raise ValueError("volumes within one page (ImageDepth) are not read")
    pages = pages_of(series)
    if _is_interleaved(series, page, len(pages), reading):
        _check_pages(pages, tiff.filehandle.size, reading)
        return pillow.in_memory(np.moveaxis(series.asarray(), 2, 0), nodata=_nodata(page))
    layout = _layout(series.axes, series.shape, page, len(pages), reading)
    _check_pages([pages[n] for plane in layout.pages for n in plane], tiff.filehandle.size, reading)
    turn = _orientation(page)
    height, width = page.imagelength, page.imagewidth
    channels = len(layout.pages[0]) * layout.samples
    limits.check_size(1, 1, channels * page.dtype.itemsize, reading.max_pixels)
    is_unsigned, of_one_page = page.dtype.kind == "u", len(layout.pages[0]) == 1
    white = 2**page.bitspersample - 1 if encoding == "MINISWHITE" and is_unsigned else None
    return Opened(
        *((width, height) if turn in LYING else (height, width)), channels, np.dtype(page.dtype).newbyteorder("="),
        partial(_decode, path, reading.level, layout, turn, white),
        is_color=encoding in ("RGB", "YCBCR") and of_one_page,
        has_alpha=of_one_page and tuple(page.extrasamples)[-1:] in ((1,), (2,)),
        bits=page.bitspersample if is_unsigned else 0,
        nodata=_nodata(page), planes=len(layout.pages), windowed=turn == 1,
    )  # fmt: skip


def pages_of(series: tifffile.TiffPageSeries) -> list[Any]:
    """The pages of a series; planes that follow each other without directories of their own become pages.

    Raises:
        ValueError: pages are missing.
    """
    page = series.keyframe
    pages = list(series.pages)
    if any(one is None for one in pages):
        raise ValueError("damaged: pages of its first image are missing")
    planes = math.prod(length for axis, length in zip(series.axes, series.shape, strict=True) if axis not in "YXS")
    if len(pages) == 1 and planes > 1:
        if page.compression != 1:
            raise ValueError(f"damaged: one page where {planes} are needed")
        size = sum(page.databytecounts)
        return [
            Plane(page, page.parent, tuple(offset + n * size for offset in page.dataoffsets), page.databytecounts)
            for n in range(planes)
        ]
    return pages


class Plane(NamedTuple):
    """A plane of a stack that has one directory for all of them (ImageJ), with the attributes of a page."""

    keyframe: tifffile.TiffPage
    parent: tifffile.TiffFile
    dataoffsets: tuple[int, ...]
    databytecounts: tuple[int, ...]


def _is_interleaved(
    series: tifffile.TiffPageSeries, page: tifffile.TiffPage, pages: int, reading: PixelReading
) -> bool:
    """An array [H, W, C] that tifffile wrote with its rows as pages."""
    one_sample = page.samplesperpixel == 1 and len(series.shape) == 3
    fits = page.imagewidth == reading.in_chans != pages and reading.bands is None and reading.in_chans > 1
    return series.kind == "shaped" and one_sample and fits and reading.stack == "auto"


def _layout(axes: str, shape: tuple[int, ...], page: tifffile.TiffPage, pages: int, reading: PixelReading) -> Layout:
    """Which pages are the channels of one image. ``stack`` decides; ``auto`` takes what fits the network.

    A page's own samples are always channels. The axis C, as microscopes write it, is channels too; the others (Z, T,
    or plain pages) are channels or images.
    """
    samples = page.samplesperpixel
    outer = [(axis, length) for axis, length in zip(axes, shape, strict=True) if axis not in "YXS"]
    if math.prod(length for _, length in outer) != pages:  # an axis within the page, or a layout of its own
        outer = [("I", pages)]
    numbers = np.arange(pages).reshape([length for _, length in outer])
    inner = [n for n, (axis, _) in enumerate(outer) if axis == "C"]
    by_plane = np.moveaxis(numbers, inner, range(numbers.ndim - len(inner), numbers.ndim))
    per_plane = math.prod(outer[n][1] for n in inner)
    by_plane = by_plane.reshape(-1, per_plane)
    all_in_one = Layout((tuple(range(pages)),), samples)
    one_each = Layout(tuple(tuple(int(n) for n in row) for row in by_plane), samples)
    if reading.stack == "channels" or len(by_plane) == 1:
        return all_in_one if reading.stack == "channels" or not inner else one_each
    if reading.stack == "images":
        return one_each
    wanted = reading.in_chans if reading.bands is None else max(reading.bands)
    if pages * samples == reading.in_chans:
        return all_in_one
    if per_plane * samples > 1 and (per_plane * samples == wanted or reading.bands is not None):
        return one_each
    return all_in_one


def _decode(
    path: ImageRef,
    level: int,
    layout: Layout,
    turn: int,
    white: int | None,
    reduce: int,
    window: Window | None,
    plane: int,
) -> np.ndarray:
    with open_file(path) as kept:
        levels = levels_of(kept.tiff, level)
        page: Any = levels[0].keyframe
        if reduce > 1:
            page = levels[reductions(levels).index(reduce)].pages[0]
        pages = [page] if layout.pages == ((0,),) else pages_of(levels[0])
        whole = Window(0, 0, page.imagelength, page.imagewidth)
        asked = window if window is not None and turn == 1 else whole
        if reduce > 1:
            asked = reduced(asked, reduce, page.imagelength, page.imagewidth)
        parts = [tiff_segments.read(pages[n], asked) for n in layout.pages[plane]]
    array = parts[0] if len(parts) == 1 else np.concatenate(parts)
    if white is not None:
        array = array.dtype.type(white) - array
    return turned(array, turn)
