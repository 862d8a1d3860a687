"""Makes tiny files of the formats of scanners: DICOM, NIfTI, OME-Zarr, slides."""

import io
import struct
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import tifffile
import zarr
from PIL import Image
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

SPACE = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}


def dicom(array: np.ndarray, sop_class: str = CTImageStorage, **elements: Any) -> bytes:
    """[H, W], [H, W, 3] or frames [N, H, W] of 8 or 16 bits; ``elements`` by DICOM's keywords, None leaves one out."""
    is_color = array.shape[-1] == 3
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = sop_class
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3"
    data.PatientName, data.PatientID = "Doe^Jane", "secret-7"
    data.Rows, data.Columns = array.shape[-3:-1] if is_color else array.shape[-2:]
    if array.ndim == 3 + is_color:
        data.NumberOfFrames = len(array)
    data.SamplesPerPixel = 3 if is_color else 1
    data.PhotometricInterpretation = "RGB" if is_color else "MONOCHROME2"
    if is_color:
        data.PlanarConfiguration = 0
    bits = 8 * array.dtype.itemsize
    data.BitsAllocated, data.BitsStored, data.HighBit = bits, bits, bits - 1
    data.PixelRepresentation = int(array.dtype.kind == "i")
    data.PixelData = array.tobytes()
    data["PixelData"].VR = "OB" if bits == 8 else "OW"
    for name, value in elements.items():
        if value is None:
            delattr(data, name)
        elif isinstance(value, pydicom.DataElement):  # with a value representation of its own
            data.add(value)
        else:
            setattr(data, name, value)
    out = io.BytesIO()
    data.save_as(out, enforce_file_format=True)
    return out.getvalue()


def nifti(array: np.ndarray, affine: np.ndarray | None = None, **header: Any) -> bytes:
    """[X, Y, Z] or [X, Y, Z, T], by default in the order Right, Anterior, Superior."""
    image = nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine)
    for name, value in header.items():
        image.header[name] = value
    data = bytearray(image.to_bytes())
    for at, name in ((112, "scl_slope"), (116, "scl_inter")):  # nibabel writes its own
        if name in header:
            data[at : at + 4] = np.float32(header[name]).tobytes()
    return bytes(data)


def ome_zarr(store: str | Path, array: np.ndarray, axes: str, version: str = "0.4", levels: int = 1) -> None:
    """Chunks of at most 32 along y and x and 1 along others; each level takes every second pixel."""
    group = zarr.open_group(store, mode="w", zarr_format=2 if version == "0.4" else 3)
    for level in range(levels):
        chunks = [min(32, n) if axis in "yx" else 1 for axis, n in zip(axes, array.shape, strict=True)]
        made = group.create_array(str(level), shape=array.shape, dtype=array.dtype, chunks=chunks)
        made[...] = array
        array = array[..., ::2, ::2]
    stated = {
        "version": version,
        "axes": [{"name": axis, "type": SPACE[axis]} for axis in axes],
        "datasets": [{"path": str(level)} for level in range(levels)],
    }
    group.attrs.update({"multiscales": [stated]} if version == "0.4" else {"ome": {"multiscales": [stated]}})


def zipped_ome_zarr(file: Path, array: np.ndarray, axes: str, levels: int = 1) -> None:
    """The same as a zip file."""
    with tempfile.TemporaryDirectory() as folder:
        ome_zarr(Path(folder) / "a.zarr", array, axes, "0.4", levels)
        with zipfile.ZipFile(file, "w") as archive:  # what zarr writes itself has its metadata twice
            for part in sorted((Path(folder) / "a.zarr").rglob("*")):
                archive.write(part, part.relative_to(Path(folder) / "a.zarr"))


