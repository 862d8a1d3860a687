"""A pretraining step, forward + backward of the whole FCMAE: backend against backend, and a ViT MAE next to them.

    python -m benchmarks.pretrain_step --models convnextv2_atto --backends numba torch masked minkowski
    python -m benchmarks.pretrain_step --models convnextv2_base --peer vit_base_patch16_224 --dtypes bf16 --compile

All backends carry the same weights and see the same images and masks. The peer is another network with another mask
ratio (75%, as published), so its row has no ratio to ``masked``: compare images/s.
"""

import argparse
from dataclasses import replace

import torch

from benchmarks.compare import Row, options, print_table
from benchmarks.mae import ViTMAE
from benchmarks.weights import randomize_grn
from fcmae.models import FCMAE, ModelConfig


def make_rows(args: argparse.Namespace) -> list[Row]:
    """One row per model, dtype and backend, then the peers."""
    rows, device = [], torch.device(args.device)
    images = torch.randn(args.batch_size, 3, args.img_size, args.img_size, device=device)
    for name in args.models:
        config = ModelConfig(name, img_size=args.img_size, checkpoint_stages=tuple(args.checkpoint_stages))
        first = FCMAE(config, args.mask_ratio).to(device)
        randomize_grn(first)
        visible, kept = first.random_visible(images)
        for dtype in args.dtypes:
            for backend in args.backends:
                model = FCMAE(replace(config, backend=backend), args.mask_ratio).to(device)
                model.load_state_dict(first.state_dict())
                if args.compile and backend != "minkowski":
                    model.compile()

                def forward(model=model, visible=visible, kept=kept):
                    return model(images, visible=visible, num_visible=kept, masked_only=True).loss

                rows.append(Row(name, backend, dtype, model, forward))
    for name in args.peer:
        for dtype in args.dtypes:
            mae = ViTMAE(name, args.img_size).to(device)
            order = torch.rand(args.batch_size, mae.encoder.patch_embed.num_patches, device=device).argsort(1)
            if args.compile:
                mae.compile()
            rows.append(Row(name, "MAE", dtype, mae, lambda mae=mae, order=order: mae(images, order)))
    return rows


def main() -> None:
    """Command line."""
    parser = options(__doc__)
    parser.add_argument("--peer", nargs="*", default=[], help="timm names of ViTs to add to the table as MAE")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print_table(make_rows(args), args, "FCMAE, forward + backward")


if __name__ == "__main__":
    main()
