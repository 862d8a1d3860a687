"""The names of the backends, importable without torch: they are an option of every command line."""

from typing import Literal

BackendName = Literal["auto", "torch", "numba", "triton", "minkowski"]
