"""An isotropic network from images to a model in use: every command takes it like the others."""

from pathlib import Path

import pytest
import timm
import torch

import fcmae
from fcmae.analysis.collapse import analyze_collapse
from fcmae.collapse import collapse
from fcmae.convert import convert
from fcmae.evaluate import evaluate
from fcmae.finetune import finetune
from fcmae.models import sizes
from fcmae.predict import predict
from fcmae.pretrain import pretrain
from fcmae.reconstruct import reconstruct

NAME = "convnext_isotropic_small"
BLOCKS = ["stages.0.blocks.0", "stages.0.blocks.1"]


@pytest.fixture(autouse=True)
def _two_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sizes.SIZES, NAME, sizes.Size((2,), (8,), stem_stride=16))


def test_from_images_to_predictions(colors: Path, tmp_path: Path) -> None:
    run, tuned = tmp_path / "run", tmp_path / "tuned"
    settings = {"img_size": 64, "batch_size": 8, "num_workers": 0}
    pretrain(
        data=str(colors), model=NAME, output=str(run), epochs=2, warmup_epochs=0, decoder_dim=16, use_grn=True,
        monitor={"every": 1, "holdout": 0.1}, **settings,
    )  # fmt: skip
    assert (run / "config.yaml").read_text().count("stem_stride: 16") == 1
    measured = (run / "metrics.jsonl").read_text()
    assert "cosine_distance_stage_0" in measured
    assert "cosine_distance_stage_1" not in measured

    scores = evaluate(str(run), data=str(colors), device="cpu", num_workers=0)
    assert [row.features for row in scores.results] == [8, 8, 768]  # the run, random weights, pixels
    (found,) = collapse(
        f"mine={run}", data=str(colors), output=str(tmp_path / "collapse"), device="cpu"
    ).networks.values()
    assert [row.layer for row in found.blocks] == BLOCKS
    pictures = reconstruct(str(run), data=str(colors), output=str(tmp_path / "pictures"), device="cpu", images=2)
    assert {picture.patches for picture in pictures} == {16}

    result = finetune(
        weights=str(run), data=str(colors), output=str(tuned), epochs=2, config="few_labels", layer_decay_by="three",
        **settings,
    )  # fmt: skip
    assert result.is_complete
    exported = timm.create_model(f"local-dir:{tuned / 'export' / 'timm'}", pretrained=True)
    assert exported.num_classes == 3
    assert not (tuned / "export" / "transformers").exists()  # which has no such network
    labels = predict(str(tuned), (str(colors),), num_workers=0).labels
    assert set(labels) <= {"red", "green", "blue"}

    convert(str(tuned), str(tmp_path / "official.pth"), format="official")
    assert {"stem.weight", "blocks.1.grn.gamma", "norm.bias", "head.weight"} <= set(
        torch.load(tmp_path / "official.pth")["model"]
    )


@pytest.mark.parametrize("tap", ["expansion", "act", "grn", "block"])
def test_the_sparse_encoder_is_analyzed_like_the_dense_network(tap: str) -> None:
    model = fcmae.create_model(NAME, use_grn=True, decoder_dim=4)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    images = torch.randn(3, 3, 64, 64)
    dense = fcmae.create_dense(model.encoder.state_dict())
    pairs = zip(analyze_collapse(model.encoder, images, tap), analyze_collapse(dense, images, tap), strict=True)
    for sparse, whole in pairs:
        assert (sparse.layer, sparse.stage, sparse.tap) == (whole.layer, whole.stage, whole.tap)
        assert sparse.distance == pytest.approx(whole.distance, rel=1e-4)
