"""Settings of the optimization: ``train.*``."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from fcmae.config.checks import check_finite, check_least

BASE_BATCH = 256  # train.base_lr is the learning rate for this batch
BATCH_SIZE = 64  # images per device and micro-batch, when nothing says otherwise
WARMUP_SHARE = 0.05  # of the epochs: the paper's 40 of 800


@dataclass(frozen=True)
class OptimizationConfig:
    """The optimization of a run, of pretraining or fine-tuning."""

    linear_base_lr: ClassVar[float] = 1.5e-4
    """Learning rate for a batch of ``BASE_BATCH`` if ``base_lr`` is unset: that of the paper."""
    usual_peak: ClassVar[float] = 1.5e-3
    """Least peak learning rate if ``base_lr`` is unset."""
    peaks: ClassVar[tuple[float, float]] = 1e-4, 5e-3
    """Peak learning rates that train well; measured with batches of 16 and 64."""

    epochs: int = 800
    """Passes over the images."""
    effective_batch: int | None = None
    """Images per optimizer step, over all devices. Sets accumulation_steps, and batch_size too if that is unset. Unset:
    batch_size × accumulation_steps × number of devices."""
    batch_size: int | None = None
    """Images per device and micro-batch. Unset: 64, or with effective_batch as many as fit in memory."""
    accumulation_steps: int | None = None
    """Micro-batches per optimizer step. Unset: 1, or with effective_batch as many as it takes."""
    base_lr: float | None = None
    """Learning rate for an effective batch of 256. The peak learning rate is base_lr × effective batch / 256. Unset:
    the paper's 1.5e-4, or more for a batch below 2560, so that the peak is 1.5e-3."""
    warmup_epochs: float | None = None
    """Epochs of linear warm-up, followed by cosine decay to min_lr. Unset: 5% of the epochs (40 of 800)."""
    min_lr: float = 0.0
    """Learning rate at the end."""
    weight_decay: float = 0.05
    """AdamW's weight decay. Applies to kernels only, not to biases, norms, GRN, LayerScale or the mask token."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's β₁ and β₂."""
    clip_grad: float | None = None
    """Maximum gradient norm; unset: no clipping."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 autocast or float32. auto: bf16 on GPUs that support it, float32 elsewhere."""
    compile: bool = False
    """Compile the network with torch.compile. Needs a C++ compiler on a CPU."""
    cuda_graphs: bool = True
    """On CUDA, capture a training step once as CUDA graphs and replay it, so that kernels do not wait for the CPU. One
    that cannot be captured runs without, and a line says so. Without effect on other devices."""

    def __post_init__(self) -> None:
        check_finite(self)
        check_least(self, epochs=1, effective_batch=1, batch_size=1, accumulation_steps=1)
        check_least(self, warmup_epochs=0, min_lr=0, weight_decay=0)
        if self.base_lr is not None and self.base_lr <= 0:
            raise ValueError(f"base_lr must be above 0 or unset, got {self.base_lr}")
        if self.warmup >= self.epochs:
            raise ValueError(
                f"warmup_epochs must be less than train.epochs ({self.epochs}), got {self.warmup_epochs:g}; "
                f"left out, it is 5% of them"
            )
        if self.clip_grad is not None and self.clip_grad <= 0:
            raise ValueError(f"clip_grad must be above 0 or unset, got {self.clip_grad}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be in [0, 1), got {self.betas}")

    @property
    def warmup(self) -> float:
        """Epochs of warm-up: ``warmup_epochs``, or the paper's 5% of the epochs."""
        return WARMUP_SHARE * self.epochs if self.warmup_epochs is None else self.warmup_epochs


@dataclass(frozen=True)
class TrainConfig(OptimizationConfig):
    """The optimization. Defaults are the paper's (table 8), except for the batch size, which fits one device."""

    mask_ratio: float = 0.6
    """Fraction of the patches to mask."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """What several processes share. ddp: each holds the whole network. fsdp: FSDP2 divides weights, gradients and
    optimizer state among them, for networks that do not fit beside AdamW's moments; without CUDA graphs and compile."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"mask_ratio must be between 0 and 1, got {self.mask_ratio}")
