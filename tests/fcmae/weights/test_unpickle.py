"""What training scripts save beside their weights is never run, and does not keep the weights from being read."""

import argparse
import pathlib
import pickle
import shlex
import subprocess
import sys
import types
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fcmae
from fcmae.errors import UserError
from fcmae.weights.unpickle import Placeholder, RestrictedPickle, unpickled
from tests.fcmae.weights.conftest import same
from tests.fcmae.weights.foreign import ATTO, MMEarth, as_mmpretrain, as_training_checkpoint


@pytest.fixture
def not_installed(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """Classes of a module that is there while a file is written, and gone while it is read."""

    class HistoryBuffer:
        """As mmengine's: arrays, and functions of its own by name."""

        def __init__(self) -> None:
            self._log_history = np.array([0.5, 0.25])
            self._count_history = np.array([1, 1])
            self._statistics_methods = OrderedDict(min=HistoryBuffer.min)
            self.scalar = np.float64(0.5)

        def min(self) -> float:
            raise AssertionError("nothing of the file runs")

        def __setstate__(self, state: Any) -> None:
            raise AssertionError("nothing of the file runs")

    class ConfigDict(dict):
        """A subclass of dict, of list, and of set are pickled with their items."""

    class Items(list):
        pass

    class Names(set):
        pass

    module = types.ModuleType("mmengine_of_test")
    for kind in (HistoryBuffer, ConfigDict, Items, Names):
        kind.__module__, kind.__qualname__ = module.__name__, kind.__name__
        setattr(module, kind.__name__, kind)
    HistoryBuffer.min.__module__, HistoryBuffer.min.__qualname__ = module.__name__, "HistoryBuffer.min"
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return types.SimpleNamespace(module=module, leave=lambda: monkeypatch.delitem(sys.modules, module.__name__))


@pytest.mark.parametrize("zipped", [True, False])
def test_an_mmengine_runners_file(
    state: dict[str, Tensor],
    tmp_path: Path,
    not_installed: types.SimpleNamespace,
    caplog: pytest.LogCaptureFixture,
    zipped: bool,
) -> None:
    """As its runner saves it: histories of losses and settings of its own classes, none of which is installed."""
    module = not_installed.module
    found = {
        "meta": {"epoch": 3, "iter": 30, "cfg": "model = dict()", "mmengine_version": "0.10.4", "seed": None},
        "state_dict": OrderedDict(as_mmpretrain(state)),
        "message_hub": {
            "log_scalars": OrderedDict({"train/loss": module.HistoryBuffer()}),
            "runtime_info": OrderedDict(cfg=module.ConfigDict(a=1), items=module.Items([1]), names=module.Names({"a"})),
            "resumed_keys": OrderedDict({"train/loss": True}),
        },
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1e-3}]},
        "param_schedulers": [defaultdict(int, last_step=30)],
    }
    torch.save(found, tmp_path / "epoch_3.pth", _use_new_zipfile_serialization=zipped)
    not_installed.leave()
    with caplog.at_level("INFO"):
        assert same(fcmae.convert_to_dense(tmp_path / "epoch_3.pth"), state)
    assert "mmengine_of_test.HistoryBuffer" in caplog.text
    assert "are ignored" in caplog.text
    assert "mmengine_of_test" not in sys.modules
    with pytest.raises(UserError, match="needs the module mmengine_of_test, which is not installed; without --allow_p"):
        fcmae.convert_to_dense(tmp_path / "epoch_3.pth", allow_pickle=True)


@pytest.mark.parametrize("sparse", [True, False])
def test_an_mmearth_checkpoint_as_its_script_saves_it(tmp_path: Path, sparse: bool) -> None:
    """The arguments hold paths, and lists of bands."""
    theirs = MMEarth(*ATTO, in_chans=12, original_stem=True, stride=2).state_dict()
    model = (
        as_training_checkpoint(theirs, of_mmearth=True) if sparse else {f"encoder.{k}": v for k, v in theirs.items()}
    )
    model |= {"mask_token": torch.zeros(1, 512, 1, 1), "proj.weight": torch.zeros(512, 320, 1, 1)}
    model |= {
        "proj.bias": torch.zeros(512),
        "layer_norm_tmp.weight": torch.ones(512),
        "loss_fn.log_vars": torch.ones(3),
    }
    model |= {"decoder_dict.era5.0.norm.weight": torch.ones(512), "pred_dict.era5.bias": torch.zeros(12)}
    args = argparse.Namespace(
        data_dir=pathlib.PurePosixPath("/data/mmearth"),
        processed_dir=pathlib.Path("/data"),
        inp_modalities={"sentinel2": ["B2", "B3"]},
        no_data=np.float64("nan"),
        model="convnextv2_atto",
    )
    found = {"model": OrderedDict(model), "optimizer": {"state": {}}, "epoch": 7, "scaler": {}, "args": args}
    torch.save(found, tmp_path / "checkpoint-7.pth")
    got = fcmae.convert_to_dense(tmp_path / "checkpoint-7.pth")
    wanted = fcmae.convert_to_dense(theirs)
    assert got.keys() == wanted.keys()
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)


