"""Targets and mixing: against timm's own functions with the same draws, and against values by hand."""

import numpy as np
import pytest
import torch
from timm.data.mixup import Mixup
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy

from fcmae.finetuning.config import AugmentConfig
from fcmae.finetuning.targets import Targets, classification_loss


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(6, 3, 8, 8), torch.tensor([0, 3, 1, 1, 2, 4])


def test_smoothing_without_mixing_is_timms_loss() -> None:
    images, labels = batch()
    logits = torch.randn(6, 5)
    same, targets = Targets(AugmentConfig(label_smoothing=0.1), 5, False)(images, labels, 7)
    assert same is images
    assert torch.allclose(targets.sum(1), torch.ones(6))
    assert targets[1].tolist() == pytest.approx([0.02, 0.02, 0.02, 0.92, 0.02])
    loss = classification_loss(logits, targets, False)
    assert torch.allclose(loss, LabelSmoothingCrossEntropy(0.1)(logits, labels), atol=1e-6)
    assert torch.allclose(loss, SoftTargetCrossEntropy()(logits, targets), atol=1e-6)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_mixing_is_timms_with_the_step_s_seed(mixup: float, cutmix: float) -> None:
    make = Targets(AugmentConfig(mixup=mixup, cutmix=cutmix, label_smoothing=0.1), 5, False)
    timms = Mixup(mixup_alpha=mixup, cutmix_alpha=cutmix, label_smoothing=0.1, num_classes=5)
    images, labels = batch()
    changed = 0
    for seed in (3, 4, 2**40 + 1):
        before = np.random.get_state()[1].copy()  # type: ignore[index]
        mixed, targets = make(images.clone(), labels, seed)
        assert np.array_equal(before, np.random.get_state()[1])  # type: ignore[index]
        np.random.seed(seed % 2**32)
        expected, of_timm = timms(images.clone(), labels)
        assert torch.equal(mixed, expected)
        assert torch.equal(targets, of_timm)
        changed += not torch.equal(mixed, images)
    assert changed >= 2  # a rectangle may be empty


def test_several_labels_are_independent() -> None:
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    _, targets = Targets(AugmentConfig(label_smoothing=0.1), 3, True)(torch.zeros(2, 1, 4, 4), labels, 0)
    assert targets.flatten().tolist() == pytest.approx([0.95, 0.05, 0.95, 0.05, 0.05, 0.05])
    logits = torch.tensor([[2.0, -1.0, 0.0], [0.0, 0.0, 0.0]])
    p = logits.sigmoid()
    by_hand = -(labels * p.log() + (1 - labels) * (1 - p).log()).mean()
    assert torch.allclose(classification_loss(logits, labels, True), by_hand)
