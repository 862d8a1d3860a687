"""Whatever a user points at: opened without running what it holds, or one clear line."""

import argparse
import os
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import fcmae
from tests.fcmae.weights.conftest import same


@pytest.mark.parametrize("name", ["a.pt", "a.pth", "a.bin", "a.safetensors", "without_ending"])
def test_files_of_every_kind(state: dict[str, Tensor], tmp_path: Path, name: str) -> None:
    if name.endswith("safetensors"):
        save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / name)
    else:
        torch.save(state, tmp_path / name)
    assert same(fcmae.convert_to_dense(tmp_path / name), state)
    assert same(fcmae.convert_to_dense(str(tmp_path / name)), state)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_folders_of_transformers_and_timm(state: dict[str, Tensor], tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    if name.endswith("bin"):
        torch.save(state, tmp_path / name)
    else:
        save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / name)
    assert same(fcmae.convert_to_dense(tmp_path), state)


def test_an_official_checkpoint_with_its_namespace(
    state: dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The argparse namespace is allowed by name; what has no place is listed."""
    args = argparse.Namespace(model="convnextv2_atto", lr=1.5e-4, betas=(0.9, 0.95), output=None)
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3}]}
    found = {"model": OrderedDict(state), "optimizer": optimizer, "epoch": 3, "scaler": {}, "args": args}
    torch.save(found, tmp_path / "checkpoint-3.pth")
    with caplog.at_level("INFO"):
        assert same(fcmae.convert_to_dense(tmp_path / "checkpoint-3.pth"), state)
    assert "no place for optimizer, epoch, scaler, args" in caplog.text
    assert "CC BY-NC 4.0" in caplog.text


class Malicious:
    """Would make a folder when unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


def test_a_pickle_that_would_run_code_is_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"model": state, "args": Malicious(tmp_path / "made")}, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=r"bad\.pth holds more than tensors .*mkdir.*--allow_pickle"):
        fcmae.convert_to_dense(tmp_path / "bad.pth")
    assert not (tmp_path / "made").exists()
    assert same(fcmae.convert_to_dense(tmp_path / "bad.pth", allow_pickle=True), state)
    assert (tmp_path / "made").is_dir()


def test_a_whole_module_needs_the_flag_too(tmp_path: Path) -> None:
    model = fcmae.create_model("convnextv2_atto", decoder_dim=1)
    torch.save(model.encoder, tmp_path / "module.pt")
    with pytest.raises(ValueError, match=r"allow_pickle=True"):
        fcmae.convert_to_dense(tmp_path / "module.pt")
    assert fcmae.convert_to_dense(tmp_path / "module.pt", allow_pickle=True).keys() == model.encoder.state_dict().keys()


def test_damaged_files(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "whole.pth")
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "whole.safetensors")
    for name in ("whole.pth", "whole.safetensors"):
        data = (tmp_path / name).read_bytes()
        for length in (3, 200, len(data) // 2, len(data) - 10):
            cut = tmp_path / f"cut.{name.split('.')[1]}"
            cut.write_bytes(data[:length])
            with pytest.raises(ValueError, match=r"cut\.\w+ cannot be read") as error:
                fcmae.convert_to_dense(cut)
            assert "\n" not in str(error.value)
        (tmp_path / f"empty_{name}").write_bytes(b"")
        with pytest.raises(ValueError, match=r"empty_whole\.\w+ is empty"):
            fcmae.convert_to_dense(tmp_path / f"empty_{name}")
    (tmp_path / "text.pth").write_text("<html>404 Not Found</html>")
    with pytest.raises(ValueError, match=r"text\.pth cannot be read"):
        fcmae.convert_to_dense(tmp_path / "text.pth")


def test_files_that_hold_something_else(state: dict[str, Tensor], tmp_path: Path) -> None:
    def saved(found: object) -> Path:
        torch.save(found, tmp_path / "x.pth")
        return tmp_path / "x.pth"

    for found, message in (
        ({"conv1.weight": torch.zeros(64, 3, 7, 7)}, "holds no ConvNeXt encoder .* but conv1.weight"),
        ({}, "holds no ConvNeXt encoder .* but nothing"),
        ([1, 2], "holds list, not a state dict"),
        ({"epoch": 3}, "not tensors: epoch"),
        ({"model": {"a": "b"}}, "not tensors: a"),
        (
            {**{f"teacher.{k}": v for k, v in state.items()}, **{f"student.{k}": v for k, v in state.items()}},
            r"more than one network: student\.… \(official\) and teacher\.…",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            fcmae.convert_to_dense(saved(found))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_named(state: dict[str, Tensor], value: float) -> None:
    broken = {name: tensor.clone() for name, tensor in state.items()}
    broken["stages.2.3.pwconv1.weight"][7, 3] = value
    with pytest.raises(ValueError, match=r"stages\.2\.3\.pwconv1\.weight is not finite"):
        fcmae.convert_to_dense(broken)


def test_two_keys_of_one_meaning(state: dict[str, Tensor]) -> None:
    twice = state | {"stages.0.0.grn.weight": state["stages.0.0.grn.gamma"]}
    with pytest.raises(ValueError, match=r"stages\.0\.0\.grn\.weight duplicates stages\.0\.0\.grn\.gamma"):
        fcmae.convert_to_dense(twice)


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "none.pth", r"none\.pth does not exist"),
        (tmp_path / "none", "does not exist"),
        (tmp_path, "has no checkpoint in it"),
    ):
        with pytest.raises(ValueError, match=message):
            fcmae.convert_to_dense(path)


def test_what_a_name_ends_in_is_not_believed(state: dict[str, Tensor], tmp_path: Path) -> None:
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "a.pth")
    torch.save(state, tmp_path / "a.safetensors")
    for name in ("a.pth", "a.safetensors"):
        assert same(fcmae.convert_to_dense(tmp_path / name), state)


def test_averaged_weights_alone_are_taken(state: dict[str, Tensor], caplog: pytest.LogCaptureFixture) -> None:
    assert same(fcmae.convert_to_dense({"model_ema": state}), state)
    with caplog.at_level("INFO"):
        assert same(fcmae.convert_to_dense({"model_ema": {}, "model": state}), state)
    assert "no place for model_ema" in caplog.text


def test_a_header_that_is_damaged(state: dict[str, Tensor], tmp_path: Path) -> None:
    tensors = {k: v.contiguous() for k, v in state.items()}
    for header in ("{", "[1]", '{"name": "resnet"}', '{"nonsense": 1}'):
        save_file(tensors, tmp_path / "a.safetensors", metadata={"fcmae_model": header})
        with pytest.raises(ValueError, match=r"cannot be read|configuration is not understood"):
            fcmae.convert_to_dense(tmp_path / "a.safetensors")


def test_other_things_than_paths_and_state_dicts(state: dict[str, Tensor]) -> None:
    assert fcmae.convert_to_dense(fcmae.create_model("convnextv2_atto", decoder_dim=1)).keys()
    with pytest.raises(ValueError, match="a path or a state dict, got NoneType"):
        fcmae.convert_to_dense(None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"norm.weight is \[\], expected \[40\]"):
        fcmae.convert_to_dense(state | {"stages.0.0.norm.weight": torch.tensor(1.0)})
    with pytest.raises(ValueError, match="expected floating-point numbers"):
        fcmae.convert_to_dense(state | {"stages.0.0.norm.weight": torch.ones(40, dtype=torch.int64)})
