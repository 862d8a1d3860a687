"""Shards, half precision, wrappers, and files that are no weights."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import fcmae
from fcmae.errors import UserError


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return fcmae.convert_to_dense(fcmae.create_model("convnextv2_atto", decoder_dim=1).encoder.state_dict())


def same(got: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return got.keys() == wanted.keys() and all(torch.equal(got[name], wanted[name]) for name in wanted)


def in_shards(state: dict[str, Tensor], folder: Path, ending: str) -> Path:
    """Three shards and their index; every third tensor is in the same one."""
    stem = "model" if ending == "safetensors" else "pytorch_model"
    places = {name: f"{stem}-{n % 3 + 1:05d}-of-00003.{ending}" for n, name in enumerate(state)}
    for file in set(places.values()):
        part = {name: state[name] for name, place in places.items() if place == file}
        (save_file if ending == "safetensors" else torch.save)(part, folder / file)
    index = folder / f"{stem}.{ending}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return index


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_shards(state: dict[str, Tensor], tmp_path: Path, ending: str) -> None:
    index = in_shards(state, tmp_path, ending)
    for source in (tmp_path, index):
        assert same(fcmae.convert_to_dense(source), state)
    shard = next(iter(sorted(tmp_path.glob("*00001*"))))
    with pytest.raises(UserError, match=r"00001-of-00003\.\w+ is one of several files; give .*index\.json"):
        fcmae.convert_to_dense(shard)
    shard.unlink()
    with pytest.raises(UserError, match=r"00001-of-00003\.\w+ is missing, which \w+\.\w+\.index\.json names"):
        fcmae.convert_to_dense(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": "../secret.bin"}}'])
def test_an_index_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(UserError, match=r"index\.json (cannot be read|names '../secret\.bin', which is not a file of)"):
        fcmae.convert_to_dense(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_other_precisions_become_float32_in_a_network(
    state: dict[str, Tensor], tmp_path: Path, dtype: torch.dtype
) -> None:
    """The values are those of the file, in the type that the network has."""
    given = {name: tensor.to(dtype) for name, tensor in state.items()}
    torch.save(given, tmp_path / "a.pth")
    save_file(given, tmp_path / "a.safetensors")
    for name in ("a.pth", "a.safetensors"):
        dense = fcmae.create_dense(tmp_path / name)
        sparse = fcmae.load_encoder(fcmae.create_model("convnextv2_atto", decoder_dim=1), tmp_path / name)
        for network in (dense, sparse.encoder):
            weight = network.stages[2].blocks[3].mlp.fc1.weight
            assert weight.dtype == torch.float32
            assert torch.equal(weight.flatten(), given["stages.2.blocks.3.mlp.fc1.weight"].float().flatten())
    whole = fcmae.create_model("convnextv2_atto", decoder_dim=1)
    loaded = fcmae.load_model({name: tensor.to(dtype) for name, tensor in whole.state_dict().items()})
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_numbers_that_are_none_are_counted(state: dict[str, Tensor], value: float, dtype: torch.dtype) -> None:
    broken = {name: tensor.to(dtype, copy=True) for name, tensor in state.items()}
    broken["stages.1.blocks.1.norm.weight"][[3, 70]] = value
    what = "NaN" if value != value else "infinite"
    with pytest.raises(UserError, match=rf"stages\.1\.blocks\.1\.norm\.weight is not finite \(2 {what} of 80 values\)"):
        fcmae.convert_to_dense(broken)


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda name: f"module.{name}",
        lambda name: f"_orig_mod.{name}",
        lambda name: f"model.{name}",
        lambda name: f"model.module._orig_mod.{name}",
        lambda name: f"net.encoder._orig_mod.{name}",
        lambda name: f"_fsdp_wrapped_module.{name}".replace("blocks.1.", "blocks.1._fsdp_wrapped_module."),
        lambda name: name.replace("blocks.0.", "blocks.0._checkpoint_wrapped_module."),
        lambda name: name.replace("stages.2.", "stages.2._orig_mod."),
    ],
)
def test_wrappers_around_the_network_and_its_parts(state: dict[str, Tensor], wrapped) -> None:  # type: ignore[no-untyped-def]
    """DDP, torch.compile, Lightning, FSDP, activation checkpointing: each puts a name of its own between ours."""
    assert same(
        fcmae.convert_to_dense({"state_dict": {wrapped(name): tensor for name, tensor in state.items()}}), state
    )


def test_a_lightning_checkpoint(state: dict[str, Tensor], tmp_path: Path) -> None:
    found = {
        "epoch": 3, "global_step": 9, "pytorch-lightning_version": "2.5.0", "loops": {"fit_loop": {"state_dict": {}}},
        "state_dict": {f"model.{name}": tensor for name, tensor in state.items()}, "callbacks": {}, "lr_schedulers": [],
        "optimizer_states": [{"state": {}}], "hyper_parameters": {"data": Path("images")},
    }  # fmt: skip
    torch.save(found, tmp_path / "last.ckpt")
    assert same(fcmae.convert_to_dense(tmp_path / "last.ckpt"), state)


@pytest.mark.parametrize("zipped", [True, False])
def test_both_formats_of_torch(state: dict[str, Tensor], tmp_path: Path, zipped: bool) -> None:
    torch.save({"model": state, "out": Path("a")}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    assert same(fcmae.convert_to_dense(tmp_path / "a.pth"), state)


def test_files_that_are_no_weights_are_one_line(tmp_path: Path) -> None:
    files = {
        "lfs.pth": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "a Git LFS pointer"),
        "lfs.safetensors": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a Git LFS pointer"),
        "page.pth": (b"<!DOCTYPE html><html>Sign in</html>", "a web page"),
        "page.safetensors": (b"\n<html>Not found</html>", "a web page"),
        "keras.h5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file"),
        "llama.gguf": (b"GGUF" + bytes(99), "a GGUF file"),
        "photo.pth": (b"\x89PNG\r\n\x1a\n" + bytes(99), "an image"),
        "notes.txt": (b"learning rate 1e-3", "neither a torch nor a safetensors file"),
        "config.yaml": (b"model:\n  name: a\n", "neither a torch nor a safetensors file"),
        "noise.bin": (np.random.default_rng(0).bytes(999), "cannot be read"),
        "zeros.pth": (bytes(999), "cannot be read"),
    }
    for name, (data, what) in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError) as error:
            fcmae.convert_to_dense(tmp_path / name)
        assert name in str(error.value)
        assert what in str(error.value)
        assert "\n" not in str(error.value)
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(UserError, match=r"array\.npy cannot be read: it is a NumPy array"):
        fcmae.convert_to_dense(tmp_path / "array.npy")
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("a/b.txt", "text")
    with pytest.raises(UserError, match=r"images\.zip cannot be read: it is a zip archive without torch's data"):
        fcmae.convert_to_dense(tmp_path / "images.zip")
