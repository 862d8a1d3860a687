"""The linear probe: both solvers are scikit-learn's problem, and the test set has no say in its strength."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from fcmae.analysis import linear_probe
from fcmae.analysis.accuracy import top_accuracy
from fcmae.analysis.linear_probe import Solver, fit_probe
from fcmae.data.labeled import stratified_split
from fcmae.errors import UserError

SOLVERS: tuple[Solver, ...] = ("sklearn", "torch")


def clouds(num_classes: int, count: int = 300, features: int = 6) -> tuple[Tensor, Tensor]:
    """Overlapping, of unlike scales and far from 0; float64."""
    random = torch.Generator().manual_seed(num_classes)
    labels = torch.arange(count) % num_classes
    centers = torch.randn(num_classes, features, generator=random, dtype=torch.float64)
    x = centers[labels] + torch.randn(count, features, generator=random, dtype=torch.float64)
    return x * torch.logspace(-2, 3, features, dtype=torch.float64) + 50, labels


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Solved to the end, in small pieces."""
    monkeypatch.setattr(linear_probe, "TOLERANCE", 1e-9)
    monkeypatch.setattr(linear_probe, "ROWS", 64)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("num_classes", [2, 3, 8])
@pytest.mark.parametrize("c", [1e-3, 1.0])
def test_it_is_scikit_learns_logistic_regression(solver: Solver, num_classes: int, c: float) -> None:
    """Coefficients and probabilities, on standardized features; two classes have one coefficient vector there."""
    x, labels = clouds(num_classes)
    theirs = LogisticRegression(C=c, tol=1e-9, max_iter=10_000)
    scaled = StandardScaler().fit_transform(x.numpy())
    theirs.fit(scaled, labels.numpy())
    ours = fit_probe(x, labels, num_classes, strengths=[c], solver=solver)
    weight = ours.weight if num_classes > 2 else (ours.weight[1:] - ours.weight[:1])
    np.testing.assert_allclose(weight.numpy(), theirs.coef_, atol=2e-6)
    np.testing.assert_allclose(ours.scores(x).softmax(1).numpy(), theirs.predict_proba(scaled), atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_solvers_choose_and_answer_alike(dtype: torch.dtype) -> None:
    x, labels = clouds(5, count=600)
    x = x.to(dtype)
    a, b = (fit_probe(x[:400], labels[:400], 5, solver=solver) for solver in SOLVERS)
    assert a.c == b.c
    assert a.scores(x).dtype == b.scores(x).dtype == dtype
    assert (a.scores(x[400:]).argmax(1) == b.scores(x[400:]).argmax(1)).float().mean() > 0.99


def test_size_decides_who_solves(monkeypatch: pytest.MonkeyPatch) -> None:
    x, labels = clouds(3)
    asked = []
    monkeypatch.setattr(
        linear_probe, "_by_torch", lambda x, y, n, cs: asked.append("torch") or [(x[:n], x[:n, 0], True)]
    )
    fit_probe(x, labels, 3, strengths=[1.0])
    assert not asked
    monkeypatch.setattr(linear_probe, "SMALL", x.numel() * 3 - 1)
    fit_probe(x, labels, 3, strengths=[1.0])
    assert asked == ["torch"]


def test_the_strength_is_the_best_on_a_held_out_fifth() -> None:
    """Many noisy features and few images: no penalty is bad, all penalty is bad; chosen by a literal repetition."""
    random = np.random.default_rng(0)
    labels = np.arange(120) % 3
    x = random.normal(size=(120, 200))
    x[:, :3] += 1.5 * np.eye(3)[labels]
    strengths = [1e-5, 1e-3, 1e-1, 1e2]
    fit, held_out = stratified_split(labels, 0.2, seed=3)
    right = []
    for c in strengths:
        scaler = StandardScaler().fit(x[fit])
        model = LogisticRegression(C=c, max_iter=5000).fit(scaler.transform(x[fit]), labels[fit])
        right.append(model.score(scaler.transform(x[held_out]), labels[held_out]))
    probe = fit_probe(torch.from_numpy(x), torch.from_numpy(labels), 3, strengths=strengths[::-1], seed=3)
    assert probe.c == strengths[int(np.argmax(right))]
    assert not probe.at_edge
    weaker = fit_probe(torch.from_numpy(x), torch.from_numpy(labels), 3, strengths=strengths[:2], seed=3)
    assert weaker.at_edge
    assert not fit_probe(torch.from_numpy(x), torch.from_numpy(labels), 3, strengths=[1.0]).at_edge  # no choice


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_probe_says_whether_it_converged(solver: Solver, monkeypatch: pytest.MonkeyPatch) -> None:
    x, labels = clouds(3)
    assert fit_probe(x, labels, 3, strengths=[1.0], solver=solver).converged
    monkeypatch.setattr(linear_probe, "MAX_ITERATIONS", 2)
    assert not fit_probe(x, labels, 3, strengths=[1.0], solver=solver).converged


def test_warnings_of_another_kind_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = LogisticRegression.fit

    def fit_and_warn(self: LogisticRegression, *arguments: np.ndarray) -> None:
        warnings.warn("something else", FutureWarning, stacklevel=1)
        fit(self, *arguments)

    monkeypatch.setattr(LogisticRegression, "fit", fit_and_warn)
    x, labels = clouds(3)
    with pytest.warns(FutureWarning, match="something else"):
        assert fit_probe(x, labels, 3, strengths=[1.0], solver="sklearn").converged


def test_constant_features_do_no_harm() -> None:
    x, labels = clouds(3)
    with_constant = torch.cat([x, torch.full((len(x), 1), 0.1, dtype=x.dtype)], 1)
    plain, more = (fit_probe(features, labels, 3, strengths=[1.0]) for features in (x, with_constant))
    torch.testing.assert_close(more.scores(with_constant), plain.scores(x), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_class_without_images_is_never_the_answer(solver: Solver) -> None:
    x, labels = clouds(3)
    labels = torch.tensor([0, 2, 5])[labels]
    scores = fit_probe(x, labels, 7, strengths=[1.0], solver=solver).scores(x)
    assert scores.shape == (300, 7)
    assert set(scores.argmax(1).tolist()) == {0, 2, 5}
    assert (scores[:, [1, 3, 4, 6]] == -torch.inf).all()


def test_one_image_of_each_class_is_enough() -> None:
    probe = fit_probe(torch.eye(4), torch.arange(4), 4)
    assert probe.scores(torch.eye(4)).argmax(1).tolist() == [0, 1, 2, 3]


def test_one_class_is_none() -> None:
    with pytest.raises(UserError, match="at least two classes"):
        fit_probe(torch.randn(5, 2), torch.zeros(5, dtype=torch.long), 1)


def test_labels_as_features_are_learned_and_noise_is_at_chance() -> None:
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (1500,), generator=random)
    cheat = torch.eye(5)[labels] + 0.01 * torch.randn(1500, 5, generator=random)
    noise = torch.randn(1500, 5, generator=random)
    cheated, guessed = (
        top_accuracy(fit_probe(x[:1000], labels[:1000], 5).scores(x[1000:]), labels[1000:]) for x in (cheat, noise)
    )
    assert cheated.share == 1
    low, high = guessed.interval
    assert low < 0.2 < high
