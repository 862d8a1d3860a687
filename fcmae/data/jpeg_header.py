"""Reads a JPEG's header, faster than Pillow: the size, and whether the file is an ordinary one."""

from typing import NamedTuple

START = b"\xff\xd8"
FRAMES, SCAN = (0xC0, 0xC1, 0xC2), 0xDA  # baseline, extended and progressive frames; where the pixels begin
SKIPPED = (0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0))  # tables, comments, application data
EXIF_OR_XMP, SEVERAL_PICTURES = 0xE1, (0xE2, b"MPF\0")


class Frame(NamedTuple):
    """An 8-bit frame: baseline, extended or progressive."""

    height: int
    width: int
    channels: int
    is_alone: bool
    """Nothing in the header suggests that the picture is rotated or that the file holds several."""


def read_frame(data: bytes) -> Frame | None:
    """The frame of a JPEG; None if it is of another kind (lossless, arithmetic, 12 bits), or the header is damaged."""
    frame, is_alone, position = None, True, len(START)
    while data.startswith(START) and position + 10 <= len(data) and data[position] == 0xFF:
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == SCAN:
            return frame._replace(is_alone=is_alone) if frame else None
        if marker in FRAMES and frame is None:
            height, width = (int.from_bytes(data[position + at : position + at + 2], "big") for at in (5, 7))
            if data[position + 4] != 8 or not height * width:
                return None
            frame = Frame(height, width, data[position + 9], is_alone)
        elif marker not in SKIPPED:
            return None
        other, begin = SEVERAL_PICTURES
        if marker == EXIF_OR_XMP or (marker == other and data.startswith(begin, position + 4)):
            is_alone = False
        position += 2 + length
    return None
