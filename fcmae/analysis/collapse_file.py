"""collapse.json of a run folder, as far as it can be understood: distance against depth, one curve per network."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

logger = logging.getLogger(__name__)

FILE = "collapse.json"
DISTANCES = ("cosine_distance", "mean_cosine_distance", "distance")  # the keys that a layer's number may have


class DepthCurve(NamedTuple):
    """Mean cosine distance between the channels of each layer, from the first layer to the last."""

    name: str
    distances: list[float]


def read_depth_curves(run: Path) -> list[DepthCurve]:
    """The curves of RUN/collapse.json; none if it is not there, or says nothing that is understood.

    Understood is any list, however deep, of objects with one of ``DISTANCES``, or of plain numbers under one of these
    names or their plural; the object around it may give the curve's name.
    """
    file = run / FILE
    if not file.is_file():
        return []
    try:
        curves = list(_curves(json.loads(file.read_text(encoding="utf-8", errors="replace")), "this run"))
    except (ValueError, RecursionError) as error:
        logger.warning("%s cannot be read as JSON and is left out: %s", file, error)
        return []
    if not curves:
        logger.warning("%s holds no distances and is left out; python -m fcmae.collapse writes it", file)
    return curves


def _curves(node: Any, name: str) -> Iterator[DepthCurve]:
    if isinstance(node, dict):
        own = node.get("name") or node.get("model")
        name = own if isinstance(own, str) else name
        for key, child in node.items():
            if key.removesuffix("s") in DISTANCES and _are_numbers(child):
                yield DepthCurve(name, [float(value) for value in child])
            else:
                yield from _curves(child, name)
    elif isinstance(node, list):
        layers = [_distance(item) for item in node]
        if layers and _are_numbers(layers):
            yield DepthCurve(name, [float(value) for value in layers])
        else:
            for child in node:
                yield from _curves(child, name)


def _distance(layer: Any) -> Any:
    return next((layer[key] for key in DISTANCES if key in layer), None) if isinstance(layer, dict) else None


def _are_numbers(values: Any) -> bool:
    return (
        isinstance(values, list)
        and len(values) > 0
        and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    )
