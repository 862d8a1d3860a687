"""What the analysis must find, computed by hand, and networks small enough for that."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fcmae
from fcmae.analysis.collapse import BlockCollapse
from fcmae.analysis.taps import TAPS

SMALL_CONVNEXT = {"depths": (1, 2, 1, 1), "dims": (4, 6, 8, 10)}
VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 12, "depth": 3, "num_heads": 2}


def dense_twin(model: fcmae.FCMAE) -> nn.Module:
    """timm's network with the encoder's weights, in their precision."""
    dense = timm.create_model(model.config.name, num_classes=0, **SMALL_CONVNEXT).double()
    assert dense.load_state_dict(model.encoder.state_dict(), strict=False).unexpected_keys == []
    return dense.eval()


def randomized(model: nn.Module) -> nn.Module:
    """float64, and every parameter with a value that matters: GRN and LayerScale start at almost nothing."""
    for name, parameter in model.double().named_parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, mean=float("norm" in name), std=0.5)
        else:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return model.eval()


def distances_of(per_block: list[Tensor]) -> list[tuple[float, float]]:
    """Mean and standard error over images of the distance from all pairs' cosines; [B, M, C] each, in float64."""
    rows = []
    for x_BMC in per_block:
        norm = x_BMC.norm(dim=1, keepdim=True)
        unit = torch.where(norm > 0, x_BMC / norm, 0)
        cosine = torch.where((norm == 0) & (norm.mT == 0), 1, unit.mT @ unit)
        d = ((1 - cosine) / 2).mean((1, 2))
        rows.append((float(d.mean()), float(d.std() / len(d) ** 0.5)))
    return rows


def assert_rows_are(rows: list[BlockCollapse], per_block: list[Tensor]) -> None:
    for row, (mean, error) in zip(rows, distances_of(per_block), strict=True):
        assert row.distance == pytest.approx(mean, abs=1e-12), row.layer
        assert row.distance_se == pytest.approx(error, abs=1e-12), row.layer


def literal_grn(x_BHWC: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    norm = x_BHWC.square().sum((1, 2), keepdim=True).sqrt()
    return weight * (x_BHWC * norm / (norm.mean(-1, keepdim=True) + 1e-6)) + bias + x_BHWC


def convnext_by_hand(model: nn.Module, images: Tensor) -> dict[str, list[Tensor]]:
    """The tapped tensors of a dense ConvNeXt, from its parameters, [B, M, C] of each block."""
    found: dict[str, list[Tensor]] = {tap: [] for tap in TAPS}
    x = model.stem(images)
    for stage in model.stages:
        x = stage.downsample(x)
        for block in stage.blocks:
            mlp = block.mlp
            y = block.conv_dw(x).permute(0, 2, 3, 1)
            y = F.layer_norm(y, y.shape[-1:], block.norm.weight, block.norm.bias, 1e-6)
            inside = {"expansion": F.linear(y, mlp.fc1.weight.flatten(1), mlp.fc1.bias)}
            inside["act"] = inside["grn"] = F.gelu(inside["expansion"])
            if hasattr(mlp, "grn"):
                inside["grn"] = literal_grn(inside["act"], mlp.grn.weight, mlp.grn.bias)
            y = F.linear(inside["grn"], mlp.fc2.weight.flatten(1), mlp.fc2.bias).permute(0, 3, 1, 2)
            x = x + (y if block.gamma is None else y * block.gamma.view(-1, 1, 1))
            inside["block"] = x.permute(0, 2, 3, 1)
            for tap in TAPS:
                found[tap].append(inside[tap].flatten(1, 2))
    return found
