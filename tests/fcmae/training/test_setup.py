"""Set-up of a run on a device that this machine may lack."""

from typing import Any

import pytest
import torch

from fcmae.config import PretrainConfig, PretrainModelConfig
from fcmae.errors import UserError
from fcmae.sparse.backends.triton import requirements
from fcmae.training.setup import _make_model

CUDA = torch.device("cuda")


def config(backend: Any) -> PretrainConfig:
    return PretrainConfig(model=PretrainModelConfig(img_size=32, stem_stride=1, decoder_dim=16, backend=backend))


@pytest.mark.parametrize("backend", ["auto", "grid", "torch", "triton", "masked"])
def test_a_network_for_a_gpu_is_built_on_the_cpu(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ``auto`` is another backend."""
    monkeypatch.setattr(requirements, "_missing_on_gpu", lambda _: None)
    model = _make_model(config(backend), CUDA, fresh=True)
    assert next(model.parameters()).device.type == "cpu"


def test_backends_of_other_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"--model.backend 'numba' needs a CPU, but the network is on cuda; take auto"):
        _make_model(config("numba"), CUDA, fresh=True)
    monkeypatch.setattr(requirements, "_missing_on_gpu", lambda _: "a C compiler")
    with pytest.raises(UserError, match=r"--model.backend 'triton' needs a C compiler, but"):
        _make_model(config("triton"), CUDA, fresh=True)
