"""Backends by name: what auto is, what one that is missing says, and what it does not define."""

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest
import torch

from fcmae.sparse.backends import numba, pytorch, registry
from fcmae.sparse.backends.names import SparseBackendName
from fcmae.sparse.backends.registry import BackendError, resolve_backend
from fcmae.sparse.backends.triton import requirements


def test_auto_is_the_fastest_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "_missing_on_gpu", lambda _: None)  # whatever there is here
    assert resolve_backend("auto", "cpu").name == "numba"
    assert resolve_backend("auto", "cuda").name == "triton"
    assert resolve_backend("auto", "meta").name == "torch"


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What is said once in a process is said again here."""
    for once in (registry._warn_once, requirements._missing_on_gpu):
        once.cache_clear()
    yield caplog
    for once in (registry._warn_once, requirements._missing_on_gpu):
        once.cache_clear()


GCC = "a C compiler, gcc or clang (Debian: apt-get install gcc"


@pytest.mark.parametrize(
    ("there", "compiler", "header", "needs"),
    [
        ((), None, True, GCC),
        (("cc",), None, True, GCC),  # Triton does not look for it
        (("clang",), None, True, None),
        (("gcc",), "icx", True, "the variable CC names icx, which is not there"),
        ((), "gcc-12", True, "the variable CC names gcc-12, which is not there"),
        (("gcc-12",), "gcc-12", True, None),
        (("gcc",), None, False, "Python's C headers (Debian: apt-get install python3-dev)"),
    ],
)
def test_a_gpu_without_a_compiler_for_triton_has_torch_and_one_line_says_what_to_install(
    there: tuple[str, ...], compiler: str | None, header: bool, needs: str | None,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, warned: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}" if name in there else None)
    monkeypatch.delenv("CC", raising=False)
    if compiler is not None:
        monkeypatch.setenv("CC", compiler)
    if header:
        (tmp_path / "Python.h").touch()
    monkeypatch.setattr("sysconfig.get_paths", lambda _: {"include": str(tmp_path)})
    for _ in range(2):
        assert resolve_backend("auto", "cuda").name == ("triton" if needs is None else "torch")
    assert len(warned.messages) == (0 if needs is None else 1)
    if needs is not None:
        assert needs in warned.messages[0]
        with pytest.raises(BackendError) as error:
            resolve_backend("triton", "cuda")
        assert needs in str(error.value)


def test_a_gpu_without_triton_has_torch(monkeypatch: pytest.MonkeyPatch, warned: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "fcmae.sparse.backends.triton", None)
    assert resolve_backend("auto", "cuda").name == "torch"
    assert len(warned.messages) == 1
    assert "pip install triton" in warned.messages[0]


def test_an_old_gpu_has_torch(monkeypatch: pytest.MonkeyPatch, warned: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda _: (6, 1))
    assert resolve_backend("auto", "cuda").name == "torch"
    assert "needs a GPU of compute capability 7.0 or newer" in warned.messages[0]


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
    known = ", ".join(get_args(SparseBackendName))
    assert known.startswith("auto, torch, numba, triton, minkowski")
    with pytest.raises(BackendError, match=f"backend must be one of {known}, got 'cuda'"):
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
