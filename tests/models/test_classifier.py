"""The classifier that a backend computes: timm's network of the same state dict, in outputs and all gradients."""

import copy
from typing import Any

import pytest
import timm
import torch

from fcmae.models import (
    ModelConfig,
    isotropic,  # noqa: F401  # registers its names with timm
)
from fcmae.models.block import Block
from fcmae.models.classifier import Classifier
from tests.models.test_encoder import randomize

NETWORKS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("convnextv2_atto", {}, {}),
    ("convnextv2_atto", {"use_grn": False}, {"use_grn": False}),
    ("convnext_tiny", {}, {}),
    ("convnext_isotropic_small", {}, {}),
]


def both(name: str, ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[Any, Classifier]:
    dense: Any = timm.create_model(name, num_classes=5, **theirs)
    randomize(dense)
    classifier = Classifier(ModelConfig(name, backend="numba", **ours), copy.deepcopy(dense.head))
    classifier.load_state_dict(dense.state_dict())
    return dense, classifier


@pytest.mark.parametrize(("name", "ours", "theirs"), NETWORKS, ids=str)
def test_it_is_timms_network(name: str, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """float64, 1e-9: logits, and the gradient of every parameter by name; twice, with batches of two sizes."""
    dense, classifier = (one.double() for one in both(name, ours, theirs))
    for shape in ((2, 3, 64, 96), (1, 3, 32, 64)):
        images = torch.randn(*shape, dtype=torch.float64)
        factors = torch.randn(shape[0], 5, dtype=torch.float64)
        found = []
        for network in (dense, classifier):
            logits = network(images.contiguous(memory_format=torch.channels_last))
            parameters = dict(network.named_parameters())
            gradients = torch.autograd.grad((logits * factors).sum(), list(parameters.values()))
            found.append({"logits": logits.detach()} | dict(zip(parameters, gradients, strict=True)))
        wanted, got = found
        assert got.keys() == wanted.keys()
        for key in wanted:
            assert (got[key] - wanted[key]).norm() <= 1e-9 * wanted[key].norm() + 1e-12, key


def test_a_copy_is_of_its_own() -> None:
    """As an average of the weights needs it."""
    _, classifier = both(*NETWORKS[0])
    copied = copy.deepcopy(classifier).eval()
    images = torch.randn(1, 3, 32, 32)
    before = copied(images)
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.zero_()
    assert torch.equal(copied(images), before)
    assert classifier.eval()(images).abs().max() == 0


def test_it_trains_after_inference_on_batches_of_the_same_size() -> None:
    _, classifier = both(*NETWORKS[0])
    images = torch.randn(3, 3, 32, 64)
    with torch.inference_mode():
        wanted = classifier(images)
    logits = classifier(images)
    logits.sum().backward()
    assert torch.equal(logits, wanted)
    assert all(parameter.grad is not None for parameter in classifier.parameters())


def test_drop_path_drops_whole_images_at_timms_rates() -> None:
    dense: Any = timm.create_model("convnextv2_atto", drop_path_rate=0.3)
    classifier = Classifier(ModelConfig("convnextv2_atto", drop_path_rate=0.3, backend="numba"), dense.head)
    theirs = [getattr(block.drop_path, "drop_prob", 0.0) for stage in dense.stages for block in stage.blocks]
    assert [one.drop_prob for one in classifier.modules() if isinstance(one, Block)] == pytest.approx(theirs)
    images = torch.randn(1, 3, 32, 32).expand(64, -1, -1, -1)
    logits = classifier.train()(images)
    assert len(logits.detach().unique(dim=0)) > 8  # the same image, other paths
    assert classifier.eval()(images).detach().std(0).max() < 1e-5


def test_what_is_recomputed_is_the_same() -> None:
    dense, classifier = both(*NETWORKS[0])
    again = Classifier(ModelConfig("convnextv2_atto", checkpoint_stages=(0, 1, 2, 3), backend="numba"), dense.head)
    again.load_state_dict(classifier.state_dict())
    images = torch.randn(2, 3, 32, 32)
    found = [
        torch.autograd.grad(network(images).square().sum(), list(network.parameters()))
        for network in (classifier, again)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_an_image_must_be_of_whole_patches() -> None:
    _, classifier = both(*NETWORKS[0])
    with pytest.raises(ValueError, match=r"images \[1, 3, 64, 70\] do not fit: .* multiples of 32"):
        classifier(torch.randn(1, 3, 64, 70))
