"""Feature diversity of a layer: the pairwise cosine distance of ConvNeXt V2 (arXiv 2301.00808, section 3).

For one image and one layer, let X_i be the map of channel i, flattened over the positions:

    d = 1/C² · Σ_i Σ_j (1 − cos(X_i, X_j)) / 2          including i = j

d = 0: all channels are equal up to positive scale. d = (1 − 1/C) / 2: they are orthogonal. With u_i = X_i / ‖X_i‖ the
double sum is one squared norm, ``Σ_ij u_i · u_j = ‖Σ_i u_i‖²``, so d = (1 − ‖mean_i u_i‖²) / 2 costs O(C·M)
rather than O(C²·M).

**Dead channels**, zero everywhere, have no direction. Two dead channels count as identical (cosine 1), a dead and a
live one as orthogonal (cosine 0). This preserves the meaning of the distance: a channel is at distance 0 from itself,
and a layer with only dead channels has collapsed, d = 0. (If two zero channels had cosine 0, it would score the
maximum, 1/2.) The rule equals the formula with one extra position where only the dead channels are nonzero.

Shape letters: B images, M positions of an image, C channels.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

DEAD_BELOW = 0.01
"""A channel counts as dead if its RMS is at most this share of the image's RMS over all channels. The threshold is not
0 because GELU gives no exact zeros; it is meant to catch channels whose input is below −3 everywhere."""
SATURATED_BELOW = 0.05
"""A live channel counts as saturated if its standard deviation over the positions is below this share of its RMS: it is
nearly constant, so it carries no spatial information."""


class ChannelStatistics(NamedTuple):
    """Statistics of one layer's features, computed in float32, or in float64 for float64 features."""

    distance: Tensor
    """[B]: d."""
    dead: Tensor
    """bool [B, C]: RMS over the positions at most :data:`DEAD_BELOW` of the RMS over all channels, or zero."""
    saturated: Tensor
    """bool [B, C]: not dead, and nearly constant over the positions (see :data:`SATURATED_BELOW`). With a
    single position every live channel is saturated."""


def cosine_distance(
    features: Tensor, *, channels: Literal["last", "first"] = "last", batch_size: int | None = None
) -> Tensor:
    """Mean pairwise cosine distance of the channels, one value per image.

    Args:
        features: [B, H, W, C] or tokens [B, N, C]; with ``channels="first"`` [B, C, H, W] or [B, C, N]; with
            ``batch_size`` the site matrix [B·M, C] of the sparse encoder. The order of the positions does not matter.
        channels: position of the channel axis.
        batch_size: B, for a site matrix.

    Returns:
        [B], 0 … 1/2, computed in float32, or in float64 for float64; NaN where features are not finite. Channels may
        have any scale in that type's range; channels that are zero everywhere follow the module's rule. For dead
        channels in the wider sense of :data:`DEAD_BELOW`, see ``channel_statistics(as_positions(features)).dead``.

    Raises:
        ValueError: features of another shape, or empty ones.
    """
    return channel_statistics(as_positions(features, channels, batch_size)).distance


def as_positions(features: Tensor, channels: str = "last", batch_size: int | None = None) -> Tensor:
    """Reshape features to [B, M, C], without a copy where strides allow; ValueError for unsupported shapes."""
    if channels not in ("last", "first"):
        raise ValueError(f"channels must be 'last' or 'first', got {channels!r}")
    if not features.is_floating_point():
        raise ValueError(f"features must be floating-point numbers, got {features.dtype}")
    if features.numel() == 0:
        raise ValueError(f"features are empty: {list(features.shape)}")
    if batch_size is not None:
        if features.ndim != 2 or channels != "last" or batch_size < 1 or len(features) % batch_size:
            raise ValueError(
                f"with batch_size={batch_size} features must be a site matrix [{batch_size}·M, C], "
                f"got {list(features.shape)}"
            )
        return features.reshape(batch_size, -1, features.shape[1])
    if features.ndim not in (3, 4):
        raise ValueError(
            f"features must have 3 axes (tokens) or 4 (an image grid), got {list(features.shape)}; "
            f"a site matrix needs batch_size"
        )
    return features.flatten(2).transpose(1, 2) if channels == "first" else features.flatten(1, -2)


