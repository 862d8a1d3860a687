"""``python -m fcmae.collapse``: how far the features of networks have collapsed, block by block.

Draws the paper's figure 4 (cosine distance of the channels against depth, a line a network) and figure 3 (channels as
small maps, dead and saturated ones marked), and writes the numbers. docs/collapse.md says what they mean.
"""

import argparse
import logging
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from fcmae.analysis.collapse import BlockCollapse, analyze_collapse
from fcmae.analysis.collapse_file import NUMBERS, TABLE, write_collapse
from fcmae.analysis.collapse_pictures import distance_figure, feature_map_figure
from fcmae.analysis.feature_maps import choose_blocks, feature_maps
from fcmae.analysis.subjects import Named, Subject, load_subject, parse_names, refusals_named
from fcmae.analysis.taps import TAPS, find_blocks
from fcmae.cli.command import check_at_least, check_seed, exit_status, output_folder
from fcmae.cli.devices import choose_device
from fcmae.data.crop_batches import crop_batches
from fcmae.data.folder import images_to_look_at
from fcmae.errors import UserError
from fcmae.files import replacing

logger = logging.getLogger("fcmae")

FIGURE, MAPS = "figure4.png", "feature_maps-{}.png"
EARLY_MIDDLE_LATE = ("0.17", "0.5", "0.83")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or 1 after an error."""
    options = build_parser().parse_args(argv)
    return exit_status("fcmae.collapse", lambda: collapse(options))


def build_parser() -> argparse.ArgumentParser:
    """The options, with their defaults in the help."""
    parser = argparse.ArgumentParser(
        prog="python -m fcmae.collapse",
        description="How far the features of networks have collapsed, block by block: the cosine distance of their "
        "channels (ConvNeXt V2, figure 4), dead and saturated channels, and pictures of channels (figure 3).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("models", nargs="+", metavar="[LABEL=]MODEL",
        help="a run folder, checkpoint folder or weights file, or a timm name (random weights unless --pretrained); "
        "LABEL names its line")  # fmt: skip
    add("--data.path", dest="data_path", metavar="DIR",
        help="folder of images; unset: the photographs bundled with scikit-image and scikit-learn")  # fmt: skip
    add("--data.num_workers", dest="num_workers", type=int, default=0, help="processes that read images")
    add("--images", type=int, default=1000, help="images to take, evenly spaced in the folder if it has more")
    add("--output", default="collapse", metavar="DIR", help="folder for the table and the figures")
    add("--overwrite", action="store_true", help="replace what an earlier analysis wrote there")
    add("--tap", default="act", choices=TAPS,
        help="tensor of each block: output of the expansion layer, after the activation, after GRN (where there "
        "is none, after the activation), or of the block (blocks without an MLP, ResNet's, always)")  # fmt: skip
    add("--sparse", action="store_true",
        help="runs of fcmae.pretrain as the masked sparse network that was trained, at its mask ratio; else dense, "
        "seeing everything (timm names always are)")  # fmt: skip
    add("--pretrained", action="store_true", help="give timm names the weights that timm has (downloads them)")
    add("--allow_pickle", action="store_true",
        help="unpickle whatever a weights file holds, which runs code that the file brings")  # fmt: skip
    add("--effective_rank", action="store_true", help="measure the effective rank too; takes longer")
    add("--img_size", type=int, metavar="PIXELS",
        help="side of the images; unset: a run's own, that of timm networks which take no other, else 224 "
        "(weights with a stem of stride 1 or 2: 56 or 112)")  # fmt: skip
    add("--layers", nargs="+", default=EARLY_MIDDLE_LATE, metavar="LAYER",
        help="blocks to draw channels of: names as in the table, where a model has them, or depths 0 to 1")  # fmt: skip
    add("--picture", type=int, default=0, metavar="N", help="which of the images taken to draw, from 0")
    add("--batch_size", type=int, default=16, help="images at a time; changes no result")
    add("--seed", type=int, default=0, help="of random weights and of masks")
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps, …; auto: the accelerator if there is one")
    return parser


def collapse(options: argparse.Namespace) -> dict[str, list[BlockCollapse]]:
    """Analyze as asked, print a table a model and write the output folder; label → rows.

    Raises:
        UserError: something the user can mend.
    """
    names = parse_names(options.models)
    folder = _check(options, names)
    device = choose_device(options.device)
    paths = images_to_look_at(options.data_path, options.images)
    if options.picture >= len(paths):
        raise UserError(f"--picture {options.picture}: there are {len(paths)} images, 0 to {len(paths) - 1}")

    # What can be wrong with a model is said before the first is analyzed, for that may take an hour. The models wait in
    # the CPU's memory, and leave it one by one.
    subjects = {named.label: _load(named, options) for named in names}
    layers = _layers(subjects, options.layers)

    settings = {name: getattr(options, name) for name in ("data_path", "tap", "sparse", "pretrained", "seed")}
    results: dict[str, list[BlockCollapse]] = {}
    described: dict[str, dict[str, Any]] = {}
    for named in names:
        subject = subjects.pop(named.label)
        subject.model.to(device)
        rows, picture = _analyze(named, subject, paths, layers[named.label], options)
        results[named.label] = rows
        height, width = subject.image_hw
        described[named.label] = {
            "source": named.source, "image_hw": [height, width], "visible_share": subject.visible_share,
        }  # fmt: skip
        (folder / FIGURE).unlink(missing_ok=True)  # an earlier analysis's; ours comes when all models are through
        write_collapse(folder, results, described, settings)
        _draw(folder / MAPS.format(named.file_name), picture)
        sys.stdout.write(table(named.label, subject, rows) + "\n")
        sys.stdout.flush()
    lines = {
        _with_taps(label, rows, options.tap): [(row.depth, row.distance, _or_0(row.distance_se)) for row in rows]
        for label, rows in results.items()
    }
    most = max(rows[0].images for rows in results.values())
    _draw(folder / FIGURE, distance_figure(lines, f"{most} images, tap: {options.tap}; band: ± standard error"))
    logger.info("written: %s, %s, %s, %s", *(folder / name for name in (TABLE, NUMBERS, FIGURE, MAPS.format("*"))))
    return results


def _with_taps(label: str, rows: Sequence[BlockCollapse], asked: str) -> str:
    """The label, with the tensors that were read if they are not, or not all, the one asked for."""
    taps = list(dict.fromkeys(row.tap for row in rows))
    return label if taps == [asked] else f"{label} (tap: {', '.join(taps)})"


def _check(options: argparse.Namespace, names: list[Named]) -> Path:
    """The output folder, once the options make sense."""
    check_at_least(options, images=1, batch_size=1, img_size=1, num_workers=0, picture=0)
    check_seed(options.seed)
    ours = (TABLE, NUMBERS, FIGURE, *(MAPS.format(named.file_name) for named in names))
    return output_folder(options.output, ours, options.overwrite)


def _load(named: Named, options: argparse.Namespace) -> Subject:
    """A model on the CPU, once a blank image has gone through its analysis."""
    subject = load_subject(
        named, sparse=options.sparse, pretrained=options.pretrained, allow_pickle=options.allow_pickle,
        img_size=options.img_size, seed=options.seed,
    )  # fmt: skip
    with refusals_named(named.label, "an image", subject.image_hw):
        analyze_collapse(subject.model, torch.zeros(1, subject.in_chans, *subject.image_hw), options.tap)
    return subject


def _layers(subjects: dict[str, Subject], wanted: Sequence[str]) -> dict[str, list[str]]:
    """The layers to draw of each model: those that it has.

    Raises:
        UserError: a layer that no model has.
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


