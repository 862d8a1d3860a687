"""Pretrain once, tune the learning rate on images held out of the training split, then fine-tune with several seeds.

Each result is a line of results.jsonl; what is there already is not computed again, and a run that was stopped goes on
from its last checkpoint. The accuracy is that of the last epoch, on images that neither training nor tuning has seen.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from experiments.label_efficiency.plan import DECAY, KNOWN, RATES, RECIPE, UNSET, Network, Plan
from fcmae.errors import UserError
from fcmae.finetune import finetune
from fcmae.pretrain import pretrain
from fcmae.runs.layout import METRICS

TUNE_SHARE = 0.25  # of the training split, held out to tune on
RESULTS, PLAN = "results.jsonl", "plan.json"


@dataclass(frozen=True)
class Result:
    """One fine-tuned network."""

    network: str
    share: float
    """Of the labels."""
    seed: int
    peak_lr: float
    phase: Literal["tune", "test"]
    top1: float
    """Share of correct predictions after the last epoch."""
    images: int
    """That these are a share of."""


@dataclass
class Experiment:
    """One data set in one folder."""

    plan: Plan
    folder: Path

    def __post_init__(self) -> None:
        """Raises SystemExit where the folder has results of another plan: a table must not mix them."""
        self.folder.mkdir(parents=True, exist_ok=True)
        kept, now = self.folder / PLAN, json.dumps(self.plan.settings(), indent=1)
        if kept.exists() and kept.read_text() != now:
            raise SystemExit(f"{kept} says that another plan was followed there; give another --folder")
        kept.write_text(now)
        self.data = self.plan.make(self.folder / "data")
        self.labeled = sum(1 for _ in (self.data / "train").rglob("*.png"))

    def weights(self, network: str) -> str:
        """A finished pretraining run on all training images, without their labels; or the word scratch."""
        chosen = network_of(network)
        if not chosen.pretrained:
            return "scratch"
        if chosen.weights_of is not None:
            return self.weights(chosen.weights_of)
        output = self.folder / f"pretrained-{network}"
        given = self.plan.lasting(chosen.length).pretrain
        settings = {name: {**values, **chosen.pretrain.get(name, {})} for name, values in given.items()}
        settings["data"] |= {"path": str(self.data / "train")}
        settings["train"] = UNSET["train"] | settings["train"]
        model = UNSET["model"] | dict(self.plan.model) | settings.pop("model") | dict(chosen.model)
        if not pretrain(model=model, output=str(output), log={"checkpoint_every": 20}, **settings).is_complete:
            raise SystemExit(f"stopped; run again to resume {output}")
        return str(output)

    def best_rate(self, network: str, share: float) -> float:
        """The peak learning rate of the best accuracy on the part of the training split that is held out to tune on."""
        found = [self.result(network, share, 0, rate, "tune") for rate in RATES]
        return max(found, key=lambda one: one.top1).peak_lr

    def result(self, network: str, share: float, seed: int, rate: float, phase: Literal["tune", "test"]) -> Result:
        """Of results.jsonl, or computed and written there."""
        wanted = network, share, seed, rate, phase
        for one in read(self.folder):
            if (one.network, one.share, one.seed, one.peak_lr, one.phase) == wanted:
                return one
        output = self.folder / f"finetuned-{phase}-{network}-{share:g}-{seed}-{rate:g}"
        try:
            top1, images = self._finetune(output, network, share, seed, rate, tunes=phase == "tune")
        except UserError as error:
            left = f"\n{output} is of a run that was stopped; delete it if it does not fit any more" * output.exists()
            raise SystemExit(f"{error}{left}") from None
        one = Result(*wanted, top1, images)
        with (self.folder / RESULTS).open("a") as file:
            file.write(json.dumps(asdict(one)) + "\n")
        shutil.rmtree(output, ignore_errors=True)  # the result is written: what stays takes room, and is not read again
        return one

    def _finetune(
        self, output: Path, network: str, share: float, seed: int, rate: float, tunes: bool
    ) -> tuple[float, int]:
        plan, chosen = self.plan, network_of(network)
        is_pretrained = chosen.pretrained
        model = {"img_size": plan.model["img_size"]} if is_pretrained else dict(plan.model)
        images = self.labeled * share * (1 - TUNE_SHARE if tunes else 1)
        epochs = plan.epochs(round(images))
        done = finetune(
            self.weights(network), config=RECIPE, output=str(output), seed=seed,
            model=model | dict(chosen.finetune),
            data={**plan.data, **chosen.finetune_data} | ({} if is_pretrained else {"mean": "auto", "std": "auto"}) | {
                "path": str(self.data / "train" if tunes else self.data), "train_share": share, "val_share": TUNE_SHARE,
                "num_workers": 1, "cache": True,
            },
            train={
                "epochs": epochs, "batch_size": plan.batch_size, "base_lr": rate * 256 / plan.batch_size,
                "layer_decay": DECAY[is_pretrained] if chosen.layer_decay is None else chosen.layer_decay,
                "warmup_epochs": 0.1 * epochs,
            } | dict(chosen.finetune_train),
            log={"validate_every": epochs, "checkpoint_every": max(1, epochs // 5), "mistakes": 0},
        )  # fmt: skip
        if not done.is_complete:
            raise SystemExit("stopped; run again to go on")
        last = [line for line in _lines(done.folder / METRICS) if "val_top1" in line][-1]
        scores = json.loads((done.folder / "validation" / "scores.json").read_text())
        return last["val_top1"], scores["images"]


def network_of(name: str) -> Network:
    """Of the networks that are compared, or of the variations of one."""
    return KNOWN[name]


def read(folder: Path) -> list[Result]:
    """The results so far."""
    file = folder / RESULTS
    return [Result(**line) for line in _lines(file)] if file.exists() else []


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    return (json.loads(line) for line in file.read_text().splitlines())