def channel_statistics(x_BMC: Tensor) -> ChannelStatistics:
    """Distance, dead and saturated channels of each image: three passes over the features, no loop over pairs.

    Channels whose squares overflow or underflow are scaled first, which takes extra passes.
    """
    x_BMC = x_BMC.detach().to(torch.promote_types(x_BMC.dtype, torch.float32))
    with torch.autocast(x_BMC.device.type, enabled=False):  # otherwise the product below would run in bfloat16
        # One image at a time is faster on a CPU because the squares stay in the cache.
        parts = x_BMC.split(1) if x_BMC.device.type == "cpu" else (x_BMC,)
        return ChannelStatistics(*(torch.cat(each) for each in zip(*map(_statistics, parts), strict=True)))


def _statistics(x_BMC: Tensor) -> ChannelStatistics:
    positions, num_channels = x_BMC.shape[1:]
    energy_BC = x_BMC.square().sum(1)
    limits = torch.finfo(energy_BC.dtype)
    # Squares overflow above 1e19 and lose digits below 1e-16 (float32); only then are extra passes needed.
    in_range_BC = (energy_BC >= positions * limits.tiny / limits.eps) & (energy_BC <= limits.max)
    scale_BC = torch.ones_like(energy_BC)
    if not in_range_BC.all():
        scale_BC = _largest(x_BMC).masked_fill(in_range_BC, 1)
        x_BMC = x_BMC / scale_BC.unsqueeze(1)
        energy_BC = x_BMC.square().sum(1)
    mean_BC = x_BMC.mean(1)
    zero_BC = energy_BC == 0
    # Σ_i u_i at every position, one matrix-vector product per image; dead channels add the extra position
    inverse_norm_BC = energy_BC.rsqrt().masked_fill(zero_BC, 0)
    sum_BM = (x_BMC @ inverse_norm_BC.unsqueeze(2)).squeeze(2)
    sum_B = sum_BM.square().sum(1) + zero_BC.sum(1).square()
    distance_B = ((1 - sum_B / num_channels**2) / 2).clamp_min(0)  # rounding can make it negative; NaN stays NaN
    power_BC = energy_BC / positions
    rms_BC = power_BC.sqrt() * scale_BC
    share_BC = (rms_BC / rms_BC.amax(1, keepdim=True)).square()  # of the largest, so that the mean cannot overflow
    dead_BC = zero_BC | (share_BC <= DEAD_BELOW**2 * share_BC.mean(1, keepdim=True))
    variance_BC = power_BC - mean_BC.square()
    return ChannelStatistics(distance_B, dead_BC, ~dead_BC & (variance_BC < SATURATED_BELOW**2 * power_BC))


def _largest(x_BMC: Tensor) -> Tensor:
    """Largest magnitude of each channel, [B, C]; 1 where it is zero, inf or NaN, so that dividing is safe."""
    largest_BC = x_BMC.abs().amax(1)
    return largest_BC.masked_fill(~largest_BC.isfinite() | (largest_BC == 0), 1)


def effective_ranks(x_BMC: Tensor) -> Tensor:
    """Effective rank (Roy and Vetterli 2007), [B]: exp of the entropy of the unit channels' normalized singular values.

    1: all channels are multiples of one. min(M, C): they spread evenly over that many directions. Dead channels are
    excluded; without any live channel it is 0. Costs the Gram matrix, O(C·M·min(C, M)), and its eigenvalues.
    """
    x_BMC = x_BMC.detach().to(torch.promote_types(x_BMC.dtype, torch.float32))
    with torch.autocast(x_BMC.device.type, enabled=False):
        x_BMC = x_BMC / _largest(x_BMC).unsqueeze(1)
        norm_B1C = x_BMC.square().sum(1, keepdim=True).sqrt()
        unit_BMC = torch.where(norm_B1C == 0, 0, x_BMC / norm_B1C)
        flat = unit_BMC if x_BMC.shape[1] <= x_BMC.shape[2] else unit_BMC.mT  # the smaller of the two Gram matrices
        value = torch.linalg.eigvalsh(flat @ flat.mT).clamp_min(0).sqrt()
    total = value.sum(1, keepdim=True)
    entropy = torch.special.entr(value / total).sum(1)
    return torch.where(total.squeeze(1) > 0, entropy.exp(), 0.0)
