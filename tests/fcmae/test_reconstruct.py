"""python -m fcmae.reconstruct: visible pixels are the image's own, masks the ones asked for."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from fcmae.analysis.masks import random_masks
from fcmae.errors import UserError
from fcmae.models import FCMAE, ModelConfig
from fcmae.models.patches import enlarge_mask
from fcmae.reconstruct import main, reconstruct
from fcmae.runs import checkpoint as ckpt

PATCH = 8


def save_run(folder: Path, config: ModelConfig) -> Path:
    """A run folder with one checkpoint of random weights."""
    torch.manual_seed(0)
    model = FCMAE(config)
    ckpt.save_checkpoint(folder, model, asdict(config), torch.optim.SGD(model.parameters()), ckpt.TrainState(1, 1, 1))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = ModelConfig(img_size=(32, 48), stem_stride=1, decoder_dim=16)
    return save_run(tmp_path_factory.mktemp("runs") / "run", config)


def tiles(picture: Path, row: int, count: int, image_hw: tuple[int, int]) -> Tensor:
    """The images of a row of a picture, [count, C, H, W], uint8; tiles are enlarged and 4 pixels apart."""
    pixels = torch.from_numpy(np.array(Image.open(picture))).permute(2, 0, 1)
    factor = -(-160 // min(image_hw))
    height, width = (factor * size for size in image_hw)
    caption = round(1.5 * max(16, round((count * (width + 4) + 4) / 34)))
    top = row * (caption + height + 8) + caption + 4
    lefts = [4 + n * (width + 4) for n in range(count)]
    return torch.stack([pixels[:, top : top + height : factor, left : left + width : factor] for left in lefts])


def test_a_picture_for_each_ratio(run: Path, image_folder: Path, tmp_path: Path) -> None:
    """Rows hold originals, the same with gray where masked, and the reconstruction with the visible pixels."""
    arguments = ["--data.path", str(image_folder), "--images", "3", "--mask_ratios", "0.25,0.75"]
    assert main([str(run), *arguments, "--output", str(tmp_path)]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["reconstruction-25.png", "reconstruction-75.png"]
    for ratio, kept in ((25, 18), (75, 6)):  # of 24 patches
        original, masked, pasted = (tiles(tmp_path / f"reconstruction-{ratio}.png", r, 3, (32, 48)) for r in range(3))
        visible = random_masks(3, (4, 6), ratio / 100, seed=0)
        assert visible.flatten(1).sum(1).tolist() == [kept] * 3
        where = enlarge_mask(visible, PATCH).expand_as(original)
        assert torch.equal(masked[where], original[where])
        assert set(masked[~where].tolist()) == {127}
        assert torch.equal(pasted[where], original[where])
        assert not torch.equal(pasted[~where], original[~where])


@pytest.mark.parametrize("form", ["png", "npy"])
def test_a_mask_of_ones_own_is_honoured(run: Path, image_folder: Path, tmp_path: Path, form: str) -> None:
    """The same mask for every image; white or True is visible."""
    visible = torch.zeros(4, 6, dtype=torch.bool)
    visible[1:3, 0:5] = True
    file = tmp_path / f"mask.{form}"
    if form == "npy":
        np.save(file, visible.numpy())
    else:
        Image.fromarray(visible.numpy().astype(np.uint8) * 255).resize((600, 400), Image.Resampling.NEAREST).save(file)
    out = tmp_path / "out"
    arguments = ["--data.path", str(image_folder), "--images", "2", "--mask", str(file), "--output", str(out)]
    assert main([str(run), *arguments]) == 0
    assert [p.name for p in out.iterdir()] == ["reconstruction-mask.png"]
    original, masked, pasted = (tiles(out / "reconstruction-mask.png", row, 2, (32, 48)) for row in range(3))
    where = enlarge_mask(visible.expand(2, 4, 6), PATCH).expand_as(original)
    assert torch.equal(pasted[where], original[where])
    assert set(masked[~where].tolist()) == {127}
    assert torch.equal(masked[where], original[where])


def test_seven_channels_and_another_size(tmp_path: Path) -> None:
    run = save_run(tmp_path / "run", ModelConfig(img_size=32, stem_stride=1, decoder_dim=16, in_chans=7))
    for n in range(2):
        np.save(tmp_path / f"{n}.npy", np.random.default_rng(n).random((40, 40, 7), dtype=np.float32))
    arguments = ["--data.path", str(tmp_path), "--img_size", "16,24", "--output", str(tmp_path / "out")]
    assert main([str(run), *arguments]) == 0
    assert len(list((tmp_path / "out").glob("*.png"))) == 3


def test_nothing_is_overwritten_unasked(
    run: Path, image_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = [str(run), "--data.path", str(image_folder), "--images", "1", "--mask_ratios", "0.5"]
    arguments += ["--output", str(tmp_path)]
    assert main(arguments) == 0
    assert main(arguments) == 1
    assert "holds reconstruction-50.png already" in caplog.text
    assert main([*arguments, "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mask", "none.png"], "--mask none.png does not exist"),
        (["--img_size", "20"], "multiple of the patch size 8 (8 × stem_stride), got (20, 20); the nearest is 16"),
        (["--images", "0"], "--images must be at least 1"),
        (["--data.path", "nowhere"], "--data.path nowhere does not exist"),
        (["--device", "abacus"], "--device abacus cannot be used here"),
    ],
)
def test_wrong_input_gets_one_line(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, arguments: list[str], message: str
) -> None:
    assert main([str(run), "--output", str(tmp_path / "out"), *arguments]) == 1
    error = caplog.records[-1].getMessage()
    assert message in error
    assert "\n" not in error
    assert not (tmp_path / "out").exists()


def test_weights_without_a_decoder_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_file(
        FCMAE(ModelConfig("convnextv2_atto", decoder_dim=1)).encoder.state_dict(), tmp_path / "encoder.safetensors"
    )
    assert main([str(tmp_path / "encoder.safetensors"), "--output", str(tmp_path / "out")]) == 1
    assert "encoder.safetensors (timm) holds an encoder without FCMAE's decoder" in caplog.records[-1].getMessage()


@pytest.mark.parametrize("ratios", ["0.5,1", "0", "0.5,0.5", ".nan", "[]"])
def test_ratios_that_are_none_are_refused(ratios: str, caplog: pytest.LogCaptureFixture) -> None:
    assert main(["run", "--output", "out", "--mask_ratios", ratios]) == 1
    assert "--mask_ratios must be different numbers between 0 and 1, such as 0.4,0.6, got" in caplog.text
    assert main(["run", "--mask_ratios", "x"]) == 1
    assert "--mask_ratios: Expected" in caplog.text


def test_from_python(run: Path, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same pictures as the command's, and how many patches are visible in them."""
    pictures = reconstruct(run, data=image_folder, images=2, mask_ratios=[0.25, 0.75], output=tmp_path / "python")
    assert capsys.readouterr().out == ""
    assert [(picture.file.name, picture.visible, picture.patches) for picture in pictures] == [
        ("reconstruction-25.png", 18, 24),
        ("reconstruction-75.png", 6, 24),
    ]
    options = ["--data.path", str(image_folder), "--images", "2", "--mask_ratios", "0.25", "0.75"]
    assert main([str(run), *options, "--output", str(tmp_path / "cli")]) == 0
    assert f"{tmp_path}/cli/reconstruction-25.png: 18 of 24 patches visible\n" in capsys.readouterr().out
    for picture in pictures:
        assert picture.file.read_bytes() == (tmp_path / "cli" / picture.file.name).read_bytes()
    with pytest.raises(UserError, match=r"--mask_ratios must be different numbers between 0 and 1.*got \[nan\]"):
        reconstruct(run, mask_ratios=float("nan"), output=tmp_path / "python")
    with pytest.raises(
        UserError, match=r"^--img_size must be a multiple of the patch size 8 .*got \(20, 24\); the nearest is 16"
    ):
        reconstruct(run, img_size=(20, 24), output=tmp_path / "other")
