"""Weights of every format mean here what they mean there: the same features, and bit-equal numbers there and back."""

from collections.abc import Callable

import pytest
import timm
import torch
import transformers
from torch import Tensor, nn

import fcmae
import fcmae.models.isotropic  # registers names with timm
from fcmae.models.outline import outlined
from fcmae.models.sizes import SIZES
from fcmae.weights.formats import targets
from tests.conftest import needs_minkowski
from tests.fcmae.weights.foreign import (
    ATTO,
    MMEarth,
    MmpretrainClassifier,
    Official,
    OfficialIsotropic,
    as_mmearth,
    as_mmpretrain,
    as_training_checkpoint,
)
from tests.models.test_encoder import randomize

TINY = ((3, 3, 9, 3), (96, 192, 384, 768))


def numbered(model: nn.Module) -> dict[str, Tensor]:
    """The state dict, every tensor filled with numbers that repeat after a prime only: any swap of axes shows."""
    state = {}
    for position, (name, tensor) in enumerate(model.state_dict().items()):
        numbers = torch.arange(tensor.numel(), dtype=torch.int32).add_(position).remainder_(2039)
        state[name] = numbers.to(torch.float16).view(tensor.shape)
    return state


def equal(got: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    """Bit for bit; half precision is compared as whole numbers, which is the faster."""
    return got.keys() == wanted.keys() and all(
        got[name].dtype == wanted[name].dtype and torch.equal(bits(got[name]), bits(wanted[name])) for name in wanted
    )


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.int16) if tensor.dtype == torch.float16 else tensor


