"""How many operations a training step asks a GPU for, by backend, counted on tensors without data: no GPU is needed.

python -m benchmarks.launches --model convnextv2_tiny --batch-size 128

A view or an allocation counts 0, a Triton kernel 1, any other operation of PyTorch's 1, though a few of these launch
several kernels. Eager, bfloat16 autocast; nothing is timed.
"""

import argparse
import contextlib
from collections import Counter
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.library import CustomOpDef
from torch.utils._python_dispatch import TorchDispatchMode

from fcmae.models import FCMAE, ModelConfig
from fcmae.models.fcmae import count_visible
from fcmae.models.layers import use_backend
from fcmae.models.sizes import SIZES
from fcmae.sparse import sites
from fcmae.sparse.backends.triton import depthwise, gelu_grn, grn_weights, launch, neighbors, norm, patches
from fcmae.sparse.backends.triton.launch import Launch, interpreting

NOT_LAUNCHED = (
    "device", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "lift_fresh",
    "promote_types", "_record_function_enter_new", "_record_function_exit",
)  # fmt: skip
OPERATORS = {
    op._opoverload: op
    for module in (depthwise, gelu_grn, grn_weights, neighbors, norm, patches)
    for op in vars(module).values()
    if isinstance(op, CustomOpDef)
}


class Launches(TorchDispatchMode):
    """Counts, by name, what is run inside ``with``; the Triton operators are followed into their bodies."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Count one operation and run it."""
        if func in OPERATORS:
            with self:
                return OPERATORS[func]._init_fn(*args, **(kwargs or {}))
        if not func.is_view and func.overloadpacket.__name__ not in NOT_LAUNCHED:
            self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def count(model_name: str, backend: str, batch: int, img_size: int, mask_ratio: float = 0.6) -> dict[str, Counter[str]]:
    """Operations of the forward pass, the backward pass and the optimizer."""
    model = FCMAE(ModelConfig(model_name, img_size=img_size, backend="masked" if backend == "masked" else "torch"))
    grid = model.config.grid_hw
    phases: dict[str, Counter[str]] = {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(FakeTensorMode())
        for module in (depthwise, launch):
            stack.enter_context(mock.patch.object(module, "missing_on", return_value=None))
        stack.enter_context(mock.patch.object(sites, "_visible_per_image", lambda _, expected: expected))
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = nn.Parameter(torch.empty(parameter.shape))
        if backend != "masked":
            use_backend(model, backend)
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        images = torch.empty(batch, 3, img_size, img_size)
        visible = torch.empty(batch, *grid, dtype=torch.bool)
        kept = count_visible(grid[0] * grid[1], mask_ratio)

        def phase(name: str, run: Any) -> Any:
            launches = Launches()

            def note(launch: Launch, *_: Any) -> None:
                launches.counts[f"{launch.kernel.__name__} (Triton)"] += 1

            with launches, mock.patch.object(Launch, "__call__", note):
                result = run()
            phases[name] = launches.counts
            return result

        def forward() -> Any:
            with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
                return model(images, visible=visible, num_visible=kept, masked_only=True).loss

        for _ in range(2):  # the first step also makes the optimizer's state
            loss = phase("forward", forward)
            phase("backward", loss.backward)
            phase("optimizer", optimizer.step)
            optimizer.zero_grad()
    return phases


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="convnextv2_tiny", choices=SIZES)
    parser.add_argument("--backends", nargs="+", default=["triton", "torch", "masked"])
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--names", action="store_true", help="list the operations of each backend, too")
    args = parser.parse_args()
    if interpreting():
        raise SystemExit("TRITON_INTERPRET is set: kernels would be cut for the interpreter; unset it")
    print("| backend | forward | backward | optimizer | together | of them Triton kernels |\n|---|---|---|---|---|---|")
    names: dict[str, Counter[str]] = {}
    for backend in args.backends:
        phases = count(args.model, backend, args.batch_size, args.img_size)
        names[backend] = sum(phases.values(), Counter())
        kernels = sum(number for name, number in names[backend].items() if name.endswith("(Triton)"))
        cells = [*(phase.total() for phase in phases.values()), names[backend].total(), kernels]
        print(f"| {backend} | {' | '.join(map(str, cells))} |")
    if args.names:
        for backend, counts in names.items():
            print(f"\n{backend}: " + ", ".join(f"{name} {number}" for name, number in counts.most_common()))


if __name__ == "__main__":
    main()
