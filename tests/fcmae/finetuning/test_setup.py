"""What a run fills in: pixel settings of the weights, of the run that is resumed, or measured."""

from pathlib import Path
from typing import Any

import pytest

from fcmae.finetuning.config import FinetuneConfig, FinetuneDataConfig, FinetuneModelConfig
from fcmae.finetuning.labels import labeled_set
from fcmae.finetuning.network import described, starting_weights
from fcmae.finetuning.setup import resolved
from fcmae.runs.layout import flat
from fcmae.training.resume import check_same_run
from tests.fcmae.small_runs import save_run


def of(
    run: Path, data: FinetuneDataConfig, before: dict[str, Any] | None = None, in_chans: int | None = None
) -> FinetuneConfig:
    config = FinetuneConfig(weights=str(run), data=data, model=FinetuneModelConfig(in_chans=in_chans))
    weights = starting_weights(config)
    network = described(weights, config.model)
    images: Any = labeled_set(data, 0)
    return resolved(config, network, before or {}, None if before else weights, images)


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    run = save_run(tmp_path / "run")
    (run / "config.yaml").write_text(
        "# fcmae 0\ndata: {bands: [3, 2, 1], nodata: 0.0, stack: images, mean: [0.1, 0.2, 0.3], std: [0.3, 0.2, 0.1]}\n"
    )
    return run


def test_a_command_that_is_repeated_has_the_pixels_of_the_weights(colors: Path, pretrained: Path) -> None:
    """Of a resumed run they are in its own settings."""
    first = of(pretrained, FinetuneDataConfig(path=str(colors)))
    assert (first.data.bands, first.data.nodata, first.data.stack) == ((3, 2, 1), 0.0, "images")
    assert (first.data.mean, first.data.std) == ((0.1, 0.2, 0.3), (0.3, 0.2, 0.1))
    before = flat(first.as_dict())
    again = of(pretrained, FinetuneDataConfig(path=str(colors)), before)
    assert again == first
    check_same_run(again, pretrained, before)


def test_auto_measures_though_the_weights_state_a_mean(colors: Path, pretrained: Path) -> None:
    found = of(pretrained, FinetuneDataConfig(path=str(colors), mean="auto"))
    assert found.data.mean not in ("auto", (0.1, 0.2, 0.3))
    assert found.data.std == (0.3, 0.2, 0.1)


def test_another_number_of_channels_has_pixels_of_its_own(colors: Path, pretrained: Path) -> None:
    found = of(pretrained, FinetuneDataConfig(path=str(colors)), in_chans=1)
    assert (found.data.bands, found.data.mean, found.data.std) == (None, None, None)
    assert (found.data.nodata, found.data.stack) == (0.0, "images")
