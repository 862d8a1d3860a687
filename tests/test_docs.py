"""The hand-overs that docs/weights.md shows, run from top to bottom beside a run folder."""

import re
import shlex
from pathlib import Path

import pytest
import torch

import fcmae
from fcmae import convert
from fcmae.models import FCMAE
from fcmae.runs import checkpoint as ckpt

WEIGHTS = (Path(__file__).parents[1] / "docs" / "weights.md").read_text()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FCMAE:
    """runs/mine, in the current folder."""
    model = fcmae.create_model("convnextv2_atto", decoder_dim=16).eval()
    state = ckpt.TrainState(step=1, effective_batch=1, samples_per_epoch=1)
    config = {"name": "convnextv2_atto", "decoder_dim": 16}
    ckpt.save_checkpoint(tmp_path / "runs" / "mine", model, config, torch.optim.AdamW(model.parameters()), state)
    monkeypatch.chdir(tmp_path)
    return model


def test_every_hand_over_works(run: FCMAE) -> None:
    names: dict = {}
    pieces = re.findall(r"```python\n(.*?)```|^    fcmae (convert .*?)$", WEIGHTS, re.DOTALL | re.MULTILINE)
    assert len(pieces) == 13
    kernel = run.encoder.stem[0].weight
    for block, command in pieces:
        if command:
            assert convert.main(shlex.split(command)[1:]) == 0
            continue
        exec(block, names)  # the page is ours
        if "timm.create_model" in block or "create_dense" in block:
            stem = names["backbone"].stem_0 if "pyramid" in names else names["model"].stem[0]
            assert torch.equal(stem.weight, kernel)
        if "AutoModel" in block:
            for network in (names["model"], names["backbone"]):
                assert torch.equal(network.embeddings.patch_embeddings.weight, kernel)
            assert list(names["processor"].image_mean) == [0.485, 0.456, 0.406]
    assert Path(names["mm"]["init_cfg"]["checkpoint"]).is_file()
    assert [level.shape[2] for level in names["levels"].values()] == [56, 28, 14, 7]
    assert names["state"].keys() == run.encoder.state_dict().keys()
