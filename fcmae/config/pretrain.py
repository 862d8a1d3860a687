"""The settings of a run: ``model.*``, the other groups, and where and on what it runs."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fcmae.config.checks import check_seed
from fcmae.config.data import DataConfig
from fcmae.config.train import TrainConfig
from fcmae.config.watch import DIGITS, LogConfig, MonitorConfig
from fcmae.data.stores.urls import is_url, local_path
from fcmae.models.config import ModelConfig


@dataclass(frozen=True)
class PretrainModelConfig(ModelConfig):
    """The network and its initial weights."""

    init_from: str | None = None
    """Weights to start from instead of random ones: a run folder, a checkpoint folder, or a file of fcmae, timm,
    transformers, mmpretrain or the official code. Ignored when a run is resumed."""
    use_ema: bool = True
    """Where init_from has weights and their average over the steps (EMA), take the average; false: the others."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init_from == "":
            raise ValueError("init_from is empty; give a file or a folder, or leave it out for random weights")


@dataclass(frozen=True)
class PretrainConfig:
    """One run."""

    model: PretrainModelConfig = field(default_factory=PretrainModelConfig, metadata={"bare": "name"})
    data: DataConfig = field(default_factory=DataConfig, metadata={"bare": "path"})
    train: TrainConfig = field(default_factory=TrainConfig)
    log: LogConfig = field(default_factory=LogConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    output: str | None = None
    """Run folder, created if needed. Unset: runs/<model>-<date>-<time>. A run that is already there is resumed, or
    left untouched."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, …; auto: the accelerator if there is one. Several processes take one device each."""
    seed: int = 0
    """Seed of the weights, crops, flips, masks and order. Seed and configuration determine the run."""
    resume: str = "auto"
    """auto: resume from the newest checkpoint in the run folder, if any. none: never resume. Or a run or checkpoint
    folder to resume from."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.output == "":
            raise ValueError("output is empty; give a folder, or leave it out for runs/<model>-<date>-<time>")
        if self.resume == "":
            raise ValueError("resume is empty; it takes auto, none or a path")
        try:
            self.data.mean_std(self.model.in_chans)
            self.data.reading(self.model.in_chans)
        except ValueError as error:
            raise ValueError(f"data.{error}") from None
        if self.data.rotate90 and self.model.image_hw[0] != self.model.image_hw[1]:
            raise ValueError(f"data.rotate90 needs a square model.img_size, got {self.model.img_size}")

    def with_absolute_paths(self) -> "PretrainConfig":
        """The same configuration with absolute paths, valid from any working directory."""
        return replace(
            self,
            output=absolute(self.output),
            data=replace(self.data, path=all_absolute(self.data.path), cache_dir=absolute(self.data.cache_dir)),
            model=replace(self.model, init_from=absolute(self.model.init_from)),
            monitor=replace(self.monitor, data=DIGITS if self.monitor.data == DIGITS else absolute(self.monitor.data)),
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain data with tuples as lists, as in config.yaml. The stem's stride is never left unset there."""
        return plain(asdict(replace(self, model=replace(self.model, stem_stride=self.model.stride))))


def absolute(path: str | None) -> str | None:
    """The path from the root, links resolved; None stays, and so do URLs, except for file://."""
    return path if path is None or is_url(path) else str(Path(local_path(path)).resolve())


def all_absolute(paths: tuple[str, ...] | str | None) -> tuple[str, ...] | str | None:
    """The same of one or several paths."""
    return tuple(str(absolute(path)) for path in paths) if isinstance(paths, tuple) else absolute(paths)


def plain(value: Any) -> Any:
    """Nested settings with tuples as lists."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value
