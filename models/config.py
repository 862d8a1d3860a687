"""The model configuration: plain data, saved with every run and every checkpoint."""

import difflib
import math
from dataclasses import dataclass
from typing import Literal, get_args

from fcmae.models.sizes import SIZES, Size, check_stem_stride, list_models, version_of
from fcmae.sparse.backends.names import SparseBackendName

MASKED = "masked"
BackendName = Literal[SparseBackendName, "masked", "grid"]


@dataclass(frozen=True)
class ModelConfig:
    """Settings of the encoder, the decoder and the prediction target."""

    name: str = "convnextv2_atto"
    """Encoder size, a timm name: convnextv2_{atto,femto,pico,nano,tiny,base,large,huge} or
    convnext_{tiny,small,base,large,xlarge}; or the V1 paper's convnext_isotropic_{small,base,large}."""
    img_size: int | tuple[int, int] = 224
    """Height and width of the (cropped) images in pixels; one number for a square. A multiple of the patch size."""
    in_chans: int = 3
    """Channels of the images."""
    stem_stride: int | None = None
    """Kernel and stride of the stem: 1, 2 or 4. The side of a mask patch is 8 times the stride (8, 16, 32 pixels); use
    1 or 2 for small images. Isotropic networks: 4, 8, 16 or 32, the side of a mask patch itself. Unset: 4, isotropic
    16."""
    use_grn: bool | None = None
    """Global response normalization in the blocks; unset: the default of the size (V2 with, V1 without)."""
    use_layer_scale: bool | None = None
    """LayerScale at the end of the blocks; unset: the default of the size (V1 with, V2 without)."""
    ls_init_value: float = 1e-6
    """Initial value of LayerScale, if used."""
    drop_path_rate: float = 0.0
    """Stochastic depth rate, increasing linearly to this value at the last block."""
    decoder_depth: int = 1
    """Number of ConvNeXt V2 blocks in the decoder."""
    decoder_dim: int = 512
    """Width of the decoder."""
    norm_pix_loss: bool = True
    """Predict pixels normalized by each patch's own mean and variance."""
    backend: BackendName = "auto"
    """Implementation of the encoder's operations: torch (plain PyTorch), numba (CPU kernels), triton (GPU kernels),
    minkowski (MinkowskiEngine, installed separately) or masked (dense, the baseline). auto, or its older
    name grid: numba on a CPU, triton on CUDA, torch elsewhere. It affects the speed, not the results."""
    checkpoint_stages: tuple[int, ...] = ()
    """Stages (0 to 3) whose blocks use activation checkpointing: activations are recomputed in the backward pass, which
    saves memory and costs time."""

    def __post_init__(self) -> None:
        if self.name not in SIZES:
            near = difflib.get_close_matches(self.name.lower(), list_models(), n=1)
            hint = f"; the nearest is {near[0]}" if near else ""
            raise ValueError(f"name {self.name!r} is not known; choose one of {', '.join(list_models())}{hint}")
        if self.stem_stride is not None:
            check_stem_stride(self.stem_stride, self.name)
        for size in self.image_hw:
            if size < self.patch_size or size % self.patch_size:
                nearest = max(1, round(size / self.patch_size)) * self.patch_size
                raise ValueError(
                    f"img_size must be a multiple of the patch size {self.patch_size} "
                    f"({'' if self.size.is_isotropic else '8 × '}stem_stride), got {self.img_size}; "
                    f"the nearest is {nearest}"
                )
        if self.backend not in get_args(BackendName):
            raise ValueError(f"backend must be one of {', '.join(get_args(BackendName))}, got {self.backend!r}")
        stages = range(len(self.size.depths))
        if not set(self.checkpoint_stages) <= set(stages):
            raise ValueError(f"checkpoint_stages must be from 0 to {stages[-1]}, got {self.checkpoint_stages}")
        for field, lowest in (("in_chans", 1), ("decoder_depth", 0), ("decoder_dim", 1)):
            if getattr(self, field) < lowest:
                raise ValueError(f"{field} must be at least {lowest}, got {getattr(self, field)}")
        if not math.isfinite(self.ls_init_value):
            raise ValueError(f"ls_init_value must be finite, got {self.ls_init_value}")
        if not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"drop_path_rate must be in [0, 1), got {self.drop_path_rate}")

    @property
    def size(self) -> Size:
        """Depths and dims of the encoder."""
        return SIZES[self.name]

    @property
    def stride(self) -> int:
        """Kernel and stride of the stem in pixels: ``stem_stride``, or the default of the size."""
        return self.size.stem_stride if self.stem_stride is None else self.stem_stride

    @property
    def with_grn(self) -> bool:
        """Whether the encoder's blocks have GRN."""
        return version_of(self.name).use_grn if self.use_grn is None else self.use_grn

    @property
    def with_layer_scale(self) -> bool:
        """Whether the encoder's blocks have LayerScale."""
        return version_of(self.name).use_layer_scale if self.use_layer_scale is None else self.use_layer_scale

    @property
    def sparse_backend(self) -> str:
        """The backend of the encoder's layers; plain torch for the masked baseline, which computes densely."""
        return {"grid": "auto", MASKED: "torch"}.get(self.backend, self.backend)

    @property
    def dense_backend(self) -> str:
        """The backend of the decoder. The decoder is dense, so sparse-only backends are replaced by auto."""
        return self.backend if self.backend in ("torch", "numba") else "auto"

    @property
    def image_hw(self) -> tuple[int, int]:
        """Image height and width in pixels."""
        return (
            (self.img_size, self.img_size) if isinstance(self.img_size, int) else (self.img_size[0], self.img_size[1])
        )

    @property
    def patch_size(self) -> int:
        """Pixels along one side of a mask patch: the encoder's total stride."""
        return self.stride * 2 ** (len(self.size.depths) - 1)

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Patches along height and width, (h, w)."""
        height, width = self.image_hw
        return height // self.patch_size, width // self.patch_size
