"""Where converted weights may be written. Without torch, so that a wrong place is refused before weights are read."""

from pathlib import Path

from fcmae.errors import UserError
from fcmae.runs.find import FOLDER, MODEL, OPTIMIZER, STATE

FILES = (".safetensors", ".pt", ".pth", ".bin")
# Endings of files that are not written here; a folder of such a name would surprise
OTHER_FILES = frozenset({
    ".onnx", ".ort", ".ckpt", ".h5", ".hdf5", ".keras", ".tflite", ".pb", ".engine", ".trt", ".plan", ".torchscript",
    ".ptl", ".mlmodel", ".mlpackage", ".npz", ".npy", ".msgpack", ".gguf", ".pkl", ".pickle", ".zip", ".tar", ".gz",
    ".tgz", ".json", ".yaml", ".yml", ".txt", ".md", ".py",
})  # fmt: skip


def check_destination(given: str | Path, overwrite: bool = False) -> None:
    """UserError if weights must not be written there: a run, a file of another kind, or something that is there."""
    if given == "":
        raise UserError(f"DST is empty; give a folder, or a name that ends in {' '.join(FILES)}")
    dst = Path(given)
    inside = dst.parent if dst.name in (MODEL, OPTIMIZER, STATE) else dst  # a file of a checkpoint, or a folder
    if (inside / STATE).exists() or (dst / FOLDER).exists():
        raise UserError(f"{inside} holds a run or a checkpoint, which would be lost; give another DST")
    suffix = dst.suffix.lower()
    if suffix in OTHER_FILES and not dst.is_dir():
        raise UserError(
            f"{dst}: {suffix} files are not written; give a folder, or a name that ends in {' '.join(FILES)}"
        )
    if dst.exists() and not overwrite and not (dst.is_dir() and not any(dst.iterdir())):
        raise UserError(f"{dst} exists; give another DST, or --overwrite")
    if suffix in FILES and dst.is_dir():
        raise UserError(f"{dst} is a folder; a name that ends in {dst.suffix} means a file")
    if suffix not in FILES and dst.is_file():
        raise UserError(f"{dst} is a file; give a folder, or a name that ends in {' '.join(FILES)}")
