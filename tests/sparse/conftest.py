"""Shared by the tests of the operations."""

import pytest
import torch

from fcmae.sparse import compiled


@pytest.fixture(params=["numba", "torch"])
def _loops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the compiled loops, which the dev extra brings Numba for, and as where there is none."""
    if request.param == "torch":
        monkeypatch.setattr(compiled, "_loops", lambda _process: None)
    else:
        assert compiled.loops_for(torch.zeros(1)) is not None
