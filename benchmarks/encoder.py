"""The encoder alone, forward + backward: backend against backend.

    python -m benchmarks.encoder --models convnextv2_atto --backends numba torch masked minkowski

All backends carry the same weights and see the same images and masks.
"""

import argparse
import functools
import math
from dataclasses import replace

import torch

from benchmarks.compare import Row, options, print_table
from benchmarks.weights import randomize_grn
from fcmae.models import ModelConfig, SparseConvNeXt
from fcmae.models.fcmae import count_visible, random_visible


def make_rows(args: argparse.Namespace) -> list[Row]:
    """Model × dtype × backend."""
    rows, device = [], torch.device(args.device)
    images = torch.randn(args.batch_size, 3, args.img_size, args.img_size, device=device)
    for name in args.models:
        config = ModelConfig(name, img_size=args.img_size, checkpoint_stages=tuple(args.checkpoint_stages))
        first = SparseConvNeXt(config).to(device)
        randomize_grn(first)
        num_visible = count_visible(math.prod(config.grid_hw), args.mask_ratio)
        visible = random_visible(args.batch_size, config.grid_hw, num_visible, device=device)
        dy = torch.randn(args.batch_size, first.num_features, *config.grid_hw, device=device)
        for dtype in args.dtypes:
            for backend in args.backends:
                encoder = SparseConvNeXt(replace(config, backend=backend)).to(device)
                encoder.load_state_dict(first.state_dict())
                if args.compile and backend != "minkowski":
                    encoder.compile()

                forward = functools.partial(encoder, images, visible)
                rows.append(Row(name, backend, dtype, encoder, forward, gradient=dy))
    return rows


def main() -> None:
    """Command line."""
    args = options(__doc__).parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print_table(make_rows(args), args, "Encoder, forward + backward")


if __name__ == "__main__":
    main()
