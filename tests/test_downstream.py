"""docs/downstream.md: its code runs for a few steps on made-up images, and trains the run's weights."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

import fcmae
from fcmae import convert
from fcmae.models import FCMAE
from tests.test_docs import run as run  # a fixture: runs/mine in the current folder

PAGE = (Path(__file__).parents[1] / "docs" / "downstream.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
MASK_RCNN, MASK_RCNN_STEP, UPERNET, UPERNET_STEP = BLOCKS


def train(names: dict[str, Any], step: str, model: torch.nn.Module, stem: torch.nn.Parameter, run: FCMAE) -> None:
    """Two steps; the stem holds the run's weights before them and others after."""
    kernel = run.encoder.stem[0].weight
    assert torch.equal(stem, kernel)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for _ in range(2):
        exec(step, names)  # the page is ours
        assert stem.grad is not None
        assert stem.grad.isfinite().all()
        assert stem.grad.abs().sum() > 0
        optimizer.step()
        optimizer.zero_grad()
    assert not torch.equal(stem, kernel)


def test_mask_rcnn(run: FCMAE) -> None:
    names: dict[str, Any] = {"__name__": "page"}
    exec(MASK_RCNN, names)
    detector = names["detector"].train()
    detector.transform.min_size, detector.transform.max_size = (64,), 64
    masks = torch.zeros(1, 64, 64, dtype=torch.uint8)
    masks[:, 8:40, 16:56] = 1
    target = {"boxes": torch.tensor([[16.0, 8.0, 56.0, 40.0]]), "labels": torch.tensor([1]), "masks": masks}
    names |= {"images": [torch.rand(3, 64, 64), torch.rand(3, 64, 64)], "targets": [target, target]}
    train(names, MASK_RCNN_STEP, detector, names["pyramid"].body.stem_0.weight, run)
    assert set(names["losses"]) >= {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness"}
    assert list(names["pyramid"](torch.rand(1, 3, 64, 64))) == ["0", "1", "2", "3", "pool"]


def test_upernet(run: FCMAE) -> None:
    (command,) = re.findall(r"^    fcmae (convert .*transformers)$", PAGE, re.MULTILINE)
    assert convert.main(shlex.split(command)[1:]) == 0
    names: dict[str, Any] = {}
    exec(UPERNET, names)
    names |= {"pixels": torch.rand(2, 3, 64, 64), "labels": torch.randint(0, 3, (2, 64, 64))}
    segmenter = names["segmenter"].train()
    maps = fcmae.create_dense("runs/mine", features_only=True).eval()(names["pixels"])
    with torch.no_grad():  # every stage has the run's weights
        found = names["backbone"].eval()(names["pixels"]).feature_maps
    norms = names["backbone"].hidden_states_norms
    for expected, (stage, one) in zip(maps, zip(norms, found, strict=True), strict=True):
        torch.testing.assert_close(one, norms[stage](expected), rtol=1e-4, atol=1e-5)
    segmenter.train()
    train(names, UPERNET_STEP, segmenter, segmenter.backbone.embeddings.patch_embeddings.weight, run)
    segmenter.eval()
    with torch.no_grad():
        assert segmenter(pixel_values=names["pixels"]).logits.shape == (2, 3, 64, 64)


@pytest.mark.parametrize("block", re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL))
def test_what_is_not_run_is_python_at_least(block: str) -> None:
    compile(block, "page", "exec")
