"""Which file holds the weights that a path names. Without torch, so that wrong paths are refused at once."""

from pathlib import Path

from fcmae.errors import UserError
from fcmae.runs.find import LAST, MODEL, resolve_weights
from fcmae.runs.layout import is_run_folder
from fcmae.weights.lookalikes import ACCEPTED, lookalike
from fcmae.wording import counted

PICKLED, OPENMMLAB = "pytorch_model.bin", "model.pth"
INDEX = ".index.json"
ENDINGS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


def weights_file(path: str | Path) -> Path:
    """The file with the weights of a run folder, a checkpoint folder, a folder of another library, or a file itself.

    Raises:
        UserError: nothing there, or a folder without weights.
    """
    if path == "":
        raise UserError(f"the path of the weights is empty; give {ACCEPTED}")
    path = Path(path)
    if path.is_file() and path.name != LAST:
        return path
    for name in (MODEL, MODEL + INDEX, PICKLED, PICKLED + INDEX, OPENMMLAB):
        if (path / name).is_file():
            return path / name
    if not path.exists():
        raise UserError(f"{path} {'is a broken link' if path.is_symlink() else 'does not exist'}; give {ACCEPTED}")
    if not path.is_dir() and path.name != LAST:
        raise UserError(f"{path} is neither a file nor a folder; give {ACCEPTED}")
    if path.is_dir() and not is_run_folder(path) and (files := _weights_in(path)):
        raise UserError(
            f"{path} holds {counted(len(files), 'weights file')}, none of a known name; give one, such as {files[0]}"
        )
    return resolve_weights(path) / MODEL


def _weights_in(folder: Path) -> list[Path]:
    return sorted(one for one in folder.iterdir() if one.suffix in ENDINGS and one.is_file())


def check_weights(path: str | Path) -> None:
    """UserError if a path names no file or folder of weights, as far as names and first bytes tell."""
    file = weights_file(path)
    if not file.is_file():
        raise UserError(f"{file} does not exist; give {ACCEPTED}")
    if not file.name.endswith(INDEX):
        check_file(file)


def check_file(file: Path) -> None:
    """UserError if a file is empty, or its first bytes show that it holds no weights."""
    if file.stat().st_size == 0:
        raise UserError(f"{file} is empty")
    if (what := lookalike(file)) is not None:
        raise UserError(f"{file} cannot be read: it is {what}")
