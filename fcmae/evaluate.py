"""``python -m fcmae.evaluate``: how much labeled images tell of pretrained features: nearest neighbors, linear probe.

Beside each checkpoint stand the same network with random weights and the raw pixels: what is not above them was not
learned.
"""

import argparse
import json
import logging
import sys
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import torch

from fcmae.analysis.accuracy import Accuracy, top_accuracy
from fcmae.analysis.features import Embedder, Features, embedder, features_of_each, pixels
from fcmae.analysis.knn import knn_scores
from fcmae.analysis.linear_probe import fit_probe
from fcmae.analysis.subjects import parse_names
from fcmae.cli.command import check_at_least, check_seed, exit_status, output_folder
from fcmae.cli.devices import choose_device
from fcmae.data.labeled import LabeledData, labeled_digits, labeled_folder, labeled_timm
from fcmae.errors import UserError
from fcmae.files import write_text

logger = logging.getLogger("fcmae")

RESULT = "evaluation.json"
IMG_SIZE, DIGITS_SIZE = 224, 64  # 64: 2×2 positions in the last stage of a usual stem, 8×8 of a stem of stride 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or 1 after an error."""
    options = build_parser().parse_args(argv)
    return exit_status("fcmae.evaluate", lambda: evaluate(options))


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="python -m fcmae.evaluate",
        description="How much labeled images tell of pretrained features, by nearest neighbors and a linear probe. "
        "Beside each checkpoint stand the same network with random weights and the raw pixels: what is not above them "
        "was not learned.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("ckpt", nargs="+", metavar="CKPT",
        help="a run folder, checkpoint folder or weights file, or a timm name (random weights); LABEL=CKPT names its "
        "row")  # fmt: skip
    add("--pretrained", action="store_true", help="give timm names the weights that timm has (downloads them)")
    add("--allow_pickle", action="store_true",
        help="unpickle whatever a weights file holds, which runs code that the file brings")  # fmt: skip
    add("--data.path", dest="data_path", metavar="DIR",
        help="folder with a subfolder for each class, or with train/ and val/ that have them (default: the handwritten "
        "digits of scikit-learn)")  # fmt: skip
    add("--data.dataset", dest="data_dataset", metavar="NAME",
        help="a dataset of timm.data.create_dataset, such as torch/cifar10, that lies in --data.path")  # fmt: skip
    add("--data.train_split", dest="train_split", metavar="SPLIT", default="train",
        help="part of --data.dataset to learn from (default: %(default)s)")  # fmt: skip
    add("--data.test_split", dest="test_split", metavar="SPLIT", default="validation",
        help="part of --data.dataset to test on (default: %(default)s)")  # fmt: skip
    add("--data.download", dest="download", action="store_true", help="let --data.dataset be downloaded")
    add("--data.num_workers", dest="num_workers", type=int, default=4, metavar="N",
        help="processes that read the images of a folder; 0: this one (default: %(default)s)")  # fmt: skip
    add("--images", type=int, metavar="N",
        help="at most so many images to learn from, and as many to test, drawn by --seed (default: all)")  # fmt: skip
    add("--test_share", type=float, default=0.2, metavar="SHARE",
        help="share of each class to test on, where nothing else says (default: %(default)s)")  # fmt: skip
    add("--img_size", type=int, metavar="N",
        help=f"pixels a side (default: the run's, otherwise {IMG_SIZE}, less for a stem of stride 1 or 2; "
        f"digits: at most {DIGITS_SIZE}, "
        "but for networks that take one size alone)")  # fmt: skip
    add("--k", type=int, default=20, metavar="N", help="nearest neighbors that vote (default: %(default)s)")
    add("--temperature", type=float, default=0.07, metavar="T",
        help="of their votes, exp(cosine similarity / T) (default: %(default)s)")  # fmt: skip
    add("--batch_size", type=int, default=64, metavar="N",
        help="images at a time, changes no result (default: %(default)s)")  # fmt: skip
    add("--device", default="auto",
        help="cpu, cuda, cuda:1, mps, …; auto: the accelerator if there is one (default: %(default)s)")  # fmt: skip
    add("--seed", type=int, default=0, metavar="N",
        help="of the splits and of the random weights (default: %(default)s)")  # fmt: skip
    add("--output", metavar="DIR", help=f"folder for {RESULT} (default: the table alone)")
    add("--overwrite", action="store_true", help=f"replace {RESULT} if it is there")
    return parser


