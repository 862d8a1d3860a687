"""Recognizes image files by their first bytes, for names that have no ending or a wrong one."""

import os
import re

LENGTH = 32
"""Bytes that are looked at."""

STARTS = (
    (b"\xff\xd8\xff", ".jpg"),
    (b"\x89PNG\r\n\x1a\n", ".png"),
    (b"GIF87a", ".gif"),
    (b"GIF89a", ".gif"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
    (b"II+\0", ".tif"),  # BigTIFF
    (b"MM\0+", ".tif"),
    (b"\x93NUMPY", ".npy"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", ".jp2"),
    (b"\xff\x4f\xff\x51", ".jp2"),  # a bare codestream
)
BRANDS = {b"avif": ".avif", b"avis": ".avif"} | dict.fromkeys(
    (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"), ".heic"
)
BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)  # sizes of the second header
PNM = re.compile(rb"P[1-6]\s+[\d#]")

# Not looked into: notes beside images, one each, of which a set may have a million; and raw photos and slides, which
# begin like a TIFF but whose first picture is often a thumbnail
NOTES = (".txt", ".json", ".jsonl", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".html", ".md", ".log", ".py")
ARCHIVES_AND_WEIGHTS = (".zip", ".tar", ".gz", ".pt", ".pth", ".safetensors")
RAW_PHOTOS = (
    *(".3fr", ".arw", ".cr2", ".cr3", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos", ".nef", ".nrw", ".orf"),
    *(".pef", ".raf", ".raw", ".rw2", ".srw"),
)
SLIDES = (".mrxs", ".ndpi", ".scn", ".svs")
OTHERS = frozenset((*NOTES, *ARCHIVES_AND_WEIGHTS, *RAW_PHOTOS, *SLIDES))


def ending_for(head: bytes) -> str | None:
    """The usual ending of a file that begins with these bytes; None if they begin no known image."""
    for start, ending in STARTS:
        if head.startswith(start):
            return ending
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return ".webp"
    if head[4:8] == b"ftyp":
        return BRANDS.get(head[8:12])
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in BMP_HEADERS:
        return ".bmp"
    return ".ppm" if PNM.match(head) else None


def recognized(file: str | os.PathLike[str]) -> str | None:
    """:func:`ending_for` a regular file; None also if it cannot be opened."""
    try:
        with open(file, "rb", buffering=0) as opened:
            return ending_for(opened.read(LENGTH))
    except OSError:
        return None
