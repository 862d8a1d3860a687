"""Shared by the tests of the analysis."""

import pytest

from fcmae.models import sizes
from tests.fcmae.analysis.literal import SMALL_CONVNEXT


@pytest.fixture
def _small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of our own as small as those of timm's here; convolutions in float64 are slow."""
    for name, conv_mlp in (("convnextv2_atto", True), ("convnext_tiny", False)):
        monkeypatch.setitem(sizes.SIZES, name, sizes.Size(**SMALL_CONVNEXT, conv_mlp=conv_mlp))