def evaluate(options: argparse.Namespace) -> dict[str, Any]:
    """Evaluate as asked, print the table; returns what ``evaluation.json`` holds.

    Raises:
        UserError: something the user can mend.
    """
    _check(options)
    named_networks = parse_names(options.ckpt)
    device = choose_device(options.device)
    data = _labeled_data(options)
    subjects = [
        embedder(
            named, device, pretrained=options.pretrained, allow_pickle=options.allow_pickle,
            img_size=options.img_size, seed=options.seed,
        )
        for named in named_networks
    ]  # fmt: skip
    rows = _rows(_with_baselines(subjects, options), data, device, options)
    result = {
        "data": data.name,
        "knn": {"k": options.k, "temperature": options.temperature},
        "seed": options.seed,
        "images": options.images,
        "results": rows,
    }
    sys.stdout.write(table(result))
    if options.output is not None:
        file = Path(options.output) / RESULT
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(result, indent=2) + "\n")
        logger.info("written: %s", file)
    return result


def _check(options: argparse.Namespace) -> None:
    check_at_least(options, k=1, batch_size=1, img_size=1, images=2, num_workers=0)
    check_seed(options.seed)
    if not 0 < options.test_share < 1:
        raise UserError(f"--test_share must be between 0 and 1, got {options.test_share}")
    if not 0 < options.temperature < float("inf"):
        raise UserError(f"--temperature must be above 0, got {options.temperature}")
    if options.data_dataset is not None and options.data_path is None:
        raise UserError(f"--data.dataset {options.data_dataset} needs --data.path, the folder it lies in")
    if options.output is not None:
        output_folder(options.output, [RESULT], options.overwrite)


def _labeled_data(options: argparse.Namespace) -> LabeledData:
    if options.data_path is None:
        return labeled_digits(options.test_share, options.seed, options.images)
    if options.data_dataset is None:
        return labeled_folder(
            options.data_path, options.test_share, options.seed, options.images, num_workers=options.num_workers
        )
    splits = (options.train_split, options.test_split)
    return labeled_timm(
        options.data_dataset, options.data_path, *splits, options.download, options.seed, options.images
    )


def _image_hw(subject: Embedder, options: argparse.Namespace) -> tuple[int, int]:
    if options.img_size is not None:
        return options.img_size, options.img_size
    height, width = subject.image_hw or (IMG_SIZE, IMG_SIZE)
    if options.data_path is not None or subject.takes_no_other:
        return height, width
    return min(height, DIGITS_SIZE), min(width, DIGITS_SIZE)


def _with_baselines(
    subjects: Sequence[Embedder], options: argparse.Namespace
) -> list[tuple[Embedder, tuple[int, int]]]:
    """The networks, each kind's random one behind its first, and raw pixels; each with the size of its images."""
    found: list[tuple[Embedder, tuple[int, int]]] = []
    fresh_ones: set[Hashable] = set()
    for subject in subjects:
        image_hw = _image_hw(subject, options)
        found.append((subject, image_hw))
        kind = (subject.architecture, subject.normalize, image_hw)
        if subject.fresh is not None and kind not in fresh_ones:  # runs of one kind share a random network
            fresh_ones.add(kind)
            found.append((subject.fresh(), image_hw))
    for in_chans in sorted({subject.in_chans for subject in subjects}):
        # the largest images that a network sees: they are read anyway
        largest = max((hw for subject, hw in found if subject.in_chans == in_chans), key=lambda hw: hw[0] * hw[1])
        found.append((pixels(in_chans), largest))
    return found


