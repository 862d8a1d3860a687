"""Checkpoints around a ConvNeXt: detectors, segmentation networks, SparK. The encoder is read, the rest is listed."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

import fcmae
from fcmae.weights.convert import convert_weights
from tests.fcmae.weights.foreign import ATTO, MMEarth, Official, as_detector, as_mmpretrain, as_spark
from tests.models.test_encoder import randomize

TINY = ((3, 3, 9, 3), (96, 192, 384, 768))
HEADS = {
    "mask_rcnn": ["neck.lateral_convs.0.conv.weight", "rpn_head.rpn_conv.weight", "roi_head.bbox_head.0.fc_cls.weight"],
    "upernet": ["decode_head.conv_seg.weight", "auxiliary_head.conv_seg.bias"],
    "dino": ["encoder.layers.0.norms.0.weight", "decoder.norm.weight", "bbox_head.cls_branches.0.bias", "level_embed"],
}


def official(v2: bool) -> tuple[Official, dict[str, Tensor]]:
    network = Official(*(ATTO if v2 else TINY), v2=v2).eval()
    randomize(network)
    return network, network.state_dict()


def equal(got: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return got.keys() == wanted.keys() and all(torch.equal(got[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("openmmlab", [True, False])
def test_detection_and_segmentation(kind: str, openmmlab: bool) -> None:
    """``norm3`` acts on a feature map there: it does not become the norm before a classifier."""
    _, state = official(v2=openmmlab)
    theirs = as_detector(state, (ATTO if openmmlab else TINY)[1])
    if openmmlab:
        norms = {name: tensor for name, tensor in theirs.items() if ".norm" in name and ".stages." not in name}
        theirs = as_mmpretrain(state) | norms
    heads = {name: torch.zeros(2) for name in HEADS[kind]}
    found = convert_weights({"state_dict": theirs | heads, "meta": {"epoch": 36}, "optimizer": {}})
    assert found.weights.format == ("mmdet and mmseg" if openmmlab else "official detection and segmentation")
    assert equal(found.state, fcmae.convert_to_dense(state))
    assert {"meta", "optimizer", *heads, "backbone.norm3.weight"} <= set(found.left)


def test_a_detectors_backbone_must_be_whole_and_nothing_else() -> None:
    _, state = official(v2=False)
    theirs = as_detector(state, TINY[1])
    lost = {name: tensor for name, tensor in theirs.items() if name != "backbone.stages.2.3.norm.bias"}
    with pytest.raises(ValueError, match=r"missing backbone\.stages\.2\.3\.norm\.bias"):
        fcmae.convert_to_dense(lost)
    for strange in ("backbone.norm4.weight", "strange.weight"):
        with pytest.raises(ValueError, match=f"unknown {strange}"):
            fcmae.convert_to_dense(theirs | {strange: torch.zeros(1)})


def test_sparks_own_checkpoint_with_its_decoder(tmp_path: Path) -> None:
    """The network computes the same: what is around it, and the settings among the weights, is left."""
    network, state = official(v2=False)
    module = as_spark(state) | {"config": {"mask_ratio": 0.6, "sbn": True}}
    found = {
        "args": "Args(...)", "input_size": 224, "arch": "convnext_tiny", "epoch": 3, "performance_desc": "1.0",
        "module": module, "optimizer": {"state": {}}, "is_pretrain": True,
    }  # fmt: skip
    torch.save(found, tmp_path / "convnext_tiny_withdecoder_1kpretrained_spark_style.pth")
    conversion = convert_weights(tmp_path / "convnext_tiny_withdecoder_1kpretrained_spark_style.pth")
    assert conversion.weights.format == "SparK"
    assert {"config", "optimizer", "mask_tokens.0", "dense_decoder.proj.weight", "norm_black"} <= set(conversion.left)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        wanted = network.features(images)
        got = fcmae.create_dense({"module": module}).eval().forward_features(images)
    assert (got - wanted).norm() < 1e-5 * wanted.norm()
    with pytest.raises(ValueError, match=r"\(SparK\) holds an encoder without FCMAE's decoder"):
        fcmae.load_model({"module": module})


@pytest.mark.parametrize("v2", [True, False])
def test_mmpretrains_spark(v2: bool) -> None:
    _, state = official(v2)
    around = {
        "neck.decoder.0.upsample.weight": torch.zeros(2),
        "enc_dec_norms.0.running_mean": torch.zeros(2),
        "enc_dec_projectors.1.weight": torch.zeros(2),
        "mask_tokens.0": torch.zeros(1, 320, 1, 1),
        "data_preprocessor.mean": torch.zeros(3, 1, 1),
    }
    found = convert_weights({"state_dict": as_mmpretrain(state) | around, "meta": {}, "message_hub": {}})
    assert found.weights.format == "mmpretrain"
    assert equal(found.state, fcmae.convert_to_dense(state))
    assert around.keys() <= set(found.left)


def test_mmearths_unet() -> None:
    """Its encoder; the layers that go up again, and a head of convolutions, are left."""
    network = MMEarth(*ATTO, in_chans=12, original_stem=True, stride=2).eval()
    around = {
        "upsample_layers.0.conv.weight": torch.zeros(160, 320, 3, 3),
        "upsample_layers.0.norm.weight": torch.ones(160),
        "initial_conv_upsample.0.weight": torch.zeros(20, 40, 3, 3),
        "norm.weight": torch.ones(320),
        "head.weight": torch.zeros(5, 20, 1, 1),
        "head.bias": torch.zeros(5),
    }
    found = convert_weights({"model": network.state_dict() | around})
    assert found.weights.format == "MMEarth U-Net"
    assert equal(found.state, fcmae.convert_to_dense(network.state_dict()))
    assert set(found.left) == set(around)
