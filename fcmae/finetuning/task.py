"""Fine-tuning as a task of the training loop: labeled images, their loss, validation, and the best weights."""

import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias, cast

import torch
from accelerate.utils import broadcast_object_list, gather_object
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import DataLoader

from fcmae.called import command_line
from fcmae.data.stream import SampleStream
from fcmae.data.unreadable import UnreadableFiles
from fcmae.data.workers import serve_parent
from fcmae.finetuning.best import best_folder, restore_best, save_best
from fcmae.finetuning.config import FinetuneConfig
from fcmae.finetuning.export import export, is_exported
from fcmae.finetuning.labeled_images import LabeledSet
from fcmae.finetuning.ranking import MAIN, NONE, Rank, best_score, rank
from fcmae.finetuning.samples import CenterCrops, Collate, LabeledBatch, LabeledSamples
from fcmae.finetuning.scores import Predictions, Scores, scores_of
from fcmae.finetuning.targets import classification_loss
from fcmae.finetuning.validation import outputs, write_validation
from fcmae.models import ModelConfig
from fcmae.runs.layout import CONFIG
from fcmae.runs.metrics import MetricsLog
from fcmae.training.closing import done_before, longer_epochs
from fcmae.training.run import Inputs, Run
from fcmae.training.saving import non_finite
from fcmae.training.stores import together
from fcmae.wording import counted

logger = logging.getLogger("fcmae")

FinetuneRun: TypeAlias = Run[FinetuneConfig]


