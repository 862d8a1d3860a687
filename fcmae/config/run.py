"""What the settings of every kind of run have: of pretraining and of fine-tuning."""

from typing import Any, Protocol

from fcmae.config.train import OptimizationConfig


class RunConfig(Protocol):
    """A frozen dataclass with these fields and methods."""

    @property
    def train(self) -> OptimizationConfig:
        """The optimization."""

    @property
    def data(self) -> Any:
        """The images."""

    @property
    def model(self) -> Any:
        """The network."""

    @property
    def output(self) -> str | None:
        """The run folder."""

    @property
    def resume(self) -> str:
        """``auto``, ``none`` or a path."""

    @property
    def device(self) -> str:
        """A device's name, or ``auto``."""

    @property
    def seed(self) -> int:
        """Of everything random."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as in config.yaml."""

    def with_absolute_paths(self) -> Any:
        """The same configuration with absolute paths."""
