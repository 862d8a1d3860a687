"""Patches without data are neither visible nor scored; every image keeps as many visible patches."""

from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from fcmae.config import DataConfig
from fcmae.data.nodata import moved_to, scored_patches
from fcmae.data.samples import PretrainDataset, collate
from fcmae.models import FCMAE, ModelConfig

MODEL = ModelConfig(img_size=32, stem_stride=1, in_chans=2, decoder_dim=32)


def test_a_patch_is_scored_if_most_of_it_is_there() -> None:
    image = torch.rand(2, 32, 32)
    assert scored_patches(image, (4, 4)) is None
    assert scored_patches((image * 255).byte(), (4, 4)) is None
    image[:, :8, :3] = torch.nan  # 24 of 64 pixels
    assert scored_patches(image, (4, 4)) is None
    image[:, 8:16, 8:12] = torch.nan  # half
    image[0, 16:24, 16:24] = torch.nan  # one of two channels
    image[0, 24:, 24:28] = torch.nan  # a quarter of the values
    scored = scored_patches(image, (4, 4))
    assert (~scored).nonzero().tolist() == [[1, 1], [2, 2]]


@pytest.mark.parametrize("missing", range(17))
def test_visible_patches_move_to_where_there_is_data(missing: int) -> None:
    scored = torch.ones(16, dtype=torch.bool)
    scored[torch.randperm(16, generator=torch.Generator().manual_seed(missing))[:missing]] = False
    scored = scored.view(4, 4)
    for seed in range(20):
        visible = torch.zeros(16, dtype=torch.bool)
        visible[Random(seed).sample(range(16), 6)] = True
        moved = moved_to(scored, visible.view(4, 4), Random(seed))
        assert int(moved.sum()) == 6
        assert int((moved & scored).sum()) == min(6, 16 - missing)
        kept = visible.view(4, 4) & scored
        assert torch.equal(moved & kept, kept)


def dataset(folder: Path, **data: object) -> PretrainDataset:
    options = {"num_workers": 0, "value_range": (0.0, 1.0), **data}
    return PretrainDataset(sorted(folder.glob("*.npy")), DataConfig(**options), MODEL, 0.6, 0)


def test_samples_of_tiles_with_an_empty_edge(tmp_path: Path) -> None:
    array = np.random.default_rng(0).random((2, 64, 64), dtype=np.float32)
    np.save(tmp_path / "b.npy", array)
    array[:, :, :30] = np.nan
    np.save(tmp_path / "a.npy", array)
    data = dataset(tmp_path)
    for epoch in range(8):
        sample = data[(epoch, 0)]
        gone = sample.image.isnan().all(0).view(4, 8, 4, 8).float().mean((1, 3))
        assert sample.scored is None or torch.equal(sample.scored, gone < 0.5)
        assert int(sample.visible.sum()) == data.num_visible
        if sample.scored is not None and int(sample.scored.sum()) >= data.num_visible:
            assert not bool((sample.visible & ~sample.scored).any())
    whole = data[(0, 1)]
    assert whole.scored is None
    assert collate([whole, whole]).scored is None
    edged = next(s for s in (data[(epoch, 0)] for epoch in range(8)) if s.scored is not None)
    assert torch.equal(collate([edged, whole]).scored, torch.stack([edged.scored, torch.ones(4, 4, dtype=torch.bool)]))
    assert data.normalize(collate([edged, whole]).image).isfinite().all()


def test_the_loss_is_the_mean_over_scored_masked_patches() -> None:
    torch.manual_seed(0)
    model = FCMAE(MODEL).double()
    images = torch.randn(3, 2, 32, 32, dtype=torch.float64)
    visible = torch.stack([torch.randperm(16).view(4, 4) < 6 for _ in range(3)])
    scored = torch.rand(3, 4, 4) < 0.5
    out = model(images, visible, scored=scored)
    patches = images.view(3, 2, 4, 8, 4, 8).permute(0, 2, 4, 3, 5, 1).reshape(3, 16, -1)
    target = (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()
    counted = (~visible & scored).flatten(1)
    expected = ((out.pred - target) ** 2).mean(-1)[counted].mean()
    torch.testing.assert_close(out.loss, expected)
    masked_only = model(images, visible, masked_only=True, scored=scored)
    torch.testing.assert_close(masked_only.loss, expected)
    everything = model(images, visible, scored=torch.ones_like(scored)).loss
    torch.testing.assert_close(everything, model(images, visible).loss)
    nothing = model(images, visible, scored=torch.zeros_like(scored)).loss
    nothing.backward()
    assert float(nothing.detach()) == 0


def test_flips_and_turns(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((2, 64, 64), dtype=np.float32))
    straight, flipped = dataset(tmp_path, hflip=0.0), dataset(tmp_path, hflip=0.0, vflip=1.0)
    turned = dataset(tmp_path, hflip=0.0, rotate90=True)
    found = set()
    for epoch in range(24):
        image = straight[(epoch, 0)].image
        assert torch.equal(flipped[(epoch, 0)].image, image.flip(-2))
        assert torch.equal(flipped[(epoch, 0)].visible, straight[(epoch, 0)].visible)
        found |= {k for k in range(4) if torch.equal(turned[(epoch, 0)].image, image.rot90(k, (-2, -1)))}
    assert found == {0, 1, 2, 3}
