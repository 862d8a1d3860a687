"""Reads mutated image files; run in a process of its own by test_damage.py, with a limit on its memory."""

import gzip
import io
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import tifffile
from PIL import Image

from fcmae.data.crops import center_crop
from fcmae.data.images import UnreadableImageError, open_image
from tests.fcmae.data.reading import makers

R = np.random.default_rng(0)
Y, X = np.mgrid[:60, :80]
RGB = np.stack([X * 3, Y * 4, X + Y], 2).astype(np.uint8)
DEEP = RGB.astype(np.uint16) * 256


def pil(kind: str, image: Image.Image | None = None, **options: object) -> bytes:
    out = io.BytesIO()
    (image or Image.fromarray(RGB)).save(out, kind, **options)
    return out.getvalue()


def tif(array: np.ndarray, **options: object) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, array, **options)
    return out.getvalue()


def zipped(array: np.ndarray) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        makers.zipped_ome_zarr(Path(folder) / "a.zip", array, "cyx", levels=2)
        return (Path(folder) / "a.zip").read_bytes()


def shipped(name: str) -> bytes:
    """One of pydicom's own files."""
    return (Path(pydicom.__file__).parent / "data/test_files" / name).read_bytes()


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "jpg": lambda: [pil("JPEG"), pil("JPEG", progressive=True), pil("JPEG", Image.fromarray(RGB).convert("CMYK"))],
    "png": lambda: [pil("PNG"), imagecodecs.png_encode(DEEP), pil("PNG", Image.fromarray(RGB).quantize(16))],
    "gif": lambda: [pil("GIF")],
    "bmp": lambda: [pil("BMP")],
    "webp": lambda: [pil("WEBP"), pil("WEBP", lossless=True)],
    "avif": lambda: [imagecodecs.avif_encode(RGB), imagecodecs.avif_encode(DEEP >> 6, bitspersample=10)],
    "jp2": lambda: [pil("JPEG2000"), imagecodecs.jpeg2k_encode(DEEP)],
    "jxl": lambda: [imagecodecs.jpegxl_encode(RGB), imagecodecs.jpegxl_encode(DEEP, lossless=True)],
    "npy": lambda: [npy(RGB), npy(DEEP.transpose(2, 0, 1))],
    "ppm": lambda: [pil("PPM")],
    "dcm": lambda: [
        makers.dicom(DEEP[..., 0], WindowCenter=30000, WindowWidth=60000, PixelPaddingValue=0),
        makers.dicom(RGB.transpose(2, 0, 1)),
        *map(shipped, ("MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "SC_rgb_jpeg_dcmtk.dcm")),
        *map(shipped, ("SC_rgb_jpeg_gdcm.dcm", "MR_small_RLE.dcm")),
    ],
    "nii": lambda: [makers.nifti(DEEP), makers.nifti(DEEP, scl_slope=2, scl_inter=1)],
    "nii.gz": lambda: [gzip.compress(makers.nifti(DEEP))],
    "zarr.zip": lambda: [zipped(DEEP.transpose(2, 0, 1))],
    "svs": lambda: [makers.svs(RGB), makers.svs(RGB, compression="aperio_jp2000_rgb")],
    "ndpi": lambda: [makers.ndpi(RGB)],
    "scn": lambda: [makers.scn(RGB)],
    "tga": lambda: [pil("TGA"), pil("TGA", compression="tga_rle")],
    "tif": lambda: [
        tif(RGB),
        tif(RGB, compression="jpeg"),
        tif(RGB, compression="webp"),
        tif(DEEP, compression="lzw", predictor=True),
        tif(DEEP, tile=(16, 32), compression="zlib"),
        tif(DEEP.transpose(2, 0, 1), photometric="minisblack"),
        tif(R.random((4, 3, 30, 40)).astype(np.float32), photometric="minisblack", metadata={"axes": "ZCYX"}, ome=True),
        pil("TIFF", Image.fromarray(RGB).convert("1"), compression="group4"),
    ],
}


def mutated(seeds: list[bytes], draw: random.Random) -> bytes:
    """Cut off, with bytes left out, or with some bytes changed, half of the time in the header."""
    data = bytearray(draw.choice(seeds))
    how = draw.random()
    if how < 0.2:
        return bytes(data[: draw.randrange(len(data))])
    if how < 0.3:
        start = draw.randrange(len(data))
        del data[start : start + draw.randrange(1, 64)]
        return bytes(data)
    end = len(data) if draw.random() < 0.5 else min(len(data), 400)
    for _ in range(draw.choice([1, 1, 2, 4, 16])):
        data[draw.randrange(end)] = draw.choice([0, 127, 128, 255, draw.randrange(256)])
    return bytes(data)


def main(kind: str, count: int, file: Path) -> None:
    """Writes the number of files read, of files refused, and the seconds of the slowest."""
    draw, seeds, file = random.Random(kind), SEEDS[kind](), file.with_name(f"{file.name}.{kind}")
    read = refused = 0
    slowest = 0.0
    for _ in range(count):
        file.write_bytes(mutated(seeds, draw))
        start = time.process_time()
        try:
            center_crop(open_image(file, 3), (32, 32))
            read += 1
        except UnreadableImageError as error:
            refused += str(error).startswith(f"{file}: ") and "\n" not in str(error)  # else the sum is wrong
        slowest = max(slowest, time.process_time() - start)
    sys.stdout.write(f"{read} {refused} {slowest}\n")


if __name__ == "__main__":
    for kind in sys.argv[3:]:
        main(kind, int(sys.argv[1]), Path(sys.argv[2]))
