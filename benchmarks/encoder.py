"""The encoder alone, forward + backward: backend against backend.

    python -m benchmarks.encoder --models convnextv2_atto --backends grid masked minkowski

Every path carries the same weights and sees the same images and masks.
"""

import argparse
from dataclasses import replace

import torch

from benchmarks.compare import Row, options, print_table
from benchmarks.weights import randomise_grn
from fcmae.models import ModelConfig, SparseConvNeXt
from fcmae.models.fcmae import count_visible


def make_rows(args: argparse.Namespace) -> list[Row]:
    """Model × dtype × backend."""
    rows, device = [], torch.device(args.device)
    images = torch.randn(args.batch_size, 3, args.img_size, args.img_size, device=device)
    for name in args.models:
        config = ModelConfig(name, img_size=args.img_size, checkpoint_stages=tuple(args.checkpoint_stages))
        first = SparseConvNeXt(config).to(device)
        randomise_grn(first)
        grid_h, grid_w = config.grid_hw
        order = torch.rand(args.batch_size, grid_h * grid_w, device=device).argsort(1)
        visible = (order < count_visible(grid_h * grid_w, args.mask_ratio)).view(-1, grid_h, grid_w)
        dy = torch.randn(args.batch_size, first.num_features, grid_h, grid_w, device=device)
        for dtype in args.dtypes:
            for backend in args.backends:
                encoder = SparseConvNeXt(replace(config, backend=backend)).to(device)
                encoder.load_state_dict(first.state_dict())
                if args.compile and backend != "minkowski":
                    encoder.compile()

                def forward(encoder=encoder, visible=visible, dy=dy):
                    return (encoder(images, visible).float() * dy).sum()

                rows.append(Row(name, backend, dtype, encoder, forward))
    return rows


def main() -> None:
    """Command line."""
    args = options(__doc__).parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print_table(make_rows(args), args, "Encoder, forward + backward")


if __name__ == "__main__":
    main()
