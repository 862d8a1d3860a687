"""Finds a checkpoint in a run folder, and says which are whole. Without torch, whose import takes seconds."""

import re
import zipfile
from pathlib import Path

from safetensors import safe_open

from fcmae.errors import UserError
from fcmae.runs import state as state_file
from fcmae.runs.layout import CHECKPOINTS
from fcmae.runs.state import TrainState
from fcmae.runs.utf8_path import utf8_path

FOLDER, LAST = CHECKPOINTS, "last"
BEST = "best"  # the weights with the best validation score, which a run of fine-tuning keeps beside
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.pt", "state.json"
OPTIMIZER_SHARDS = "optimizer"  # a folder in place of optimizer.pt, of a run whose state is divided (FSDP)
AVERAGE = "average.safetensors"  # the moving average of the weights, where a run keeps one
PREFIX = "step-"
DAMAGED = "damaged after it was written"
NAME = re.compile(rf"{PREFIX}(\d{{8,}})(-[0-9a-f]{{12}})?")  # the second part where another's folder had the name


def read_state(folder: Path) -> TrainState:
    """The state of a checkpoint folder; UserError if it is missing or damaged."""
    try:
        return _state(folder)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder / STATE} cannot be read, so {folder} is not a complete checkpoint: {error}{instead_of(folder)}"
        ) from None


def _state(folder: Path) -> TrainState:
    file = folder / STATE
    if not file.is_file():
        raise ValueError("there is no such file")
    state = state_file.read_state(file)
    if (name := NAME.fullmatch(folder.name)) and int(name[1]) != state.step:
        raise ValueError(f"step is {state.step}, but the folder's name says {int(name[1])}")
    return state


def last_checkpoint(run: Path) -> Path | None:
    """The newest complete checkpoint of a run folder: the one named by ``last``, or the newest if ``last`` is missing.

    None if there is no checkpoint.

    Raises:
        UserError: ``last`` names a checkpoint that is missing or incomplete.
    """
    pointer = run / FOLDER / LAST
    if pointer.is_symlink() or (pointer.exists() and not pointer.is_file()):
        raise UserError(f"{pointer} is not a file that a run wrote; give another --output")
    if not pointer.exists():  # deleted, or the process died between the two renames of the first checkpoint
        return _newest(pointer.parent)
    name = pointer.read_text(errors="replace").strip()
    folder = pointer.parent / name
    if Path(name).name != name or len(name) > 200 or not (folder / STATE).is_file():
        newest = _newest(pointer.parent)
        advice = (
            "no other checkpoint of this run is whole; give another --output to start from scratch"
            if newest is None
            else f"delete {pointer} to resume from the newest complete checkpoint, {newest.name}"
        )
        raise UserError(f"{pointer} names {name[:40]!r}, which is not there or not complete; {advice}")
    return folder


def steps_of(folder: Path) -> int:
    """The number in the name of a checkpoint folder; 0 if it has another name."""
    name = NAME.fullmatch(folder.name)
    return int(name[1]) if name else 0


def _newest(checkpoints: Path, besides: Path | None = None) -> Path | None:
    """The folder with the most steps that is whole."""
    found = checkpoints.glob(f"{PREFIX}*") if checkpoints.is_dir() else ()
    named = [folder for folder in found if NAME.fullmatch(folder.name) and folder != besides]
    newest_first = sorted(named, key=lambda folder: (steps_of(folder), folder), reverse=True)
    return next((folder for folder in newest_first if _is_whole(folder)), None)


def _is_whole(folder: Path) -> bool:
    """Whether the files are there, none is cut off, and they are what was written, as far as checksums tell."""
    try:
        if state_file.damaged_file(folder, _state(folder)) is not None:
            return False
        for name in (MODEL, AVERAGE):
            if name == MODEL or (folder / name).exists():
                with utf8_path(folder / name) as path, safe_open(path, framework="np"):
                    pass
        return zipfile.is_zipfile(folder / OPTIMIZER) or (folder / OPTIMIZER_SHARDS / ".metadata").is_file()
    except Exception:  # safetensors' own error class, OSError, ValueError
        return False


def check_contents(file: Path) -> None:
    """Compare a file of a checkpoint folder with its checksum. Where there is none, nothing is said.

    Raises:
        UserError: it has other contents than were written.
    """
    if not _matches(file) and not _matches(file):  # the second time: a run was replacing its best weights
        raise UserError(f"{file} cannot be read: it was {DAMAGED}{instead_of(file.parent)}")


def _matches(file: Path) -> bool:
    try:
        expected = _state(file.parent).checksums.get(file.name)
    except (OSError, ValueError):  # weights alone, copied from their checkpoint, are whole
        return True
    return expected is None or state_file.checksum(file) == expected


def instead_of(damaged: Path) -> str:
    """``; … is whole: to resume from it, …`` for a checkpoint folder that is damaged; empty if it lies in no run."""
    checkpoints = damaged.parent
    if checkpoints.name != FOLDER or not NAME.fullmatch(damaged.name):
        return ""
    whole, pointer = _newest(checkpoints, besides=damaged), checkpoints / LAST
    if whole is None:
        return "; no other checkpoint of this run is whole"
    if not pointer.is_file() or pointer.read_text(errors="replace").strip() != damaged.name:
        return f"; {whole} is whole"
    return (
        f"; {whole} is whole: to resume from it, move {damaged.name} elsewhere, delete {pointer}, and repeat the "
        f"command"
    )


def resolve_checkpoint(path: str | Path) -> Path:
    """The checkpoint folder for a run folder, its checkpoints folder, ``last`` or a checkpoint folder.

    Raises:
        UserError: the path is none of these.
    """
    path = Path(path)
    if path.name == LAST and path.is_file():
        path = path.parent.parent
    elif path.name == FOLDER and path.is_dir():
        path = path.parent
    if (path / MODEL).is_file():
        return path
    found = last_checkpoint(path)
    if found is None:
        what = "has no checkpoint in it" if path.exists() else "does not exist"
        raise UserError(f"{path} {what}; give a run folder, or one of its checkpoints/{PREFIX}… folders")
    return found


def resolve_weights(path: str | Path) -> Path:
    """The checkpoint folder whose weights a path stands for: of a fine-tuned run its best, otherwise the newest.

    Raises:
        UserError: as :func:`resolve_checkpoint`.
    """
    path = Path(path)
    run = path.parent if path.name == FOLDER else path
    best = run / FOLDER / BEST
    return best if (best / MODEL).is_file() and (best / STATE).is_file() else resolve_checkpoint(path)
