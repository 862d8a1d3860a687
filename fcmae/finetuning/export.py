"""The best weights for other libraries: RUN/export/timm and RUN/export/transformers, with the names of the classes.

RUN/export/exported.json, written last, says which weights they are: an export that was cut short is done again.
"""

import json
from pathlib import Path
from typing import Any

from fcmae.errors import UserError
from fcmae.files import write_text
from fcmae.finetuning.best import best_folder
from fcmae.runs.find import MODEL, read_state
from fcmae.runs.layout import EXPORTS
from fcmae.weights.card import imports_first
from fcmae.weights.convert import in_format
from fcmae.weights.formats import targets
from fcmae.weights.formats.base import read_json
from fcmae.weights.read import read_weights
from fcmae.weights.write import write

EXPORTED = "exported.json"
FORMATS = ("timm", "transformers")


def export(run: Path) -> list[str]:
    """Write both folders; returns a line for each, how it is loaded, or why it could not be written."""
    lines, best = [], best_folder(run)
    if not (best / MODEL).is_file():
        return [f"not exported: there are no weights in {best}"]
    formats = []
    weights = read_weights(best, logs=False)  # where they are is said by the run's last lines
    for name in FORMATS:
        folder = run / EXPORTS / name
        try:
            conversion = in_format(weights, name)
            write(conversion, best, folder, name, overwrite=True)
        except UserError as error:
            lines.append(f"not exported for {name}: {error}")
            continue
        formats.append(name)
        use = targets()[name][1].loaded_by(weights).replace("FOLDER", str(folder))
        lines.append(f"  {'; '.join([*imports_first(conversion, name), use])}")
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
