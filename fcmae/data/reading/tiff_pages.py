"""A TIFF's directories and segments, checked against the file's length: what lost its end is no other image."""

import os
import struct
from typing import BinaryIO

import numpy as np

MAX_PAGES = 2**16


def check_chain(file: BinaryIO, is_ndpi: bool = False) -> None:
    """ValueError unless the chain of directories ends within the file.

    Readers stop at a directory that is cut off, and take the pages before it for the whole file. ``is_ndpi``: of
    Hamamatsu, whose offsets have 64 bits in an otherwise classic TIFF.
    """
    file.seek(0)
    header = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(header[:2])
    if order is None or len(header) < 8:
        raise ValueError("not a TIFF file")
    is_big = struct.unpack(order + "H", header[2:4])[0] == 43
    count_format, offset_format, entry = ("Q", "Q", 20) if is_big else ("H", "Q" if is_ndpi else "I", 12)
    count_size, offset_size = struct.calcsize(order + count_format), struct.calcsize(order + offset_format)
    at = 8 if is_big else 4
    if len(header) < at + offset_size:
        raise ValueError("not a TIFF file")
    (offset,) = struct.unpack(order + offset_format, header[at : at + offset_size])
    size = file.seek(0, os.SEEK_END)
    seen = set[int]()
    while offset:
        if offset in seen or len(seen) >= MAX_PAGES:
            raise ValueError(f"damaged: its directories form a loop, or are more than {MAX_PAGES}")
        seen.add(offset)
        if offset + count_size > size:
            raise ValueError("truncated: a page's directory lies beyond the end of the file")
        file.seek(offset)
        (entries,) = struct.unpack(order + count_format, file.read(count_size))
        after = offset + count_size + entries * entry
        if after + offset_size > size:
            raise ValueError("truncated: a page's directory lies beyond the end of the file")
        file.seek(after)
        (offset,) = struct.unpack(order + offset_format, file.read(offset_size))


def check_segments(offsets: tuple[int, ...], counts: tuple[int, ...], needed: int, file_size: int) -> None:
    """ValueError unless all strips or tiles of a page lie within the file.

    An offset and length of 0 is a segment that was never written (GDAL's sparse files).
    """
    if len(offsets) < needed or len(counts) < needed:
        raise ValueError(f"damaged: {min(len(offsets), len(counts))} strips or tiles where {needed} are needed")
    count = min(len(offsets), len(counts))
    ends = np.asarray(offsets[:count], np.uint64) + np.asarray(counts[:count], np.uint64)
    if ends.size and int(ends.max()) > file_size:
        raise ValueError("truncated: its pixels reach beyond the end of the file")
