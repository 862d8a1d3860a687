"""What a run fills in: pixel settings of the weights, of the run that is resumed, or measured."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm

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


@pytest.mark.parametrize(
    ("name", "size", "crop_pct", "mean"),
    [
        ("convnextv2_nano.fcmae_ft_in22k_in1k_384", 384, 1.0, (0.485, 0.456, 0.406)),
        ("convnext_base.clip_laion2b", 256, 1.0, (0.48145466, 0.4578275, 0.40821073)),
    ],
)
def test_a_name_of_timm_has_the_size_and_pixels_of_its_tag(
    colors: Path, monkeypatch: pytest.MonkeyPatch, name: str, size: int, crop_pct: float, mean: tuple[float, ...]
) -> None:
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: create(name, pretrained=False))
    data = FinetuneDataConfig(path=str(colors))
    config = FinetuneConfig(weights=name, data=data)
    weights, images = starting_weights(config), labeled_set(data, 0)
    found = resolved(config, described(weights, config.model), {}, weights, images)
    assert (found.model.img_size, found.data.crop_pct, found.data.mean) == (size, crop_pct, mean)
    again = resolved(config, described(weights, config.model), flat(found.as_dict()), None, images)
    assert again == found  # a command that is repeated resumes the run
    small = replace(config, model=FinetuneModelConfig(img_size=64), data=replace(data, mean=(0.5,) * 3))
    other = resolved(small, described(weights, small.model), {}, weights, images)
    assert (other.model.img_size, other.data.crop_pct, other.data.mean) == (64, None, (0.5,) * 3)


def test_auto_measures_though_the_weights_state_a_mean(colors: Path, pretrained: Path) -> None:
    found = of(pretrained, FinetuneDataConfig(path=str(colors), mean="auto"))
    assert found.data.mean not in ("auto", (0.1, 0.2, 0.3))
    assert found.data.std == (0.3, 0.2, 0.1)


def test_another_number_of_channels_has_pixels_of_its_own(colors: Path, pretrained: Path) -> None:
    found = of(pretrained, FinetuneDataConfig(path=str(colors)), in_chans=1)
    assert (found.data.bands, found.data.mean, found.data.std) == (None, None, None)
    assert (found.data.nodata, found.data.stack) == (0.0, "images")
