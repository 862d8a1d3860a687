"""An optimizer step that is captured as CUDA graphs once, and replayed.

Its operations are thousands, and launching them one by one takes longer than they do. A graph holds their kernels and
the addresses that these read and write; one launch replays it. So everything that changes from step to step lives in
tensors that stay where they are: inputs, learning rates, loss, weights, optimizer state. Random numbers do not repeat:
a replay draws from the seed that torch's generator has then.

The first step with inputs of a kind runs operation by operation, which compiles and allocates what is needed. The next
one is captured, which computes nothing, and replayed.
"""

import gc
import logging
from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from fcmae.errors import brief
from fcmae.training.accelerator import captures
from fcmae.training.gradients import FlatGradients
from fcmae.training.rates import Rates
from fcmae.training.run import Inputs, Run
from fcmae.training.step import EagerStep, Step

logger = logging.getLogger(__name__)

Launch = Callable[[], None]


class Capture(Protocol):
    """How work is captured."""

    def warm_up(self, work: Launch) -> None:
        """Do the work, as preparation for capturing it."""

    def __call__(self, work: Launch) -> Launch:
        """Capture the work without doing it. Returns what does it, as often as it is called.

        Any exception: it cannot be captured; nothing was done.
        """

    def start_over(self) -> None:
        """What was captured before is dropped now: its memory need not be shared."""


class CudaCapture:
    """CUDA graphs that share one pool of memory, because one replays after the other."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream, self.pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()

    def warm_up(self, work: Launch) -> None:
        """On the stream that captures, which has workspaces of its own."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            work()
        current.wait_stream(self.stream)

    def __call__(self, work: Launch) -> Launch:
        """See :class:`Capture`."""
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self.device)
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        random_state = generator.get_state()
        try:
            # thread_local: other threads of this process pin memory meanwhile, and watch the other processes
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
                work()
        except Exception:
            torch.cuda.set_stream(current)  # torch leaves the other one if a capture fails, and its generator capturing
            self._end_allocations()
            generator.graphsafe_set_state(torch.Generator(self.device).graphsafe_get_state())
            generator.set_state(random_state)
            raise
        return graph.replay

    def start_over(self) -> None:
        """See :class:`Capture`."""
        torch.cuda.synchronize(self.device)  # a graph may still run
        self.pool = torch.cuda.graph_pool_handle()

    def _end_allocations(self) -> None:
        """Of a capture whose end failed: torch does not, and its allocator would go on as if it captured."""
        index = torch.cuda.current_device()
        with suppress(RuntimeError, AttributeError):  # they have ended, or torch does it by other names
            torch.cuda.memory._cuda_endAllocateToPool(index, self.pool)
            torch.cuda.memory._cuda_releasePool(index, self.pool)


