"""Pretraining as a task of the training loop: masked images, their loss, pictures and measurements."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as TF

from fcmae.analysis.reconstructions import paste_reconstruction, reconstruction_picture, save_picture
from fcmae.config import PretrainConfig
from fcmae.data.loader import make_loader
from fcmae.data.samples import PretrainDataset, Sample
from fcmae.data.sources.image_set import ImageSet
from fcmae.data.stream import SampleStream
from fcmae.data.unreadable import UnreadableFiles
from fcmae.errors import StoreError, UserError
from fcmae.models import FCMAE
from fcmae.models.patches import enlarge_mask
from fcmae.runs.layout import picture_file
from fcmae.runs.metrics import MetricsLog
from fcmae.runs.reader import HOLDOUT_LOSS, KNN, STAGE_DISTANCE
from fcmae.training.closing import closing_lines
from fcmae.training.monitor import GROUP, Monitor, in_words
from fcmae.training.run import Inputs, Run
from fcmae.wording import counted

logger = logging.getLogger("fcmae")

PretrainRun: TypeAlias = Run[PretrainConfig]
OF_THE_START = ("init_from", "use_ema")  # settings of model that say nothing about the network


@dataclass
class Pretraining:
    """See :class:`fcmae.training.run.Task`."""

    dataset: PretrainDataset
    monitor: Monitor
    unreadable: UnreadableFiles = field(default_factory=UnreadableFiles)
    command: str = "pretrain"

    @property
    def is_far(self) -> bool:
        """See :class:`fcmae.data.sources.image_set.ImageSet`."""
        return isinstance(self.dataset.paths, ImageSet) and self.dataset.paths.is_far

    def loader(self, run: PretrainRun) -> Iterable[Sample]:
        """The samples of this process."""
        stream = SampleStream(
            run.start.samples_per_epoch, batch_size=run.batch.size, accumulation_steps=run.batch.accumulation_steps,
            rank=run.accelerator.process_index, world_size=run.accelerator.num_processes,
            seed=run.config.seed, start_step=run.start.step, total_steps=run.total_steps,
            num_images=len(self.dataset.paths), crops_per_image=run.config.data.crops_per_image,
        )  # fmt: skip
        return make_loader(self.dataset, stream, pin_memory=run.accelerator.device.type == "cuda")

    def inputs(self, batch: Sample) -> Inputs:
        """(image, visible, scored) of the batch."""
        self.unreadable.note(batch.unreadable)
        return batch.image, batch.visible, batch.scored

    def loss(self, model: nn.Module, inputs: Inputs) -> Tensor:
        """That of the masked patches."""
        image, visible, scored = inputs
        assert image is not None
        images = self.dataset.normalize(image)
        output = model(images, visible=visible, num_visible=self.dataset.num_visible, masked_only=True, scored=scored)
        return output.loss

    def values(self, run: PretrainRun) -> dict[str, float]:
        """How many files could not be read so far, by any process."""
        self.unreadable.share(run.accelerator.num_processes)
        return {"unreadable_images": len(self.unreadable.seen)}

    def network(self, run: PretrainRun) -> dict[str, Any]:
        """The fields of ModelConfig."""
        return {name: value for name, value in run.config.as_dict()["model"].items() if name not in OF_THE_START}

    def average(self, run: PretrainRun) -> None:
        """Pretraining keeps none."""

    def after_update(self, run: PretrainRun) -> None:
        """Nothing."""

    def begin(self, run: PretrainRun, metrics: MetricsLog | None) -> None:
        """Measure the initial network, or make up for what a killed process left."""
        if run.start.step == 0:
            self.measure(run, 0, metrics)
        else:
            self.make_up(run, metrics)

    def after_step(self, run: PretrainRun, step: int, metrics: MetricsLog | None) -> None:
        """Draw and measure, where that is due."""
        is_last, config = step == run.total_steps, run.config
        if config.log.pictures_every and (is_last or run.completes_epochs(step, config.log.pictures_every)):
            self.draw(run, step, metrics)
        if is_last or run.completes_epochs(step, config.monitor.any_every):
            self.measure(run, step, metrics)

    def end(self, run: PretrainRun) -> None:
        """Say how many files could not be read."""
        if count := len(self.unreadable.seen):
            logger.warning(
                "%s skipped, named above",
                counted(count, "image file could not be read and was", "image files could not be read and were"),
            )

    def closing_lines(self, run: PretrainRun, loss: float | None) -> list[str]:
        """The loss, and what to do next."""
        return closing_lines(run, loss)

    def make_up(self, run: PretrainRun, metrics: MetricsLog | None) -> None:
        """Draw and measure what a process that was killed after its checkpoint still had to, with its settings."""
        before, step, now = run.resumed_settings or {}, run.start.step, run.config
        is_last = step == run.total_steps

        def is_due(name: str, every: int) -> bool:
            return before.get(name) == every > 0 and (is_last or run.completes_epochs(step, every))

        if is_due("log.pictures_every", now.log.pictures_every):
            has_picture = not run.writes or picture_file(run.folder, step).exists()
            if not all(gather_object([has_picture])):  # all draw, or none: machines with folders of their own differ
                self.draw(run, step, metrics)
        measured = any(line["step"] == step and _is_measurement(line) for line in metrics.kept) if metrics else True
        same = all(before.get(f"monitor.{name}", 0) == getattr(now.monitor, name) for name in ("every", "holdout"))
        if same and now.monitor.any_every and (is_last or run.completes_epochs(step, now.monitor.any_every)):
            self.measure(run, step, None if measured else metrics)

    def _readable(self, run: PretrainRun) -> nn.Module | None:
        """The network, whole, in the processes that write; None in the others. All of them must call it."""
        if not run.is_sharded:
            return run.bare_model if run.writes else None
        from fcmae.runs.shards import whole_state  # here, because the import takes seconds

        weights = whole_state(run.bare_model, wanted=run.writes)
        if not run.writes:
            return None
        with torch.random.fork_rng(devices=[]):
            copy = FCMAE(replace(run.config.model, checkpoint_stages=()))
        copy.load_state_dict(weights)
        return copy.to(run.accelerator.device)

    def draw(self, run: PretrainRun, step: int, metrics: MetricsLog | None) -> None:
        """Write RUN/reconstructions/step-….png, and to TensorBoard: always the same images with the same masks."""
        model: Any = self._readable(run)
        sample = None
        if model is not None:
            try:
                sample = self.dataset.fixed_samples(run.config.log.pictures_count)
            except StoreError as error:
                logger.warning("not drawn at step %d: %s", step, error)  # if nothing can be fetched, training says so
        if sample is not None:
            images = TF.to_dtype(sample.image.to(run.accelerator.device), torch.float32, scale=True)
            visible = sample.visible.to(run.accelerator.device)
            model.eval()
            with run.accelerator.autocast():
                pasted = paste_reconstruction(model, images, visible, self.dataset.normalize)
            model.train()
            where = enlarge_mask(visible, model.patch_size)
            picture = reconstruction_picture(images, pasted, where, run.config.train.mask_ratio)
            save_picture(picture, picture_file(run.folder, step))
            if metrics:
                metrics.add_picture("reconstructions", picture, step)
        run.accelerator.wait_for_everyone()

    def measure(self, run: PretrainRun, step: int, metrics: MetricsLog | None) -> None:
        """Measure the features, and the loss on held-out images, and write a line, if that was asked for."""
        if not run.config.monitor.any_every:
            return
        model: Any = self._readable(run)
        if metrics and model is not None:
            try:
                measured = self.monitor.measure(model, run.accelerator.device)
            except (UserError, OSError) as error:
                if step == 0:
                    raise
                logger.warning("not measured at step %d: %s", step, error)  # training goes on
            else:
                metrics.write({"step": step, "epoch": round(run.epochs_done(step), 4)} | measured, GROUP)
                logger.info("step %d: %s", step, in_words(measured))
        run.accelerator.wait_for_everyone()


def _is_measurement(line: dict[str, Any]) -> bool:
    return any(name in (KNN, HOLDOUT_LOSS) or name.startswith(STAGE_DISTANCE) for name in line)
