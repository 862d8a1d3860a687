"""One figure of several data sets: the accuracy of every seed, and each network's mean with its 95% interval.

python -m experiments.label_efficiency.overview elpv=runs/elpv fashion_mnist=runs/fashion_mnist --output overview.png
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from experiments.label_efficiency.run import Result, network_of, read
from experiments.label_efficiency.table import cells, tested


def draw(sets: Mapping[str, Sequence[Result]], file: Path) -> None:
    """A panel for each set, a column for each share of the labels."""
    rows = len({one.network for results in sets.values() for one in tested(results)})
    picture = Figure(figsize=(max(6, 4 * len(sets)), 3.4 + 0.2 * rows), dpi=150, layout="constrained")
    panels = picture.subplots(1, len(sets), squeeze=False)[0]
    for axes, (title, results) in zip(panels, sets.items(), strict=True):
        found = cells(results)
        shares = sorted({share for _, share in found})
        networks = list(dict.fromkeys(name for name, _ in found))
        for number, network in enumerate(networks):
            at = {share: place + 0.2 * (number - (len(networks) - 1) / 2) for place, share in enumerate(shares)}
            here = [one for one in tested(results) if one.network == network]
            color = f"C{number}"
            axes.plot([at[one.share] for one in here], [100 * one.top1 for one in here], ".", color=color, alpha=0.5)
            own = [(share, cell) for (name, share), cell in found.items() if name == network]
            means, halves = ([100 * getattr(cell, kind) for _, cell in own] for kind in ("mean", "half"))
            where = [at[share] + 0.06 for share, _ in own]
            axes.errorbar(where, means, halves, fmt="_", capsize=3, color=color, label=network_of(network).title)
        axes.set(
            title=title, xlabel="labels used", ylabel="accuracy on the test split, %", xlim=(-0.6, len(shares) - 0.4)
        )
        axes.set_xticks(range(len(shares)), [f"{share:.0%}" for share in shares])
        axes.grid(axis="y", alpha=0.3)
    lines = {line.get_label(): line for axes in panels for line in axes.containers}
    picture.legend(lines.values(), lines.keys(), loc="outside lower left")  # below: it would cover points
    picture.savefig(file)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", metavar="TITLE=FOLDER")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    sets = {}
    for one in args.sets:
        title, _, folder = one.partition("=")
        sets[title] = read(Path(folder))
        if not any(result.phase == "test" for result in sets[title]):
            parser.error(f"{one}: no results of the test split; give TITLE=FOLDER of experiments.label_efficiency")
    draw(sets, args.output)


if __name__ == "__main__":
    main()