def _analyze(
    named: Named, subject: Subject, paths: list[Path], layers: list[str], options: argparse.Namespace
) -> tuple[list[BlockCollapse], Figure | None]:
    """The rows of a model and, if it can be drawn, its picture of channels; the images are read once."""
    drawn: list[tuple[int, Tensor]] = []  # place among the images that can be read, and [1, C, H, W] in 0 … 1

    def batches() -> Iterator[Tensor]:
        sizes, place = (subject.image_hw, subject.in_chans, options.batch_size, options.num_workers), 0
        for batch in crop_batches(paths, *sizes):
            if not drawn and int(batch.indices[-1]) >= options.picture:  # it, or the next that can be read
                skipped = int((batch.indices < options.picture).sum())
                drawn.append((place + skipped, batch.images[skipped : skipped + 1]))
            place += len(batch.images)
            yield subject.normalize(batch.images)

    with refusals_named(named.label, f"{options.batch_size} images", subject.image_hw):
        rows = analyze_collapse(
            subject.model, batches(), options.tap, effective_rank=options.effective_rank, seed=options.seed
        )
    try:
        if not layers:
            raise UserError(f"it has none of the blocks of --layers {' '.join(options.layers)}")
        if not drawn:
            raise UserError(f"neither image {options.picture} (--picture) nor any after it can be read")
        ((place, image),) = drawn
        given = subject.normalize(image)
        maps = feature_maps(subject.model, given, layers, options.tap, seed=options.seed, place=place)
    except UserError as error:  # no reason to lose the numbers
        logger.warning("%s: no picture of its channels: %s", named.label, error)
        return rows, None
    return rows, feature_map_figure(named.label, image[0], maps)


def table(label: str, subject: Subject, rows: Sequence[BlockCollapse]) -> str:
    """The numbers of one model as text."""
    height, width = subject.image_hw
    share = subject.visible_share
    seen = "everything visible" if share == 1 else f"{100 * share:.3g}% of the patches visible"
    ranked = rows[0].effective_rank is not None
    head = f"{'block':<20}{'depth':>7}{'tap':>11}{'channels':>10}{'distance':>17}{'dead':>8}{'saturated':>11}"
    lines = [f"{label}: {rows[0].images} images of {height}×{width}, {seen}", head + ("    rank" if ranked else "")]
    for row in rows:
        line = f"{row.layer:<20}{row.depth:>7.2f}{row.tap:>11}{row.channels:>10}"
        error = "–" if math.isnan(row.distance_se) else f"{row.distance_se:.4f}"
        line += f"{row.distance:>8.3f} ± {error:<6}{row.dead:>8.1%}{row.saturated:>11.1%}"
        lines.append(line + (f"{row.effective_rank:>8.1f}" if ranked else ""))
    return "\n".join(lines) + "\n"


def _or_0(error: float) -> float:
    """One image has no standard error; a band of no height is drawn."""
    return 0.0 if math.isnan(error) else error


def _draw(file: Path, picture: Figure | None) -> None:
    """Replace a picture in one go; without one, an earlier analysis's does not stay."""
    if picture is None:
        file.unlink(missing_ok=True)
        return
    with replacing(file) as temporary:
        picture.savefig(temporary, format="png")


if __name__ == "__main__":
    sys.exit(main())