@pytest.fixture
def _an_eighth_as_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """All sizes: names and axes depend on the depths alone, and 2 billion numbers take a minute."""
    for name, size in SIZES.items():
        monkeypatch.setitem(SIZES, name, size._replace(dims=tuple(dim // 8 for dim in size.dims)))


@pytest.mark.usefixtures("_an_eighth_as_wide")
@pytest.mark.parametrize("name", fcmae.list_models())
def test_there_and_back_is_bit_exact(name: str) -> None:
    """Every size, V1 and V2: ours → X → ours, for the formats that are written and those that are read alone."""
    with outlined():
        model = fcmae.create_model(name, decoder_dim=1).encoder
    ours = numbered(model)
    assert equal(fcmae.convert_to_dense(ours), ours)
    official = fcmae.convert_to_dense(ours, "official")
    isotropic = model.config.size.is_isotropic
    others = {"official": official}
    others |= (
        {}
        if isotropic
        else {
            "transformers": fcmae.convert_to_dense(ours, "transformers"),
            "mmpretrain": as_mmpretrain(official),
            "MMEarth": as_mmearth(official),
            "training checkpoint": as_training_checkpoint(official),
        }
    )
    for format, state in others.items():
        assert state.keys() != ours.keys()
        assert equal(fcmae.convert_to_dense(state), ours), format
    for format in ("timm", "official") if isotropic else targets():
        once = fcmae.convert_to_dense(ours, format)
        assert equal(fcmae.convert_to_dense(once, format), once), f"{format} is idempotent"


def assert_same_features(state: dict[str, Tensor], features: Callable[[Tensor], Tensor], **model: object) -> None:
    """1e-5: of a dense timm network, and of the sparse encoder with everything visible."""
    channels = model.get("in_chans", 3)
    images = torch.randn(2, channels, 64, 96)  # type: ignore[arg-type]
    sparse = fcmae.create_model("convnextv2_atto", decoder_dim=16, **model)
    fcmae.load_encoder(sparse, state)
    visible = torch.ones(2, 64 // sparse.patch_size, 96 // sparse.patch_size, dtype=torch.bool)
    with torch.no_grad():
        wanted = features(images)
        for got in (
            fcmae.create_dense(state).eval().forward_features(images),
            sparse.eval().encoder(images, visible),
        ):
            assert (got - wanted).norm() < 1e-5 * wanted.norm()


@pytest.mark.parametrize("v2", [True, False])
def test_official_weights_compute_the_same(v2: bool) -> None:
    network = Official(*(ATTO if v2 else TINY), v2=v2).eval()
    randomize(network)
    name = "convnextv2_atto" if v2 else "convnext_tiny"
    images = torch.randn(1, 3, 64, 64)
    assert equal(fcmae.convert_to_dense(fcmae.convert_to_dense(network.state_dict()), "official"), network.state_dict())
    with torch.no_grad():
        wanted = network.features(images)
        sparse = fcmae.create_model(name, decoder_dim=16)
        fcmae.load_encoder(sparse, {"model": network.state_dict()})
        got = sparse.encoder(images, torch.ones(1, 2, 2, dtype=torch.bool))
        dense = fcmae.create_dense({"model": network.state_dict()}).eval().forward_features(images)
    assert (got - wanted).norm() < 1e-5 * wanted.norm()
    assert (dense - wanted).norm() < 1e-5 * wanted.norm()


def test_isotropic_weights_have_the_official_names() -> None:
    """Every size with a classifier: the published files' names, there and back bit for bit, whole or not at all."""
    for name, depth, dim, scaled in (("small", 18, 384, False), ("base", 18, 768, False), ("large", 36, 1024, True)):
        with outlined():
            theirs = OfficialIsotropic(depth, dim, num_classes=5, scaled=scaled)
        state = numbered(theirs)
        ours = fcmae.convert_to_dense({"model": state})
        assert equal(fcmae.convert_to_dense(ours, "official"), state)
        with outlined():
            dense = timm.create_model(f"convnext_isotropic_{name}", num_classes=5)
        assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in dense.state_dict().items()}
    del state["blocks.35.pwconv2.weight"]
    with pytest.raises(ValueError, match=r"whole convnext_isotropic_large .*: missing blocks\.35\.pwconv2\.weight"):
        fcmae.convert_to_dense(state)


@pytest.mark.parametrize("format", ["transformers", "mmpretrain"])
def test_what_libraries_have_no_isotropic_network_for(format: str) -> None:
    state = OfficialIsotropic(18, 384).state_dict()
    with pytest.raises(ValueError, match=rf"is isotropic .*, which {format} has no network for"):
        fcmae.convert_to_dense(state, format)


@pytest.mark.parametrize("v2", [True, False])
def test_transformers_weights_compute_the_same(v2: bool) -> None:
    depths, dims = ATTO if v2 else TINY
    config, network = (
        (transformers.ConvNextV2Config, transformers.ConvNextV2Model)
        if v2
        else (transformers.ConvNextConfig, transformers.ConvNextModel)
    )
    theirs = network(config(depths=list(depths), hidden_sizes=list(dims))).eval()
    randomize(theirs)
    images = torch.randn(1, 3, 64, 64)
    old_names = {
        name.replace("grn.weight", "grn.gamma").replace("grn.bias", "grn.beta"): tensor
        for name, tensor in theirs.state_dict().items()
    }
    prefixed = {f"convnextv2.{name}": tensor for name, tensor in theirs.state_dict().items()}
    with torch.no_grad():
        wanted = theirs(images).last_hidden_state
        for state in (theirs.state_dict(), old_names, prefixed):
            got = fcmae.create_dense(state).eval().forward_features(images)
            assert (got - wanted).norm() < 1e-5 * wanted.norm()
    back = fcmae.convert_to_dense(fcmae.convert_to_dense(theirs.state_dict()), "transformers")
    assert equal(back, theirs.state_dict())
    assert theirs.load_state_dict(back, strict=True)


@pytest.mark.parametrize("classes", [0, 7])
def test_timm_weights_compute_the_same(classes: int) -> None:
    theirs = timm.create_model("convnextv2_atto", num_classes=classes).eval()
    randomize(theirs)
    assert equal(fcmae.convert_to_dense(theirs.state_dict()), theirs.state_dict())
    assert_same_features(theirs.state_dict(), theirs.forward_features)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(fcmae.create_dense(theirs.state_dict(), classes).eval()(images), theirs(images))


def test_mmpretrain_weights_compute_the_same() -> None:
    theirs = MmpretrainClassifier(*ATTO, v2=True, num_classes=5).eval()
    randomize(theirs)
    state = {"state_dict": theirs.state_dict(), "meta": {"epoch": 3}}
    assert_same_features(theirs.state_dict(), theirs.backbone.features)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            fcmae.create_dense(state, num_classes=5).eval()(images), theirs(images), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_mmearth_weights_with_the_original_stem(stride: int) -> None:
    theirs = MMEarth(*ATTO, in_chans=12, original_stem=True, stride=stride).eval()
    randomize(theirs)
    state = {f"encoder.{name}": tensor for name, tensor in theirs.state_dict().items()}
    state |= {"pred_dict.sentinel2.weight": torch.zeros(2), "decoder_dict.era5.0.norm.bias": torch.zeros(2)}
    assert_same_features(state, theirs.features, in_chans=12, stem_stride=stride, img_size=8 * stride)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("original_stem", [True, False])
def test_mmearth_weights_in_minkowskis_layout(stride: int, original_stem: bool) -> None:
    """Their sparse stem has kernels too: all of the network is of MinkowskiEngine's layers."""
    theirs = MMEarth(*ATTO, in_chans=12, original_stem=original_stem, stride=stride).eval()
    randomize(theirs)
    state = as_training_checkpoint(theirs.state_dict(), of_mmearth=True)
    assert equal(fcmae.convert_to_dense(state), fcmae.convert_to_dense(theirs.state_dict()))


@pytest.mark.parametrize("stride", [1, 2])
def test_mmearths_own_stem_has_its_place_in_create_dense_alone(stride: int) -> None:
    theirs = MMEarth(*ATTO, in_chans=12, original_stem=False, stride=stride).eval()
    randomize(theirs)
    images = torch.randn(2, 12, 34, 50)
    with torch.no_grad():
        wanted = theirs.features(images)
        got = fcmae.create_dense(theirs.state_dict()).eval().forward_features(images)
    assert (got - wanted).norm() < 1e-5 * wanted.norm()
    with pytest.raises(ValueError, match="has no place in the transformers format"):
        fcmae.convert_to_dense(theirs.state_dict(), "transformers")
    with pytest.raises(ValueError, match="looks beyond a patch"):
        fcmae.load_encoder(fcmae.create_model("convnextv2_atto", in_chans=12), theirs.state_dict())


@needs_minkowski
def test_a_network_of_minkowski_layers_computes_the_same() -> None:
    """The official training layout, proved against MinkowskiEngine itself: masked, kernels asymmetric."""
    from tests.fcmae.weights.minkowski_net import Fcmae

    theirs = Fcmae(*ATTO).eval()
    randomize(theirs)
    for name, parameter in theirs.named_parameters():
        if name.endswith("kernel"):
            nn.init.normal_(parameter, std=parameter[:, 0].numel() ** -0.5)
    visible = torch.tensor([[[True, False, True], [True, True, False]]])
    images = torch.randn(1, 3, 64, 96)
    ours = fcmae.create_model("convnextv2_atto", decoder_dim=16)
    fcmae.load_encoder(ours, {"model": theirs.state_dict(), "epoch": 3})
    with torch.no_grad():
        wanted = theirs.encoder(images, visible)
        got = ours.encoder(images, visible)
    assert (got - wanted).norm() < 1e-5 * wanted.norm()
    official = fcmae.convert_to_dense(fcmae.convert_to_dense(theirs.state_dict()), "official")
    again = as_training_checkpoint(official)
    assert equal(again, theirs.state_dict()), "the writer of these tests agrees with MinkowskiEngine's shapes"
