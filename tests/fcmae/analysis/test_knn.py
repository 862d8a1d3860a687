"""Weighted nearest neighbors against scikit-learn, and what chunks, ties and few images do."""

import logging

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from fcmae.analysis.accuracy import top_accuracy
from fcmae.analysis.knn import knn_scores

CLASSES = 7


@pytest.fixture(scope="module")
def clouds() -> tuple[Tensor, Tensor, Tensor]:
    """Memory, its labels, queries: overlapping clouds in float64, so that many are wrong."""
    random = torch.Generator().manual_seed(0)
    centers = torch.randn(CLASSES, 10, generator=random, dtype=torch.float64)
    labels = torch.randint(CLASSES, (300,), generator=random)
    noise = torch.randn(400, 10, generator=random, dtype=torch.float64) * 2
    return centers[labels] + noise[:300], labels, centers[torch.arange(100) % CLASSES] + noise[300:]


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (20, 1.0), (300, 0.5)])
def test_votes_are_those_of_scikit_learn(clouds: tuple[Tensor, Tensor, Tensor], k: int, temperature: float) -> None:
    """Each class's share of exp(cosine similarity / T) over the k nearest = predict_proba with these weights."""
    memory, labels, queries = clouds
    theirs = KNeighborsClassifier(k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / temperature))
    expected = theirs.fit(memory.numpy(), labels.numpy()).predict_proba(queries.numpy())
    scores = knn_scores(memory, labels, queries, CLASSES, k, temperature)
    np.testing.assert_allclose(scores.softmax(1).numpy(), expected, atol=1e-12)
    # and not only their ratio: the logarithm of the sum itself
    similarity = torch.nn.functional.cosine_similarity(queries[:, None], memory[None], dim=2).topk(k).values
    total = (similarity / temperature).logsumexp(1)
    torch.testing.assert_close(scores.logsumexp(1), total)


def test_chunks_change_nothing(clouds: tuple[Tensor, Tensor, Tensor]) -> None:
    memory, labels, queries = clouds
    whole = knn_scores(memory, labels, queries, CLASSES)
    for chunk in (1, 7 * len(memory), 10**9):
        torch.testing.assert_close(knn_scores(memory, labels, queries, CLASSES, chunk=chunk), whole)


def test_low_temperatures_do_not_overflow(clouds: tuple[Tensor, Tensor, Tensor]) -> None:
    """exp(1 / 0.001) is beyond float32; the nearest one alone decides then."""
    memory, labels, queries = (t.float() if t.is_floating_point() else t for t in clouds)
    scores = knn_scores(memory, labels, queries, CLASSES, k=20, temperature=1e-3)
    nearest = knn_scores(memory, labels, queries, CLASSES, k=1)
    assert torch.equal(scores.argmax(1), nearest.argmax(1))
    assert not scores.isnan().any()


def test_k_beyond_the_memory_means_all_of_it(
    clouds: tuple[Tensor, Tensor, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    memory, labels, queries = clouds
    with caplog.at_level(logging.INFO):
        few = knn_scores(memory[:5], labels[:5], queries, CLASSES, k=20)
    assert "5 training images" in caplog.text
    torch.testing.assert_close(few, knn_scores(memory[:5], labels[:5], queries, CLASSES, k=5))


def test_a_class_without_votes_is_no_answer(clouds: tuple[Tensor, Tensor, Tensor]) -> None:
    """One neighbor names one class: top-5 is then top-1, whatever order the rest has."""
    memory, labels, queries = clouds
    truth = torch.arange(100) % CLASSES
    scores = knn_scores(memory, labels, queries, CLASSES, k=1)
    assert 0 < top_accuracy(scores, truth, 1).correct < 100
    assert top_accuracy(scores, truth, 5) == top_accuracy(scores, truth, 1)


def test_one_hot_labels_as_features_are_always_right_and_noise_is_at_chance() -> None:
    random = torch.Generator().manual_seed(0)
    labels, truth = torch.randint(10, (2000,), generator=random), torch.randint(10, (1000,), generator=random)
    one_hot = torch.eye(10)
    scores = knn_scores(one_hot[labels], labels, one_hot[truth], 10)
    assert top_accuracy(scores, truth).share == 1
    noise = torch.randn(3000, 16, generator=random)
    low, high = top_accuracy(knn_scores(noise[:2000], labels, noise[2000:], 10), truth).interval
    assert low < 0.1 < high
