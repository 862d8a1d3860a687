"""DICOM: what a viewer shows, or the numbers that the file means; nothing about the patient."""

import pickle
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import MPEG2MPML, JPEGLosslessSV1

from fcmae.data.images import ImageFile, UnreadableImageError, decoded, open_image, read_image
from fcmae.data.pixel_reading import PixelReading
from tests.fcmae.data.reading.makers import dicom

SHIPPED = Path(pydicom.__file__).parent / "data/test_files"
STORED = np.arange(-40, 80, dtype=np.int16).reshape(10, 12) * 20
"""-800 … 1580."""


@pytest.fixture
def opened(tmp_path: Path) -> Any:
    def opener(array: np.ndarray, reading: PixelReading | int = 1, **elements: Any) -> ImageFile:
        (tmp_path / "a").write_bytes(dicom(array, **elements))
        return open_image(tmp_path / "a", reading)

    return opener


def test_a_window_shows_what_a_viewer_shows(opened: Any) -> None:
    """PS3.3 C.11.2.1.2: below center - 0.5 - (width - 1) / 2 black, above center - 0.5 + (width - 1) / 2 white."""
    file = opened(STORED, RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=[40, 7], WindowWidth=[400, 9])
    hounsfield = STORED.astype(float) * 2 - 1000
    expected = np.clip((hounsfield - 39.5) / 399 + 0.5, 0, 1) * 255
    assert file.opened.dtype == np.uint8
    np.testing.assert_allclose(file.decode()[0], expected, atol=0.51)


@pytest.mark.parametrize(("function", "light"), [("LINEAR_EXACT", 0.55), ("SIGMOID", 1 / (1 + np.exp(-0.2)))])
def test_other_functions_of_a_window(opened: Any, function: str, light: float) -> None:
    array = np.full((4, 4), 110, np.int16)
    file = opened(array, WindowCenter=100, WindowWidth=200, VOILUTFunction=function)
    np.testing.assert_allclose(file.decode(), 255 * light, atol=0.51)


def test_with_a_value_range_the_numbers_are_hounsfield_units(opened: Any) -> None:
    elements = {"RescaleSlope": 2, "RescaleIntercept": -1000, "WindowCenter": 40, "WindowWidth": 400}
    file = opened(STORED, PixelReading(1, value_range=(-1000, 1000)), **elements)
    hounsfield = STORED.astype(float) * 2 - 1000
    np.testing.assert_allclose(file.decode()[0], np.clip((hounsfield + 1000) / 2000, 0, 1), atol=1e-6)
    np.testing.assert_allclose(file.own_values(None)[0][0], hounsfield)


def test_monochrome1_is_dark_where_values_are_high(opened: Any) -> None:
    array = np.array([[0, 1000], [3000, 4095]], np.uint16)
    elements = {"PhotometricInterpretation": "MONOCHROME1", "BitsStored": 12, "HighBit": 11}
    np.testing.assert_allclose(opened(array, **elements).decode()[0], (4095 - array) / 4095, atol=1e-6)
    shown = opened(array, WindowCenter=2048, WindowWidth=4096, **elements).decode()[0]
    assert shown[0, 0] == 255
    assert shown[1, 1] == 0


def test_padding_is_no_data(opened: Any) -> None:
    array = STORED.copy()
    array[:3] = -2000
    for elements in ({"WindowCenter": 40, "WindowWidth": 400}, {"RescaleSlope": 1, "RescaleIntercept": 5}):
        unsigned = pydicom.DataElement("PixelPaddingValue", "US", 2**16 - 2000)  # as many files state it
        for padding in (-2000, unsigned):
            gone = opened(array, PixelPaddingValue=padding, **elements).decode().isnan()[0]
            assert gone[:3].all()
            assert not gone[3:].any()
    frames = np.stack([STORED, array])  # each frame has padding of its own
    file = opened(frames, WindowCenter=40, WindowWidth=400, PixelPaddingValue=-2000)
    assert not file.crop((0, 0, 10, 12), plane=0).isnan().any()
    assert file.crop((2, 0, 2, 12), plane=1).isnan()[0].tolist() == [[True] * 12, [False] * 12]
    assert decoded(file).crop((2, 0, 2, 12), plane=1).isnan().sum() == 12


def test_frames_are_images_or_channels(opened: Any) -> None:
    frames = np.arange(5 * 6 * 7, dtype=np.uint8).reshape(5, 6, 7)
    file = opened(frames)
    assert file.planes == 5
    for plane in range(5):
        assert np.array_equal(file.crop((1, 2, 3, 4), plane=plane)[0], frames[plane, 1:4, 2:6])
    assert np.array_equal(opened(frames, 5).decode(), frames)
    assert np.array_equal(opened(frames, PixelReading(2, bands=(5, 1), stack="channels")).decode(), frames[[4, 0]])
    assert opened(frames, PixelReading(3, stack="images")).decode().shape == (3, 6, 7)
    assert pickle.loads(pickle.dumps(file)).planes == 5


