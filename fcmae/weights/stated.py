"""What is stated beside weights: a classifier's classes, the crop of validation, and the size of the images."""

from pathlib import Path
from typing import Any

from fcmae.runs.find import MODEL
from fcmae.runs.layout import CHECKPOINTS, EXPORTS
from fcmae.weights import formats
from fcmae.weights.formats.base import CONFIG_JSON, SEVERAL, Stated, read_json
from fcmae.weights.formats.transformers import crop_pct
from fcmae.weights.settings import run_setting

CLASSES = "classes.json"
IN_RUN = (CHECKPOINTS, EXPORTS)  # folders of folders of weights


def stated_beside(weights: object) -> Stated:
    """What goes with a run, a checkpoint, a file in one of these, or an exported folder.

    A name of timm, or a state dict, has nothing: what lies in the working directory is of something else.
    """
    if not isinstance(weights, str | Path) or not Path(weights).exists():
        return Stated()
    path = Path(weights).absolute()
    folder = path if path.is_dir() else path.parent
    run = folder.parent if folder.name in IN_RUN else folder.parent.parent if folder.parent.name in IN_RUN else folder
    content = read_json(folder / CONFIG_JSON)
    for place in (folder, run):
        if (place / CLASSES).is_file():
            said = read_json(place / CLASSES)
            names = said.get("classes")
            classes = tuple(map(str, names)) if isinstance(names, list) else None
            return Stated(classes, bool(said.get("multi_label")), _crop(folder, run, content), place / CLASSES)
    several, crop = content.get("problem_type") == SEVERAL, _crop(folder, run, content)
    return Stated(_exported_classes(content), several, crop, folder / CONFIG_JSON)


def stated_image_hw(file: Path) -> tuple[int, int] | None:
    """Height and width that the configuration beside a file of weights states; None: there is none."""
    if not file.is_file():
        return None
    found = (format.image_hw(file.parent) for format in formats.KNOWN)
    sides = next((one for one in found if one is not None), None)
    if sides is None or not all(isinstance(side, int) and side > 0 for side in sides):
        return None
    return sides


def _exported_classes(content: dict[str, Any]) -> tuple[str, ...] | None:
    if isinstance(names := content.get("label_names"), list):
        return tuple(map(str, names))
    if isinstance(names := content.get("id2label"), dict):
        ordered = sorted(names.items(), key=lambda item: int(item[0]) if str(item[0]).isdecimal() else 0)
        found = tuple(str(name) for _, name in ordered)
        return None if all(name == f"LABEL_{n}" for n, name in enumerate(found)) else found
    return None


def _crop(folder: Path, run: Path, content: dict[str, Any]) -> float | None:
    pretrained = content.get("pretrained_cfg")
    stated = [
        pretrained.get("crop_pct") if isinstance(pretrained, dict) else None,
        crop_pct(folder),
        run_setting(run / CHECKPOINTS / "any" / MODEL, "data", "crop_pct", float),  # the same for all checkpoints
    ]
    return next((float(one) for one in stated if isinstance(one, int | float) and 0 < one <= 1), None)
