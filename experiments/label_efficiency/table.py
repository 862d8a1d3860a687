"""Results as a table and a figure: mean over the seeds, and its 95% interval by Student's t."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from experiments.label_efficiency.plan import KNOWN
from experiments.label_efficiency.run import Result, network_of


class Cell(NamedTuple):
    """Accuracy of one network with one share of the labels, in 0 … 1."""

    mean: float
    half: float
    """Half the width of the 95% interval of the mean; NaN of a single seed."""
    seeds: int
    peak_lr: float


def tested(results: Sequence[Result]) -> list[Result]:
    """Those on the test split; of several learning rates of a network and a share, the one that was tested last."""
    found = [one for one in results if one.phase == "test"]
    rates = {(one.network, one.share): one.peak_lr for one in found}
    return [one for one in found if one.peak_lr == rates[one.network, one.share]]


def cells(results: Sequence[Result]) -> dict[tuple[str, float], Cell]:
    """By network and share, of what was tested."""
    chosen = tested(results)
    found = {}
    rows = list(KNOWN)
    for key in sorted({(one.network, one.share) for one in chosen}, key=lambda key: (rows.index(key[0]), key[1])):
        these = [one for one in chosen if (one.network, one.share) == key]
        values = np.array([one.top1 for one in these])
        error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
        half = float(error * stats.t.ppf(0.975, len(values) - 1)) if len(values) > 1 else np.nan
        found[key] = Cell(float(values.mean()), half, len(values), these[0].peak_lr)
    return found


def markdown(results: Sequence[Result]) -> str:
    """A row for each network, a column for each share."""
    found = cells(results)
    shares = sorted({share for _, share in found})
    lines = ["| | " + " | ".join(f"{share:.0%}" for share in shares) + " |", "|---" * (len(shares) + 1) + "|"]
    for network in dict.fromkeys(network for network, _ in found):
        texts = [_text(found.get((network, share))) for share in shares]
        lines.append(f"| {network_of(network).title} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def _text(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    width = "" if np.isnan(cell.half) else f" ± {100 * cell.half:.1f}"
    seeds = "1 seed" if cell.seeds == 1 else f"{cell.seeds} seeds"
    return f"{100 * cell.mean:.1f}{width} ({seeds}, lr {cell.peak_lr:g})"


def figure(results: Sequence[Result], title: str, file: Path) -> None:
    """Accuracy over the share of the labels, with intervals."""
    found = cells(results)
    picture = Figure(figsize=(6, 4), dpi=150, layout="constrained")
    axes = picture.subplots()
    for network in dict.fromkeys(network for network, _ in found):
        points = [(share, cell) for (name, share), cell in found.items() if name == network]
        percent = [100 * share for share, _ in points]
        means, halves = ([100 * getattr(cell, name) for _, cell in points] for name in ("mean", "half"))
        axes.errorbar(percent, means, np.nan_to_num(halves), marker="o", capsize=3, label=network_of(network).title)
    axes.set(xscale="log", xlabel="labels used, %", ylabel="accuracy on the test split, %", title=title)
    ticks = sorted({100 * share for _, share in found})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    picture.savefig(file)
