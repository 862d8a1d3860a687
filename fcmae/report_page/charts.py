"""Charts of the report: plain data for chart.js, and a text alternative for each chart."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fcmae.analysis.collapse_file import DepthCurve
from fcmae.report_page.curves import SMOOTH_FROM, indices_to_draw, running_mean
from fcmae.runs.reader import HOLDOUT_LOSS, KNN, STAGE_DISTANCE, RunFolder, Series

LOSS, LR, RATE, WAIT = "loss", "lr", "images_per_second", "data_wait"
COLORS = 6  # colors in report.css, and as many dash patterns
RUNNING_MEAN = "running mean of"
HELD_OUT = "held-out images"
VALIDATED = "images to validate on, labels as they are"
DISTANCE = "mean cosine distance between channels"


@dataclass(frozen=True)
class Chart:
    """One chart of the page."""

    id: str
    title: str
    summary: str
    """Text alternative for screen readers."""
    note: str
    """Shown under the chart; may be empty."""
    data: dict[str, Any]
    """Input of chart.js; the format is documented at the top of that file."""


def loss_chart(run: RunFolder) -> Chart | None:
    """The logged loss, its running mean from ``SMOOTH_FROM`` lines on, and the loss on held-out images."""
    if (loss := run.series.get(LOSS)) is None:
        return None
    every = run.config.get("log.every")
    name = f"mean of {every} steps" if isinstance(every, int) and every > 1 else "loss"
    label = "loss (1 = predicting each patch's mean)" if run.config.get("model.norm_pix_loss") is True else "loss"
    if "weights" in run.config:
        label = "binary cross-entropy" if "val_map" in run.series else "cross-entropy"
    apart = {HELD_OUT: HOLDOUT_LOSS, VALIDATED: "val_loss"}
    held_out = {name: run.series[value] for name, value in apart.items() if value in run.series}
    return _over_training("loss", "Loss", label, _with_running_mean(name, loss) | held_out)


def rate_charts(run: RunFolder) -> list[Chart]:
    """Learning rate and throughput, if logged."""
    charts = []
    if (lr := run.series.get(LR)) is not None:
        charts.append(_over_training("lr", "Learning rate", "learning rate", {"lr": lr}, least=0))
    if (rate := run.series.get(RATE)) is not None:
        curves = _with_running_mean("throughput", rate)
        charts.append(_over_training("throughput", "Throughput", "images / s", curves, least=0))
    return charts


def stage_distance_chart(run: RunFolder) -> Chart | None:
    """Feature collapse during training: each stage's mean cosine distance between channels."""
    stages = sorted(
        (int(name.removeprefix(STAGE_DISTANCE)), name)
        for name in run.series
        if name.removeprefix(STAGE_DISTANCE).isdecimal()
    )
    curves = {f"stage {stage}": run.series[name] for stage, name in stages}
    return _over_training("stages", "Feature diversity, by stage", DISTANCE, curves, least=0) if curves else None


def knn_chart(run: RunFolder) -> Chart | None:
    """kNN top-1 accuracy during training."""
    if (knn := run.series.get(KNN)) is None:
        return None
    curves = {"top-1": knn._replace(value=100 * knn.value)}
    return _over_training("knn", "kNN accuracy", "top-1 accuracy (%)", curves, least=0, unit="%")


def validation_chart(run: RunFolder) -> Chart | None:
    """Accuracy on the images to validate on with its interval, or mean average precision."""
    name, what = ("val_top1", "correct") if "val_top1" in run.series else ("val_map", "mean average precision")
    names = {what: name, "95% interval, from": f"{name}_low", "95% interval, to": f"{name}_high"}
    curves = {name: run.series[value] for name, value in names.items() if value in run.series}
    if not curves:
        return None
    percent = {name: curve._replace(value=100 * curve.value) for name, curve in curves.items()}
    return _over_training("validation", "Validation", f"{what} (%)", percent, unit="%")


def depth_chart(curves: Sequence[DepthCurve]) -> Chart | None:
    """Cosine distance against depth, as in the paper's feature collapse figure."""
    curves = [curve for curve in curves if curve.distances]
    if not curves:
        return None
    series = [
        {"name": name, "x": _rounded(np.array(depths)), "y": _rounded(np.array(distances))} | _look(i)
        for i, (name, depths, distances) in enumerate(curves)
    ]
    words = " ".join(f"{name}: {d[0]:.3g} in the first block, {d[-1]:.3g} in the last." for name, _, d in curves)
    data = {
        "x": {"label": "depth (0 = first block, 1 = last)", "name": "depth", "whole": False},
        "y": {"label": DISTANCE, "min": 0},
        "series": series,
    }
    return Chart("depth", "Feature diversity, by depth", f"{DISTANCE} over depth. {words}", "", data)


