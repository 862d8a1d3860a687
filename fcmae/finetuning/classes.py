"""The names of a classifier's outputs: in a run folder, and in exported folders of timm and transformers."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fcmae.errors import UserError
from fcmae.files import write_text
from fcmae.runs.layout import CHECKPOINTS, EXPORTS
from fcmae.weights.formats.base import read_json

CLASSES = "classes.json"
EXPORTED = "config.json"
IN_RUN = (CHECKPOINTS, EXPORTS)  # folders of folders of weights
MULTI_LABEL = "multi_label_classification"  # transformers' ``problem_type``
SHOWN = 5  # classes that a message names


def write_classes(run: Path, classes: Sequence[str], multi_label: bool) -> None:
    """Write RUN/classes.json."""
    content = {"classes": list(classes), "multi_label": multi_label}
    write_text(run / CLASSES, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def check_same_classes(run: Path, classes: Sequence[str], multi_label: bool, source: str) -> None:
    """UserError if RUN/classes.json, where there is one, has other classes or another order than the labeled images.

    Their number alone would not tell: labels of a renamed class would train the output of another.
    """
    said = read_json(run / CLASSES)
    names = said.get("classes")
    if not isinstance(names, list):
        return
    before, now = [str(name) for name in names], list(classes)
    if before != now:
        apart = [*(f"{name} was not there" for name in now if name not in before)]
        apart += [f"{name} is missing" for name in before if name not in now]
        first = next(
            (f"{new} is in the place of {old}" for old, new in zip(before, now, strict=False) if old != new), ""
        )
        what = ", ".join(apart[:SHOWN]) + (f" and {len(apart) - SHOWN} more" if len(apart) > SHOWN else "")
        raise UserError(
            f"{source} has other classes than {run / CLASSES}: {what or first}; resume with the same, or give another "
            f"--output and the run as WEIGHTS"
        )
    if bool(said.get("multi_label")) != multi_label:
        what = "may have several labels, but had" if multi_label else "have one label, but had several in"
        raise UserError(
            f"{source}: images {what} {'one in ' if multi_label else ''}{run / CLASSES}; give another --output"
        )


class StatedClasses(NamedTuple):
    """What a file says of the classes of weights."""

    names: list[str]
    multi_label: bool
    """Whether an image may have several, or none."""
    file: Path


def stated_classes(weights: str | Path) -> list[str] | None:
    """The names that go with a run, a checkpoint, a file in one of these, or an exported folder; None: unknown."""
    found = classes_of(weights)
    return None if found is None else found.names


def classes_of(weights: str | Path) -> StatedClasses | None:
    """As :func:`stated_classes`, with what else is said."""
    path = Path(os.path.abspath(weights))
    if not path.exists():  # a name of timm: what lies in the working directory is of something else
        return None
    file = path if path.is_dir() else path.parent
    run = file.parent if file.name in IN_RUN else file.parent.parent if file.parent.name in IN_RUN else file
    for folder in (file, run):
        if (folder / CLASSES).is_file():
            said = read_json(folder / CLASSES)
            return _stated(said.get("classes"), bool(said.get("multi_label")), folder / CLASSES)
    exported = read_json(file / EXPORTED)
    is_multi_label = exported.get("problem_type") == MULTI_LABEL
    if isinstance(names := exported.get("label_names"), list):
        return _stated(names, is_multi_label, file / EXPORTED)
    if isinstance(names := exported.get("id2label"), dict):
        ordered = sorted(names.items(), key=lambda item: int(item[0]) if str(item[0]).isdecimal() else 0)
        found = [str(name) for _, name in ordered]
        if any(name != f"LABEL_{n}" for n, name in enumerate(found)):
            return _stated(found, is_multi_label, file / EXPORTED)
    return None


def _stated(names: object, is_multi_label: bool, file: Path) -> StatedClasses | None:
    return StatedClasses([str(name) for name in names], is_multi_label, file) if isinstance(names, list) else None
