"""Encoder forward + backward: sparse against the same network as masked dense convolution.

    python -m benchmarks.encoder --model convnextv2_atto --batch-size 16

The two paths carry the same weights, see the same images and the same mask, and run alternately in one process. A path
whose output or gradients are wrong is not timed. The baseline's MLP is timed both as 1×1 convolutions and as Linear
layers.
"""

import argparse

import torch
from torch import Tensor, nn

from benchmarks import timing
from benchmarks.masked import MaskedDenseEncoder
from fcmae.models import FCMAE, ModelConfig

TOLERANCE = 1e-3  # relative, float32, gradients summed over 16 images through 12 to 36 blocks


def randomise_grn(module: nn.Module) -> None:
    """GRN starts as the identity; give it something to do, so that a wrong one is noticed."""
    for name, parameter in module.named_parameters():
        if "grn" in name:
            nn.init.normal_(parameter, std=0.5)


def forward_backward(
    encoder: nn.Module, images: Tensor, visible: Tensor, dy: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Output and the gradient of every parameter."""
    encoder.zero_grad(set_to_none=True)
    out = encoder(images, visible)
    out.backward(dy)
    gradients = {n.removeprefix("net."): p.grad.flatten() for n, p in encoder.named_parameters() if p.grad is not None}
    return out, gradients


def check_equal(name: str, got: tuple[Tensor, dict], expected: tuple[Tensor, dict]) -> None:
    """Refuse to time a path that computes something else."""
    pairs = {"output": (got[0], expected[0])} | {k: (got[1][k], expected[1][k]) for k in expected[1]}
    for what, (a, b) in pairs.items():
        error = float((a - b).norm().detach() / b.norm().detach())
        if not error < TOLERANCE:
            raise SystemExit(f"not timed: {name} differs from the sparse encoder in {what} by {error:.1e}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="convnextv2_atto")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--mask-ratio", type=float, default=0.6)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = FCMAE(ModelConfig(args.model, img_size=args.img_size), mask_ratio=args.mask_ratio)
    randomise_grn(model.encoder)
    images = torch.randn(args.batch_size, 3, args.img_size, args.img_size)
    visible, kept = model.random_visible(images)
    dy = torch.randn_like(model.encoder(images, visible).detach())

    encoders: dict[str, nn.Module] = {
        "sparse": model.encoder,
        "masked, 1×1 conv": MaskedDenseEncoder(args.model, model.encoder, conv_mlp=True),
        "masked, Linear": MaskedDenseEncoder(args.model, model.encoder, conv_mlp=False),
    }
    expected = forward_backward(model.encoder, images, visible, dy)
    for name, encoder in encoders.items():
        check_equal(name, forward_backward(encoder, images, visible, dy), expected)

    def run_of(encoder: nn.Module):
        return lambda: forward_backward(encoder, images, visible, dy)

    seconds = timing.alternate({name: run_of(encoder) for name, encoder in encoders.items()}, args.repeats)
    masked = min(list(encoders)[1:], key=lambda name: sorted(seconds[name])[args.repeats // 2])
    print(timing.machine())
    print(
        f"{args.model} encoder, forward + backward, batch {args.batch_size}, {args.img_size}², "
        f"{kept} of {visible[0].numel()} patches visible, float32, {args.repeats} rounds"
    )
    print(timing.table(seconds, args.batch_size, masked))


if __name__ == "__main__":
    main()
