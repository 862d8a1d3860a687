"""What is written: the norm that libraries expect, mmpretrain's names and shapes, modes of files, model cards."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import timm
import torch
import transformers
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

import fcmae
from fcmae.convert import TargetFormat, convert
from fcmae.errors import UserError
from fcmae.files import replacing
from fcmae.models import FCMAE
from fcmae.runs import checkpoint as ckpt
from fcmae.weights.formats import targets
from tests.fcmae.weights.foreign import ATTO, MmpretrainBackbone, MmpretrainClassifier
from tests.models.test_encoder import randomize

SIZES = {
    "convnextv2_atto": (ATTO, True),
    "convnext_tiny": (((3, 3, 9, 3), (96, 192, 384, 768)), False),
}


@pytest.fixture(scope="module", params=SIZES)
def model(request: pytest.FixtureRequest) -> FCMAE:
    model = fcmae.create_model(request.param, decoder_dim=1).eval()
    randomize(model)
    return model


@pytest.fixture(scope="module")
def source(model: FCMAE, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without the norm, as pretraining leaves it."""
    file = tmp_path_factory.mktemp("source") / "pretrained.safetensors"
    save_file(model.state_dict(), file)
    return file


def features(model: FCMAE, images: Tensor) -> Tensor:
    return model.encoder(images, torch.ones(len(images), 2, 2, dtype=torch.bool))


@pytest.mark.parametrize("ending", [".safetensors", ".pth", ".pt", ".bin", ".PTH", ".Safetensors"])
@torch.no_grad()
def test_timm_loads_a_single_file(model: FCMAE, source: Path, tmp_path: Path, ending: str) -> None:
    """``checkpoint_path`` is strict: nothing may be missing or too much."""
    file = tmp_path / f"out{ending}"
    assert convert(source, file).files == (file,)
    assert file.is_file()
    as_timm_reads_it = file if ending != ".Safetensors" else file.rename(tmp_path / "again.safetensors")
    loaded = timm.create_model(model.config.name, num_classes=0, checkpoint_path=as_timm_reads_it).eval()
    images = torch.randn(1, 3, 64, 64)
    wanted = features(model, images)
    assert (loaded.forward_features(images) - wanted).norm() < 1e-5 * wanted.norm()
    assert torch.equal(loaded.head.norm.weight, torch.ones(model.encoder.num_features))
    assert torch.equal(loaded.head.norm.bias, torch.zeros(model.encoder.num_features))


@pytest.mark.parametrize("name", ["out.safetensors", "out.pth", "folder"])
@torch.no_grad()
def test_timm_gives_features_alone(model: FCMAE, source: Path, tmp_path: Path, name: str) -> None:
    """From a file as ``pretrained``: timm applies ``checkpoint_path`` after it has renamed every layer."""
    convert(source, tmp_path / name)
    if name == "folder":
        backbone = timm.create_model(f"local-dir:{tmp_path / name}", pretrained=True, features_only=True).eval()
    else:
        backbone = timm.create_model(
            model.config.name,
            pretrained=True,
            features_only=True,
            num_classes=0,
            pretrained_cfg_overlay={"file": str(tmp_path / name), "num_classes": 0},
        ).eval()
    images = torch.randn(1, 3, 64, 64)
    wanted = features(model, images)
    assert (backbone(images)[-1] - wanted).norm() < 1e-5 * wanted.norm()


