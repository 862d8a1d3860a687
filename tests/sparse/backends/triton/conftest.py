"""How the kernels run in these tests: cut as on a GPU, on poisoned memory, rounding as GPUs do."""

from typing import Any

import pytest
import torch
import triton
from torch import Tensor
from triton.runtime import interpreter

from fcmae.sparse.backends.triton import depthwise, gelu_grn, grn_weights, launch, neighbors, norm


@pytest.fixture
def gpu_tiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut as on a GPU: several programs, blocks and parts where the interpreter would take one."""
    for module in (depthwise, gelu_grn, grn_weights, launch, neighbors, norm):
        for name, as_on_gpu in (("interpreting", lambda: False), ("many_or", lambda number, *_: number)):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, as_on_gpu)
    for module in (depthwise, launch):  # still: the kernels themselves run where they can
        monkeypatch.setattr(module, "missing_on", lambda _: None)


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is allocated without values holds NaN, or the number of no patch: a gap in a kernel shows."""
    empty, empty_like, new_empty = torch.empty, torch.empty_like, Tensor.new_empty

    def fill(tensor: Tensor) -> Tensor:
        return tensor.fill_(torch.nan if tensor.is_floating_point() else 2**30)

    monkeypatch.setattr(torch, "empty", lambda *a, **k: fill(empty(*a, **k)))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: fill(empty_like(*a, **k)))
    monkeypatch.setattr(Tensor, "new_empty", lambda *a, **k: fill(new_empty(*a, **k)))


@pytest.fixture
def rounding_to_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    """As GPUs round float32 to bfloat16; the interpreter cuts bits off, which is twice as far off and leans to 0."""
    before = interpreter._convert_float

    def convert(values: Any, source: Any, target: Any, rounding_mode: Any) -> Any:
        if (source, target) != (triton.language.float32, triton.language.bfloat16):
            return before(values, source, target, rounding_mode)
        return torch.from_numpy(values.view("float32")).bfloat16().view(torch.int16).numpy().view("uint16")

    monkeypatch.setattr(interpreter, "_convert_float", convert)
