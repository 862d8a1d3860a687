"""Key facts at the top of the report, derived from the run folder."""

import math
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np

from fcmae.config import BASE_BATCH, BATCH_SIZE, PretrainConfig, TrainConfig
from fcmae.finetuning.config import FinetuneConfig, FinetuneTrainConfig
from fcmae.finetuning.ranking import best_of
from fcmae.progress import duration
from fcmae.report_page.charts import LOSS, RATE, WAIT
from fcmae.runs.layout import flat
from fcmae.runs.reader import HOLDOUT_LOSS, RunFolder
from fcmae.training.batch import base_learning_rate
from fcmae.wording import counted

SOURCES = 3  # named
HOLDOUT = "monitor.holdout"


class Fact(NamedTuple):
    """A named value; ``note`` is shown in small print and may be empty."""

    name: str
    value: str
    note: str = ""


class Setting(NamedTuple):
    """A setting that differs from the default."""

    name: str
    value: str
    default: str


def headline_facts(run: RunFolder) -> list[Fact]:
    """Facts in order of importance; those that cannot be determined are left out."""
    facts = [
        _model(run),
        _best(run),
        _steps(run),
        _loss(run),
        _held_out_loss(run),
        _throughput(run),
        _images(run),
        _time(run),
    ]
    facts += [_hardware(run), _peak_lr(run), _versions(run)]
    return [fact for fact in facts if fact is not None]


def is_finetuning(run: RunFolder) -> bool:
    """Whether it is a run of ``fcmae finetune``."""
    return "train.layer_decay" in run.config


def changed_settings(run: RunFolder) -> list[Setting]:
    """Settings that differ from this version's defaults, except ``output`` and ``resume``."""
    defaults = flat((FinetuneConfig() if is_finetuning(run) else PretrainConfig()).as_dict())
    derived = defaults | _what_unset_means(run)
    return [
        Setting(name, _text(value), _text(derived[name]) if name in derived else "not known to this version")
        for name, value in run.config.items()
        if name not in ("output", "resume") and (name not in defaults or value not in (defaults[name], derived[name]))
    ]


def _what_unset_means(run: RunFolder) -> dict[str, Any]:
    """Values that a run fills in for settings that are unset by default."""
    settings = run.config
    epochs = settings.get("train.epochs")
    kind = FinetuneTrainConfig if is_finetuning(run) else TrainConfig
    train = kind(epochs=epochs) if isinstance(epochs, int) and epochs > 0 else kind()
    values: dict[str, Any] = {"train.warmup_epochs": train.warmup}
    if run.stream is not None:
        values["train.base_lr"] = base_learning_rate(train, run.stream.effective_batch)
    if settings.get("train.effective_batch") is None:
        values |= {"train.batch_size": BATCH_SIZE, "train.accumulation_steps": 1}
    return values


def steps_done(run: RunFolder) -> int:
    """The last step recorded in the metrics or in a checkpoint."""
    logged = max((int(series.step[-1]) for series in run.series.values()), default=0)
    return max(logged, run.stream.step if run.stream else 0)


def steps_planned(run: RunFolder) -> tuple[int, bool] | None:
    """Total steps, and whether that is exact (from a checkpoint) or estimated from the logged epochs."""
    epochs = run.config.get("train.epochs")
    if not isinstance(epochs, int):
        return None
    if run.stream is not None:
        return math.ceil(epochs * run.stream.samples_per_epoch / run.stream.effective_batch), True
    loss = run.series.get(LOSS)
    if loss is None or not loss.epoch[-1] > 0:
        return None
    return round(epochs * float(loss.step[-1] / loss.epoch[-1])), False


def training_seconds(run: RunFolder) -> float | None:
    """Time spent in steps, from each line's steps and throughput; pauses between restarts do not count."""
    rate = run.series.get(RATE)
    if rate is None or run.stream is None:
        return None
    steps = np.diff(rate.step, prepend=0.0)
    known = np.isfinite(rate.value) & (rate.value > 0)
    return float((steps[known] * run.stream.effective_batch / rate.value[known]).sum()) if known.any() else None


def _model(run: RunFolder) -> Fact | None:
    name = run.config.get("model.name")
    if name is None:
        return None
    size, ratio = run.config.get("model.img_size"), run.config.get("train.mask_ratio")
    height, width = size if isinstance(size, list) and len(size) == 2 else (size, size)
    notes = [f"{height} × {width} pixels"] if size is not None else []
    notes += [f"{ratio:.0%} masked"] if isinstance(ratio, int | float) else []
    return Fact("Model", _text(name), ", ".join(notes))


def _best(run: RunFolder) -> Fact | None:
    """The best validation score of a fine-tuning run."""
    if (best := best_of(run.series)) is None:
        return None
    name, score, step = best
    what = {"val_top1": "correct", "val_map": "mean average precision"}[name]
    return Fact("Best validation", f"{score:.1%}", f"{what}, step {step:,}")


