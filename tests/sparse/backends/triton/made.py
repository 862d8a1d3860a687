"""Tensors for the tests of the kernels."""

import torch
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def randn(*shapes: tuple[int, ...]) -> list[Tensor]:
    return [torch.randn(shape, device=DEVICE) for shape in shapes]


def mlp_tensors(batch: int, sites: int, dim: int, hidden: int, out: int) -> list[Tensor]:
    return randn((batch * sites, dim), (hidden, dim), (hidden,), (hidden,), (hidden,), (out, hidden), (out,))
