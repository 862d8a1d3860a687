"""A linear probe on frozen features: multinomial logistic regression with an L2 penalty.

The strength of the penalty is chosen on a held-out part of the training set, never on the test set.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fcmae.analysis.accuracy import top_accuracy
from fcmae.data.classes import stratified_split
from fcmae.errors import UserError
from fcmae.progress import tracked

Solver = Literal["auto", "sklearn", "torch"]
STRENGTHS = tuple(10.0**exponent for exponent in range(-5, 3))
HELD_OUT = 0.2  # share of the training set, to choose the strength
SMALL = 10**8  # multiply-adds of one pass (images × features × classes) up to which scikit-learn is used
MAX_ITERATIONS = 1000
TOLERANCE = 1e-4  # converged when no gradient entry of the mean loss is larger
PROGRESS = "linear probe, strengths"
ROWS = 2**16  # images per chunk in the torch solver; limits the memory of its [rows, classes] intermediates


@dataclass(frozen=True)
class LinearProbe:
    """A fitted linear classifier."""

    weight: Tensor
    """[C, D]."""
    bias: Tensor
    """[C]."""
    mean: Tensor
    """[D], mean of the training features, subtracted first."""
    std: Tensor
    """[D], standard deviation of the training features; 1 for a constant feature."""
    c: float
    """Inverse regularization strength, scikit-learn's C."""
    converged: bool
    """Whether the solver reached its tolerance."""
    at_edge: bool = False
    """Whether C was chosen and is the smallest or largest value tried: a value beyond may be better."""

    def scores(self, features_ND: Tensor) -> Tensor:
        """Logits [N, C], on the features' device."""
        mean, std, weight, bias = (t.to(features_ND) for t in (self.mean, self.std, self.weight, self.bias))
        return ((features_ND - mean) / std) @ weight.T + bias


class _Solution(NamedTuple):
    weight: Tensor
    """[C, D], for standardized features."""
    bias: Tensor
    """[C]."""
    converged: bool