def _steps(run: RunFolder) -> Fact | None:
    done, planned = steps_done(run), steps_planned(run)
    if planned is None:
        return Fact("Steps", f"{done:,}")
    total, exact = planned
    about = "" if exact else "≈\N{NO-BREAK SPACE}"
    share = f"{min(done / total, 1):.0%}" if total else ""
    return Fact("Steps", f"{done:,} of {about}{total:,}", f"{share} of {counted(run.config['train.epochs'], 'epoch')}")


def _loss(run: RunFolder) -> Fact | None:
    loss = run.series.get(LOSS)
    if loss is None or not np.isfinite(loss.value).any():
        return None
    there = np.flatnonzero(np.isfinite(loss.value))
    lowest = there[loss.value[there].argmin()]
    name = "Final loss" if (planned := steps_planned(run)) and steps_done(run) >= planned[0] else "Last loss"
    return Fact(name, f"{loss.value[there[-1]]:.4f}", f"lowest {loss.value[lowest]:.4f}, step {loss.step[lowest]:,.0f}")


def _held_out_loss(run: RunFolder) -> Fact | None:
    loss = run.series.get(HOLDOUT_LOSS)
    if loss is None or not np.isfinite(loss.value).any():
        return None
    last = np.flatnonzero(np.isfinite(loss.value))[-1]
    share = run.config.get(HOLDOUT)
    of_them = f"{share:.3g} of the images" if isinstance(share, int | float) else "images"
    return Fact("Held-out loss", f"{loss.value[last]:.4f}", f"{of_them}, never trained on; step {loss.step[last]:,.0f}")


def _throughput(run: RunFolder) -> Fact | None:
    rate = run.series.get(RATE)
    if rate is None or not np.isfinite(rate.value).any():
        return None
    batch = f", {run.stream.effective_batch:,} per step" if run.stream else ""
    wait = run.series.get(WAIT)
    lost = float(np.nanmedian(wait.value)) if wait is not None and np.isfinite(wait.value).any() else 0.0
    waiting = f", {lost:.0%} of the time waiting for data" if lost >= 0.01 else ""
    return Fact("Throughput", f"{np.nanmedian(rate.value):,.4g} images/s", f"median{batch}{waiting}")


def _images(run: RunFolder) -> Fact | None:
    path = run.config.get("data.path")
    sources = path if isinstance(path, list) else [path] if path else []
    note = ", ".join(_text(source).rpartition("/")[2] for source in sources[:SOURCES])
    note += f" and {len(sources) - SOURCES} more" if len(sources) > SOURCES else ""
    note = "bundled photos" if path is None and run.config else note
    if (bad := run.series.get("unreadable_images")) is not None and bad.value[-1] > 0:
        note += f", {bad.value[-1]:,.0f} unreadable"
    if run.stream is None:
        return Fact("Images", "not known yet", note) if run.config else None
    crops = 1
    for name in ("data.repeat", "data.crops_per_image"):
        count = run.config.get(name)
        crops *= count if isinstance(count, int) and count > 0 else 1
    of_each = f"{crops} crops of each per epoch" if crops > 1 else ""
    return Fact("Images", f"{run.stream.samples_per_epoch // crops:,}", ", ".join(filter(None, (note, of_each))))


def _time(run: RunFolder) -> Fact | None:
    seconds = training_seconds(run)
    started = f"started {datetime.fromtimestamp(run.started, UTC):%Y-%m-%d %H:%M} UTC" if run.started else ""
    if seconds is None:
        return Fact("Started", started.removeprefix("started ")) if started else None
    return Fact("Training time", duration(seconds), started)


def _hardware(run: RunFolder) -> Fact | None:
    """That of the last start, and how often it changed; runs of older versions recorded none."""
    if not run.starts:
        return None
    names = [str(start.get("hardware", "unknown")) for start in run.starts]
    others = f"; before that: {', '.join(dict.fromkeys(name for name in names if name != names[-1]))}"
    precision = str(run.starts[-1].get("precision", ""))
    return Fact("Hardware", names[-1], precision + (others if set(names) != {names[-1]} else ""))


def _peak_lr(run: RunFolder) -> Fact | None:
    """As recorded at the last start; of older runs, from the settings."""
    base, peak = run.config.get("train.base_lr"), run.starts[-1].get("peak_lr") if run.starts else None
    if peak is None and isinstance(base, int | float) and run.stream:
        peak = base * run.stream.effective_batch / BASE_BATCH
    if not isinstance(peak, int | float):
        return None
    return Fact("Peak learning rate", f"{peak:.3g}", f"base_lr {base:g}" if isinstance(base, int | float) else "")


def _versions(run: RunFolder) -> Fact | None:
    version, _, rest = run.written_by.partition(", ")
    return Fact("Version", version, rest) if version else None


def _text(value: Any) -> str:
    """As in YAML, with floats as short as they are told apart by."""
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"[{', '.join(map(_text, value))}]" if isinstance(value, list) else str(value)