def test_functional_groups_give_each_frame_its_window(opened: Any) -> None:
    frames = np.full((2, 4, 4), 100, np.int16)

    def group(center: float) -> pydicom.Dataset:
        window, found = pydicom.Dataset(), pydicom.Dataset()
        window.WindowCenter, window.WindowWidth, window.VOILUTFunction = center, 100, "LINEAR_EXACT"
        found.FrameVOILUTSequence = [window]
        return found

    file = opened(frames, PerFrameFunctionalGroupsSequence=[group(100), group(75)])
    assert [int(file.crop((0, 0, 1, 1), plane=n)) for n in range(2)] == [128, 191]


def test_color(opened: Any) -> None:
    array = np.random.default_rng(0).integers(0, 256, (6, 7, 3)).astype(np.uint8)
    assert np.array_equal(opened(array, 3).decode(), array.transpose(2, 0, 1))
    assert opened(array, 1).decode().shape == (1, 6, 7)
    palette = read_image(SHIPPED / "examples_palette.dcm")
    assert palette.shape == (3, 350, 800)
    assert palette.float().mean() == pytest.approx(5246.2 / 257, abs=1)
    converted = read_image(SHIPPED / "SC_ybr_full_422_uncompressed.dcm").float()
    assert (converted - read_image(SHIPPED / "SC_rgb_rle.dcm").float()).abs().mean() < 4


@pytest.mark.parametrize(
    ("compressed", "plain"),
    [
        *(
            (f"MR_small_{name}.dcm", "MR_small.dcm")
            for name in ("RLE", "jp2klossless", "jpeg_ls_lossless", "bigendian")
        ),
        ("SC_rgb_jpeg_gdcm.dcm", "SC_rgb_rle.dcm"),  # lossless JPEG
        ("JPGExtended.dcm", "JPEG-lossy.dcm"),  # of 12 bits
    ],
)
def test_compressed_files_hold_the_same(compressed: str, plain: str) -> None:
    reading = PixelReading(3, value_range=(0, 4095))
    assert np.array_equal(read_image(SHIPPED / compressed, reading), read_image(SHIPPED / plain, reading))


def test_what_is_no_image_or_has_no_decoder_says_so(opened: Any, tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match="DICOM file that holds no image"):
        open_image(SHIPPED / "test-SR.dcm")
    video = pydicom.dcmread(SHIPPED / "MR_small.dcm")
    video.file_meta.TransferSyntaxUID = MPEG2MPML
    video["PixelData"].is_undefined_length = True
    video.PixelData = pydicom.encaps.encapsulate([b"12"])
    video.save_as(tmp_path / "video")
    with pytest.raises(UnreadableImageError, match="not one of an image, or pydicom cannot decode it"):
        open_image(tmp_path / "video")
    with pytest.raises(UnreadableImageError, match=r"--data.max_pixels raises it"):
        opened(STORED, PixelReading(1, max_pixels=50))


def test_without_pydicom_one_line_says_what_to_install(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UnreadableImageError, match=r'DICOM needs another package: pip install "fcmae\[dicom\]"'):
        opened(STORED)


def test_no_message_quotes_the_file(tmp_path: Path) -> None:
    """Whatever is wrong with a file: no name, no number of a patient leaves it."""
    whole = dicom(STORED, WindowCenter=40, WindowWidth=400)
    at = whole.index(b"\x28\0\x10\0")  # Rows
    broken = (whole[:at] + b"\x28\0\x10\0LO\x08\0Doe^Jane" + whole[at + 10 :], whole[:-30], whole[: at + 4])
    for number, data in enumerate((*broken, (SHIPPED / "badVR.dcm").read_bytes())):
        (tmp_path / str(number)).write_bytes(data)
        with pytest.raises(UnreadableImageError) as caught:
            open_image(tmp_path / str(number), 1)
        assert re.search("damaged or truncated: its|holds no image", str(caught.value))
        assert "Doe" not in str(caught.value)
        assert "1A" not in str(caught.value)


def test_unused_bits_are_no_values() -> None:
    """An overlay in the upper bits of 12-bit values, and lossless JPEG, which imagecodecs decodes."""
    array = open_image(SHIPPED / "examples_overlay.dcm", PixelReading(1, value_range=(0, 4095))).own_values(None)[0]
    assert array.max() < 4096
    assert pydicom.dcmread(SHIPPED / "SC_rgb_jpeg_gdcm.dcm").file_meta.TransferSyntaxUID == JPEGLosslessSV1
