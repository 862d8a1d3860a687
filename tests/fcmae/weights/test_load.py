"""load_encoder and --model.init_from: pretraining goes on from weights of any format, the decoder's where it fits."""

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import fcmae
from fcmae.models import FCMAE
from fcmae.pretrain import main
from fcmae.reconstruct import reconstruct
from tests.fcmae.weights.foreign import OfficialBlock, as_training_checkpoint
from tests.models.test_encoder import randomize


def atto(**options: object) -> FCMAE:
    model = fcmae.create_model("convnextv2_atto", **{"decoder_dim": 16} | options)
    randomize(model)
    return model


def official_training(model: FCMAE) -> dict[str, Tensor]:
    """An FCMAE as the official training code saves it: MinkowskiEngine's encoder, a dense decoder of its own names."""
    encoder = fcmae.convert_to_dense(model.encoder.state_dict(), "official")
    decoder = model.decoder
    block = decoder.blocks[0]
    state = as_training_checkpoint(encoder)
    state |= {
        "mask_token": decoder.mask_token[None, :, None, None],
        "proj.weight": decoder.proj.weight[:, :, None, None],
        "proj.bias": decoder.proj.bias,
        "pred.weight": decoder.pred.weight[:, :, None, None],
        "pred.bias": decoder.pred.bias,
        "decoder.0.dwconv.weight": block.conv_dw.weight,
        "decoder.0.dwconv.bias": block.conv_dw.bias,
        "decoder.0.norm.weight": block.norm.weight,
        "decoder.0.norm.bias": block.norm.bias,
        "decoder.0.pwconv1.weight": block.mlp.fc1.weight,
        "decoder.0.pwconv1.bias": block.mlp.fc1.bias,
        "decoder.0.grn.gamma": block.mlp.grn.weight.view(1, 1, 1, -1),
        "decoder.0.grn.beta": block.mlp.grn.bias.view(1, 1, 1, -1),
        "decoder.0.pwconv2.weight": block.mlp.fc2.weight,
        "decoder.0.pwconv2.bias": block.mlp.fc2.bias,
    }
    return {name: tensor.detach() for name, tensor in state.items()}


def test_an_official_training_checkpoint_goes_on_with_its_decoder() -> None:
    model, other = atto(), atto()
    state = {f"module.{name}": tensor for name, tensor in official_training(model).items()}
    assert fcmae.load_encoder(other, {"model": state, "epoch": 7, "optimizer": {}}) is other
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name


@pytest.mark.parametrize("format", ["timm", "official", "transformers"])
def test_published_encoders_leave_the_decoder_fresh(format: str) -> None:
    model, other = atto(), atto()
    before = {name: tensor.clone() for name, tensor in other.decoder.state_dict().items()}
    assert fcmae.load_encoder(other, fcmae.convert_to_dense(model.state_dict(), format)) is other
    for name, tensor in model.encoder.state_dict().items():
        assert torch.equal(other.encoder.state_dict()[name], tensor), name
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.decoder.state_dict().items())


def test_a_decoder_of_another_kind_is_left_out_and_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        fcmae.load_encoder(atto(decoder_dim=32), atto().state_dict())
    assert (
        "its decoder has another shape and was left out: blocks.0.conv_dw.bias is [16], the network's [32]"
        in caplog.text
    )
    assert "the decoder starts fresh" in caplog.text


@pytest.mark.parametrize("state", [lambda m: m.state_dict(), official_training])
def test_a_decoder_must_be_whole_to_be_read(state: Callable[[FCMAE], dict[str, Tensor]]) -> None:
    """Of another width it is left out; one that lacks something, or has too much, is an error."""
    whole = state(atto())
    decoder = [n for n in whole if not n.startswith("encoder.")]
    assert len(decoder) == 15
    for lost in decoder:
        with pytest.raises(ValueError, match=rf"missing \S*{lost.split('.')[0]}\S* \["):
            fcmae.load_encoder(atto(), {name: tensor for name, tensor in whole.items() if name != lost})
    for strange in ("decoder.junk", "decoder.0.junk.weight"):
        with pytest.raises(ValueError, match=f"unknown {strange}"):
            fcmae.convert_to_dense(whole | {strange: torch.zeros(3)})


