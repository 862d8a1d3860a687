"""Isotropic ConvNeXt: sparse encoder against oracle, dense network against the official one, sizes, stems."""

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay

import fcmae
from fcmae.models import FCMAE, ModelConfig, SparseConvNeXt, sizes
from fcmae.models.isotropic import IsotropicConvNeXt
from tests.conftest import BACKENDS, GRIDS, random_visible
from tests.fcmae.weights.foreign import OfficialIsotropic
from tests.models.test_encoder import assert_equal_to_oracle, randomize

SMALL = "convnext_isotropic_small"


@pytest.fixture
def three_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the literal oracle and Triton's interpreter, which are slow."""
    monkeypatch.setitem(sizes.SIZES, SMALL, sizes.Size((3,), (12,), stem_stride=16))


@pytest.mark.parametrize("options", [{}, {"use_grn": True}, {"use_layer_scale": True, "ls_init_value": 0.3}], ids=str)
@pytest.mark.parametrize("backend", ["torch", "numba", "masked"])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.usefixtures("three_blocks")
def test_encoder_is_the_masked_dense_network(grid: tuple[int, int, int, int], backend: str, options: dict) -> None:
    """float64, 1e-10: outputs and all gradients."""
    encoder = SparseConvNeXt(ModelConfig(SMALL, stem_stride=4, in_chans=2, backend=backend, **options)).double()
    randomize(encoder)
    batch, height, width, _ = grid
    images = torch.randn(batch, 2, 4 * height, 4 * width, dtype=torch.float64)
    assert_equal_to_oracle(encoder, images, random_visible(*grid), 1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.usefixtures("three_blocks")
def test_backends_compute_the_same_network(backend: str) -> None:
    encoder = SparseConvNeXt(ModelConfig(SMALL, use_grn=True, backend=backend))
    randomize(encoder)
    device = "cuda" if backend == "triton" and torch.cuda.is_available() else "cpu"
    images, visible = torch.randn(2, 3, 48, 64, device=device), random_visible(2, 3, 4, 5).to(device)
    assert_equal_to_oracle(encoder.to(device), images, visible, 1e-4)


@pytest.mark.usefixtures("three_blocks")
def test_recomputed_blocks_give_the_same_gradients() -> None:
    images, visible = torch.randn(2, 3, 64, 64), random_visible(2, 4, 4, 6)
    results = []
    for stages in ((), (0,)):
        torch.manual_seed(0)
        encoder = SparseConvNeXt(ModelConfig(SMALL, checkpoint_stages=stages))
        out = encoder(images, visible)
        results.append((out.detach(), *torch.autograd.grad(out.square().sum(), list(encoder.parameters()))))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("classes", [0, 7])
@torch.no_grad()
def test_dense_network_is_the_official_one(classes: int) -> None:
    """Features and logits, and the sparse encoder with everything visible."""
    theirs = OfficialIsotropic(18, 384, num_classes=classes).eval()
    randomize(theirs)
    images = torch.randn(1, 3, 64, 96)
    dense = fcmae.create_dense({"model": theirs.state_dict()}, classes).eval()
    assert isinstance(dense, IsotropicConvNeXt)
    sparse = fcmae.load_encoder(fcmae.create_model(SMALL, decoder_dim=16), theirs.state_dict())
    wanted = theirs.features(images)
    assert (dense.forward_features(images) - wanted).norm() < 1e-5 * wanted.norm()
    assert (sparse.encoder(images, torch.ones(1, 4, 6, dtype=torch.bool)) - wanted).norm() < 1e-5 * wanted.norm()
    if classes:
        torch.testing.assert_close(dense(images), theirs(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "millions", "scaled"),
    [("small", 22, False), ("base", 87, False), ("large", 306, True)],
)
def test_sizes_are_the_papers(name: str, millions: int, scaled: bool) -> None:
    """Parameters with 1000 classes, and LayerScale in large alone, as the official code was trained."""
    with torch.device("meta"):
        dense = timm.create_model(f"convnext_isotropic_{name}")
    assert round(sum(p.numel() for p in dense.parameters()) / 1e6) == millions
    names = [n for n, _ in dense.named_parameters()]
    assert any(n.endswith("gamma") for n in names) is scaled
    assert not [n for n in names if "grn" in n or n.startswith("stem.1")]


@pytest.mark.usefixtures("three_blocks")
@torch.no_grad()
def test_features_are_one_map() -> None:
    for stride in (4, 16):
        model = fcmae.create_model(SMALL, stem_stride=stride, decoder_dim=4, in_chans=2).eval()
        randomize(model)
        backbone = fcmae.create_dense(model.encoder.state_dict(), features_only=True).eval()
        (info,) = backbone.feature_info.info
        assert (info["num_chs"], info["reduction"]) == (12, stride)
        images = torch.randn(1, 2, 64, 96)
        (features,) = backbone(images)
        wanted = model.encoder(images, torch.ones(1, 64 // stride, 96 // stride, dtype=torch.bool))
        assert (features - wanted).norm() < 1e-5 * wanted.norm()


@pytest.mark.usefixtures("three_blocks")
def test_timms_tools_work_on_it() -> None:
    """Layer decay by block, another classifier, drop path that grows with depth."""
    dense = timm.create_model(SMALL, num_classes=4, drop_path_rate=0.2)
    assert [round(getattr(block.drop_path, "drop_prob", 0.0), 6) for block in dense.stages[0].blocks] == [0, 0.1, 0.2]
    scales = {
        group["lr_scale"] for group in param_groups_layer_decay(dense, layer_decay=0.5, weight_decay=0.1)
    }  # stem, three blocks, head
    assert sorted(scales) == [0.5**n for n in (4, 3, 2, 1, 0)]
    dense.reset_classifier(9)
    assert dense(torch.randn(1, 3, 32, 32)).shape == (1, 9)


def test_a_mask_patch_is_a_patch_of_the_stem() -> None:
    """One site each, so that the encoder's grid is the decoder's."""
    assert ModelConfig(SMALL).patch_size == 16
    assert ModelConfig(SMALL).stride == 16
    assert ModelConfig(SMALL, stem_stride=8).patch_size == 8
    assert ModelConfig("convnextv2_atto").stride == 4
    for wrong in (0, 1, 2, 12):
        with pytest.raises(ValueError, match=rf"stem_stride must be 4, 8, 16 or 32 for {SMALL}, got {wrong}"):
            ModelConfig(SMALL, stem_stride=wrong)
    with pytest.raises(ValueError, match=r"multiple of the patch size 16 \(stem_stride\), got 40"):
        ModelConfig(SMALL, img_size=40)
    with pytest.raises(ValueError, match=r"checkpoint_stages must be from 0 to 0"):
        ModelConfig(SMALL, checkpoint_stages=(1,))
    with pytest.raises(ValueError, match=r"stem_stride must be 1, 2 or 4, got 0"):
        ModelConfig("convnextv2_atto", stem_stride=0)


@pytest.mark.usefixtures("three_blocks")
def test_it_pretrains() -> None:
    model: FCMAE = fcmae.create_model(SMALL, img_size=64, decoder_dim=16)
    out = model(torch.randn(2, 3, 64, 64))
    assert out.pred.shape == (2, 16, 16 * 16 * 3)
    assert int(out.visible[0].sum()) == 6
    out.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
