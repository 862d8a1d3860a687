"""The names of a classifier's outputs: in a run folder, and in exported folders of timm and transformers."""

import json
from collections.abc import Sequence
from pathlib import Path

from fcmae.files import write_text
from fcmae.weights.formats.base import read_json

CLASSES = "classes.json"
EXPORTED = "config.json"


def write_classes(run: Path, classes: Sequence[str], multi_label: bool) -> None:
    """Write RUN/classes.json."""
    content = {"classes": list(classes), "multi_label": multi_label}
    write_text(run / CLASSES, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def stated_classes(weights: str | Path) -> list[str] | None:
    """The names that go with a run, a checkpoint, a file in one of these, or an exported folder; None: unknown."""
    path = Path(weights)
    file = path if path.is_dir() else path.parent
    for folder in (file, file.parent, file.parent.parent):
        if (folder / CLASSES).is_file():
            names = read_json(folder / CLASSES).get("classes")
            return [str(name) for name in names] if isinstance(names, list) else None
    exported = read_json(file / EXPORTED)
    if isinstance(names := exported.get("label_names"), list):
        return [str(name) for name in names]
    if isinstance(names := exported.get("id2label"), dict):
        ordered = sorted(names.items(), key=lambda item: int(item[0]) if str(item[0]).isdecimal() else 0)
        found = [str(name) for _, name in ordered]
        return None if all(name == f"LABEL_{n}" for n, name in enumerate(found)) else found
    return None
