"""ActiveSites: rows, grid positions and windows agree with the mask, whatever its shape."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fcmae.sparse.grid import densify, gather_sites
from fcmae.sparse.reference import upsample_mask
from fcmae.sparse.sites import ActiveSites, zorder
from tests.conftest import random_visible


@st.composite
def masks(draw: st.DrawFn) -> torch.Tensor:
    height, width = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    batch, num = draw(st.integers(1, 3)), draw(st.integers(1, height * width))
    kept = [draw(st.permutations(range(height * width)))[:num] for _ in range(batch)]
    visible = torch.zeros(batch, height * width, dtype=torch.bool)
    for image, patches in enumerate(kept):
        visible[image, patches] = True
    return visible.view(batch, height, width)


@pytest.mark.parametrize("side", [1, 2, 4, 8])
def test_zorder_visits_every_site_and_groups_2x2(side: int) -> None:
    """A permutation of the sites; at every level, rows 4i … 4i+3 are the 2×2 block at site i of the coarser order."""
    y, x = zorder(side)
    assert len({(a, b) for a, b in zip(y.tolist(), x.tolist(), strict=True)}) == side * side
    if side > 1:
        coarse_y, coarse_x = zorder(side // 2)
        assert torch.equal(y.view(-1, 4) // 2, coarse_y[:, None].expand(-1, 4))
        assert torch.equal(x.view(-1, 4) // 2, coarse_x[:, None].expand(-1, 4))
        assert (y.view(-1, 4) % 2).tolist()[0] == [0, 0, 1, 1]
        assert (x.view(-1, 4) % 2).tolist()[0] == [0, 1, 0, 1]


@given(visible=masks(), side=st.sampled_from([1, 2, 4]))
def test_grid_index_is_the_mask(visible: torch.Tensor, side: int) -> None:
    """{grid_index} = {positions where m = 1}, each once; every image's rows lie together, patches in raster order."""
    sites = ActiveSites(visible)
    index = sites.grid_index(side)
    active = upsample_mask(visible, side).flatten().nonzero().flatten()
    assert torch.equal(index.sort().values, active)
    pixels = sites.grid_shape(side)[1] * sites.grid_shape(side)[2]
    assert torch.equal(index // pixels, torch.arange(len(visible)).repeat_interleave(len(index) // len(visible)))
    assert torch.equal(sites.patches, sites.patches.sort(1).values)


@given(visible=masks())
def test_the_complement_is_the_masked_patches(visible: torch.Tensor) -> None:
    """Both partition the grid, each in raster order; with everything visible the complement is empty."""
    sites = ActiveSites(visible)
    masked = sites.complement()
    assert torch.equal(masked.visible, ~visible)
    assert sites.complement() is masked
    both = torch.cat([sites.grid_index(1), masked.grid_index(1)]).sort().values
    assert torch.equal(both, torch.arange(visible.numel()))
    for one in (sites, masked):
        assert one.visible.flatten(1).gather(1, one.patches).all()
        assert torch.equal(one.patches, one.patches.sort(1).values)


@given(visible=masks())
def test_patch_slot_numbers_the_visible_patches(visible: torch.Tensor) -> None:
    slot = ActiveSites(visible).patch_slot()
    assert torch.equal(slot[visible], torch.arange(int(visible.sum()), dtype=torch.int32))
    assert (slot[~visible] == -1).all()


@given(visible=masks(), side=st.sampled_from([1, 2, 4]))
def test_densify_and_gather_are_inverse(visible: torch.Tensor, side: int) -> None:
    """gather(densify(x)) = x, and densify(gather(g)) = m · g: exactly zero where masked, whatever g holds there."""
    sites = ActiveSites(visible)
    x = torch.randn(sites.num_sites(side), 3)
    dense = densify(x, sites, side)
    assert torch.equal(gather_sites(dense, sites, side), x)
    m = upsample_mask(visible, side).bool().expand_as(dense)
    poisoned = torch.where(m, dense, torch.nan)
    assert torch.equal(densify(gather_sites(poisoned, sites, side), sites, side), dense)
    assert torch.equal(dense[~m], torch.zeros(int((~m).sum())))


def test_a_site_whose_features_are_zero_stays_active() -> None:
    """Sites come from the mask alone; the official code drops a site when its features are all zero."""
    sites = ActiveSites(random_visible(2, 3, 3, 4))
    assert gather_sites(torch.zeros(2, 5, 6, 6), sites, 2).shape == (2 * 4 * 4, 5)


def test_indices_are_made_once() -> None:
    sites = ActiveSites(random_visible(2, 3, 3, 4))
    assert sites.grid_index(4) is sites.grid_index(4)
    assert sites.grid_index(4) is not sites.grid_index(2)
    assert sites.keep("mine", object) is sites.keep("mine", object)


@pytest.mark.parametrize(
    ("visible", "message"),
    [
        (torch.tensor([[[True, False]], [[True, True]]]), "same number of patches, got 1 to 2"),
        (torch.zeros(2, 3, 3, dtype=torch.bool), "at least one patch"),
        (torch.ones(2, 3, 3), r"must be bool \[B, h, w\], got torch.float32"),
        (torch.ones(3, 3, dtype=torch.bool), r"got torch.bool \[3, 3\]"),
        (torch.ones(0, 3, 3, dtype=torch.bool), "no image"),
    ],
)
def test_wrong_masks_are_refused(visible: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ActiveSites(visible)


def test_no_visible_patch_is_for_those_who_say_so() -> None:
    sites = ActiveSites(torch.zeros(2, 3, 3, dtype=torch.bool), num_visible=0)
    assert sites.num_sites(4) == len(sites.grid_index(4)) == 0


def test_a_wrong_num_visible_is_refused() -> None:
    with pytest.raises(ValueError, match="keeps 4 patches per image, but num_visible is 5"):
        ActiveSites(random_visible(2, 3, 3, 4), num_visible=5)


def test_a_side_that_is_no_power_of_two_is_refused() -> None:
    with pytest.raises(ValueError, match="power of two, got 6"):
        zorder(6)