class OfficialDecoder(nn.Module):
    """The official decoder: 1×1 convolutions, mask token, one dense block."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(320, dim, 1)
        self.mask_token = nn.Parameter(torch.randn(1, dim, 1, 1))
        self.decoder = nn.Sequential(OfficialBlock(dim, v2=True))
        self.pred = nn.Conv2d(dim, 3 * 32**2, 1)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """Features, zero where masked → [B, h·w, 3·32²]."""
        keep = visible[:, None].float()
        x = self.proj(x) * keep + self.mask_token * (1 - keep)
        return self.pred(self.decoder(x)).flatten(2).transpose(1, 2)


def test_an_official_decoder_predicts_the_same() -> None:
    theirs = OfficialDecoder(16)
    randomize(theirs)
    ours = atto()
    fcmae.load_encoder(ours, official_training(atto()) | theirs.state_dict())
    images, visible = torch.randn(2, 3, 64, 96), torch.tensor([[[True, False, True], [False, True, False]]] * 2)
    with torch.no_grad():
        wanted = theirs(ours.encoder(images, visible), visible)
        got = ours(images, visible=visible).pred
    assert (got - wanted).norm() < 1e-5 * wanted.norm()


def official_file(model: FCMAE, folder: Path, **args: object) -> Path:
    """As the official script saves it, its arguments included."""
    found = {
        "model": official_training(model), "optimizer": {"state": {}}, "epoch": 799, "scaler": {},
        "args": argparse.Namespace(model="convnextv2_atto", output_dir=Path("out"), **args),
    }  # fmt: skip
    torch.save(found, folder / "checkpoint-799.pth")
    return folder / "checkpoint-799.pth"


@pytest.mark.parametrize("as_state_dict", [True, False])
def test_load_model_takes_an_official_training_checkpoint(tmp_path: Path, as_state_dict: bool) -> None:
    """Encoder and decoder, ready to predict: the decoder's width is the file's."""
    model = atto(decoder_dim=24).eval()
    source = official_training(model) if as_state_dict else official_file(model, tmp_path)
    loaded = fcmae.load_model(source)
    assert (loaded.config.decoder_dim, loaded.config.decoder_depth, loaded.training) == (24, 1, False)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    images, visible = torch.randn(1, 3, 64, 96), torch.tensor([[[True, False, True], [False, True, False]]])
    with torch.no_grad():
        assert torch.equal(loaded(images, visible=visible).pred, model(images, visible=visible).pred)


def test_the_official_arguments_count(tmp_path: Path) -> None:
    """Whether it predicts normalized pixels decides what a prediction means."""
    file = official_file(atto(), tmp_path, norm_pix_loss=False, mask_ratio=0.75, input_size=288)
    loaded = fcmae.FCMAE.from_pretrained(file)
    assert (loaded.config.norm_pix_loss, loaded.mask_ratio, loaded.config.image_hw) == (False, 0.75, (288, 288))
    file = official_file(atto(), tmp_path, norm_pix_loss="yes", mask_ratio=7.0, input_size=17)
    loaded = fcmae.load_model(file)
    assert (loaded.config.norm_pix_loss, loaded.mask_ratio, loaded.config.image_hw) == (True, 0.6, (224, 224))


def test_reconstruct_takes_an_official_training_checkpoint(tmp_path: Path) -> None:
    file = official_file(atto(), tmp_path, input_size=64)
    (picture,) = reconstruct(file, output=tmp_path / "out", mask_ratios=(0.5,), images=2)
    assert (picture.visible, picture.patches) == (2, 4)
    assert picture.file.is_file()


@pytest.mark.parametrize("format", ["timm", "official", "transformers", "mmpretrain"])
def test_load_model_refuses_an_encoder_alone(format: str) -> None:
    state = fcmae.convert_to_dense(atto().state_dict(), format)
    with pytest.raises(ValueError, match=rf"the state dict \({format}\) holds an encoder without FCMAE's decoder"):
        fcmae.load_model(state)


def test_networks_in_wrappers_are_refused() -> None:
    with pytest.raises(ValueError, match="fills an FCMAE or its encoder, got Sequential"):
        fcmae.load_encoder(nn.Sequential(atto()), atto().state_dict())  # type: ignore[arg-type]


def test_an_encoder_alone_can_be_loaded_into() -> None:
    model, other = atto(), atto()
    assert fcmae.load_encoder(other.encoder, model.state_dict()) is other.encoder
    assert torch.equal(other.encoder.stem[0].weight, model.encoder.stem[0].weight)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"name": "convnextv2_femto"}, r"holds a convnextv2_atto that is not this network: stages\.0.* and \d+ more"),
        ({"use_grn": False}, r"not in the network: stages\.0\.blocks\.0\.mlp\.grn\.bias"),
        ({"use_layer_scale": True}, r"missing stages\.0\.blocks\.0\.gamma"),
        ({"stem_stride": 2}, r"stem\.0\.weight is \[40, 3, 4, 4\], the network's \[40, 3, 2, 2\]"),
    ],
)
def test_weights_of_another_network_raise_and_change_nothing(model: dict, message: str) -> None:
    other = fcmae.create_model(**{"name": "convnextv2_atto", "decoder_dim": 16} | model)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        fcmae.load_encoder(other, atto().state_dict())
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())


def trained(run: Path) -> dict[str, Tensor]:
    last = run / "checkpoints" / (run / "checkpoints" / "last").read_text().strip()
    return load_file(last / "model.safetensors")


def test_a_run_starts_from_weights(
    tiny_args: Callable[..., list[str]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With a learning rate of next to nothing the weights stay those of the file; a resumed run does not read it."""
    model = atto(img_size=32, stem_stride=1)
    torch.save({"model": official_training(model)}, tmp_path / "start.pth")
    still = ("--train.base_lr", "1e-30", "--train.weight_decay", "0")
    arguments = tiny_args("run", "--model.init_from", str(tmp_path / "start.pth"), *still)
    with caplog.at_level("INFO"):
        assert main([*arguments, "--train.epochs", "2"]) == 0
    assert "encoder and decoder from" in caplog.text
    got = trained(tmp_path / "run")
    for name, tensor in model.state_dict().items():
        assert torch.equal(got[name], tensor), name
    assert str(tmp_path / "start.pth") in (tmp_path / "run" / "config.yaml").read_text()
    (tmp_path / "start.pth").unlink()
    assert main([*arguments, "--train.epochs", "4"]) == 0
    assert fcmae.convert_to_dense(tmp_path / "run").keys() == model.encoder.state_dict().keys()


@pytest.mark.parametrize(
    ("path", "message"),
    [("", "--model.init_from is empty"), ("nowhere.pth", "--model.init_from: nowhere.pth does not exist")],
)
def test_wrong_starts_are_one_line(
    tiny_args: Callable[..., list[str]], caplog: pytest.LogCaptureFixture, path: str, message: str
) -> None:
    assert main(tiny_args("run", "--model.init_from", path)) == 1
    assert message in caplog.text
    assert "Traceback" not in caplog.text