def histogram(
    id: str, title: str, x: str, y: str, curves: dict[str, tuple[np.ndarray, np.ndarray]], name: str, note: str = ""
) -> Chart:
    """A histogram of one or several things.

    Args:
        id: unique on the page.
        title: of the chart.
        x: label of the axis.
        y: label of the axis.
        curves: name → height of each bin [n] and edges of the bins [n + 1], evenly spaced.
        name: what a place on x is called.
        note: shown under the chart.
    """
    series = [
        {"name": curve, "x": _rounded((edges[:-1] + edges[1:]) / 2), "y": _rounded(heights)}
        | {"width": float(edges[1] - edges[0])}
        | _look(number)
        for number, (curve, (heights, edges)) in enumerate(curves.items())
    ]
    words = " ".join(
        f"{curve}: from {edges[0]:.4g} to {edges[-1]:.4g}, most often near {edges[int(np.argmax(heights))]:.4g}."
        for curve, (heights, edges) in curves.items()
    )
    data = {"x": {"label": x, "name": name, "whole": False}, "y": {"label": y, "unit": "%", "min": 0}, "series": series}
    return Chart(id, title, f"{title}. {words}", note, data)


def _with_running_mean(name: str, series: Series) -> dict[str, Series]:
    """The series, and for a long one its running mean."""
    if len(series.value) < SMOOTH_FROM:
        return {name: series}
    window = len(series.value) // 50 | 1
    return {name: series, f"{RUNNING_MEAN} {window:,} lines": series._replace(value=running_mean(series.value, window))}


def _look(number: int) -> dict[str, int]:
    """Color and dash pattern of the n-th line; no two of the first ``COLORS``² lines share both."""
    return {"color": number % COLORS, "dash": (number + number // COLORS) % COLORS}


def _over_training(
    id: str, title: str, label: str, curves: dict[str, Series], least: float | None = None, unit: str = ""
) -> Chart:
    series: list[dict[str, Any]] = []
    note = ""
    pale_first = any(name.startswith(RUNNING_MEAN) for name in curves)
    for name, curve in curves.items():
        kept = indices_to_draw(curve.value)
        if len(kept) < len(curve.value) and not note:
            note = f"Showing {len(kept):,} of {len(curve.value):,} lines: the minimum and maximum of each interval."
        series.append(
            {
                "name": name,
                "x": _rounded(curve.step[kept], digits=15),
                "y": _rounded(curve.value[kept]),
                "epoch": _rounded(curve.epoch[kept]),
                "pale": pale_first and not series,
            }
            | _look(len(series) if name in (HELD_OUT, VALIDATED) or not pale_first else 0)
        )
    data = {
        "x": {"label": "step", "whole": True},
        "y": {"label": label, "unit": unit, **({} if least is None else {"min": least})},
        "series": series,
    }
    main = {name: curve for name, curve in curves.items() if not name.startswith(RUNNING_MEAN)}
    summary = f"{title} over steps. {' '.join(_in_words(name, curve, unit) for name, curve in main.items())}"
    return Chart(id, title, summary, note, data)


def _in_words(name: str, curve: Series, unit: str) -> str:
    there = np.flatnonzero(np.isfinite(curve.value))
    if not len(there):
        return f"{name}: no finite value."
    first, last = there[0], there[-1]
    low, high = curve.value[there].min(), curve.value[there].max()
    return (
        f"{name}: {curve.value[first]:.4g}{unit} at step {curve.step[first]:,.0f}, {curve.value[last]:.4g}{unit} at "
        f"step {curve.step[last]:,.0f}; lowest {low:.4g}{unit}, highest {high:.4g}{unit}."
    )


def _rounded(values: np.ndarray, digits: int = 6) -> list[float | int | None]:
    """Round to significant digits; integers have no decimal point, to save bytes. NaN, not valid in JSON, is null."""
    rounded = (float(f"{value:.{digits}g}") if math.isfinite(value) else None for value in values.tolist())
    return [int(value) if value is not None and value.is_integer() else value for value in rounded]
