"""The flags that follow from what a set is like."""

from collections import Counter

import numpy as np
import pytest

from fcmae.cli.pretrain_parser import parse_config
from fcmae.data.pixel_reading import PixelReading
from fcmae.survey.advice import Sizes, advise, best_channels, image_size
from fcmae.survey.facts import Kind
from fcmae.survey.values import FileValues, measured

RGB, GRAY = Kind("uint8", 0, 3, True, False), Kind("uint8", 0, 1, False, False)
RGBA, BANDS = Kind("uint8", 0, 4, True, True), Kind("uint16", 0, 5, False, False)
READING = PixelReading()
R = np.random.default_rng(0)


def sizes(height: int, width: int, windowed: bool = False) -> Sizes:
    return Sizes(np.full(9, height), np.full(9, width), np.full(9, windowed))


def values(channels: int, is_deep: bool = False, array: np.ndarray | None = None, is_unsigned: bool = True):
    array = R.integers(0, 256, (channels, 4000)).astype(np.float64) if array is None else array
    return measured([FileValues(array, (array / 255).astype(np.float32))], is_deep, is_unsigned, None)


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ({RGB: 5}, 3),
        ({GRAY: 5}, 1),
        ({GRAY: 95, RGB: 5}, 3),  # gray is repeated for three channels
        ({RGBA: 5}, 3),  # opacity is seldom wanted
        ({RGBA: 5, RGB: 1, GRAY: 1}, 3),
        ({BANDS: 5, RGB: 3}, 5),
        ({BANDS: 2, RGB: 3}, 3),
    ],
)
def test_the_channels_that_most_files_fit(kinds: dict[Kind, int], expected: int) -> None:
    assert best_channels(Counter(kinds)) == expected


def test_what_does_not_fit_is_named() -> None:
    _, notes = advise(Counter({RGB: 9, BANDS: 2}), sizes(300, 300), values(3), READING)
    assert notes[0].startswith("2 of 5 × uint16: they do not fit --model.in_chans 3 and will be skipped")


@pytest.mark.parametrize(
    ("short", "expected"), [(3000, (224, 4)), (160, (224, 4)), (120, (128, 4)), (64, (64, 2)), (28, (32, 1))]
)
def test_the_size_follows_the_short_sides(short: int, expected: tuple[int, int]) -> None:
    assert image_size(np.full(100, short)) == expected


def test_photos_are_packed_and_scenes_cropped() -> None:
    flags, notes = advise(Counter({RGB: 9}), sizes(1200, 1600), values(3), READING)
    assert "--data.crop_scale" not in flags
    assert "fcmae pack SOURCE DST --short_side 320" in notes[0]
    flags, notes = advise(Counter({RGB: 9}), sizes(10980, 10980, windowed=True), values(3), READING)
    assert flags[-4:] == ["--data.crop_scale", "0.00042,0.0017", "--data.repeat", "1201"]
    assert "fcmae pack" not in " ".join(notes)


def test_pretrain_takes_the_flags() -> None:
    deep = 1000 + 100 * R.normal(size=(5, 4000))
    deep[:, :300] = -9999
    found = values(5, is_deep=True, array=deep, is_unsigned=False)
    flags, notes = advise(
        Counter({BANDS: 9}), sizes(5000, 5000, windowed=True), found, PixelReading(stack="channels", level=2)
    )
    data = parse_config(["--data.path", "x", *flags]).data
    assert data.nodata == -9999
    assert data.value_range is not None
    assert len(data.value_range) == 10
    assert all(500 < low < high < 1500 for low, high in zip(data.value_range[::2], data.value_range[1::2], strict=True))
    assert (data.stack, data.level) == ("channels", 2)
    assert len(data.mean) == len(data.std) == 5  # type: ignore[arg-type]
    assert notes[0] == "7.50% of the values are -9999, far from all others: taken for nodata"


def test_nodata_of_unsigned_integers_is_a_value_of_all_channels() -> None:
    array = R.integers(1000, 2000, (2, 4000)).astype(np.float64)
    array[0, :400] = 65535
    assert values(2, is_deep=True, array=array).nodata is None
    array[1, :400] = 65535
    found = values(2, is_deep=True, array=array)
    assert found.nodata == 65535
    assert [one.nodata_share for one in found.channels] == pytest.approx([0.1, 0.1])
    assert found.channels[0].maximum < 2000


def test_pixels_that_are_zero_in_all_channels_raise_the_question() -> None:
    array = R.integers(1, 256, (3, 4000)).astype(np.float64)
    array[:, :400] = 0
    _, notes = advise(Counter({RGB: 9}), sizes(300, 300), values(3, array=array), READING)
    assert notes == ["10% of the pixels are 0 in all channels; if they have no data: --data.nodata 0"]


def test_mean_and_std_are_those_of_the_sample() -> None:
    array = R.integers(0, 256, (3, 4000)).astype(np.float64)
    found = values(3, array=array)
    assert found.value_range is None
    np.testing.assert_allclose(found.mean, array.mean(1) / 255, rtol=1e-5)
    np.testing.assert_allclose(found.std, array.std(1) / 255, rtol=1e-5)
    assert [one.mean for one in found.channels] == pytest.approx(array.mean(1).tolist())
    assert [sum(one.counts) for one in found.channels] == [4000] * 3
