"""Scores against values by hand."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from fcmae.analysis.accuracy import Accuracy, top_accuracy
from fcmae.finetuning import average_precision as module
from fcmae.finetuning.average_precision import average_precision
from fcmae.finetuning.scores import Predictions, confused_pairs, confusion_matrix, scores_of
from fcmae.finetuning.targets import classification_loss


def test_accuracy_loss_and_what_goes_into_the_metrics() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0], [0.0, 0.0]])
    labels = torch.tensor([0, 1, 1, 0])
    found = scores_of(Predictions.of(torch.arange(4), logits, labels))
    assert found.top1 == Accuracy(3, 4)
    assert found.top5 is None
    expected = -logits.log_softmax(1)[torch.arange(4), labels].mean()
    assert found.loss == pytest.approx(float(expected))
    assert found.main == 0.75
    assert found.as_dict() == {
        "val_loss": found.loss, "val_top1": 0.75, "val_top1_low": Accuracy(3, 4).interval[0],
        "val_top1_high": Accuracy(3, 4).interval[1],
    }  # fmt: skip
    assert "75.0% correct [30.1, 95.4] of 4" in found.in_words()


def test_mean_average_precision_by_hand() -> None:
    """Precision at each positive, averaged: (1 + 2/3) / 2 and 1/2; a class that no image has does not count."""
    scores = torch.tensor([[0.9, 0.2, 0.1], [0.8, 0.9, 0.3], [0.7, 0.1, 0.2]])
    labels = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    expected = [pytest.approx((1 + 2 / 3) / 2), 0.5, None]
    assert list(average_precision(scores, labels).of_classes) == expected
    assert average_precision(scores, labels).mean == pytest.approx(((1 + 2 / 3) / 2 + 1 / 2) / 2)
    found = scores_of(Predictions.of(torch.arange(3), scores.logit(), labels))
    assert found.top1 is None
    assert found.as_dict().keys() == {"val_loss", "val_map", "val_map_low", "val_map_high"}
    assert found.main == pytest.approx(0.6666667)
    none = average_precision(scores, torch.zeros(3, 3))
    assert (none.of_classes, none.mean, none.interval) == ((None,) * 3, 0.0, None)


def test_outputs_whose_sigmoids_are_equal_rank_as_they_are() -> None:
    outputs, labels = torch.tensor([[30.0], [18.0]]), torch.tensor([[1.0], [0.0]])
    found = Predictions.of(torch.arange(2), outputs, labels)
    assert found.probabilities.tolist() == [[1.0], [1.0]]
    assert scores_of(found).main == 1.0


def _drawn(images: int, random: np.random.Generator, apart: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs in steps of a tenth, so that many are equal, and labels of four classes."""
    labels = random.random((images, 4)) < 0.2
    outputs = np.round(apart * labels + random.normal(size=labels.shape), 1)
    return torch.from_numpy(outputs), torch.from_numpy(labels)


def test_average_precision_is_scikit_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, labels = _drawn(500, np.random.default_rng(0))
    expected = [average_precision_score(labels[:, c], scores[:, c]) for c in range(4)]
    whole = average_precision(scores, labels)
    assert whole.of_classes == pytest.approx(expected)
    monkeypatch.setattr(module, "AT_ONCE", 3 * 500)  # in parts
    assert average_precision(scores, labels) == whole


@pytest.mark.parametrize(("images", "apart", "widest"), [(50, 1.0, 0.5), (100, 3.0, 0.25)])
def test_the_interval_of_average_precision_covers_the_truth(
    monkeypatch: pytest.MonkeyPatch, images: int, apart: float, widest: float
) -> None:
    """In about nine of ten sets. Percentiles of the draws lie above it in a fifth of the former; with a share of 1
    taken for one less 1e-6, intervals of good networks, such as the latter, were up to 0 … 1.
    """
    monkeypatch.setattr(module, "RESAMPLES", 200)
    random = np.random.default_rng(0)
    truth = average_precision(*_drawn(100_000, random, apart)).mean
    found = [average_precision(*_drawn(images, random, apart)) for _ in range(60)]
    intervals = [one.interval for one in found if one.interval is not None]
    assert len(intervals) >= 58
    assert all(one.interval[0] <= one.mean <= one.interval[1] for one in found if one.interval)
    assert sum(low > truth for low, _ in intervals) <= 7
    assert sum(high < truth for _, high in intervals) <= 4
    assert max(high - low for low, high in intervals) < widest


def test_no_interval_where_the_images_do_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """One image, no mistake, or so many images and classes that it would take long."""
    one = torch.ones(1, 1)
    assert average_precision(one, one) == module.AveragePrecision((1.0,), None)
    labels = torch.eye(4).repeat(5, 1)
    assert average_precision(labels, labels).interval is None
    scores, labels = _drawn(100, np.random.default_rng(0))
    with_interval = average_precision(scores, labels)
    assert with_interval.interval is not None
    monkeypatch.setattr(module, "WORK", 100 * 4 * module.FEWEST - 1)
    found = average_precision(scores, labels)
    assert found.interval is None
    assert found.of_classes == pytest.approx(with_interval.of_classes)


def test_confusion_has_a_row_for_each_true_class() -> None:
    matrix = confusion_matrix(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 1, 1]), 3)
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]


def test_confused_pairs_are_the_largest_cells_beside_the_diagonal() -> None:
    labels = torch.tensor([2, 2, 0, 21840, 1, 2, 1])
    predicted = torch.tensor([1, 1, 5, 0, 1, 2, 0])
    assert confused_pairs(predicted, labels, 10) == [(2, 1, 2), (0, 5, 1), (1, 0, 1), (21840, 0, 1)]
    assert confused_pairs(predicted, labels, 1) == [(2, 1, 2)]
    assert confused_pairs(labels, labels, 10) == []


def test_what_is_kept_of_the_outputs_scores_as_all_of_them_do() -> None:
    """In parts, as batches and processes give them; five of many classes, not their outputs."""
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(40, 9, generator=generator), torch.randint(0, 9, (40,), generator=generator)
    parts = [Predictions.of(torch.arange(a, b), logits[a:b], labels[a:b]) for a, b in ((3, 40), (0, 3))]
    found = Predictions.joined(parts)
    assert found.places.tolist() == list(range(40))
    scores = scores_of(found)
    assert scores.top1 == top_accuracy(logits, labels)
    assert scores.top5 == top_accuracy(logits, labels, 5)
    assert scores.loss == pytest.approx(float(classification_loss(logits, labels, False)))
    p = logits.softmax(1)
    assert torch.equal(found.p_label, p[torch.arange(40), labels])
    assert torch.equal(found.probabilities[:, 0], p.max(1).values)
    assert max(part.nbytes for part in vars(found).values() if isinstance(part, torch.Tensor)) <= 40 * 8
    several = (torch.rand(40, 9, generator=generator) < 0.3).float()
    found = Predictions.of(torch.arange(40), logits, several)
    assert scores_of(found).loss == pytest.approx(float(classification_loss(logits, several, True)))
    assert torch.equal(found.probabilities, logits.sigmoid())
    assert found.p_label[0] == torch.where(several[0] > 0, logits[0].sigmoid(), 1 - logits[0].sigmoid()).min()
    logits[3, 2] = -torch.inf
    assert Predictions.of(torch.arange(40), logits, labels).losses.isnan().nonzero().tolist() == [[3]]
