"""A run, as the training loop sees it, and the task: what is trained.

The loop (:mod:`fcmae.training.loop`) knows devices, processes, precision, accumulation, the schedule, checkpoints, logs
and signals. A task knows the data and the loss. :mod:`fcmae.training.pretraining` is one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import torch
from accelerate import Accelerator
from filelock import FileLock
from torch import Tensor, nn

from fcmae.runs.metrics import MetricsLog
from fcmae.runs.state import TrainState
from fcmae.training.batch import Batch
from fcmae.training.optimizer import ScheduleSettings
from fcmae.training.peers import Peers
from fcmae.training.waiting import LoadingSettings

Inputs: TypeAlias = tuple[Tensor | None, ...]
"""The tensors of a micro-batch that the loss needs, in an order that the task knows. Those of a place are of one shape
in all micro-batches, or None."""


class TrainSettings(ScheduleSettings, Protocol):
    """The settings of the optimization that the loop reads."""

    @property
    def clip_grad(self) -> float | None:
        """Maximum gradient norm."""

    @property
    def cuda_graphs(self) -> bool:
        """Whether a step on CUDA is captured and replayed."""


class LogSettings(Protocol):
    """What is written, and how often."""

    @property
    def every(self) -> int:
        """Steps between lines of metrics.jsonl."""

    @property
    def checkpoint_every(self) -> int:
        """Epochs between checkpoints."""

    @property
    def keep_checkpoints(self) -> int:
        """How many of the newest to keep; 0: all."""

    @property
    def trackers(self) -> tuple[str, ...]:
        """Names of experiment trackers."""

    @property
    def project(self) -> str:
        """What they file the run under."""


class Settings(Protocol):
    """The settings that the loop reads, whatever is trained."""

    @property
    def seed(self) -> int:
        """Of everything random."""

    @property
    def data(self) -> LoadingSettings:
        """How data is loaded."""

    @property
    def train(self) -> TrainSettings:
        """The optimization."""

    @property
    def log(self) -> LogSettings:
        """What is written, and how often."""


SettingsT = TypeVar("SettingsT", bound=Settings)


class Task(Protocol):
    """What is trained. Every process of a run calls each method at the same point."""

    command: str
    """The command that resumes the run: ``pretrain``."""

    @property
    def is_far(self) -> bool:
        """Whether images to train on come by URL, from a store that may go away."""

    def loader(self, run: "Run[Any]") -> Iterable[Any]:
        """The micro-batches of this process, from ``run.start.step`` to the end, in an order that resuming repeats."""

    def inputs(self, batch: Any) -> Inputs:
        """The tensors of a micro-batch, on the CPU. Called once for each, in order; what else it holds is noted."""

    def loss(self, model: nn.Module, inputs: Inputs) -> Tensor:
        """The mean loss of a micro-batch, a float32 scalar; ``inputs`` are on the model's device.

        It reads no value back from the device and branches on shapes alone, so that it can be captured as a CUDA graph.
        Random numbers come from torch's default generators, which the loop seeds at every step.
        """

    def values(self, run: "Run[Any]") -> dict[str, float]:
        """More values for a line of metrics.jsonl. Called before lines and checkpoints."""

    def network(self, run: "Run[Any]") -> dict[str, Any]:
        """The network's configuration, for the header of ``model.safetensors``."""

    def average(self, run: "Run[Any]") -> nn.Module | None:
        """The network with the moving average of the weights, which checkpoints hold too; None: there is none."""

    def after_update(self, run: "Run[Any]") -> None:
        """After the optimizer changed the weights, at each step and before anything else."""

    def begin(self, run: "Run[Any]", metrics: MetricsLog | None) -> None:
        """Before the first step; ``metrics`` is the main process's.

        After a resume (``run.start.step`` > 0), what a process that was killed after its checkpoint still had to do.
        """

    def after_step(self, run: "Run[Any]", step: int, metrics: MetricsLog | None) -> None:
        """After each step, its line of metrics and its checkpoint: measurements, pictures."""

    def end(self, run: "Run[Any]") -> None:
        """After the last step, also of a run that was stopped."""

    def closing_lines(self, run: "Run[Any]", loss: float | None) -> list[str]:
        """What a complete run says at the end; ``loss`` is the last one logged, None if nothing was left to train."""


@dataclass
class Run(Generic[SettingsT]):
    """Everything that the training loop needs."""

    config: SettingsT
    """As config.yaml holds it: what was unset is filled in."""
    task: Task
    batch: Batch
    accelerator: Accelerator
    folder: Path
    model: nn.Module
    """Prepared by accelerate; ``bare_model`` is the network inside."""
    bare_model: nn.Module
    optimizer: torch.optim.Optimizer
    start: TrainState
    total_steps: int
    lock: FileLock | None
    """Held by a process that writes to the folder; None in the others."""
    peers: Peers
    resumed_settings: Mapping[str, Any] | None
    """By dotted name: those of this folder's checkpoint that the run resumes from. None: from none, or another's."""
    is_sharded: bool = False
    """Whether the weights are divided among the processes (:mod:`fcmae.training.sharding`)."""

    @property
    def writes(self) -> bool:
        """Whether this process writes to ``folder``: the main one, and one on each machine whose folder is its own."""
        return self.lock is not None

    def epochs_done(self, step: int) -> float:
        """Epochs completed after this many steps."""
        return step * self.start.effective_batch / self.start.samples_per_epoch

    def completes_epochs(self, step: int, every: int) -> bool:
        """Whether this step completed another ``every`` epochs; 0: never."""
        if not every:
            return False
        samples, batch = every * self.start.samples_per_epoch, self.start.effective_batch
        return step * batch // samples > (step - 1) * batch // samples
