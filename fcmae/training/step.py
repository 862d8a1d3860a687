"""One optimizer step: gradients of all its micro-batches, clipping, the optimizer."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from fcmae.training.rates import Rates
from fcmae.training.run import Inputs, Run
from fcmae.training.sharding import no_exchange

Step = Callable[[Iterator[Inputs], Callable[[], None]], Tensor]
"""(micro-batches, what to call after each) → this process's loss, averaged over the micro-batches of the step."""


class EagerStep:
    """Launches its operations one by one. With several processes DDP or FSDP2 exchanges the gradients."""

    def __init__(self, run: Run[Any]) -> None:
        self.run = run
        # as tensors they are rounded to float32: a GPU computes the same numbers as from a graph
        on_gpu = run.accelerator.device.type == "cuda" and not run.is_sharded
        self.rates = Rates(run.optimizer, run.accelerator.device) if on_gpu else None

    def __call__(self, micro_batches: Iterator[Inputs], done: Callable[[], None]) -> Tensor:
        """See :data:`Step`."""
        run, accumulate = self.run, self.run.batch.accumulation_steps
        total = torch.zeros((), device=run.accelerator.device)
        for micro_batch in range(accumulate):
            inputs = next(micro_batches)
            is_last = micro_batch == accumulate - 1
            # processes exchange gradients once per step, with the last micro-batch
            with contextlib.nullcontext() if is_last else _no_exchange(run):
                loss = run.task.loss(run.model, inputs) / accumulate
                run.accelerator.backward(loss)
            total += loss.detach()
            done()
        if run.config.train.clip_grad is not None:
            run.accelerator.clip_grad_norm_(run.model.parameters(), run.config.train.clip_grad)
        if self.rates is None:
            run.optimizer.step()
        else:
            self.rates.update()
            with self.rates.in_groups():
                run.optimizer.step()
        run.optimizer.zero_grad()
        return total


def _no_exchange(run: Run[Any]) -> contextlib.AbstractContextManager[Any]:
    """While open, gradients are added up in each process."""
    return no_exchange(run.model) if run.is_sharded else run.accelerator.no_sync(run.model)
