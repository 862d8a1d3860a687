"""Linear → GELU → GRN → Linear with Triton kernels between the matrix products.

GRN multiplies each channel of an image by a number and adds another. Where an image has several times as many sites as
the layer has channels, both go into the second Linear's weights, image by image: one pass over the wide tensor each way
instead of two.
"""

import torch.nn.functional as F
from torch import Tensor

from fcmae.sparse.backends import pytorch
from fcmae.sparse.backends.operations import MlpWeights, check_mlp
from fcmae.sparse.backends.triton.gelu_grn import gelu_grn_linear_op, gelu_grn_op
from fcmae.sparse.backends.triton.launch import can_run

MANY_SITES = 4  # per channel: from here on scaling the second Linear's weights for each image costs less than a pass


def mlp(
    x: Tensor, weights: MlpWeights, batch_size: int, rows: Tensor | None = None, shortcut: Tensor | None = None
) -> Tensor:
    """See :func:`fcmae.sparse.backends.pytorch.mlp`; GELU and GRN compute in float32."""
    if weights.grn_weight is None or weights.grn_bias is None or not x.numel() or not can_run(x, *weights, shortcut):
        return pytorch.mlp(x, weights, batch_size, rows, shortcut)
    check_mlp(x, weights, rows, shortcut)
    h = F.linear(x, weights.fc1_weight).contiguous()
    between = h, weights.fc1_bias, weights.grn_weight, weights.grn_bias
    if rows is None and len(x) >= MANY_SITES * batch_size * len(weights.fc2_weight):
        w2, b2 = weights.fc2_weight.to(h.dtype), weights.fc2_bias.to(h.dtype)
        if shortcut is not None and shortcut.dtype == h.dtype:
            return gelu_grn_linear_op(*between, w2, b2, shortcut, batch_size)[0]
        out = gelu_grn_linear_op(*between, w2, b2, None, batch_size)[0]
    else:
        y = gelu_grn_op(*between, batch_size)[0]
        out = F.linear(y if rows is None else y.index_select(0, rows), weights.fc2_weight, weights.fc2_bias)
    return out if shortcut is None else shortcut + out