def test_transformers_takes_a_single_file(model: FCMAE, source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out.safetensors", format="transformers")
    dims, depths = list(model.config.size.dims), list(model.config.size.depths)
    with_grn = model.config.with_grn
    config = (transformers.ConvNextV2Config if with_grn else transformers.ConvNextConfig)(
        depths=depths, hidden_sizes=dims
    )
    network = (transformers.ConvNextV2Model if with_grn else transformers.ConvNextModel)(config)
    network.load_state_dict(load_file(tmp_path / "out.safetensors"), strict=True)
    assert torch.equal(network.embeddings.patch_embeddings.weight, model.encoder.stem[0].weight)


def test_a_norm_of_its_own_is_kept(tmp_path: Path) -> None:
    tuned = timm.create_model("convnextv2_atto", num_classes=3)
    randomize(tuned)
    save_file(tuned.state_dict(), tmp_path / "tuned.safetensors")
    for format in ("timm", "transformers", "mmpretrain"):
        convert(tmp_path / "tuned.safetensors", tmp_path / f"{format}.pth", format=format)
        convert(tmp_path / f"{format}.pth", tmp_path / f"{format}.safetensors")
        back = load_file(tmp_path / f"{format}.safetensors")
        assert back.keys() == tuned.state_dict().keys()
        assert all(torch.equal(back[name], tensor) for name, tensor in tuned.state_dict().items())


@pytest.mark.parametrize("name", ["out.pth", "folder"])
@torch.no_grad()
def test_mmpretrain_as_mmengine_loads_it(model: FCMAE, source: Path, tmp_path: Path, name: str) -> None:
    """``Pretrained`` with ``prefix="backbone."``: names and shapes of its ConvNeXt, and the same features."""
    result = convert(source, tmp_path / name, format="mmpretrain")
    file = tmp_path / "folder" / "model.pth" if name == "folder" else tmp_path / name
    assert result.files[0] == file
    saved = torch.load(file, weights_only=True)
    assert set(saved) == {"state_dict"}
    state = {key.removeprefix("backbone."): tensor for key, tensor in saved["state_dict"].items()}
    assert all(key.startswith("backbone.") for key in saved["state_dict"])
    (depths, dims), v2 = SIZES[model.config.name]
    theirs = MmpretrainBackbone(depths, dims, v2).eval()
    assert {key: tensor.shape for key, tensor in state.items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    theirs.load_state_dict(state, strict=True)
    images = torch.randn(1, 3, 64, 64)
    wanted = features(model, images)
    assert (theirs.features(images) - wanted).norm() < 1e-5 * wanted.norm()
    again = fcmae.convert_to_dense(tmp_path / name)
    assert all(torch.equal(again[key], tensor) for key, tensor in model.encoder.state_dict().items())


def test_mmpretrain_with_a_classifier(tmp_path: Path) -> None:
    tuned = timm.create_model("convnextv2_atto", num_classes=3).eval()
    randomize(tuned)
    save_file(tuned.state_dict(), tmp_path / "tuned.safetensors")
    convert(tmp_path / "tuned.safetensors", tmp_path / "out", format="mmpretrain")
    theirs = MmpretrainClassifier(*ATTO, v2=True, num_classes=3).eval()
    theirs.load_state_dict(torch.load(tmp_path / "out" / "model.pth", weights_only=True)["state_dict"], strict=True)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(theirs(images), tuned(images), rtol=1e-4, atol=1e-5)


@pytest.fixture(params=[0o022, 0o027, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_files_have_the_umasks_mode(umask: int, tmp_path: Path) -> None:
    """safetensors writes private files: a colleague, or a web server, could not read them."""
    model = fcmae.create_model("convnextv2_atto", decoder_dim=1)
    state = ckpt.TrainState(step=1, effective_batch=1, samples_per_epoch=1)
    config = {"name": "convnextv2_atto", "decoder_dim": 1}
    ckpt.save_checkpoint(tmp_path / "run", model, config, torch.optim.AdamW(model.parameters()), state)
    for format in ("timm", "transformers", "official", "mmpretrain"):
        convert(tmp_path / "run", tmp_path / format, format=format)
        convert(tmp_path / "run", tmp_path / f"{format}.safetensors", format=format)
    convert(tmp_path / "run", tmp_path / "timm", overwrite=True)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) > 12
    assert {oct(file.stat().st_mode & 0o777) for file in files} == {oct(0o666 & ~umask)}


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_a_private_file_of_a_process_that_died_does_not_pass_on_its_mode(tmp_path: Path) -> None:
    (tmp_path / ".new-a").touch(mode=0o600)
    with replacing(tmp_path / "a") as file:
        file.write_text("x")
    assert oct((tmp_path / "a").stat().st_mode & 0o777) == oct(0o666 & ~0o022)


def test_every_format_that_is_written_is_an_option() -> None:
    assert get_args(TargetFormat) == tuple(targets())
    assert all("FOLDER" in target.usage for _, target in targets().values())


@pytest.mark.parametrize("name", ["x.onnx", "x.ONNX", "x.ckpt", "x.h5", "x.tflite", "sub/x.zip"])
def test_a_name_of_another_kind_of_file_is_no_folder(source: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"x\.\w+: \.\w+ files are not written; give a folder, or a name that ends in"):
        convert(source, tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["convnextv2_atto.mine_v1.5", "out.2026"])
def test_a_folder_may_have_a_dot(source: Path, tmp_path: Path, name: str) -> None:
    convert(source, tmp_path / name)
    assert (tmp_path / name / "model.safetensors").is_file()


def saved_run(folder: Path, **settings: dict) -> Path:
    model = fcmae.create_model("convnextv2_atto", decoder_dim=1)
    state = ckpt.TrainState(step=1200, effective_batch=64, samples_per_epoch=2468)
    config = {"name": "convnextv2_atto", "decoder_dim": 1}
    ckpt.save_checkpoint(folder, model, config, torch.optim.AdamW(model.parameters()), state)
    plain = {
        "data": {"path": "/secret/place/beetles", "repeat": 2, "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5]},
        "model": {"init_from": None},
        "train": {"mask_ratio": 0.6},
    }
    for group, values in settings.items():
        plain[group] |= values
    (folder / "config.yaml").write_text("# fcmae 0\n" + yaml.safe_dump(plain))
    return folder


@pytest.mark.parametrize("format", ["timm", "transformers", "official", "mmpretrain"])
def test_the_card_of_a_run(tmp_path: Path, format: str) -> None:
    run = saved_run(tmp_path / "run")
    convert(run, tmp_path / "out", format=format)
    card = (tmp_path / "out" / "README.md").read_text()
    metadata = yaml.safe_load(card.split("---")[1])
    assert metadata["pipeline_tag"] == "image-feature-extraction"
    assert metadata.get("library_name") == (format if format in ("timm", "transformers") else None)
    for fact in (
        "ConvNeXt V2 encoder pretrained without labels by FCMAE",
        "| Network | convnextv2_atto, 3.4M parameters |",
        "| Data | 1,234 images of `beetles` |",
        "| Pretraining | 1,200 steps of 64 images, 60% masked |",
        "mean 0.1, 0.2, 0.3, standard deviation 0.5, 0.5, 0.5 |",
        "## License",
        "the weights' owner decides",
    ):
        assert fact in card
    assert "secret" not in card
    assert str(tmp_path) not in card


def test_the_card_tells_what_weights_started_from(tmp_path: Path) -> None:
    run = saved_run(tmp_path / "run", model={"init_from": "/home/me/convnextv2_atto_1k_224_fcmae.pt"})
    convert(run, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "started from `convnextv2_atto_1k_224_fcmae.pt`" in card
    assert "CC BY-NC 4.0" in card
    assert "/home/me" not in card
    official = fcmae.convert_to_dense(run, "official")
    torch.save({"model": official}, tmp_path / "convnextv2_atto_1k_224_fcmae.pt")
    convert(tmp_path / "convnextv2_atto_1k_224_fcmae.pt", tmp_path / "published")
    card = (tmp_path / "published" / "README.md").read_text()
    assert "official (`convnextv2_atto_1k_224_fcmae.pt`)" in card
    assert "CC BY-NC 4.0" in card
    assert "pretrained without labels" not in card
    assert "standard deviation 0.229, 0.224, 0.225; assumed, the source does not say" in card


@pytest.mark.parametrize(("weights", "origin"), [("/home/me/mine", "`mine`"), ("scratch", "random weights")])
def test_the_card_of_a_fine_tuned_run(tmp_path: Path, weights: str, origin: str) -> None:
    run = saved_run(tmp_path / "run")
    settings = yaml.safe_load((run / "config.yaml").read_text())
    del settings["train"]["mask_ratio"]
    (run / "config.yaml").write_text("# fcmae 0\n" + yaml.safe_dump(settings | {"weights": weights}))
    convert(run, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "The weights of a ConvNeXt V2, fine-tuned on labeled images, in the format of timm." in card
    assert f"| Fine-tuning | 1,200 steps of 64 images, from {origin} |" in card
    assert "pretrained without labels" not in card
    assert ("the license of those weights applies" in card) == (weights != "scratch")


def test_the_users_own_card_stays(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out")
    convert(source, tmp_path / "out", format="transformers", overwrite=True)
    assert "in the format of transformers" in (tmp_path / "out" / "README.md").read_text()
    (tmp_path / "out" / "README.md").write_text("# My beetles\n")
    result = convert(source, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "README.md").read_text() == "# My beetles\n"
    assert tmp_path / "out" / "README.md" not in result.files


def test_a_folder_overwritten_in_another_format_keeps_nothing_of_the_first(source: Path, tmp_path: Path) -> None:
    for format in ("transformers", "mmpretrain", "timm", "official"):
        result = convert(source, tmp_path / "out", format=format, overwrite=True)
        assert set(result.files) == set((tmp_path / "out").iterdir())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.pth").write_text("a user's, of something else")
    convert(source, tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "model.pth").read_text() == "a user's, of something else"


def test_every_python_block_of_a_card_is_python(source: Path, tmp_path: Path) -> None:
    for format in ("timm", "transformers", "official", "mmpretrain"):
        convert(source, tmp_path / format, format=format)
        (block,) = re.findall(r"```python\n(.*?)```", (tmp_path / format / "README.md").read_text(), re.DOTALL)
        compile(block, format, "exec")
    assert json.loads((tmp_path / "timm" / "config.json").read_text())["pretrained_cfg"]["mean"]
