"""Collapse analysis of networks named by the user: load, check before any long computation, analyze, plot."""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from fcmae.analysis.collapse import BlockCollapse, analyze_collapse
from fcmae.analysis.collapse_pictures import distance_figure, feature_map_figure
from fcmae.analysis.feature_maps import choose_blocks, feature_maps
from fcmae.analysis.names import Named
from fcmae.analysis.subjects import LoadOptions, Subject, load_subject, refusals_named
from fcmae.analysis.taps import Tap, find_blocks
from fcmae.data.crop_batches import crop_batches
from fcmae.data.normalizer import Pixels
from fcmae.data.stored import ImageRef
from fcmae.errors import UserError

logger = logging.getLogger("fcmae")


@dataclass(frozen=True)
class NetworkCollapse:
    """The analysis of one network."""

    label: str
    source: str
    """The path or timm name."""
    image_hw: tuple[int, int]
    visible_share: float
    """Share of the patches that is visible: 1 for a dense network."""
    blocks: tuple[BlockCollapse, ...]
    has_random_weights: bool = False
    pixels: dict[str, Any] = field(default_factory=dict)
    """How the images were read and normalized, under the names of ``--data``."""

    @property
    def title(self) -> str:
        """The label, and whether the weights are random."""
        return f"{self.label}, random weights" if self.has_random_weights else self.label


@dataclass(frozen=True)
class Measuring:
    """What to measure on each network, and on which images."""

    paths: Sequence[ImageRef]
    tap: Tap
    layers: Sequence[str]
    """Blocks whose channels are drawn: names, or depths from 0 to 1."""
    picture: int = 0
    """Index of the image to draw."""
    effective_rank: bool = False
    batch_size: int = 16
    num_workers: int = 0
    seed: int = 0


def load_checked(named: Named, tap: Tap, options: LoadOptions) -> Subject:
    """Load a network on the CPU and check that the analysis runs on a blank image.

    Raises:
        UserError: weights that cannot be read, or a network that cannot be analyzed.
    """
    subject = load_subject(named, options)
    with refusals_named(named.label, "an image", subject.image_hw):
        analyze_collapse(subject.model, torch.zeros(1, subject.in_chans, *subject.image_hw), tap)
    return subject


def layers_of_each(subjects: Mapping[str, Subject], wanted: Sequence[str]) -> dict[str, list[str]]:
    """Label → the requested layers that the network has.

    Raises:
        UserError: a layer that no network has.
    """
    layers: dict[str, list[str]] = {label: [] for label in subjects}
    for layer in wanted:
        errors = []
        for label, subject in subjects.items():
            try:
                choose_blocks(find_blocks(subject.model), [layer])
                layers[label].append(layer)
            except UserError as error:
                errors.append(f"{label}: {error}")
        if len(errors) == len(subjects):
            raise UserError(errors[0])
    return layers


def analyze_network(
    named: Named, subject: Subject, layers: Sequence[str], measuring: Measuring
) -> tuple[NetworkCollapse, Figure | None]:
    """Analyze a network and, if possible, draw its channels. The images are read once.

    Args:
        named: the network as the user named it.
        subject: the network, on the device to run on.
        layers: the layers of ``measuring.layers`` that it has.
        measuring: what to measure.
    """
    drawn: list[tuple[int, Tensor]] = []  # index among readable images, [1, C, H, W] in 0 … 1

    def batches() -> Iterator[Tensor]:
        sizes, place = (subject.image_hw, subject.reading, measuring.batch_size, measuring.num_workers), 0
        for batch in crop_batches(measuring.paths, *sizes):
            if not drawn and int(batch.indices[-1]) >= measuring.picture:  # it, or the next readable image
                skipped = int((batch.indices < measuring.picture).sum())
                drawn.append((place + skipped, batch.images[skipped : skipped + 1]))
            place += len(batch.images)
            yield subject.normalize(batch.images)

    with refusals_named(named.label, f"{measuring.batch_size} images", subject.image_hw):
        rows = analyze_collapse(
            subject.model, batches(), measuring.tap, effective_rank=measuring.effective_rank, seed=measuring.seed
        )
    found = NetworkCollapse(
        named.label, named.source, subject.image_hw, subject.visible_share, tuple(rows), subject.has_random_weights,
        Pixels(subject.normalize, subject.reading).as_dict(),
    )  # fmt: skip
    try:
        if not layers:
            raise UserError(f"it has none of the blocks of --layers {' '.join(measuring.layers)}")
        if not drawn:
            raise UserError(f"image {measuring.picture} (--picture) and all after it are unreadable")
        ((place, image),) = drawn
        given = subject.normalize(image)
        maps = feature_maps(subject.model, given, layers, measuring.tap, seed=measuring.seed, place=place)
    except UserError as error:  # keep the numbers even if the picture fails
        logger.warning("%s: no picture of its channels: %s", named.label, error)
        return found, None
    return found, feature_map_figure(found.title, image[0], maps)


def depth_figure(networks: Sequence[NetworkCollapse], tap: Tap) -> Figure:
    """The paper's figure 4: cosine distance of the channels against depth, one line per network."""
    lines = {
        with_taps(one.title, one.blocks, tap): [(row.depth, row.distance, _or_0(row.distance_se)) for row in one.blocks]
        for one in networks
    }
    most = max(one.blocks[0].images for one in networks)
    return distance_figure(lines, f"{most} images, tap: {tap}; band: ± standard error")


def with_taps(label: str, rows: Sequence[BlockCollapse], asked: str) -> str:
    """The label, plus the tensors that were read if any differs from the requested tap."""
    taps = list(dict.fromkeys(row.tap for row in rows))
    return label if taps == [asked] else f"{label} (tap: {', '.join(taps)})"


def _or_0(error: float) -> float:
    """0 for NaN: a single image has no standard error, so its band has no height."""
    return 0.0 if math.isnan(error) else error
