"""Linear → GELU → GRN → Linear as one function, for CPUs: fewer passes over its wide tensor than layer by layer.

Where Numba is installed, compiled loops do what lies between the matrix products
(:mod:`fcmae.sparse.mlp_compiled`). Without Numba, and in bfloat16, images with many sites take the way of
:mod:`fcmae.sparse.mlp_by_image`. All else goes layer by layer.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fcmae.sparse.compiled import loops_for
from fcmae.sparse.mlp_by_image import SITES_PER_CHANNEL, grn_mlp_by_image
from fcmae.sparse.mlp_compiled import compiled_grn_mlp
from fcmae.sparse.response_norm import grn


def grn_mlp(
    x: Tensor, fc1_weight: Tensor, fc1_bias: Tensor | None, grn_weight: Tensor, grn_bias: Tensor, fc2_weight: Tensor,
    fc2_bias: Tensor | None, batch_size: int, rows: Tensor | None = None, shortcut: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """shortcut + fc2(grn(gelu(fc1(x)))), by the way that is the fastest one here; same numbers.

    Args:
        x: [B·M, C], the M sites of an image together.
        fc1_weight: [H, C]; fc1_bias: [H].
        grn_weight: γ, [H]; grn_bias: β, [H].
        fc2_weight: [C_out, H]; fc2_bias: [C_out].
        batch_size: B.
        rows: int64 [R], those of the result that are wanted, each once; None: all. GRN looks at every site.
        shortcut: added to the result, of its shape; None: nothing.

    Returns:
        [B·M, C_out], or [R, C_out]. Under autocast, in its dtype, or in the shortcut's if that is wider.

    Raises:
        ValueError: a Linear layer without a bias, one of the three vectors of another length than H, or a shortcut of
            another shape than the result.
    """
    if fc1_bias is None or fc2_bias is None:
        raise ValueError("both Linear layers need a bias")
    if not fc1_bias.shape == grn_weight.shape == grn_bias.shape == fc1_weight.shape[:1]:
        shapes = ", ".join(str(list(t.shape)) for t in (fc1_bias, grn_weight, grn_bias))
        raise ValueError(f"the first bias, γ and β must be {list(fc1_weight.shape[:1])}, got {shapes}")
    shape = (len(x if rows is None else rows), len(fc2_weight))
    if shortcut is not None and shortcut.shape != shape:
        raise ValueError(f"the shortcut must be {list(shape)}, got {list(shortcut.shape)}")
    args = (x, fc1_weight, fc1_bias, grn_weight, grn_bias, fc2_weight, fc2_bias)
    on_cpu = x.device.type == "cpu" and not torch.compiler.is_compiling()
    if on_cpu and not torch.is_autocast_enabled("cpu"):
        loops = loops_for(*args, x if shortcut is None else shortcut)
        if loops:
            return compiled_grn_mlp(*args, batch_size, rows, shortcut, loops)
    if on_cpu and rows is None and x.shape[0] >= SITES_PER_CHANNEL * batch_size * fc2_weight.shape[0]:
        out = grn_mlp_by_image(*args, batch_size)
    else:
        wide = grn(F.gelu(F.linear(x, fc1_weight, fc1_bias)), grn_weight, grn_bias, batch_size)
        out = F.linear(wide if rows is None else wide.index_select(0, rows), fc2_weight, fc2_bias)
    return out if shortcut is None else shortcut + out
