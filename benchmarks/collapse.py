"""The paper's claim rerun small: does a V1-style network collapse under FCMAE, and does GRN prevent it?

    python -m benchmarks.collapse --output collapse-claim --seeds 0 1 2 --epochs 12

For each seed, pretrains the same encoder twice on the bundled photos with identical settings: V1-style (LayerScale, no
GRN) and V2-style (GRN, no LayerScale). Measures both on the same photos, before and after training. Writes collapse.csv
(one row per network, seed and block) and collapse.png (mean over seeds; band: lowest to highest). Runs are kept in
OUTPUT/runs and reused. Results: docs/experiments/collapse-claim.md.
"""

import argparse
import csv
import logging
import statistics
from collections import defaultdict
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

import fcmae
from fcmae.analysis.collapse import BlockCollapse, analyze_collapse
from fcmae.analysis.collapse_pictures import depth_axes
from fcmae.analysis.taps import TAPS
from fcmae.config import DataConfig, LogConfig, PretrainConfig, PretrainModelConfig, TrainConfig
from fcmae.data.crop_batches import crop_batches
from fcmae.data.folder import embedded_photographs
from fcmae.models import FCMAE
from fcmae.pretrain import pretrain
from fcmae.runs.checkpoint import read_state, resolve_checkpoint

STYLES = {
    "V1 style: LayerScale, no GRN": {"use_grn": False, "use_layer_scale": True},
    "V2 style: GRN, no LayerScale": {"use_grn": True, "use_layer_scale": False},
}
UNTRAINED = ", before training"
Rows = dict[str, dict[int, list[BlockCollapse]]]
"""network → seed → one entry per block."""


def configuration(args: argparse.Namespace, style: str, seed: int) -> PretrainConfig:
    """Settings of one run; only style and seed differ."""
    folder = Path(args.output) / "runs" / f"{'v2' if STYLES[style]['use_grn'] else 'v1'}-seed{seed}"
    return PretrainConfig(
        model=PretrainModelConfig(
            args.name, img_size=args.img_size, stem_stride=args.stem_stride, decoder_dim=args.decoder_dim,
            **STYLES[style],
        ),
        data=DataConfig(num_workers=args.num_workers, repeat=args.repeat, cache=True),
        train=TrainConfig(
            epochs=args.epochs, batch_size=args.batch_size, warmup_epochs=args.epochs / 10,
            base_lr=args.lr * 256 / args.batch_size, mask_ratio=args.mask_ratio,
        ),
        log=LogConfig(pictures_every=args.epochs, checkpoint_every=args.epochs),
        output=str(folder),
        seed=seed,
    )  # fmt: skip


def photographs(config: PretrainConfig) -> list[torch.Tensor]:
    """The bundled photos as normalized batches of center crops."""
    normalize = config.data.normalizer(3)
    batches = crop_batches(embedded_photographs(), config.model.image_hw, batch_size=6)
    return [normalize(batch.images) for batch in batches]


def analyze(args: argparse.Namespace, style: str, seed: int) -> dict[str, list[BlockCollapse]]:
    """Collapse of the network before and after training."""
    config = configuration(args, style, seed)
    torch.manual_seed(seed)
    untrained = FCMAE(config.model)  # as pretrain draws it
    images = photographs(config)
    ratio = args.mask_ratio if args.masked else 0.0
    folder = pretrain(config).folder
    state = read_state(resolve_checkpoint(folder))
    if state.step * state.effective_batch < args.epochs * state.samples_per_epoch:
        raise SystemExit("stopped; the same command goes on from there")
    return {
        name: analyze_collapse(model, images, args.tap, mask_ratio=ratio, seed=seed)
        for name, model in ((style + UNTRAINED, untrained), (style, fcmae.load_model(folder)))
    }


