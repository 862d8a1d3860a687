"""The strips or tiles of a TIFF page that a window needs, decoded one by one."""

import io
import math
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from fcmae.data.jpeg_header import read_frame
from fcmae.data.reading import limits, pillow
from fcmae.data.reading.opened import Window
from fcmae.data.reading.raw import read_window
from fcmae.data.reading.tiff_prefix import first_rows

JPEG_COMPRESSIONS = (6, 7, 34892, 33007)
APERIO_YCBCR = 33003
"""JPEG 2000 of Aperio's older scanners, whose codestreams do not say that their colors are YCbCr."""
IMAGE_COMPRESSIONS = (33003, 33004, 33005, 34712, 34927, 34933, 34934, 50001)
"""JPEG 2000, PNG and WebP: a segment states a size of its own."""
RATIOS = {1: 1, 5: limits.LZW, 7: limits.JPEG, 8: limits.DEFLATE, 32773: 130, 32946: limits.DEFLATE}
SEGMENT_BYTES = 2**28


def grid(page: tifffile.TiffPage) -> tuple[int, int, int, int, int]:
    """Height and width of a segment, segments down and across, and separate sample planes."""
    height, width = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    height = min(height, page.imagelength) if not page.is_tiled else height
    if height < 1 or width < 1:
        raise ValueError(f"damaged: strips or tiles of {height}×{width} pixels")
    planes = page.samplesperpixel if page.planarconfig == 2 else 1
    return height, width, -(-page.imagelength // height), -(-page.imagewidth // width), planes


def count(page: tifffile.TiffPage) -> int:
    """Segments of a whole page."""
    _, _, down, across, planes = grid(page)
    return down * across * planes


def check(page: tifffile.TiffPage, file_size: int, max_pixels: int) -> None:
    """ValueError for segments that are too large, or more pixels than the file can hold."""
    height, width, down, across, planes = grid(page)
    samples = page.samplesperpixel // planes
    size = height * width * samples * max(1, page.bitspersample) // 8
    limits.check_size(height, width, samples * -(-page.bitspersample // 8), max_pixels)
    written = int(np.count_nonzero(page.databytecounts))
    if ratio := RATIOS.get(page.compression):
        limits.check_plausible(min(written, down * across * planes) * size, file_size + size, ratio)


def read(page: Any, window: Window) -> np.ndarray:
    """The window of a page (``TiffPage`` or ``TiffFrame``), [samples, height, width] in native byte order."""
    key = page.keyframe
    height, width, down, across, planes = grid(key)
    samples = key.samplesperpixel
    dtype = np.dtype(key.dtype).newbyteorder("=")
    if key.compression == 1 and key.fillorder == 1 and key.bitspersample == 8 * dtype.itemsize and not key.is_tiled:
        part = _as_it_lies(page, key, dtype, window)
        if part is not None:
            return np.ascontiguousarray(part).astype(dtype, copy=False)
    out = np.zeros((samples, window.height, window.width), dtype)
    rows = range(window.top // height, -(-(window.top + window.height) // height))
    columns = range(window.left // width, -(-(window.left + window.width) // width))
    for plane in range(planes):
        target = out[plane : plane + 1] if planes > 1 else out
        for row in rows:
            for column in columns:
                needed = min(height, window.top + window.height - row * height)
                segment = _segment(page, key, (plane * down + row) * across + column, (height, width), needed)
                _paste(segment, target, row * height - window.top, column * width - window.left)
    return out


def _as_it_lies(page: Any, key: tifffile.TiffPage, dtype: np.dtype, window: Window) -> np.ndarray | None:
    """The window [samples, h, w] of an uncompressed page whose strips follow each other; None otherwise."""
    offsets, counts = page.dataoffsets, page.databytecounts
    is_planar = key.planarconfig == 2
    hw = key.imagelength, key.imagewidth
    shape = (key.samplesperpixel, *hw) if is_planar else (*hw, key.samplesperpixel)
    follows = all(o + c == after for o, c, after in zip(offsets, counts, offsets[1:], strict=False))
    if not follows or math.prod(shape) * dtype.itemsize > sum(counts):
        return None
    order = dtype.newbyteorder(page.parent.byteorder)
    handle = page.parent.filehandle
    rows, columns = range(window.top, window.top + window.height), range(window.left, window.left + window.width)
    samples = range(key.samplesperpixel)
    if not handle.is_file:
        ranges = (samples, rows, columns) if is_planar else (rows, columns, samples)
        found = read_window(handle, offsets[0], shape, order, ranges)
        return found if is_planar else found.transpose(2, 0, 1)
    mapped = handle.memmap_array(order, shape, offsets[0])
    whole = mapped if is_planar else mapped.transpose(2, 0, 1)
    return whole[:, rows.start : rows.stop, columns.start : columns.stop]


def _segment(page: Any, key: tifffile.TiffPage, index: int, hw: tuple[int, int], needed: int) -> np.ndarray | None:
    """[h, w, samples], or its first ``needed`` rows at least; None for a segment that was never written."""
    offset, size = page.dataoffsets[index], page.databytecounts[index]
    if size == 0 or offset == 0:
        return None
    handle = page.parent.filehandle
    handle.seek(offset)
    data = handle.read(size)
    if len(data) < size:
        raise ValueError("truncated: its pixels reach beyond the end of the file")
    if (rows := first_rows(data, key, needed, hw)) is not None:
        return rows
    _check_own_size(data, key.compression, hw)
    options = {}
    if key.compression in JPEG_COMPRESSIONS:
        options = {"jpegtables": page.jpegtables, "jpegheader": key.jpegheader}
    segment, _, shape = key.decode(data, index, **options)
    if segment is None:
        return None
    segment = segment.reshape(segment.shape[-3:])[: shape[1], : shape[2]]
    if key.compression == APERIO_YCBCR and segment.shape[2] == 3:
        segment = np.array(Image.fromarray(segment, "YCbCr").convert("RGB"))
    return segment


def _check_own_size(data: bytes, compression: int, hw: tuple[int, int]) -> None:
    """An image inside a segment may be smaller than it, not much larger."""
    size: tuple[int, int] | None = None
    if compression in JPEG_COMPRESSIONS:
        frame = read_frame(data)
        size = frame and frame[:2]
    elif compression in IMAGE_COMPRESSIONS:
        with pillow.opened_header(io.BytesIO(data)) as header:
            size = header.height, header.width
    if size and (size[0] > hw[0] + 16 or size[1] > hw[1] + 16):
        raise ValueError(f"damaged: a segment of {size[0]}×{size[1]} pixels where {hw[0]}×{hw[1]} belong")


def _paste(segment: np.ndarray | None, target: np.ndarray, top: int, left: int) -> None:
    """The part of a segment [h, w, S] at (top, left) that lies in the target [S, H, W]."""
    if segment is None:
        return
    height, width = target.shape[1:]
    y0, x0 = max(0, -top), max(0, -left)
    part = segment[y0 : max(y0, height - top), x0 : max(x0, width - left)]
    y, x = top + y0, left + x0
    target[:, y : y + part.shape[0], x : x + part.shape[1]] = part.transpose(2, 0, 1)