@dataclass
class Finetuning:
    """See :class:`fcmae.training.run.Task`."""

    data: LabeledSet
    samples: LabeledSamples
    collate: Collate
    crops: CenterCrops
    """Of the images to validate on."""
    described: ModelConfig
    ema: ModelEmaV3 | None
    unreadable: UnreadableFiles = field(default_factory=UnreadableFiles)
    best: Rank = NONE
    """The best validation so far; known to the main process only."""
    last: Scores | None = None
    """What was validated last."""
    command: str = "finetune"

    @property
    def is_far(self) -> bool:
        """See :class:`fcmae.data.sources.image_set.ImageSet`."""
        files = self.samples.images.files
        return files is not None and files.is_far

    def loader(self, run: FinetuneRun) -> Iterable[LabeledBatch]:
        """The samples of this process."""
        stream = SampleStream(
            run.start.samples_per_epoch, batch_size=run.batch.size, accumulation_steps=run.batch.accumulation_steps,
            rank=run.accelerator.process_index, world_size=run.accelerator.num_processes,
            seed=run.config.seed, start_step=run.start.step, total_steps=run.total_steps,
        )  # fmt: skip
        return DataLoader(
            self.samples,
            batch_sampler=stream,  # an index here is (epoch, index)
            num_workers=run.config.data.num_workers,
            collate_fn=self.collate,
            pin_memory=run.accelerator.device.type == "cuda",
            worker_init_fn=serve_parent,
        )

    def inputs(self, batch: LabeledBatch) -> Inputs:
        """(image, target) of the batch."""
        self.unreadable.note(batch.unreadable)
        return batch.image, batch.target

    def loss(self, model: nn.Module, inputs: Inputs) -> Tensor:
        """Cross-entropy with soft targets; of several labels, binary cross-entropy."""
        image, target = cast(tuple[Tensor, Tensor], inputs)
        logits = model(image.contiguous(memory_format=torch.channels_last))
        return classification_loss(logits, target, self.data.is_multi_label)

    def values(self, run: FinetuneRun) -> dict[str, float]:
        """How many files could not be read so far, by any process."""
        self.unreadable.share(run.accelerator.num_processes)
        return {"unreadable_images": len(self.unreadable.seen)}

    def network(self, run: FinetuneRun) -> dict[str, Any]:
        """The fields of ModelConfig."""
        return asdict(self.described)

    def average(self, run: FinetuneRun) -> nn.Module | None:
        """The network with the averaged weights, if ``train.ema`` asks for one."""
        return None if self.ema is None else self.ema.module

    def after_update(self, run: FinetuneRun) -> None:
        """Average the weights."""
        if self.ema is not None:
            self.ema.update(run.bare_model)

    def begin(self, run: FinetuneRun, metrics: MetricsLog | None) -> None:
        """After a resume: what was the best so far, and the validation that a killed process still had to do."""
        step = run.start.step
        if metrics:
            restore_best(run.folder)
            found = ((line.get(name), line.get("val_loss")) for line in metrics.kept for name in MAIN)
            kept = [rank(score, loss) for score, loss in found if isinstance(score, float) and isinstance(loss, float)]
            self.best = max(kept, default=NONE)
        if step and self._is_due(run, step):
            done = [metrics is not None and any(line["step"] == step and "val_loss" in line for line in metrics.kept)]
            if run.accelerator.num_processes > 1:
                broadcast_object_list(done)  # only the main process has read the metrics
            if not done[0]:
                self.validate(run, step, metrics)

    def after_step(self, run: FinetuneRun, step: int, metrics: MetricsLog | None) -> None:
        """Validate, where that is due."""
        if self._is_due(run, step):
            self.validate(run, step, metrics)

    def _is_due(self, run: FinetuneRun, step: int) -> bool:
        return step == run.total_steps or run.completes_epochs(step, run.config.log.validate_every)

    def validate(self, run: FinetuneRun, step: int, metrics: MetricsLog | None) -> None:
        """Score the network, or its average, on the images to validate on; keep the weights if they are the best."""
        network = run.bare_model if self.ema is None else self.ema.module
        found = self._predictions(run, network, step)
        if metrics and found is not None:
            self.last = scores_of(found)
            ranked = rank(self.last.main, self.last.loss)
            if ranked > self.best:  # saved before the line: a process killed in between does it again
                self.best = ranked
                save_best(run, network, self.network(run), step)
                write_validation(run.folder, self.data, found, self.last, self.crops, step, run.config.log.mistakes)
            metrics.write({"step": step, "epoch": round(run.epochs_done(step), 4)} | self.last.as_dict(), "validation")
            logger.info("step %d: %s", step, self.last.in_words())
        run.accelerator.wait_for_everyone()

    def _predictions(self, run: FinetuneRun, network: nn.Module, step: int) -> Predictions | None:
        """Of all processes, each of which takes its share of the images; None if no image can be read.

        Raises:
            NonFiniteError: the network gives NaN or infinite outputs.
            StoreError: nothing can be fetched, by a process at least.
        """
        rank, count = run.accelerator.process_index, run.accelerator.num_processes
        places = range(rank, len(self.crops), count)
        labels = torch.from_numpy(self.data.val.labels)
        labels = labels.float() if labels.ndim == 2 else labels
        with run.accelerator.autocast():
            batches = outputs(
                network, self.crops, places, run.accelerator.device, run.batch.size, run.config.data.num_workers,
                self.unreadable,
            )  # fmt: skip
            mine = together(lambda: [Predictions.of(at, logits, labels[at]) for at, logits in batches], count)
        network.train(network is run.bare_model)
        parts = [part for found in (gather_object([mine]) if count > 1 else [mine]) for part in found]
        if not all(part.losses.isfinite().all() for part in parts):  # in all processes alike
            raise non_finite(run, f"the network's outputs are not finite at the validation after step {step}")
        if not parts:
            if run.accelerator.is_main_process:
                logger.warning("not validated: none of the images to validate on can be read")
            return None
        return Predictions.joined(parts)

    def end(self, run: FinetuneRun) -> None:
        """Say how many files could not be read."""
        if count := len(self.unreadable.seen):
            logger.warning(
                "%s skipped, named above",
                counted(count, "image file could not be read and was", "image files could not be read and were"),
            )

    def closing_lines(self, run: FinetuneRun, loss: float | None) -> list[str]:
        """Export the best weights, also those of a run that was killed before its export, and say what to do next."""
        folder = run.folder
        what = "mean average precision" if self.data.is_multi_label else "correct"
        if loss is None and (not run.writes or is_exported(folder)):
            more = longer_epochs(run.config.train.epochs, run.start.step, run.total_steps)
            longer = command_line("finetune", "--config", folder / CONFIG, "--train.epochs", more)
            return [
                f"{folder} is finished: {counted(run.total_steps, 'step')} done"
                f"{done_before(run.start.step, run.total_steps)}, nothing is left to train. To train "
                "longer, give more epochs; the learning rate then follows the longer schedule:",
                f"  {longer}",
            ]
        exported = export(folder) if run.writes else []
        best, step = best_score(folder)
        scored = "" if best is None else f"; best on validation {100 * best:.1f}% {what}, after step {step:,}"
        return [
            f"done: {counted(run.total_steps, 'step')}{scored}. Those weights are in {best_folder(folder)}",
            *exported,
            "next:",
            f"  {command_line('report', folder)}",
            f"  {command_line('predict', folder, 'IMAGES', '--output', 'predictions.csv')}",
        ]