def svs(scan: np.ndarray, levels: int = 3, **options: Any) -> bytes:
    """An Aperio slide of [H, W, 3] uint8: the scan, a thumbnail, smaller levels, a label and a macro image."""
    black = np.zeros((40, 60, 3), np.uint8)
    tiled: dict[str, Any] = {"tile": (32, 48), "photometric": "rgb", "compression": "jpeg", **options}
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as writer:
        about = "Aperio Image Library v11\r\n"
        writer.write(scan, description=f"{about}{scan.shape[1]}x{scan.shape[0]}|AppMag = 20", metadata=None, **tiled)
        writer.write(black, photometric="rgb", description=f"{about}thumbnail", metadata=None)
        for level in range(1, levels):
            step = 2**level
            writer.write(scan[::step, ::step], description=about, metadata=None, **tiled)
        for name, subfile in (("label", 1), ("macro", 9)):
            writer.write(black, photometric="rgb", subfiletype=subfile, description=f"{about}{name}", metadata=None)
    return out.getvalue()


def scn(scan: np.ndarray) -> bytes:
    """A Leica slide of [H, W, 3] uint8: the first image is the macro image, the second the scan of two levels."""
    macro = np.zeros((40, 60, 3), np.uint8)
    xml = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01"><collection>'
        '<image name="macro"><pixels><dimension sizeX="60" sizeY="40" r="0" ifd="0"/></pixels></image>'
        '<image name="scan"><pixels><dimension r="0" ifd="1"/><dimension r="1" ifd="2"/></pixels></image>'
        "</collection></scn>"
    )
    out = io.BytesIO()
    with tifffile.TiffWriter(out, bigtiff=True) as writer:
        writer.write(macro, photometric="rgb", tile=(32, 32), description=xml, metadata=None)
        for step in (1, 2):
            writer.write(
                scan[::step, ::step],
                photometric="rgb",
                tile=(32, 32),
                compression="jpeg",
                subfiletype=int(step > 1),
                metadata=None,
            )
    return out.getvalue()


def ndpi(scan: np.ndarray) -> bytes:
    """A Hamamatsu slide of [H, W, 3] uint8: two levels and a macro image, offsets of 64 bits in a classic TIFF.

    Each page is one JPEG with restart markers, whose places a tag lists.
    """
    out = bytearray(b"II" + struct.pack("<HQ", 42, 0))
    link = 4  # where the offset of the next directory belongs
    for page, lens in ((scan, 20.0), (scan[::2, ::2], 10.0), (np.zeros((40, 60, 3), np.uint8), -1.0)):
        coded, across = io.BytesIO(), -(-page.shape[1] // 8)
        interval = max(n for n in range(1, 8) if across % n == 0)  # rows begin with a restart
        Image.fromarray(page).save(coded, "JPEG", quality=95, subsampling=0, restart_marker_blocks=interval)
        jpeg = coded.getvalue()
        begins = jpeg.index(b"\xff\xda") + 2
        begins += int.from_bytes(jpeg[begins : begins + 2], "big")
        starts = [
            begins,
            *(n + 2 for n in range(begins, len(jpeg) - 1) if jpeg[n] == 255 and 208 <= jpeg[n + 1] <= 215),
        ]
        at = {"jpeg": len(out)}
        out += jpeg
        arrays = {"starts": struct.pack(f"<{len(starts)}I", *starts), "bits": struct.pack("<3H", 8, 8, 8)}
        for name, data in (arrays | {"make": b"Hamamatsu\0"}).items():
            at[name] = len(out)
            out += data
        tags = [
            *((256, 4, 1, page.shape[1]), (257, 4, 1, page.shape[0]), (258, 3, 3, at["bits"]), (259, 3, 1, 7)),
            *(
                (262, 3, 1, 6),
                (271, 2, 10, at["make"]),
                (273, 4, 1, at["jpeg"]),
                (277, 3, 1, 3),
                (278, 4, 1, page.shape[0]),
            ),
            *((279, 4, 1, len(jpeg)), (65420, 4, 1, 1)),
            (65421, 11, 1, int.from_bytes(struct.pack("<f", lens), "little")),
            (65426, 4, len(starts), at["starts"]),
        ]
        struct.pack_into("<Q", out, link, len(out))
        out += struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
        link = len(out)
        out += bytes(8 + 4 * len(tags))
    return bytes(out)
