"""Backends by name: what auto is, what one that is missing says, and what it does not define."""

import pickle
import sys
from types import ModuleType

import pytest
import torch

from fcmae.sparse import BackendError, resolve_backend
from fcmae.sparse.backends import numba, pytorch


def test_auto_is_the_fastest_on_the_device() -> None:
    assert resolve_backend("auto", "cpu").name == "numba"
    assert resolve_backend("auto", "cuda").name == "torch"
    assert resolve_backend("auto", "meta").name == "torch"


def test_what_a_backend_does_not_define_is_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Numba's operations, and of a backend of one operation."""
    assert resolve_backend("numba").mlp is numba.mlp
    assert resolve_backend("numba").layer_norm is pytorch.layer_norm
    module = ModuleType("toy_backend")
    module.downsample = lambda *_: "toy"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fcmae.sparse.backends.triton", module)
    toy = resolve_backend("triton")
    assert toy.downsample() == "toy"  # type: ignore[call-arg]
    assert toy.depthwise_conv is pytorch.depthwise_conv
    assert toy.missing_on(torch.device("cuda")) is None


def test_a_backend_can_be_pickled() -> None:
    """A network holds one, and is copied and saved with it."""
    assert pickle.loads(pickle.dumps(resolve_backend("numba"))) == resolve_backend("numba")


def test_one_that_is_not_for_the_device_is_refused() -> None:
    with pytest.raises(BackendError, match="backend 'numba' needs a CPU, but the network is on cuda"):
        resolve_backend("numba", "cuda")


def test_names_that_are_none() -> None:
    with pytest.raises(BackendError, match="backend must be one of auto, torch, numba, triton, minkowski, got 'cuda'"):
        resolve_backend("cuda")


@pytest.mark.parametrize(
    ("name", "needs", "module", "command"),
    [
        ("minkowski", "MinkowskiEngine", "fcmae.sparse.backends.minkowski", "make minkowski"),
        ("triton", "triton", "fcmae.sparse.backends.triton", "pip install triton"),
        ("numba", "numba", "fcmae.sparse.backends.numba", "pip install numba"),
    ],
)
def test_a_missing_backend_says_how_to_install_it(
    name: str, needs: str, module: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, needs, None)
    for loaded in [m for m in sys.modules if m == module or m.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, loaded)
    with pytest.raises(BackendError, match=rf"backend '{name}' needs {needs}.* {command}"):
        resolve_backend(name)
