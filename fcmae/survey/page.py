"""The page of a survey: figures, histograms, a contact sheet, and the flags to paste."""

import base64
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from fcmae.data.crops import center_box, resized_crop
from fcmae.data.folder import evenly_spaced
from fcmae.data.images import UnreadableImageError, open_image
from fcmae.data.pixel_reading import PixelReading
from fcmae.data.stored import ImageRef
from fcmae.data.workers import mapped
from fcmae.progress import tracked
from fcmae.report_page.charts import Chart, histogram
from fcmae.report_page.facts import Fact
from fcmae.report_page.rendering import rendered, write_page
from fcmae.survey.result import StatsResult
from fcmae.survey.survey import Survey

PICTURES, SIDE, QUALITY = 60, 192, 80
SHOWN = (0.005, 0.995)
"""Quantiles of a deep image that become black and white on the page."""
BINS, CHANNELS, ROWS = 40, 12, 50
"""Of the histogram of sizes; channels in a chart; files and groups in a table."""


class Picture(NamedTuple):
    """One image of the contact sheet."""

    uri: str
    name: str


class Thumbnails(Dataset[str | None]):
    """Square center crops as data: URIs; None if the file cannot be read after all."""

    def __init__(self, images: Sequence[ImageRef], reading: PixelReading) -> None:
        self.images, self.reading = images, reading

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> str | None:
        try:
            file = open_image(self.images[place], self.reading)
            side = min(file.height, file.width, 8 * SIDE if file.opened.windowed else 2**31)
            whole = center_box((file.height, file.width), (1, 1))
            margin = (whole[2] - side) // 2
            box = whole[0] + margin, whole[1] + margin, side, side
            shown = min(side, SIDE)
            picture = resized_crop(file, box, (shown, shown), file.planes // 2)
        except UnreadableImageError:
            return None
        array = picture[:3].numpy() if len(picture) >= 3 else picture[:1].numpy().repeat(3, 0)
        if array.dtype != np.uint8:
            array = _eight_bits(array)
        jpeg = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(np.moveaxis(array, 0, 2))).save(jpeg, "JPEG", quality=QUALITY)
        return "data:image/jpeg;base64," + base64.b64encode(jpeg.getvalue()).decode("ascii")


def _eight_bits(array: np.ndarray) -> np.ndarray:
    """float [C, h, w] → uint8, each channel stretched; missing is black."""
    shown = np.zeros(array.shape, np.uint8)
    for channel, out in zip(array, shown, strict=True):
        there = channel[np.isfinite(channel)]
        if there.size:
            low, high = np.quantile(there, SHOWN)
            out[...] = np.nan_to_num((channel - low) / max(high - low, 1e-6) * 255, nan=0).clip(0, 255)
    return shown


def write_stats_page(
    file: Path, found: Survey, result: StatsResult, source: Sequence[str], line: str, reading: PixelReading,
    num_workers: int,
) -> None:  # fmt: skip
    """Write the page.

    Args:
        file: is replaced if it is there.
        found: the survey.
        result: its summary.
        source: what was given as SOURCE.
        line: the command to paste.
        reading: what pages are, and so on; channels and range are those that were found.
        num_workers: processes that draw the pictures.
    """
    origin = " ".join(source)
    charts = [_sizes_chart(found), *_value_charts(found)]
    page = rendered(
        "stats.html",
        origin,
        charts,
        name=Path(source[0]).resolve().name + (" and others" if len(source) > 1 else ""),
        source=origin,
        facts=_facts(result),
        figures=charts,
        line=line.replace(" --", " \\\n    --"),
        result=result,
        pictures=_contact_sheet(found, reading, num_workers),
        rows=ROWS,
        groups=_without_equal(result),
    )
    write_page(file, page)


def _contact_sheet(found: Survey, reading: PixelReading, num_workers: int) -> list[Picture]:
    """Evenly spaced images of those that the network's channels fit."""
    places = evenly_spaced(np.flatnonzero(found.facts.heights > 0).tolist(), PICTURES)
    shown = replace(reading, in_chans=found.in_chans, value_range=found.values.value_range)
    images = [found.images[place] for place in places]
    uris = tracked(mapped(Thumbnails(images, shown), num_workers), len(images), "pictures")
    return [Picture(uri, found.images.names[place]) for place, uri in zip(places, uris, strict=True) if uri is not None]


def _facts(result: StatsResult) -> list[Fact]:
    low, middle, high = result.short_side
    missing = max((one.nodata_share for one in result.channels), default=0.0)
    declared = ", ".join(f"{value:g}" for value in result.declared_nodata)
    copies = sum(len(group) - 1 for group in result.alike)
    return [
        Fact("Images", f"{result.images:,}", f"{result.total_bytes / 1e6:,.1f} MB; " + _counted(result.endings)),
        Fact("Damaged", f"{len(result.damaged):,}", "named below" if result.damaged else "every file can be read"),
        Fact("Short side", f"{middle:,} px", f"the median; from {low:,} to {high:,}"),
        Fact("Channels", str(result.in_chans), _counted(result.kinds)),
        Fact("Without data", f"{missing:.2%}", f"declared as {declared}" if declared else "of the values"),
        Fact("Near-duplicates", f"{copies:,}", "further copies of pictures that are there already"),
    ]


def _counted(counts: dict[str, int], most: int = 4) -> str:
    named = [f"{count:,} of {what}" for what, count in list(counts.items())[:most]]
    more = len(counts) - most
    return ", ".join(named) + (f" and {more} more kind{'s' * (more > 1)}" if more > 0 else "")


def _sizes_chart(found: Survey) -> Chart:
    short = found.facts.sizes.short
    low, high = float(short.min()), float(short.max())
    if high - low < BINS:
        high = low + BINS
    counts, edges = np.histogram(short, BINS, (low, high))
    curves = {"short side": (counts / len(short) * 100, edges)}
    return histogram("sizes", "Sizes", "short side, in pixels", "images (%)", curves, "pixels")


def _value_charts(found: Survey) -> list[Chart]:
    """One chart if all channels share a range, else one for each."""
    channels = found.values.channels[:CHANNELS]
    left = len(found.values.channels) - len(channels)
    curves = {
        f"channel {number}": (
            100 * np.array(one.counts) / max(1, sum(one.counts)),
            np.linspace(one.low, one.high, len(one.counts) + 1),
        )
        for number, one in enumerate(channels, 1)
    }
    note = f"{left} more channels are not shown." if left else ""
    if len({(one.low, one.high) for one in channels}) == 1 and len(channels) <= 4:
        return [histogram("values", "Values", "value in the files", "pixels (%)", curves, "value", note)]
    return [
        histogram(f"values-{n}", f"Values of {name}", "value in the files", "pixels (%)", {name: curve}, "value", note)
        for n, (name, curve) in enumerate(curves.items(), 1)
    ]


def _without_equal(result: StatsResult) -> list[tuple[str, tuple[str, ...]]]:
    """What is alike how, and the names: equal files first."""
    equal = [("same bytes", group) for group in result.equal]
    known = {frozenset(group) for group in result.equal}
    return equal + [("look alike", group) for group in result.alike if frozenset(group) not in known]
