"""Files that are taken for weights but are something else, by their first bytes. Without torch."""

import re
import zipfile
from pathlib import Path

from fcmae.data.sources.first_bytes import ending_for

LENGTH = 512  # bytes that are looked at
TORCH = (b"PK", b"\x80")  # how zip archives and pickles begin

STARTS = (
    (rb"version https://git-lfs", "a Git LFS pointer, not the file itself; fetch it with git lfs pull"),
    (rb"\s*<(!doctype|html)", "a web page, not weights; download the file itself"),
    (rb"\s*<\?xml", "an XML file, not weights; download the file itself"),
)
OTHERS = (
    (rb"\x93NUMPY", "a NumPy array, not weights"),
    (rb"\x89HDF", "an HDF5 file; weights of TensorFlow and Keras are not read"),
    (rb"GGUF", "a GGUF file, which is not read"),
    (rb"\x08.{0,16}(onnx|pytorch)", "an ONNX file, which is not read"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd", "a compressed file, which is not unpacked here"),
    (rb"7z\xbc\xaf|Rar!", "an archive, which is not unpacked here"),
    (rb"%PDF", "a PDF file, not weights"),
    (rb"PAR1|ARROW1", "a table (Parquet or Arrow), not weights"),
    (rb"SQLite format 3", "a database, not weights"),
)
TAR = (257, b"ustar")
TORCH_TAR = re.compile(rb"(sys_info|pickle|storages|tensors)\0")  # torch before 0.1.10
TEXTS = {
    ".yaml": "a YAML file", ".yml": "a YAML file", ".json": "a JSON file", ".jsonl": "a JSON file",
    ".csv": "a CSV file", ".tsv": "a TSV file", ".py": "a Python file", ".toml": "a TOML file",
}  # fmt: skip
ACCEPTED = "a run folder, one of its checkpoints/step-… folders, or a .safetensors, .pt, .pth, .bin or .ckpt file"


def lookalike(file: Path) -> str | None:
    """What a file is that holds no weights, and what is accepted; None if it may hold some."""
    with file.open("rb") as opened:
        start = opened.read(LENGTH)
    if start[8:9] == b"{":  # safetensors: a length, then JSON
        return None
    if (what := _beginning(start, STARTS)) is not None:
        return what
    what = _beginning(start, OTHERS) or _image(start) or _archive(file, start) or _text(file, start)
    return None if what is None else f"{what}; weights are {ACCEPTED}"


def _beginning(start: bytes, known: tuple[tuple[bytes, str], ...]) -> str | None:
    return next((what for pattern, what in known if re.match(pattern, start, re.IGNORECASE | re.DOTALL)), None)


def _image(start: bytes) -> str | None:
    if ending_for(start) is not None:
        return "an image, not weights"
    return "a video, not weights" if start[4:8] == b"ftyp" else None


def _archive(file: Path, start: bytes) -> str | None:
    if start[TAR[0] :].startswith(TAR[1]):
        return None if TORCH_TAR.match(start) else "a tar archive, which is not unpacked here"
    if not start.startswith(b"PK"):
        return None
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):  # damaged: torch's reader says more
        return None
    if any(name.endswith("data.pkl") for name in names):
        return None
    if names and all(name.endswith(".npy") for name in names):
        return "a zip archive without torch's data (NumPy arrays, .npz)"
    return "a zip archive without torch's data"


def _text(file: Path, start: bytes) -> str | None:
    """Texts have no NUL and no other control characters; neither pickles nor safetensors are without."""
    if start.startswith(TORCH) or not start or re.search(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]", start):
        return None
    try:
        start.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(start) - 3:  # not the last character, cut off
            return None
    return f"{TEXTS.get(file.suffix.lower(), 'a text file')}, neither a torch nor a safetensors file"
