"""The names of the backends, importable without torch: they are an option of every command line."""

from typing import Literal

SparseBackendName = Literal["auto", "torch", "numba", "triton", "minkowski"]