class GraphedStep:
    """An optimizer step that is captured and replayed; where that fails it says so once, and goes on without.

    With one process and one micro-batch a step, one graph is the whole step. Otherwise each micro-batch replays a graph
    that adds to the gradients, and another one updates the weights. Between them, processes exchange gradients with one
    reduction of all of them, which is not captured; so ``run.model`` must not be wrapped to exchange them itself.

    Args:
        run: what is trained.
        capture: how; None: not at all, the same operations launched one by one.
    """

    def __init__(self, run: Run[Any], capture: Capture | None) -> None:
        self.run, self.capture = run, capture
        device = run.accelerator.device
        self.parameters = [p for p in run.bare_model.parameters() if p.requires_grad]
        self.rates = Rates(run.optimizer, device)
        self.loss = torch.zeros((), device=device)
        is_shared = run.batch.accumulation_steps > 1 or run.accelerator.num_processes > 1
        self.gradients = FlatGradients(self.parameters) if is_shared else None
        if self.gradients is not None and run.accelerator.num_processes > 1:
            self.gradients.broadcast_parameters()
        for group in run.optimizer.param_groups:
            group["capturable"] = True  # AdamW's state is on the device either way, because it is fused
        self._inputs: dict[Hashable, Inputs] = {}
        self._warm: set[Hashable] = set()
        self._replays: dict[Hashable, Launch] = {}

    def __call__(self, micro_batches: Iterator[Inputs], done: Launch) -> Tensor:
        """This process's loss, averaged over the micro-batches of the step; ``done`` is called after each of them."""
        self.rates.update()
        for _ in range(self.run.batch.accumulation_steps):
            kind, inputs = self._in_place(next(micro_batches))
            self._launch(kind, partial(self._micro_batch, inputs))
            done()
        if self.gradients is not None:
            self.gradients.average(self.run.accelerator.num_processes)
            self._launch("update", self._update)
        loss = self.loss.clone()
        self.loss.zero_()
        return loss

    def _micro_batch(self, inputs: Inputs) -> None:
        run = self.run
        loss = run.task.loss(run.model, inputs) / run.batch.accumulation_steps
        run.accelerator.backward(loss)
        self.loss += loss.detach()
        if self.gradients is None:
            self._update()
        else:
            self.gradients.take()

    def _update(self) -> None:
        if self.gradients is not None:
            self.gradients.give()
        clip_grad = self.run.config.train.clip_grad
        if clip_grad is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, clip_grad)
        with self.rates.in_groups():
            self.run.optimizer.step()
        self._forget_gradients()
        if self.gradients is not None:
            self.gradients.flat.zero_()

    def _forget_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def _in_place(self, inputs: Inputs) -> tuple[Hashable, Inputs]:
        """Copy inputs to where the graphs read them. Returns their kind, too: there is a graph for each."""
        kind = tuple(None if x is None else (x.shape, x.stride(), x.dtype) for x in inputs)
        if kind not in self._inputs:
            self._drop_graphs()
            self._inputs[kind] = tuple(None if x is None else torch.empty_like(x) for x in inputs)
        for place, x in zip(self._inputs[kind], inputs, strict=True):
            if place is not None and x is not None:
                place.copy_(x)
        return kind, self._inputs[kind]

    def _launch(self, kind: Hashable, work: Launch) -> None:
        if self.capture is not None and kind in self._warm and kind not in self._replays:
            self._try_to_capture(kind, work)
        if kind in self._replays:
            self._replays[kind]()
        elif self.capture is not None:
            self.capture.warm_up(work)
            self._warm.add(kind)
        else:
            work()

    def _drop_graphs(self) -> None:
        """They hold the memory of a step, which the first step with other inputs needs; they are captured again."""
        if self.capture is not None and self._replays:
            self.capture.start_over()
            self._replays = {}

    def _try_to_capture(self, kind: Hashable, work: Launch) -> None:
        assert self.capture is not None
        try:
            self._replays[kind] = self.capture(work)
        except Exception as error:  # of CUDA, a kernel's compiler, memory: the step runs without a graph
            logger.warning(
                "the training step cannot be captured as a CUDA graph, so its kernels are launched one by one: %s",
                _first_cause(error),
            )
            self.capture, self._replays = None, {}
        self._forget_gradients()
        if self.capture is None:
            gc.collect()  # what the attempt had allocated
            if self.run.accelerator.device.type == "cuda":
                with suppress(RuntimeError):  # an allocator that still takes this for a capture
                    torch.cuda.empty_cache()


def _first_cause(error: BaseException) -> str:
    """In one line. The end of a capture that an error broke off raises another error."""
    while error.__context__ is not None:
        error = error.__context__
    return brief(f"{type(error).__name__}: {error}")


def make_step(run: Run[Any]) -> Step:
    """The training step of a run: captured on CUDA, unless ``train.cuda_graphs`` is off."""
    if captures(run.config.train, run.accelerator) and not run.is_sharded:
        return GraphedStep(run, CudaCapture(run.accelerator.device))
    return EagerStep(run)
