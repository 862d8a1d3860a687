"""The best weights for other libraries: RUN/export/timm and RUN/export/transformers, with the names of the classes.

RUN/export/exported.json, written last, says which weights they are: an export that was cut short is done again.
"""

import json
from pathlib import Path
from typing import Any

from fcmae.errors import UserError
from fcmae.files import write_text
from fcmae.finetuning.best import best_folder
from fcmae.finetuning.labeled_images import LabeledSet
from fcmae.finetuning.samples import CenterCrops
from fcmae.runs.find import MODEL, read_state
from fcmae.runs.layout import EXPORTS
from fcmae.weights.card import imports_first
from fcmae.weights.convert import in_format
from fcmae.weights.formats.base import read_json
from fcmae.weights.read import read_weights
from fcmae.weights.write import write

EXPORTED = "exported.json"
USE = {
    "timm": 'timm.create_model("local-dir:{folder}", pretrained=True)',
    "transformers": 'transformers.AutoModelForImageClassification.from_pretrained("{folder}")',
}


def export(run: Path, data: LabeledSet, crops: CenterCrops) -> list[str]:
    """Write both folders; returns a line for each, how it is loaded, or why it could not be written."""
    lines, best = [], best_folder(run)
    if not (best / MODEL).is_file():
        return [f"not exported: there are no weights in {best}"]
    formats = []
    weights = read_weights(best, logs=False)  # where they are is said by the run's last lines
    for name, use in USE.items():
        folder = run / EXPORTS / name
        try:
            conversion = in_format(weights, name)
            write(conversion, best, folder, name, overwrite=True)
        except UserError as error:
            lines.append(f"not exported for {name}: {error}")
            continue
        for file, change in (("config.json", _with_names), ("preprocessor_config.json", _with_crop)):
            if (folder / file).is_file():
                content = change(read_json(folder / file), name, data, crops)
                write_text(folder / file, json.dumps(content, ensure_ascii=False, indent=2) + "\n")
        formats.append(name)
        lines.append(f"  {'; '.join([*imports_first(conversion, name), use.format(folder=folder)])}")
    write_text(run / EXPORTS / EXPORTED, json.dumps(_identity(best) | {"formats": formats}, indent=1) + "\n")
    return lines


def is_exported(run: Path) -> bool:
    """Whether the export is there, and is of the best weights."""
    if not (best_folder(run) / MODEL).is_file():
        return False
    said = read_json(run / EXPORTS / EXPORTED)
    is_same = all(said.get(name) == value for name, value in _identity(best_folder(run)).items())
    formats = said.get("formats")
    return is_same and isinstance(formats, list) and all((run / EXPORTS / str(name)).is_dir() for name in formats)


def _identity(best: Path) -> dict[str, Any]:
    state = read_state(best)
    return {"step": state.step, "checksums": dict(state.checksums)}


def _with_names(content: dict[str, Any], format: str, data: LabeledSet, crops: CenterCrops) -> dict[str, Any]:
    if format == "timm":
        pretrained = content["pretrained_cfg"] | {"crop_pct": crops.crop_pct}
        return content | {"label_names": list(data.classes), "pretrained_cfg": pretrained}
    names = {str(number): name for number, name in enumerate(data.classes)}
    kind = {"problem_type": "multi_label_classification"} if data.is_multi_label else {}
    return content | {"id2label": names, "label2id": {name: int(n) for n, name in names.items()}} | kind


def _with_crop(content: dict[str, Any], _format: str, _data: LabeledSet, crops: CenterCrops) -> dict[str, Any]:
    return content | {"crop_pct": crops.crop_pct}
