"""oneDNN computes float32 products where it is exact, and only there."""

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from fcmae.cli import matmul
from fcmae.cli.devices import choose_device
from fcmae.cli.matmul import use_exact_onednn
from fcmae.config import PretrainConfig
from fcmae.training.accelerator import make_accelerator

CODE = """
import torch
from fcmae.cli.devices import choose_device as of
torch.accelerator.is_available = lambda: False
of("cpu")
print("chosen", flush=True)
torch.rand(50, 60) @ torch.rand(60, 70)
"""


@pytest.fixture(autouse=True)
def _as_a_process_begins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """On a processor of AMD without a GPU, with PyTorch's own setting, which later tests find again."""
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    name = tmp_path / "cpuinfo"
    name.write_text("vendor_id\t: AuthenticAMD\n")
    monkeypatch.setattr(matmul, "CPUINFO", name)
    setting = torch.backends.mkldnn.matmul.fp32_precision
    begin()
    yield
    begin()
    if setting != "none":
        torch.set_float32_matmul_precision("medium" if setting == "bf16" else "highest")


def processor() -> str:
    return matmul.CPUINFO.read_text() if matmul.CPUINFO.is_file() else ""


def begin() -> None:
    torch.set_float32_matmul_precision("highest")
    torch.backends.mkldnn.matmul.fp32_precision = "none"


def run(code: str) -> str:
    """What oneDNN and the code say."""
    env = os.environ | {"ONEDNN_VERBOSE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120, env=env
    )
    return done.stdout.partition("chosen")[2]


def error_of(product: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], *shape: int) -> float:
    left, right = torch.rand(*shape[:-1]) - 0.5, torch.rand(*shape[:-3], *shape[-2:]) - 0.5
    expected = product(left.double(), right.double())
    return float((product(left, right).double() - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("shape", [(2048, 160, 640), (40, 8192, 160), (33, 7, 5), (4, 128, 40, 160)])
def test_products_stay_float32(shape: tuple[int, ...]) -> None:
    """Whatever the processor: of the shapes of a network and of odd ones, plain, batched and into a sum."""
    use_exact_onednn()
    assert error_of(torch.matmul, *shape) < 2e-6
    bias = torch.ones(shape[-1])
    assert error_of(lambda left, right: (left @ right).add_(bias), *shape) < 2e-6
    if len(shape) == 3:
        assert error_of(lambda left, right: torch.addmm(bias.to(left), left, right), *shape) < 2e-6


# Why a skip: other processors have nothing to compute with. What is decided is tested below on any, made up.
CAN = torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported() and matmul.VENDOR in processor()


@pytest.mark.skipif(not CAN, reason="needs a processor of AMD with AVX-512")
def test_onednn_computes_where_it_can() -> None:
    assert ",matmul," in run(CODE)


@pytest.mark.parametrize(
    ("error", "setting"), [(0.0, "medium"), (1e-6, "medium"), (1e-3, "highest"), (math.nan, "highest")]
)
def test_the_error_decides(error: float, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "_relative_error", lambda: error)
    use_exact_onednn()
    assert torch.get_float32_matmul_precision() == setting


@pytest.mark.parametrize("device", ["auto", "cpu"])
@pytest.mark.parametrize("of", [make_accelerator, lambda config: choose_device(config.device)])
def test_training_and_other_commands_do_it(
    of: Callable[[PretrainConfig], object], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matmul, "_relative_error", lambda: 0.0)
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda check_available: None)
    of(PretrainConfig(device=device))
    assert torch.get_float32_matmul_precision() == "medium"


def test_a_processor_that_rounds_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one with AMX: its products are those of bfloat16."""
    product = torch.Tensor.__matmul__

    def rounded(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        is_asked = torch.get_float32_matmul_precision() == "medium" and left.dtype == torch.float32
        return product(*(one.bfloat16().float() for one in (left, right))) if is_asked else product(left, right)

    monkeypatch.setattr(torch.Tensor, "__matmul__", rounded)
    use_exact_onednn()
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("said", ["vendor_id\t: GenuineIntel\n", None])
def test_processors_of_others_are_left_alone(said: str | None) -> None:
    """MKL was made for Intel's."""
    if said is None:
        matmul.CPUINFO.unlink()
    else:
        matmul.CPUINFO.write_text(said)
    use_exact_onednn()
    assert torch.get_float32_matmul_precision() == "highest"


def test_where_there_is_a_gpu_its_setting_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    use_exact_onednn()
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_the_users_setting_stays(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "_relative_error", lambda: 0.0)
    torch.set_float32_matmul_precision(precision)
    use_exact_onednn()
    assert torch.get_float32_matmul_precision() == precision


def test_the_users_setting_of_one_backend_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "_relative_error", lambda: 0.0)
    torch.backends.mkldnn.matmul.fp32_precision = "ieee"
    use_exact_onednn()
    assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"


def test_the_state_of_the_random_numbers_stays() -> None:
    before = torch.get_rng_state()
    use_exact_onednn()
    assert torch.equal(torch.get_rng_state(), before)
