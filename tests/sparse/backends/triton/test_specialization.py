"""A kernel is compiled once for each network and dtype, not again for each size of a batch."""

import inspect
from types import ModuleType
from typing import Any

import pytest
import triton.language as tl
from triton.runtime import JITFunction

from fcmae.sparse.backends.triton import depthwise_kernels, gelu_grn_kernels, grn_weights, norm, patches
from fcmae.sparse.backends.triton.launch import interpreting


@pytest.mark.parametrize("module", [depthwise_kernels, gelu_grn_kernels, grn_weights, norm, patches])
def test_integers_that_a_batch_decides_are_not_specialized(module: ModuleType) -> None:
    """Unless told not to, Triton compiles apart for integers that are 1 and that are multiples of 16."""
    kernels: dict[str, Any] = {name: one for name, one in vars(module).items() if name.endswith("_kernel")}
    assert kernels
    for name, kernel in kernels.items():
        assert interpreting() or isinstance(kernel, JITFunction)
        told = kernel.kwargs["do_not_specialize"] if interpreting() else kernel.do_not_specialize
        parameters = inspect.signature(kernel.fn).parameters.values()
        integers = [p.name for p in parameters if p.annotation is not tl.constexpr and not p.name.endswith("_ptr")]
        assert [one for one in integers if one != "eps"] == told, name
