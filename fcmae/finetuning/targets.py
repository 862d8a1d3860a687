"""What a batch is trained towards: smoothed and mixed labels by timm, and the loss."""

import torch.nn.functional as F
from timm.data.mixup import Mixup, mixup_target
from torch import Tensor

from fcmae.finetuning.augmentation import seeded
from fcmae.finetuning.config import AugmentConfig


class Targets:
    """Turns labels into soft targets, and mixes the images of a batch in place.

    Args:
        augment: mixup, cutmix and label smoothing.
        num_classes: C.
        multi_label: whether labels are float32 [B, C] instead of int64 [B].
    """

    def __init__(self, augment: AugmentConfig, num_classes: int, multi_label: bool) -> None:
        self.smoothing, self.num_classes, self.multi_label = augment.label_smoothing, num_classes, multi_label
        self.mixup: Mixup | None = None
        if augment.mixes:
            self.mixup = Mixup(
                augment.mixup, augment.cutmix, label_smoothing=augment.label_smoothing, num_classes=num_classes,
                multi_label=multi_label,
            )  # fmt: skip

    def __call__(self, images: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """(images [B, C, H, W], targets float32 [B, C]); what is drawn depends on ``seed`` alone. B is even to mix."""
        if self.mixup is None:
            return images, mixup_target(labels, self.num_classes, 1.0, self.smoothing, self.multi_label)
        with seeded(seed):
            return self.mixup(images, labels)


def classification_loss(logits: Tensor, targets: Tensor, multi_label: bool) -> Tensor:
    """Mean cross-entropy with soft targets [B, C]; with several labels, mean binary cross-entropy."""
    if multi_label:
        return F.binary_cross_entropy_with_logits(logits.float(), targets)
    return F.cross_entropy(logits.float(), targets)