class Call:
    """Calls any function when unpickled."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple:
        return self.function, self.args


def ran(folder: Path) -> None:
    """Stands for a function of a library that is installed."""
    folder.mkdir()


def test_a_function_of_a_library_is_not_called(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"model": state, "args": Call(ran, tmp_path / "made")}, tmp_path / "a.pth")
    assert same(fcmae.convert_to_dense(tmp_path / "a.pth"), state)
    assert not (tmp_path / "made").exists()


def test_the_command_that_runs_the_code_can_be_pasted(state: dict[str, Tensor], tmp_path: Path) -> None:
    file = tmp_path / "my weights.pth"
    torch.save({"model": state, "args": Call(open, "x")}, file)
    with pytest.raises(UserError) as refused:
        fcmae.convert_to_dense(file)
    command = str(refused.value).partition("trust it: ")[2].partition(" (in Python")[0]
    program, *arguments = shlex.split(command)[-4:]
    assert program in ("convert", "fcmae.convert")
    assert arguments == [str(file), "NEW.safetensors", "--allow_pickle"]


@pytest.mark.parametrize("function", [eval, exec, __import__, subprocess.getoutput, open, print, sys.setrecursionlimit])
def test_functions_that_no_checkpoint_needs_are_refused(
    state: dict[str, Tensor], tmp_path: Path, function: Any
) -> None:
    torch.save({"model": state, "args": Call(function, f"open({str(tmp_path / 'made')!r}, 'w')")}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=rf"a\.pth holds more than tensors \(.*{function.__name__}\).*--allow_pickle"):
        fcmae.convert_to_dense(tmp_path / "a.pth")
    assert not (tmp_path / "made").exists()


def test_getattr_gives_a_placeholder(state: dict[str, Tensor], tmp_path: Path) -> None:
    """It leads from a harmless class to any function, so it is none here."""
    torch.save({"model": state, "args": Call(getattr, Call(getattr, str, "join"), "__self__")}, tmp_path / "a.pth")
    assert isinstance(unpickled(tmp_path / "a.pth", False)["args"], Placeholder)


@pytest.mark.parametrize("name", ["torch._utils\n_rebuild_tensor_v2", "collections\nOrderedDict"])
def test_a_file_cannot_change_what_rebuilds_tensors(tmp_path: Path, name: str) -> None:
    """BUILD sets attributes of what is on top of the stack: here a wrapper of this file's own."""
    (tmp_path / "a.pth").write_bytes(b"c" + name.encode() + b"\nN}U\x0c__defaults__(I1\nts\x86b.")
    before = torch._utils._rebuild_tensor_v2.__defaults__
    with (tmp_path / "a.pth").open("rb") as opened:
        found = RestrictedPickle().load(opened)
    assert found.__defaults__ == (1,)
    assert torch._utils._rebuild_tensor_v2.__defaults__ == before
    assert not hasattr(OrderedDict, "__defaults__")


def test_weights_that_are_objects_need_the_flag(tmp_path: Path) -> None:
    """A pickled network, alone or as an entry, beside a state dict that is used instead."""
    network: nn.Module = fcmae.create_dense(fcmae.create_model("convnextv2_atto", decoder_dim=1).encoder.state_dict())
    for found in (network, {"model": network}, {"model_ema": network, "epoch": 1}):
        torch.save(found, tmp_path / "a.pth")
        with pytest.raises(UserError, match=r"holds more than tensors \(timm.models.convnext.ConvNeXt\)"):
            fcmae.convert_to_dense(tmp_path / "a.pth")
    torch.save({"model": network.state_dict(), "ema": network}, tmp_path / "a.pth")
    assert torch.equal(fcmae.convert_to_dense(tmp_path / "a.pth")["stem.0.weight"], network.stem[0].weight)


def test_parameters_and_subclasses_of_tensors(state: dict[str, Tensor], tmp_path: Path) -> None:
    found: dict[str, Any] = {name: nn.Parameter(tensor) for name, tensor in state.items()}
    torch.save({"model": found, "args": argparse.Namespace(out=Path("a"))}, tmp_path / "a.pth")
    assert same(fcmae.convert_to_dense(tmp_path / "a.pth"), state)


def test_a_torchscript_program_is_called_that(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"a\.pt is a TorchScript program; save its state_dict"):
        fcmae.convert_to_dense(tmp_path / "a.pt")


def test_a_plain_pickle_is_no_torch_file(state: dict[str, Tensor], tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(pickle.dumps({"a": Path("b")}))
    with pytest.raises(UserError, match=r"a\.pth cannot be read"):
        fcmae.convert_to_dense(tmp_path / "a.pth")
