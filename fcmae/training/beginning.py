"""What all set-ups begin with: which run it is, what it resumes, and who writes to its folder."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import gather_object
from filelock import FileLock

import fcmae
from fcmae.config.run import RunConfig
from fcmae.data.sources.output import check_output_apart
from fcmae.errors import UserError
from fcmae.files import write_text
from fcmae.runs import checkpoint as ckpt
from fcmae.runs.layout import CONFIG, HEADER
from fcmae.runs.starts import Start, record_start
from fcmae.training.accelerator import hardware_name, make_accelerator, precision_name
from fcmae.training.batch import Batch, peak_learning_rate
from fcmae.training.nodes import agreed, is_shared, writing_lock
from fcmae.training.peers import Peers
from fcmae.training.resume import checkpoint_to_resume, make_and_lock, recorded_settings, run_folder
from fcmae.wording import counted


@dataclass(frozen=True)
class Beginning:
    """Where a run is, and what is there already."""

    accelerator: Accelerator
    folder: Path
    resume_from: Path | None
    """The checkpoint to resume from."""
    newest: Path | None
    """The newest checkpoint in ``folder``; None: it has none, and ``resume_from`` is another run's, if any."""
    before: dict[str, Any]
    """The settings of ``resume_from``, by dotted name."""

    @property
    def resumed_settings(self) -> dict[str, Any] | None:
        """See :class:`fcmae.training.run.Run`."""
        return None if self.newest is None else self.before

    def check_left(self, step: int, total_steps: int, epochs: int) -> None:
        """UserError if another run's checkpoint is resumed that is past the last step."""
        if step >= total_steps and self.newest is None:
            raise UserError(
                f"{self.resume_from} is at step {step}, and --train.epochs {epochs} ends at step {total_steps}: "
                f"nothing is left to train; give more epochs"
            )

    def take_folder(
        self, config: RunConfig, batch: Batch, step: int, total_steps: int, is_divided: bool = False
    ) -> FileLock | None:
        """In processes that write lock the run folder, and write config.yaml and this start; None in the others.

        All processes must call it. ``is_divided``: the network is, which takes one folder for all.

        Raises:
            UserError: another process writes there, or has just written; or machines have folders of their own where
                they need one. The folder then has a lock file at most.
        """
        lock = writing_lock(self.accelerator, self.folder, self._locked)
        if is_divided and not is_shared(self.accelerator, lock):
            raise UserError(
                f"--train.parallel fsdp needs a run folder that all machines share, but --output {self.folder} is "
                f"local to each"
            )
        if lock is not None:
            _write_settings(config, self.folder, self.accelerator.num_processes)
            if step < total_steps:
                record_start(self.folder, _start(config, self.accelerator, step, batch))
        return lock

    def _locked(self) -> FileLock:
        lock = make_and_lock(self.folder)
        if ckpt.last_checkpoint(self.folder) != self.newest:  # written after we looked and before we had the lock
            raise UserError(f"another process just wrote a checkpoint to --output {self.folder}; run again to resume")
        return lock


@contextmanager
def beginning(config: RunConfig) -> Iterator[tuple[Beginning, Peers]]:
    """Meet the other processes and find the run. If the block fails, they are not kept waiting.

    Raises:
        UserError: no such device, or a run folder or checkpoint that cannot be used.
    """
    peers = Peers()
    try:
        accelerator = make_accelerator(config)
        if not accelerator.is_main_process:
            logging.getLogger("fcmae").setLevel(logging.ERROR)
        peers.meet(accelerator)
        folder = run_folder(config, accelerator)
        check_output_apart(config.data.path, folder, config.data.access)
        resume_from = agreed(
            accelerator, folder, lambda: checkpoint_to_resume(config, folder), is_own=config.resume == "auto"
        )
        newest = ckpt.last_checkpoint(folder)
        before = {} if resume_from is None else recorded_settings(resume_from)
        yield Beginning(accelerator, folder, resume_from, newest, before), peers
    except BaseException:
        peers.close()
        raise


def check_same_everywhere(images_digest: str, accelerator: Accelerator) -> None:
    """UserError if processes on several machines list other images: each would train on what it takes for a sample."""
    if accelerator.num_processes > 1:
        names_and_sizes = images_digest.split()[:3]
        if any(other != names_and_sizes for other in gather_object([names_and_sizes])):
            raise UserError("--data.path holds other images on one machine than on another; copy the same set to all")


def _start(config: RunConfig, accelerator: Accelerator, step: int, batch: Batch) -> Start:
    peak = peak_learning_rate(config.train, batch.effective)
    hardware, precision = hardware_name(accelerator), precision_name(accelerator)
    return Start(step, hardware, precision, peak, batch.effective, accelerator.num_processes)


def _write_settings(config: Any, folder: Path, num_processes: int) -> None:
    """Write RUN/config.yaml, which resumes the run from any working directory."""
    resolved = replace(config, output=str(folder), resume="auto").with_absolute_paths()
    processes = counted(num_processes, "process", "processes")
    header = f"{HEADER} {fcmae.__version__}, torch {torch.__version__}, {processes}\n"
    write_text(folder / CONFIG, header + yaml.safe_dump(resolved.as_dict(), sort_keys=False))
