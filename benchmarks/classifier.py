"""A step of fine-tuning, forward + backward: timm's dense network against the kernels with every patch visible.

    python -m benchmarks.classifier --models convnextv2_atto convnext_tiny --img-size 128

Both have the same weights and see the same images.
"""

import argparse
import functools
from typing import Any

import timm
import torch

from benchmarks.compare import Row, options, print_table
from benchmarks.weights import randomize_grn
from fcmae.models import ModelConfig
from fcmae.models.classifier import Classifier

CLASSES = 10
DENSE = "dense"


def make_rows(args: argparse.Namespace) -> list[Row]:
    """Model × dtype × dense and each backend."""
    rows, device = [], torch.device(args.device)
    images = torch.randn(args.batch_size, 3, args.img_size, args.img_size, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    dy = torch.randn(args.batch_size, CLASSES, device=device)
    for name in args.models:
        dense: Any = timm.create_model(name, num_classes=CLASSES).to(device)
        randomize_grn(dense)
        for dtype in args.dtypes:
            for backend in (DENSE, *args.backends):
                network: Any = dense
                if backend != DENSE:
                    network = Classifier(ModelConfig(name, img_size=args.img_size, backend=backend), dense.head)
                    network = network.to(device)
                    network.load_state_dict(dense.state_dict())
                network.to(memory_format=torch.channels_last)
                rows.append(Row(name, backend, dtype, network, functools.partial(network, images), gradient=dy))
    return rows


def main() -> None:
    """Command line."""
    parser = options(__doc__)
    parser.set_defaults(backends=["auto"], mask_ratio=0.0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print_table(make_rows(args), args, "Classifier, forward + backward", baseline=DENSE)


if __name__ == "__main__":
    main()
