"""Endings of image files. Without imports, so that sources are checked before torch is loaded, which takes seconds."""

import os

EXTENSIONS = frozenset(
    [
        ".avif",
        ".bmp",
        ".dcm",
        ".dicom",
        ".gif",
        ".heic",
        ".heif",
        ".j2k",
        ".jfif",
        ".jp2",
        ".jpeg",
        ".jpg",
        ".jxl",
        ".ndpi",
        ".nii",
        ".nii.gz",
        ".npy",
        ".ome.zarr",
        ".ozx",
        ".pbm",
        ".pgm",
        ".png",
        ".pnm",
        ".ppm",
        ".scn",
        ".svs",
        ".tga",
        ".tif",
        ".tiff",
        ".webp",
        ".zarr",
        ".zarr.zip",
    ]
)
DOUBLE = (".nii.gz", ".ome.zarr", ".zarr.zip")


def ending_of(name: str) -> str:
    """The ending of a file's name in lower case, of two parts where both say what it is; "" if there is none."""
    lower = name.lower()
    return next((double for double in DOUBLE if lower.endswith(double)), os.path.splitext(lower)[1])
