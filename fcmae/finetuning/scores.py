"""How well labels are predicted: accuracy with its interval, loss, confusion matrix, mean average precision."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from fcmae.analysis.accuracy import Accuracy
from fcmae.finetuning.average_precision import AveragePrecision, average_precision

TOP5_FROM = 6  # classes; with fewer, top-5 accuracy is uninformative


@dataclass(frozen=True)
class Predictions:
    """What scores and mistakes need of the outputs for N images; of many classes all outputs would fill the memory."""

    places: Tensor
    """int64 [N]: which images these are."""
    labels: Tensor
    """int64 [N], or float32 [N, C] where an image may have several."""
    losses: Tensor
    """float32 [N]: cross-entropy, or the classes' mean binary cross-entropy; NaN if an output is not finite."""
    predicted: Tensor
    """int64 [N]: the class of the highest output."""
    is_in_top5: Tensor
    """bool [N]: whether the label is among the five highest; False where an image may have several."""
    p_label: Tensor
    """float32 [N]: the softmax at the label; of several, the smallest of what speaks for the truth, class by class."""
    outputs: Tensor
    """float32 [N, 1], the softmax at the predicted class; of several labels [N, C], as the network gives them: from 17
    on all sigmoids are 1, and would rank alike."""
    num_classes: int

    @property
    def probabilities(self) -> Tensor:
        """float32 [N, 1], the softmax at the predicted class; of several labels [N, C], the sigmoid."""
        return self.outputs.sigmoid() if self.labels.ndim == 2 else self.outputs

    @classmethod
    def of(cls, places: Tensor, logits: Tensor, labels: Tensor) -> "Predictions":
        """From the outputs, float32 [N, C]."""
        predicted, kept = logits.argmax(1), logits
        if labels.ndim == 2:
            p = logits.sigmoid()
            losses = F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(1)
            in_top5 = torch.zeros(len(labels), dtype=torch.bool)
            p_label = torch.where(labels > 0, p, 1 - p).min(1).values
        else:
            p = logits.softmax(1)
            losses = F.cross_entropy(logits, labels, reduction="none")
            in_top5 = (logits.topk(min(5, logits.shape[1])).indices == labels[:, None]).any(1)
            p_label, kept = p.gather(1, labels[:, None])[:, 0], p.gather(1, predicted[:, None])
        losses = losses.where(logits.isfinite().all(1), torch.nan)
        return cls(places, labels, losses, predicted, in_top5, p_label, kept, logits.shape[1])

    @classmethod
    def joined(cls, parts: "Sequence[Predictions]") -> "Predictions":
        """Of all images of several, at least one, in the order of the images whichever process had them."""
        tensors = [one.name for one in fields(cls) if one.name != "num_classes"]
        order = torch.cat([part.places for part in parts]).argsort(stable=True)
        whole = {name: torch.cat([getattr(part, name) for part in parts])[order] for name in tensors}
        return cls(**whole, num_classes=parts[0].num_classes)


@dataclass(frozen=True)
class Scores:
    """Scores on the images to validate on."""

    loss: float
    """Cross-entropy without smoothing; of several labels, binary cross-entropy."""
    top1: Accuracy | None
    """None where an image may have several labels."""
    top5: Accuracy | None
    precision: AveragePrecision | None
    """Where an image may have several labels."""

    @property
    def main(self) -> float:
        """What the best weights are chosen by, in 0 … 1: accuracy, or mean average precision."""
        if self.top1 is not None:
            return self.top1.share
        return self.precision.mean if self.precision is not None else 0.0

    def as_dict(self) -> dict[str, float]:
        """Values of a line of metrics.jsonl."""
        found = {"val_loss": self.loss}
        if self.top1 is not None:
            low, high = self.top1.interval
            found |= {"val_top1": self.top1.share, "val_top1_low": low, "val_top1_high": high}
        if self.top5 is not None:
            found["val_top5"] = self.top5.share
        if self.precision is not None:
            found["val_map"] = self.precision.mean
            if self.precision.interval is not None:
                found["val_map_low"], found["val_map_high"] = self.precision.interval
        return found

    def in_words(self) -> str:
        """For the log."""
        if self.top1 is None:
            interval = self.precision.interval if self.precision is not None else None
            between = "" if interval is None else f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
            return f"validation: mean average precision {100 * self.main:.1f}%{between}, loss {self.loss:.4f}"
        low, high = self.top1.interval
        return (
            f"validation: {100 * self.top1.share:.1f}% correct [{100 * low:.1f}, {100 * high:.1f}] of "
            f"{self.top1.total:,}, loss {self.loss:.4f}"
        )


def scores_of(found: Predictions) -> Scores:
    """The scores of predictions, at least one."""
    loss, labels = float(found.losses.mean()), found.labels
    if labels.ndim == 2:
        return Scores(loss, None, None, average_precision(found.outputs, labels))
    top1 = Accuracy(int((found.predicted == labels).sum()), len(labels))
    top5 = Accuracy(int(found.is_in_top5.sum()), len(labels)) if found.num_classes >= TOP5_FROM else None
    return Scores(loss, top1, top5, None)


def confused_pairs(predicted_N: Tensor, labels_N: Tensor, most: int) -> list[tuple[int, int, int]]:
    """(true class, what it was taken for, how often) of the ``most`` frequent mistakes, the most frequent first.

    It takes memory for the images alone, however many classes there are.
    """
    wrong = predicted_N != labels_N
    pairs, counts = torch.stack([labels_N[wrong], predicted_N[wrong]], 1).unique(dim=0, return_counts=True)
    order = counts.argsort(descending=True, stable=True)[:most]
    return [(*map(int, pairs[n]), int(counts[n])) for n in order.tolist()]  # type: ignore[misc]


def confusion_matrix(predicted_N: Tensor, labels_N: Tensor, num_classes: int) -> Tensor:
    """int64 [C, C]: how many images of the class of a row were taken for the class of a column."""
    cells = labels_N * num_classes + predicted_N
    return torch.bincount(cells, minlength=num_classes**2).view(num_classes, num_classes)
