"""The names of a classifier's outputs in a run folder."""

import json
from collections.abc import Sequence
from pathlib import Path

from fcmae.errors import UserError
from fcmae.files import write_text
from fcmae.weights.formats.base import read_json
from fcmae.weights.stated import CLASSES

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
        apart = [*(f'"{name}" was not there' for name in now if name not in before)]
        apart += [f'"{name}" is missing' for name in before if name not in now]
        first = next(
            (f'"{new}" is in the place of "{old}"' for old, new in zip(before, now, strict=False) if old != new), ""
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
