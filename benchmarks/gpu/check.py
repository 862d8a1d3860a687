"""Numbers first: loss and every gradient of each backend against PyTorch's in float32; a replayed step against eager.

python -m benchmarks.gpu.check

A backend may be as far from float32 as PyTorch's own autocast is, times two. Exit status 1 if one is further off.
"""

import sys

import torch
from torch import Tensor

from benchmarks.gpu import common
from fcmae.models import FCMAE

BATCH = 8
FLOAT32_ERROR = 1e-4
"""Relative, of all gradients together, that float32 may differ by between backends."""


def gradients(model: FCMAE, inputs: common.Inputs, dtype: torch.dtype) -> dict[str, Tensor]:
    """The loss and every gradient, in float32."""
    model.zero_grad()
    loss = common.forward_backward(common.loss_of(model, inputs), dtype, inputs.images.device)
    found = {name: p.grad.float() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return {"loss": loss.float(), **found}


def errors(got: dict[str, Tensor], expected: dict[str, Tensor]) -> tuple[float, float, float, str]:
    """Relative: of the loss, of all gradients together, of the worst one, and the name of that."""
    each = {name: float((got[name] - e).norm() / e.norm().clamp_min(1e-12)) for name, e in expected.items()}
    loss = each.pop("loss")
    squares = [(float((got[n] - expected[n]).square().sum()), float(expected[n].square().sum())) for n in each]
    together = (sum(d for d, _ in squares) / sum(e for _, e in squares)) ** 0.5
    worst = max(each, key=lambda name: each[name])
    return loss, together, each[worst], worst


def replay_equals_eager(model: FCMAE, inputs: common.Inputs) -> bool:
    """Whether loss and gradients of a replayed graph are those of an eager pass, bit for bit."""
    eager = gradients(model, inputs, torch.bfloat16)

    def run() -> Tensor:
        model.zero_grad()
        return common.forward_backward(common.loss_of(model, inputs), torch.bfloat16, inputs.images.device)

    loss = common.captured(run, inputs.images.device)()
    torch.cuda.synchronize()
    replayed = {"loss": loss.float()} | {n: p.grad.float() for n, p in model.named_parameters() if p.grad is not None}
    return all(torch.equal(replayed[name], value) for name, value in eager.items())


def main() -> int:
    """Command line."""
    args = common.parse(common.options(__doc__))
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    batch = 2 if args.small else BATCH
    reference = common.make_model(args, "torch")
    inputs = common.make_inputs(reference, batch, args.device)
    expected = gradients(reference, inputs, torch.float32)
    print(f"{args.model}, batch {batch}, {common.size(args)}: relative differences from PyTorch in float32.")
    common.print_header("backend", "dtype", "loss", "all gradients", "worst gradient", "")
    autocast, failed = errors(gradients(reference, inputs, torch.bfloat16), expected)[1], False
    rows = [("torch", "bf16"), ("triton", "fp32"), ("triton", "bf16"), ("masked", "fp32")]
    if args.small:  # the interpreter is slow
        rows.remove(("triton", "bf16"))
    for backend, dtype in rows:
        try:
            model = common.make_model(args, backend, reference)
            wanted = torch.bfloat16 if dtype == "bf16" else torch.float32
            loss, together, each, worst = errors(gradients(model, inputs, wanted), expected)
            fine = together <= (2 * autocast if dtype == "bf16" else FLOAT32_ERROR)
            verdict = "" if fine else "**wrong**"
            common.print_row(backend, dtype, f"{loss:.1e}", f"{together:.1e}", f"{each:.1e} ({worst})", verdict)
        except Exception as error:
            fine = False
            common.print_row(backend, dtype, "–", "–", "–", f"**failed**: {common.why(error)}")
        failed |= not fine
    if args.device.type == "cuda":
        model = common.make_model(args, "triton", reference)
        same = replay_equals_eager(model, inputs)
        print(f"\nA replayed step of `triton` and an eager one are {'equal bit for bit' if same else '**not equal**'}.")
        failed |= not same
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
