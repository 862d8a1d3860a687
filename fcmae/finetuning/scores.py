"""How well labels are predicted: accuracy with its interval, loss, confusion matrix, mean average precision."""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

from fcmae.analysis.accuracy import Accuracy, top_accuracy
from fcmae.finetuning.targets import classification_loss

MAIN = ("val_top1", "val_map")
"""Names in metrics.jsonl of what the best weights are chosen by; a run has one of them."""
TOP5_FROM = 6  # classes; with fewer, top-5 accuracy is uninformative


@dataclass(frozen=True)
class Predictions:
    """Logits of N images, and their labels."""

    places: Tensor
    """int64 [N]: which images these are."""
    logits: Tensor
    """float32 [N, C]."""
    labels: Tensor
    """int64 [N], or float32 [N, C]."""

    @property
    def probabilities(self) -> Tensor:
        """float32 [N, C]: softmax, or of independent classes the sigmoid."""
        return self.logits.softmax(1) if self.labels.ndim == 1 else self.logits.sigmoid()


@dataclass(frozen=True)
class Scores:
    """Scores on the images to validate on."""

    loss: float
    """Cross-entropy without smoothing; of several labels, binary cross-entropy."""
    top1: Accuracy | None
    """None where an image may have several labels."""
    top5: Accuracy | None
    mean_ap: float | None
    """Mean over the classes of the average precision, where an image may have several labels."""

    @property
    def main(self) -> float:
        """What the best weights are chosen by, in 0 … 1: accuracy, or mean average precision."""
        return self.top1.share if self.top1 is not None else float(self.mean_ap or 0.0)

    def as_dict(self) -> dict[str, float]:
        """Values of a line of metrics.jsonl."""
        found = {"val_loss": self.loss}
        if self.top1 is not None:
            low, high = self.top1.interval
            found |= {"val_top1": self.top1.share, "val_top1_low": low, "val_top1_high": high}
        if self.top5 is not None:
            found["val_top5"] = self.top5.share
        if self.mean_ap is not None:
            found["val_map"] = self.mean_ap
        return found

    def in_words(self) -> str:
        """For the log."""
        if self.top1 is None:
            return f"validation: mean average precision {100 * self.main:.1f}%, loss {self.loss:.4f}"
        low, high = self.top1.interval
        return (
            f"validation: {100 * self.top1.share:.1f}% correct [{100 * low:.1f}, {100 * high:.1f}] of "
            f"{self.top1.total:,}, loss {self.loss:.4f}"
        )


def scores_of(found: Predictions) -> Scores:
    """The scores of predictions, at least one."""
    logits, labels = found.logits, found.labels
    loss = float(classification_loss(logits, labels, labels.ndim == 2))
    if labels.ndim == 2:
        return Scores(loss, None, None, mean_average_precision(found.probabilities, labels))
    top5 = top_accuracy(logits, labels, 5) if logits.shape[1] >= TOP5_FROM else None
    return Scores(loss, top_accuracy(logits, labels), top5, None)


def mean_average_precision(scores_NC: Tensor, labels_NC: Tensor) -> float:
    """Mean over the classes that any image has; 0 if none has any."""
    present = [c for c in range(labels_NC.shape[1]) if bool(labels_NC[:, c].any())]
    found = [average_precision_score(labels_NC[:, c].numpy(), scores_NC[:, c].numpy()) for c in present]
    return float(np.mean(found)) if found else 0.0


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