def draw(rows: Rows, title: str) -> Figure:
    """Mean over seeds, band from the lowest to the highest."""
    figure = Figure(figsize=(7, 5.2), dpi=150, layout="constrained")
    axes = depth_axes(figure)
    axes.set_title(title, fontsize=10)
    colors = dict(zip(STYLES, ("tab:orange", "tab:blue"), strict=True))
    for name, by_seed in rows.items():
        depth = [row.depth for row in next(iter(by_seed.values()))]
        distance_SL = np.array([[row.distance for row in of_seed] for of_seed in by_seed.values()])
        color, before = colors[name.removesuffix(UNTRAINED)], name.endswith(UNTRAINED)
        line = {"linestyle": ":"} if before else {"marker": "o", "markersize": 4}
        axes.plot(depth, distance_SL.mean(0), color=color, linewidth=1.5, label=name, **line)
        axes.fill_between(depth, distance_SL.min(0), distance_SL.max(0), color=color, alpha=0.2, linewidth=0)
    figure.legend(loc="outside lower center", fontsize=9, frameon=False)
    return figure


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--output", default="collapse-claim", help="folder for the runs, the table and the figure")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--epochs", type=int, default=12)
    add("--name", default="convnextv2_atto", help="encoder size; the style sets V1 or V2")
    add("--img-size", type=int, default=64)
    add("--stem-stride", type=int, default=2, help="1, 2 or 4; a patch has 8 times as many pixels per side")
    add("--decoder-dim", type=int, default=256)
    add("--repeat", type=int, default=40, help="crops per photo and epoch")
    add("--batch-size", type=int, default=32)
    add("--lr", type=float, default=1.5e-3, help="peak learning rate")
    add("--mask-ratio", type=float, default=0.6)
    add("--num-workers", type=int, default=0)
    add("--tap", default="act", choices=TAPS)
    add("--masked", action="store_true", help="analyze masked images, as in training; default: whole images")
    return parser


def write_rows(rows: Rows, epochs: int, file: Path) -> None:
    """One line per network, seed and block."""
    with file.open("w", newline="", encoding="utf-8") as opened:
        names = ["network", "seed", "epochs", *(field.name for field in fields(BlockCollapse))]
        writer = csv.DictWriter(opened, names, lineterminator="\n")
        writer.writeheader()
        for name, by_seed in rows.items():
            for seed, found in by_seed.items():
                writer.writerows({"network": name, "seed": seed, "epochs": epochs, **asdict(row)} for row in found)


def table(rows: Rows) -> str:
    """Mean over all blocks, and the last block; lowest and highest seed."""
    lines = [
        "| network | distance, all blocks | distance, last block | dead, all | saturated, all |",
        "|---|---|---|---|---|",
    ]
    for name, by_seed in rows.items():
        means = {
            field: [statistics.fmean(getattr(row, field) for row in found) for found in by_seed.values()]
            for field in ("distance", "dead", "saturated")
        }
        last = [found[-1].distance for found in by_seed.values()]
        lines.append(
            f"| {name} | {_spread(means['distance'], '.3f')} | {_spread(last, '.3f')} "
            f"| {_spread(means['dead'], '.1%')} | {_spread(means['saturated'], '.1%')} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    args = options().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    rows: Rows = defaultdict(dict)
    folder = Path(args.output)
    seen = f"{args.mask_ratio:.0%} masked" if args.masked else "whole images"
    for number, seed in enumerate(args.seeds, start=1):  # both styles of a seed, then what is known so far is written
        for style in STYLES:
            for name, found in analyze(args, style, seed).items():
                rows[name][seed] = found
        title = (
            f"{args.name}, {args.epochs} epochs of FCMAE on {len(embedded_photographs())} photographs, "
            f"{number} seed{'s' * (number > 1)},\ntap: {args.tap}, the same photographs, {seen}"
        )
        write_rows(rows, args.epochs, folder / "collapse.csv")
        draw(rows, title).savefig(folder / "collapse.png")
    print(f"{title}; lowest … highest seed\n\n{table(rows)}")


def _spread(values: list[float], spec: str) -> str:
    return f"{statistics.fmean(values):{spec}} ({min(values):{spec}} … {max(values):{spec}})"


if __name__ == "__main__":
    main()
