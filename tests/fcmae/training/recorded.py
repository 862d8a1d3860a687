"""A stand-in for CUDA graphs on a CPU: it records the operations of a function, and repeats them on the same memory.

As with a graph, numbers and branches of Python are those of the recording; only what lies in tensors that were there
before may change. As while a graph is captured, reading a value back is an error, and nothing is changed: what the
recording wrote to is put back. Memory that only the recording allocated is poisoned after it and after each replay.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from fcmae import pretrain
from fcmae.finetuning import setup as finetuning_setup
from fcmae.sparse import sites
from fcmae.sparse.backends import registry
from fcmae.training import graphs, setup

READS_BACK = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.is_nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.unique_dim.default,
}


class Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.launches: list[tuple[Any, tuple, dict, dict[int, Tensor]]] = []
        self.before: dict[int, tuple[Tensor, Tensor]] = {}  # of each memory that was there: a view of all, a copy
        self.own: dict[int, Tensor] = {}  # by address: what the recording allocated

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in READS_BACK:
            raise RuntimeError(f"operation not permitted while recording: {func}")
        for number, argument in enumerate(func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                value = args[number] if number < len(args) else kwargs.get(argument.name)
                self.keep(tree_flatten(value)[0])
        shaped = alias((args, kwargs))  # an operation in place may change the shape of an argument later
        result = func(*args, **kwargs)
        known = {self.memory(x) for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)}
        outputs = {
            place: x
            for place, x in enumerate(tree_flatten(result)[0])
            if isinstance(x, Tensor) and self.memory(x) not in known
        }
        for output in outputs.values():
            if output.numel():
                self.own.setdefault(self.memory(output), whole(output))
        self.launches.append((func, *shaped, alias(outputs)))
        return result

    @staticmethod
    def memory(x: Tensor) -> int:
        return x.untyped_storage().data_ptr()

    def keep(self, written: list[Any]) -> None:
        for x in written:
            if isinstance(x, Tensor) and self.memory(x) not in self.own and self.memory(x) not in self.before:
                everything = whole(x)
                self.before[self.memory(x)] = everything, everything.clone()


def alias(tree: Any) -> Any:
    """Other tensors on the same memory, of the shapes that they have now."""
    return tree_map(lambda x: x.detach() if isinstance(x, Tensor) else x, tree)


def whole(x: Tensor) -> Tensor:
    """All of a tensor's memory, flat."""
    return torch.empty(0, dtype=x.dtype).set_(x.untyped_storage())  # type: ignore[call-overload]


class Recording:
    """See :class:`fcmae.training.graphs.Capture`."""

    def __init__(self, *_: Any) -> None:
        self.captured = self.replayed = self.warmed = self.dropped = 0

    def start_over(self) -> None:
        self.dropped += 1

    def warm_up(self, work: Callable[[], None]) -> None:
        self.warmed += 1
        work()

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        recorder, state = Recorder(), torch.get_rng_state()
        try:
            with recorder:
                work()
        finally:
            torch.set_rng_state(state)
            for everything, copy in recorder.before.values():
                everything.copy_(copy)
        self.captured += 1
        poison(recorder)

        def replay() -> None:
            self.replayed += 1
            with torch.no_grad():
                for func, args, kwargs, outputs in recorder.launches:
                    again = tree_flatten(func(*alias(args), **alias(kwargs)))[0]
                    for place, output in outputs.items():
                        output.copy_(again[place])
            poison(recorder)

        return replay


def poison(recorder: Recorder) -> None:
    for memory in recorder.own.values():
        memory.fill_(torch.nan if memory.is_floating_point() else 1)


def capture_here(setattr_: Callable[[Any, str, Any], None]) -> list[Recording]:
    """From now on training steps are captured on this CPU. Returns the list that their recordings will be in."""
    made: list[Recording] = []

    def record(_: torch.device) -> Recording:
        made.append(Recording())
        return made[-1]

    setattr_(graphs, "CudaCapture", record)
    for module in (graphs, setup, finetuning_setup):
        setattr_(module, "captures", lambda train, _: train.cuda_graphs)
    # Numba's kernels are no operations of PyTorch, and cannot be recorded
    setattr_(registry, "FASTEST", {})
    # the check of masks on a CPU reads values back; a GPU's are trusted
    count = sites._visible_per_image
    setattr_(sites, "_visible_per_image", lambda visible, known: count(visible, known) if known is None else known)
    return made


def main(args: Sequence[str]) -> int:
    """Train as the command does."""
    recordings = capture_here(setattr)
    status = pretrain.main(args)
    sys.stderr.write(f"replayed {[recording.replayed for recording in recordings]} times\n")
    return status
