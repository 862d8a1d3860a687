"""A store of images that goes away stops all processes of a run before the same step, so that they can save it."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import gather_object

from fcmae.errors import OtherProcessError, StoreError
from fcmae.training.run import Inputs

T = TypeVar("T")


class TogetherOrNone:
    """The micro-batches of this process, each once every process has its own; or an error in all of them.

    The processes ask by their CPUs, and only if images come by URL: a small exchange for each micro-batch.

    Args:
        batches: micro-batches.
        accelerator: of the run.
        is_far: whether images come by URL. All processes give the same.
    """

    def __init__(self, batches: Iterator[Inputs], accelerator: Accelerator, is_far: bool) -> None:
        self.batches, self.accelerator = batches, accelerator
        self._group: Any = dist.new_group(backend="gloo") if is_far and accelerator.num_processes > 1 else None

    def __iter__(self) -> "TogetherOrNone":
        return self

    @property
    def is_agreed(self) -> bool:
        """Whether a StoreError of one process is raised in all of them."""
        return self.accelerator.num_processes == 1 or self._group is not None

    def __next__(self) -> Inputs:
        """The next one.

        Raises:
            StoreError: this process, or another one (OtherProcessError), cannot fetch its images.
        """
        if self._group is None:
            return next(self.batches)
        inputs, error = _tried(lambda: next(self.batches))
        failed = torch.tensor([int(error is not None)])
        dist.all_reduce(failed, group=self._group)
        if failed.item():
            raise_together(error)
        assert inputs is not None
        return inputs


def together(call: Callable[[], T], num_processes: int) -> T:
    """What ``call`` returns, unless a process meets a StoreError in it: then all raise. All processes must call it."""
    if num_processes == 1:
        return call()
    found, error = _tried(call)
    raise_together(error)
    return found  # type: ignore[return-value]


def raise_together(error: StoreError | None) -> None:
    """Raise in all processes if one has an error: the first that has one its own, and the others that it has."""
    errors = gather_object([None if error is None else str(error)])
    first = next((n for n, text in enumerate(errors) if text is not None), None)
    if first is None:
        return
    if error is not None and first == dist.get_rank():
        raise error
    raise OtherProcessError(f"process {first} of this run: {errors[first]}")


def _tried(call: Callable[[], T]) -> tuple[T | None, StoreError | None]:
    try:
        return call(), None
    except StoreError as error:
        return None, error
