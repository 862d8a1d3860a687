"""Recognizes image files by their first bytes, for names that have no ending or a wrong one."""

import os
import re

LENGTH = 2048
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

# Not looked into: notes beside images, one each, of which a set may have a million; and raw photos, which begin like a
# TIFF but whose first picture is often a thumbnail
NOTES = (".txt", ".json", ".jsonl", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".html", ".md", ".log", ".py")
ARCHIVES_AND_WEIGHTS = (".zip", ".tar", ".gz", ".pt", ".pth", ".safetensors")
RAW_PHOTOS = (
    *(".3fr", ".arw", ".cr2", ".cr3", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos", ".nef", ".nrw", ".orf"),
    *(".pef", ".raf", ".raw", ".rw2", ".srw"),
)
OTHERS = frozenset((*NOTES, *ARCHIVES_AND_WEIGHTS, *RAW_PHOTOS, ".mrxs"))

DICOM_AT, DICOM = 128, b"DICM"
CLASS_OF_DICOM = re.compile(rb"\x02\0\x02\0UI..([0-9.]+)", re.DOTALL)
"""The element that says what a DICOM file holds, near its beginning."""
NO_IMAGES = re.compile(
    rb"1\.2\.840\.10008\.(1\.3\.10|5\.1\.4\.1\.1\.(88|11|104|66|9|67|68|78|79|80|200|481\.[3-9]|501\.[2-6])(\.|$)"
    rb"|5\.1\.4\.(3[48]|43|45)\.)"
)
"""DICOMDIR, reports, presentation states, documents, segmentations and registrations, waveforms, plans and the like."""


def ending_for(head: bytes) -> str | None:
    """The usual ending of a file that begins with these bytes; None if they begin no known image."""
    if head[DICOM_AT : DICOM_AT + 4] == DICOM:
        return None if is_dicom_without_image(head) else ".dcm"
    for start, ending in STARTS:
        if head.startswith(start):
            return ending
    if head[344:348] == b"n+1\0" or head[4:8] == b"n+2\0":
        return ".nii"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return ".webp"
    if head[4:8] == b"ftyp":
        return BRANDS.get(head[8:12])
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in BMP_HEADERS:
        return ".bmp"
    return ".ppm" if PNM.match(head) else None


def is_dicom_without_image(head: bytes) -> bool:
    """Whether a file that begins so is a DICOM object of a kind that holds no image."""
    if head[DICOM_AT : DICOM_AT + 4] != DICOM:
        return False
    stated = CLASS_OF_DICOM.search(head)
    return stated is not None and NO_IMAGES.match(stated[1]) is not None


def first_bytes(file: str | os.PathLike[str]) -> bytes:
    """As many of a file as are looked at; none if it cannot be opened."""
    try:
        with open(file, "rb", buffering=0) as opened:
            return opened.read(LENGTH)
    except OSError:
        return b""


def recognized(file: str | os.PathLike[str]) -> str | None:
    """:func:`ending_for` a regular file; None also if it cannot be opened."""
    return ending_for(first_bytes(file))
