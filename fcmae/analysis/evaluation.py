"""kNN and linear-probe accuracy of networks on labeled images, next to baselines that need no training."""

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fcmae.analysis.accuracy import Accuracy, top_accuracy
from fcmae.analysis.features import Embedder, LabeledFeatures, features_of_each, raw_pixels
from fcmae.analysis.knn import knn_scores
from fcmae.analysis.linear_probe import fit_probe
from fcmae.data.labeled import LabeledData
from fcmae.data.normalizer import Pixels
from fcmae.wording import counted

logger = logging.getLogger("fcmae")

TOP5_FROM = 6  # classes; with fewer, top-5 accuracy is uninformative


@dataclass(frozen=True)
class Protocol:
    """Settings of the evaluation."""

    k: int = 20
    """Number of nearest neighbors that vote."""
    temperature: float = 0.07
    """Temperature of the votes, exp(cosine similarity / temperature)."""
    batch_size: int = 64
    """Images per forward pass; does not change the results."""
    seed: int = 0
    """Seed of the probe's held-out split."""


@dataclass(frozen=True)
class Scores:
    """Accuracy on the test split."""

    top1: Accuracy
    top5: Accuracy | None
    """None for five classes or fewer."""


@dataclass(frozen=True)
class LinearScores(Scores):
    """Accuracy of the linear probe, and how it was fitted."""

    c: float
    """Inverse regularization strength, chosen on a held-out part of the training split."""
    c_at_edge: bool
    """Whether C is the smallest or the largest value tried."""
    converged: bool


@dataclass(frozen=True)
class NetworkScores:
    """Results of one network, trained or random, or of raw pixels."""

    name: str
    image_hw: tuple[int, int]
    train_images: int
    test_images: int
    classes: int
    """Number of classes that have training images."""
    features: int
    """Width of the feature vectors."""
    knn: Scores
    linear: LinearScores
    pixels: dict[str, Any] = field(default_factory=dict)
    """How the images were read and normalized, under the names of ``--data``."""


@dataclass(frozen=True)
class Evaluation:
    """Result of :func:`fcmae.evaluate.evaluate`."""

    data: str
    """The folder or dataset."""
    protocol: Protocol
    images: int | None
    """Maximum number of images per split; None: all."""
    results: tuple[NetworkScores, ...]
    """In the requested order. Random weights follow the first network of their kind; raw pixels come last."""
    file: Path | None = None
    """Path of evaluation.json, if it was written."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as in evaluation.json."""
        return {
            "data": self.data,
            "knn": {"k": self.protocol.k, "temperature": self.protocol.temperature},
            "seed": self.protocol.seed,
            "images": self.images,
            "results": [_plain(row) for row in self.results],
        }


def with_baselines(
    networks: Sequence[Embedder], image_hw_of: Callable[[Embedder], tuple[int, int]]
) -> list[tuple[Embedder, tuple[int, int]]]:
    """Add baselines: random weights after the first network of each kind, and raw pixels. Pairs with image sizes."""
    found: list[tuple[Embedder, tuple[int, int]]] = []
    fresh_ones: set[Hashable] = set()
    for network in networks:
        image_hw = image_hw_of(network)
        found.append((network, image_hw))
        kind = (network.architecture, network.normalize, network.reading, image_hw)
        if network.fresh is not None and kind not in fresh_ones:  # networks of one kind share a random baseline
            fresh_ones.add(kind)
            found.append((network.fresh(), image_hw))
    for reading in dict.fromkeys(sorted((network.reading for network in networks), key=lambda one: one.in_chans)):
        # at the largest image size in use, because those images are read anyway
        largest = max((hw for one, hw in found if one.reading == reading), key=lambda hw: hw[0] * hw[1])
        found.append((raw_pixels(reading), largest))
    return found


def score_networks(
    asked: Sequence[tuple[Embedder, tuple[int, int]]], data: LabeledData, device: torch.device, protocol: Protocol
) -> tuple[NetworkScores, ...]:
    """Score the networks, in the order given. Networks with the same input shape share one pass over the images.

    Raises:
        UserError: an image size that a network does not support, or features that are not finite.
    """
    rows: dict[int, NetworkScores] = {}
    for shape in dict.fromkeys((image_hw, one.reading) for one, image_hw in asked):
        image_hw, _ = shape
        places = [place for place, (one, hw) in enumerate(asked) if (hw, one.reading) == shape]
        alike = [asked[place][0] for place in places]
        names = "; ".join(one.name for one in alike)
        logger.info("extracting features at %d×%d pixels: %s", *image_hw, names)
        train, test = (
            features_of_each(alike, part, image_hw, protocol.batch_size, device) for part in (data.train, data.test)
        )
        absent = sorted(set(test[0].labels.tolist()) - set(train[0].labels.tolist()))
        if absent:
            logger.warning(
                "no training images of %s, by number %s: their test images always count as errors",
                counted(len(absent), "class", "classes"), ", ".join(map(str, absent[:5])) + ", …" * (len(absent) > 5),
            )  # fmt: skip
        for place, one, of_train, of_test in zip(places, alike, train, test, strict=True):
            rows[place] = _scored(one, of_train, of_test, image_hw, device, protocol)
    return tuple(rows[place] for place in range(len(asked)))


def _scored(
    network: Embedder,
    train: LabeledFeatures,
    test: LabeledFeatures,
    image_hw: tuple[int, int],
    device: torch.device,
    protocol: Protocol,
) -> NetworkScores:
    """Score one network."""
    classes = int(max(train.labels.max(), test.labels.max())) + 1
    memory = train.x.to(device)
    knn = knn_scores(memory, train.labels, test.x, classes, protocol.k, protocol.temperature)
    probe = fit_probe(memory, train.labels.to(device), classes, seed=protocol.seed)
    if probe.at_edge or not probe.converged:
        found = [f"the chosen C = {probe.c:g} is at the edge of the range tried"] * probe.at_edge
        found += ["the solver did not converge"] * (not probe.converged)
        logger.info("%s: linear probe: %s", network.name, "; ".join(found))
    logits = probe.scores(test.x)
    tops = (1, 5) if classes >= TOP5_FROM else (1,)
    knn_top1, knn_top5 = _padded([top_accuracy(knn, test.labels, top) for top in tops])
    linear_top1, linear_top5 = _padded([top_accuracy(logits, test.labels, top) for top in tops])
    return NetworkScores(
        name=network.name,
        image_hw=image_hw,
        train_images=len(train.labels),
        test_images=len(test.labels),
        classes=len(train.labels.unique()),
        features=train.x.shape[1],
        knn=Scores(knn_top1, knn_top5),
        linear=LinearScores(linear_top1, linear_top5, probe.c, probe.at_edge, probe.converged),
        pixels=Pixels(network.normalize, network.reading).as_dict(),
    )


def _padded(found: list[Accuracy]) -> tuple[Accuracy, Accuracy | None]:
    return found[0], found[1] if len(found) > 1 else None


def _plain(row: NetworkScores) -> dict[str, Any]:
    found = vars(row) | {"image_hw": list(row.image_hw)}
    fitted = {"c": row.linear.c, "c_at_edge": row.linear.c_at_edge, "converged": row.linear.converged}
    return found | {"knn": _plain_scores(row.knn), "linear": _plain_scores(row.linear) | fitted}


def _plain_scores(scores: Scores) -> dict[str, Any]:
    found = {"top1": scores.top1} | ({} if scores.top5 is None else {"top5": scores.top5})
    return {
        name: {"accuracy": a.share, "low": a.interval[0], "high": a.interval[1], "correct": a.correct, "total": a.total}
        for name, a in found.items()
    }