def fit_probe(
    features_ND: Tensor,
    labels_N: Tensor,
    num_classes: int,
    *,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
    solver: Solver = "auto",
) -> LinearProbe:
    """Fit a probe: choose C on a held-out fifth of the images, then fit on all of them.

    Ties on the held-out part go to the strongest penalty. If no class has a second image to hold out, C is the middle
    of the sorted ``strengths``.

    Args:
        features_ND: floating point; the torch solver runs on their device.
        labels_N: int64 in 0 … num_classes − 1.
        num_classes: C; a class may lack images.
        strengths: values of C to choose from, as in scikit-learn: the loss is Σ cross-entropy + |W|² / 2C.
        seed: seed of the held-out split.
        solver: scikit-learn's LogisticRegression, L-BFGS in torch, or ``auto``: chosen by size (``SMALL``).

    Raises:
        UserError: all images belong to one class.
    """
    if len(labels_N.unique()) < 2:
        raise UserError("a linear probe needs training images of at least two classes")
    strengths = sorted(strengths)
    fit, held_out = (torch.from_numpy(i) for i in stratified_split(labels_N.cpu().numpy(), HELD_OUT, seed))
    if len(strengths) == 1 or not len(held_out) or len(labels_N[fit].unique()) < 2:
        chosen, at_edge = strengths[len(strengths) // 2], False
    else:
        probes = _path(features_ND[fit], labels_N[fit], num_classes, strengths, solver)
        right = [top_accuracy(p.scores(features_ND[held_out]), labels_N[held_out]).correct for p in probes]
        best = int(np.argmax(right))  # the first of ties
        chosen, at_edge = strengths[best], best in (0, len(strengths) - 1)
    return replace(_path(features_ND, labels_N, num_classes, [chosen], solver)[0], at_edge=at_edge)


def _path(
    features: Tensor, labels: Tensor, num_classes: int, strengths: Sequence[float], solver: Solver
) -> list[LinearProbe]:
    """One probe per strength, each warm-started from the previous one."""
    std, mean = torch.std_mean(features, 0, correction=0)
    std = torch.where(std > 1e-6 * mean.abs(), std, 1.0)  # a constant feature's std is rounding error
    x = (features - mean) / std
    if solver == "auto":
        solver = "sklearn" if x.numel() * num_classes <= SMALL else "torch"
    solve = _by_sklearn if solver == "sklearn" else _by_torch
    return [
        LinearProbe(weight, bias, mean, std, c, converged)
        for c, (weight, bias, converged) in zip(strengths, solve(x, labels, num_classes, strengths), strict=True)
    ]


def _by_sklearn(x: Tensor, labels: Tensor, num_classes: int, strengths: Sequence[float]) -> list[_Solution]:
    from sklearn.exceptions import ConvergenceWarning  # slow to import, and only needed here
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=MAX_ITERATIONS, tol=TOLERANCE, warm_start=True)
    x_array, y_array = x.double().cpu().numpy(), labels.cpu().numpy()
    found = []
    for c in tracked(strengths, len(strengths), PROGRESS):
        model.set_params(C=c)
        with warnings.catch_warnings(record=True) as raised:
            warnings.simplefilter("always", ConvergenceWarning)
            model.fit(x_array, y_array)
        for one in raised:
            if not issubclass(one.category, ConvergenceWarning):
                warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
        converged = not any(issubclass(one.category, ConvergenceWarning) for one in raised)
        weight, bias = torch.from_numpy(model.coef_.copy()), torch.from_numpy(model.intercept_.copy())
        if len(weight) == 1:  # for two classes scikit-learn has one row: the second against the first
            weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
        # classes without images are never predicted
        all_weight = weight.new_zeros(num_classes, x.shape[1])
        all_bias = bias.new_full((num_classes,), -torch.inf)
        all_weight[model.classes_], all_bias[model.classes_] = weight, bias
        found.append(_Solution(all_weight, all_bias, converged))
    return found


def _by_torch(x: Tensor, labels: Tensor, num_classes: int, strengths: Sequence[float]) -> list[_Solution]:
    """Full-batch L-BFGS, computed in chunks, on the device of ``x``."""
    present, targets = labels.to(x.device).unique(return_inverse=True)
    weight = x.new_zeros(len(present), x.shape[1], requires_grad=True)
    bias = x.new_zeros(len(present), requires_grad=True)
    found = []
    for c in tracked(strengths, len(strengths), PROGRESS):
        # For two classes scikit-learn penalizes one vector w; the two rows ±w/2 would be penalized half as much
        decay = (2.0 if len(present) == 2 else 1.0) / (c * len(x))
        optimizer = torch.optim.LBFGS(
            [weight, bias], max_iter=MAX_ITERATIONS, tolerance_grad=TOLERANCE, tolerance_change=0,
            line_search_fn="strong_wolfe",
        )  # fmt: skip

        def loss(decay: float = decay, optimizer: torch.optim.Optimizer = optimizer) -> Tensor:
            optimizer.zero_grad()
            total = decay / 2 * weight.square().sum()
            total.backward()
            total = total.detach()
            for piece, target in zip(x.split(ROWS), targets.split(ROWS), strict=True):
                part = F.cross_entropy(piece @ weight.T + bias, target, reduction="sum") / len(x)
                part.backward()
                total += part.detach()
            return total

        optimizer.step(loss)
        loss()  # recompute: after the line search the gradients belong to another point
        converged = all(p.grad is not None and bool(p.grad.abs().max() <= TOLERANCE) for p in (weight, bias))
        all_weight = x.new_zeros(num_classes, x.shape[1])
        all_bias = x.new_full((num_classes,), -torch.inf)
        all_weight[present], all_bias[present] = weight.detach(), bias.detach()
        found.append(_Solution(all_weight, all_bias, converged))
    return found