def _rows(
    asked: Sequence[tuple[Embedder, tuple[int, int]]],
    data: LabeledData,
    device: torch.device,
    options: argparse.Namespace,
) -> list[dict[str, Any]]:
    """The results, in the order asked for; images are read once for all networks that take them in one shape."""
    rows: dict[int, dict[str, Any]] = {}
    for shape in dict.fromkeys((image_hw, one.in_chans) for one, image_hw in asked):
        image_hw, _ = shape
        places = [place for place, (one, hw) in enumerate(asked) if (hw, one.in_chans) == shape]
        alike = [asked[place][0] for place in places]
        names = "; ".join(one.name for one in alike)
        logger.info("features of images of %d×%d pixels: %s", *image_hw, names)
        train, test = (
            features_of_each(alike, part, image_hw, options.batch_size, device) for part in (data.train, data.test)
        )
        absent = sorted(set(test[0].labels.tolist()) - set(train[0].labels.tolist()))
        if absent:
            logger.warning("no image to learn from in class(es) %s: their test images cannot be right", absent[:5])
        for place, one, of_train, of_test in zip(places, alike, train, test, strict=True):
            rows[place] = _row(one, of_train, of_test, image_hw, device, options)
    return [rows[place] for place in range(len(asked))]


def _row(
    subject: Embedder,
    train: Features,
    test: Features,
    image_hw: tuple[int, int],
    device: torch.device,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """The results of one network."""
    classes = int(max(train.labels.max(), test.labels.max())) + 1
    knn = knn_scores(train.x.to(device), train.labels, test.x, classes, options.k, options.temperature)
    probe = fit_probe(train.x.to(device), train.labels.to(device), classes, seed=options.seed)
    if probe.at_edge or not probe.converged:
        found = [f"C = {probe.c:g}, the chosen one, ends the range that was tried"] * probe.at_edge
        found += ["the solver did not converge"] * (not probe.converged)
        logger.info("%s: linear probe: %s", subject.name, "; ".join(found))
    linear = _scored(lambda top: top_accuracy(probe.scores(test.x), test.labels, top), classes)
    return {
        "name": subject.name,
        "image_hw": list(image_hw),
        "train_images": len(train.labels),
        "test_images": len(test.labels),
        "classes": len(train.labels.unique()),
        "features": train.x.shape[1],
        "knn": _scored(lambda top: top_accuracy(knn, test.labels, top), classes),
        "linear": linear | {"c": probe.c, "c_at_edge": probe.at_edge, "converged": probe.converged},
    }


def _scored(accuracy: Callable[[int], Accuracy], classes: int) -> dict[str, Any]:
    """Top-1, and top-5 where it says anything."""
    found = {"top1": accuracy(1)} | ({"top5": accuracy(5)} if classes > 5 else {})
    return {
        name: {"accuracy": a.share, "low": a.interval[0], "high": a.interval[1], "correct": a.correct, "total": a.total}
        for name, a in found.items()
    }


def table(result: dict[str, Any]) -> str:
    """The results for reading: per cent, with 95% intervals."""
    columns = [("knn", "top1", "kNN top-1"), ("knn", "top5", "kNN top-5")]
    columns += [("linear", "top1", "linear top-1"), ("linear", "top5", "linear top-5")]
    columns = [column for column in columns if column[1] in result["results"][0][column[0]]]
    lines = [["", *(title for *_, title in columns)]]
    for row in result["results"]:
        cells = [row[probe][top] for probe, top, _ in columns]
        lines.append(
            [row["name"], *(f"{100 * c['accuracy']:.1f} [{100 * c['low']:.1f}, {100 * c['high']:.1f}]" for c in cells)]
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    first = result["results"][0]
    head = (
        f"{result['data']}: {first['train_images']} images to learn from, {first['test_images']} to test, "
        f"{first['classes']} classes; per cent right [95% interval]\n\n"
    )
    return head + "".join(
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]).rstrip()
        + "\n"
        for line in lines
    )


if __name__ == "__main__":
    sys.exit(main())
