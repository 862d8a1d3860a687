"""The largest micro-batch. There may be no GPU here, so its memory is a model that counts bytes."""

from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from fcmae.models import FCMAE, create_model
from fcmae.training import fitting
from fcmae.training.fitting import CPU_LIMIT, CUDA_LIMIT, SHARE, images_that_fit, largest_micro_batch

PROBE = 1  # instead of 8: a pass on a CPU takes its time
PER_IMAGE, WORKSPACE = 1_000_000, 7_000_000
NUM_VISIBLE = 6


@pytest.fixture
def model() -> FCMAE:
    return create_model(img_size=32, stem_stride=1, decoder_dim=16)


def fake_accelerator(kind: str, num_processes: int = 1, least: int | None = None) -> Any:
    """Of one process among others; on the fullest of the others ``least`` images fit."""

    def gather(fits: torch.Tensor) -> torch.Tensor:
        return fits if least is None else torch.cat([fits, torch.tensor([least])])

    device = SimpleNamespace(type=kind)
    return SimpleNamespace(device=device, num_processes=num_processes, autocast=nullcontext, gather=gather)


@pytest.fixture
def gpu(model: FCMAE, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """torch.cuda of a GPU with ``free`` bytes on which an image takes ``PER_IMAGE``; the passes run on the CPU."""
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    state = SimpleNamespace(free=0, weights=weights, sizes=[], peak=0)
    forward = model.forward

    def counted(images: torch.Tensor, **options: Any) -> Any:
        state.sizes.append(len(images))
        state.peak = weights + WORKSPACE + PER_IMAGE * len(images)  # gradients are as large as the weights
        if state.peak > state.free:
            raise torch.OutOfMemoryError
        return forward(images, **options)

    monkeypatch.setattr(fitting, "PROBE", PROBE)
    monkeypatch.setattr(model, "forward", counted)
    monkeypatch.setattr(model, "to", lambda _: model)
    for name in ("empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (state.free, 2 * state.free))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 123)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 123 + state.peak)
    yield state
    assert all(p.grad is None for p in model.parameters())


@pytest.fixture(autouse=True)
def _devices_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors on a made-up device are on the CPU."""
    for name in ("zeros", "tensor"):
        real = getattr(torch, name)

        def make(*args: Any, real: Any = real, device: Any = None, **options: Any) -> torch.Tensor:
            return real(*args, device=None if isinstance(device, SimpleNamespace) else device, **options)

        monkeypatch.setattr(torch, name, make)


@pytest.mark.parametrize("kind", ["cpu", "mps"])
def test_elsewhere_than_on_a_gpu_it_is_a_constant(model: FCMAE, kind: str) -> None:
    assert largest_micro_batch(model, NUM_VISIBLE, fake_accelerator(kind)) == CPU_LIMIT


@pytest.mark.parametrize("num_processes", [1, 2])
def test_activations_gradients_and_optimizer_fit_in_the_share(
    model: FCMAE, gpu: SimpleNamespace, num_processes: int
) -> None:
    """Weights are there already; then gradients, their sum, two moments, workspaces, and images: exactly n fit."""
    copies = 4
    before = {name: p.clone() for name, p in model.named_parameters()}
    for n in (100, 37):
        needed = copies * gpu.weights + WORKSPACE + n * PER_IMAGE
        for spare, expected in ((1, n), (-PER_IMAGE // 2, n - 1)):
            gpu.free = (needed + spare) / SHARE
            found = largest_micro_batch(model, NUM_VISIBLE, fake_accelerator("cuda", num_processes))
            assert found == expected
    assert set(gpu.sizes) == {PROBE, 2 * PROBE}
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_gpu_with_memory_to_spare_gets_the_limit(model: FCMAE, gpu: SimpleNamespace) -> None:
    gpu.free = 10**12
    assert largest_micro_batch(model, NUM_VISIBLE, fake_accelerator("cuda")) == CUDA_LIMIT


def test_a_gpu_that_is_full_gets_single_images(model: FCMAE, gpu: SimpleNamespace) -> None:
    gpu.free = 1000
    assert largest_micro_batch(model, NUM_VISIBLE, fake_accelerator("cuda")) == 1


def test_the_fullest_gpu_decides_for_all(model: FCMAE, gpu: SimpleNamespace) -> None:
    gpu.free = 10**12
    accelerator = fake_accelerator("cuda", num_processes=2, least=24)
    assert largest_micro_batch(model, NUM_VISIBLE, accelerator) == 24


def test_images_that_fit_is_linear_and_at_least_one() -> None:
    few, more = 50 + fitting.PROBE * 10, 50 + 2 * fitting.PROBE * 10
    assert [images_that_fit(room, few, more) for room in (50 + 30, 50 + 39, 50 + 40, 0, -5)] == [3, 3, 4, 1, 1]
    assert images_that_fit(1000, 100, 100) > 0  # activations too small to measure


# The only part that a fake device cannot show: that the choice fits a real GPU. The tests above cover its arithmetic.
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_what_fits_fits() -> None:
    """The choice is the same twice, and a training step with it takes less than the memory there is."""
    accelerator = Accelerator(mixed_precision="no")
    model = create_model(img_size=224)
    first = largest_micro_batch(model, 20, accelerator)
    assert first == largest_micro_batch(model, 20, accelerator)
    AcceleratorState._reset_state(reset_partial_state=True)
    images = torch.zeros(first, 3, 224, 224, device=accelerator.device)
    model(images).loss.backward()
