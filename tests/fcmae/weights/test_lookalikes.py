"""Files that are given as weights and are something else: named by their first bytes, before torch is imported."""

import gzip
import io
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from fcmae.errors import UserError
from fcmae.weights.lookalikes import lookalike
from fcmae.weights.place import check_weights


def image(format: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, format)
    return buffer.getvalue()


def archive(kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "tar":
        with tarfile.open(fileobj=buffer, mode="w") as opened:
            opened.addfile(tarfile.TarInfo("a/0.png"))
    elif kind == "zip":
        with zipfile.ZipFile(buffer, "w") as zipped:
            zipped.writestr("a/0.png", "")
    else:
        np.savez(buffer, a=np.zeros(2))
    return buffer.getvalue()


LOOKALIKES = {
    "notes.txt": (b"learning rate 1e-3\n", "a text file, neither a torch nor a safetensors file"),
    "umlauts.txt": (("ä" * 300).encode()[:511], "a text file, neither"),
    "config.yaml": (b"model:\n  name: a\n", "a YAML file, neither"),
    "config.json": (b'{"a": 1}', "a JSON file, neither"),
    "files.csv": (b"path,label\na.png,1\n", "a CSV file, neither"),
    "train.py": (b"import torch\n", "a Python file, neither"),
    "a.png": (image("PNG"), "an image, not weights"),
    "a.jpg": (image("JPEG"), "an image, not weights"),
    "a.pth": (image("TIFF"), "an image, not weights"),
    "a.webp": (image("WEBP"), "an image, not weights"),
    "a.gif": (image("GIF"), "an image, not weights"),
    "a.bmp": (image("BMP"), "an image, not weights"),
    "a.heic": (b"\0\0\0\x18ftypheic" + bytes(40), "an image, not weights"),
    "a.mp4": (b"\0\0\0\x20ftypisom" + bytes(40), "a video, not weights"),
    "a.tar": (archive("tar"), "a tar archive, which is not unpacked here"),
    "a.tar.gz": (gzip.compress(archive("tar")), "a compressed file, which is not unpacked here"),
    "a.zip": (archive("zip"), "a zip archive without torch's data"),
    "a.npz": (archive("npz"), "a zip archive without torch's data (NumPy arrays, .npz)"),
    "a.7z": (b"7z\xbc\xaf\x27\x1c" + bytes(40), "an archive, which is not unpacked here"),
    "a.onnx": (b"\x08\x08\x12\x07pytorch\x1a\x05", "an ONNX file, which is not read"),
    "a.pdf": (b"%PDF-1.7\n%\xe2\xe3", "a PDF file, not weights"),
    "a.parquet": (b"PAR1\x15\x04" + bytes(40), "a table (Parquet or Arrow), not weights"),
}  # fmt: skip


@pytest.mark.parametrize("name", LOOKALIKES)
def test_what_it_is_and_what_is_accepted(tmp_path: Path, name: str) -> None:
    data, what = LOOKALIKES[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError) as error:
        check_weights(tmp_path / name)
    message = str(error.value)
    assert message.startswith(f"{tmp_path / name} cannot be read: it is {what}")
    assert message.endswith(
        "; weights are a run folder, one of its checkpoints/step-… folders, or a .safetensors, .pt, .pth, .bin or "
        ".ckpt file"
    )


def test_weights_are_none_of_these(tmp_path: Path) -> None:
    """Also damaged ones, of which torch's and safetensors' readers say more."""
    state = {"stages.0.blocks.0.conv_dw.weight": torch.randn(4, 1, 7, 7)}
    torch.save(state, tmp_path / "zip.pth")
    torch.save(state, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "a.safetensors", metadata={"format": "pt"})
    (tmp_path / "pickle.pkl").write_bytes(pickle.dumps({"a": np.zeros(3)}))
    (tmp_path / "header.safetensors").write_bytes(struct.pack("<Q", 10**9) + b"{")
    for number, whole in enumerate((tmp_path / "zip.pth", tmp_path / "a.safetensors")):
        for length in (3, 12, 100):
            (tmp_path / f"cut-{number}-{length}").write_bytes(whole.read_bytes()[:length])
    for file in tmp_path.iterdir():
        assert lookalike(file) is None, file


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    (tmp_path / "models").mkdir()
    torch.save({}, tmp_path / "models" / "mine.pth")
    for path, what in (
        ("", "the path of the weights is empty; give a run folder"),
        (tmp_path / "nowhere", "nowhere does not exist; give a run folder"),
        (tmp_path / "link", "link is a broken link; give"),
        (tmp_path / "models", r"models holds 1 weights file, none of a known name; give one, such as .*mine\.pth"),
        (tmp_path, "has no checkpoint in it"),
    ):
        with pytest.raises(UserError, match=what):
            check_weights(path)
    torch.save({"a": torch.zeros(1)}, tmp_path / "models" / "model.pth")
    monkeypatch.chdir(tmp_path / "models")
    check_weights(".")
