"""A training step never reads a value back from the device, and its shapes follow from those of its inputs.

So it can be captured as a CUDA graph. Tensors without values show it: reading one raises, as does an operation whose
result has a shape that depends on values. Those on "cuda" need no GPU, but without one torch cannot differentiate them.
"""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from fcmae.config import DataConfig
from fcmae.data.normalizer import _channels
from fcmae.models import FCMAE, ModelConfig
from fcmae.models.layers import use_backend_anew
from fcmae.sparse import sites
from fcmae.sparse.backends.triton import requirements
from fcmae.training.graphs import GraphedStep
from fcmae.training.optimizer import make_optimizer
from fcmae.training.pretraining import Pretraining
from fcmae.training.run import Inputs

OPTIONS: list[dict[str, Any]] = [{}, {"drop_path_rate": 0.3, "checkpoint_stages": (0, 2)}]
NUM_VISIBLE = 6


def model_on(device: str, **config: Any) -> FCMAE:
    """A network whose parameters have no values. Enter the mode that they belong to first."""
    with torch.utils._python_dispatch._disable_current_modes():
        model = FCMAE(ModelConfig(img_size=32, stem_stride=1, decoder_dim=16, **config))
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(torch.empty(parameter.shape, device=device))
    for part in (model.encoder, model.decoder):
        use_backend_anew(part)
    return model


def inputs_on(device: str, deep: bool) -> Inputs:
    """8-bit images, or deep ones of which some pixels are missing."""
    visible = torch.empty(2, 4, 4, dtype=torch.bool, device=device)
    if deep:
        return torch.empty(2, 3, 32, 32, device=device), visible, torch.empty_like(visible)
    return torch.empty(2, 32, 32, 3, dtype=torch.uint8, device=device).movedim(-1, 1), visible, None


@pytest.fixture
def task() -> Any:
    _channels.cache_clear()  # its tensors are of the mode they were made in
    yield Pretraining(SimpleNamespace(normalize=DataConfig().normalizer(3), num_visible=NUM_VISIBLE), None)  # type: ignore[arg-type]
    _channels.cache_clear()


@pytest.mark.parametrize("config", OPTIONS, ids=["plain", "everything"])
@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("backend", ["auto", "torch", "masked"])
def test_forward_on_cuda(
    task: Pretraining, monkeypatch: pytest.MonkeyPatch, backend: Any, deep: bool, config: dict[str, Any]
) -> None:
    monkeypatch.setattr(requirements, "_missing_on_gpu", lambda _: None)
    with FakeTensorMode():
        model = model_on("cuda", backend=backend, **config)
        assert model.encoder.ops.name == ("triton" if backend == "auto" else "torch")
        with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
            loss = task.loss(model, inputs_on("cuda", deep))
        assert (loss.shape, loss.dtype, loss.device.type) == ((), torch.float32, "cuda")


@pytest.mark.parametrize("config", OPTIONS, ids=["plain", "everything"])
@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("backend", ["triton", "torch", "masked"])
def test_a_whole_step(
    task: Pretraining, monkeypatch: pytest.MonkeyPatch, backend: Any, deep: bool, config: dict[str, Any]
) -> None:
    """Normalization, forward, backward, clipping and the optimizer."""
    monkeypatch.setattr(sites, "_visible_per_image", lambda _, known: known)  # on a CPU masks are checked
    accelerator = Accelerator(cpu=True)
    with FakeTensorMode():
        model = model_on("cpu", backend=backend, **config)
        train: Any = SimpleNamespace(clip_grad=1.0, weight_decay=0.05, betas=(0.9, 0.95), base_lr=1e-3)
        optimizer = make_optimizer(model, train, 256)
        run: Any = SimpleNamespace(
            task=task, model=model, bare_model=model, optimizer=optimizer, accelerator=accelerator,
            batch=SimpleNamespace(accumulation_steps=2), config=SimpleNamespace(train=train),
        )  # fmt: skip
        step = GraphedStep(run, None)
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            loss = step(iter([inputs_on("cpu", deep)] * 2), lambda: None)
        assert loss.shape == ()
        assert all(set(optimizer.state[p]) == {"step", "exp_avg", "exp_avg_sq"} for p in model.parameters())


def test_reading_a_value_back_is_noticed(task: Pretraining) -> None:
    """As the check of a mask does, if the number of visible patches is not known."""
    with FakeTensorMode():
        model = model_on("cuda", backend="torch")
        image, visible, _ = inputs_on("cuda", deep=False)
        with pytest.raises(DataDependentOutputException):
            model(task.dataset.normalize(image), visible)
