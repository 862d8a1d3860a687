"""python -m fcmae.reconstruct: visible pixels are the image's own, masks the ones asked for."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from fcmae.analysis.reconstructions import paste_reconstruction
from fcmae.data.normalizer import Normalizer
from fcmae.errors import UserError
from fcmae.models import FCMAE, ModelConfig
from fcmae.models.patches import enlarge_mask, patch_mean_std, patchify, unpatchify
from fcmae.reconstruct import main, random_masks, read_mask
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
    top = row * (26 + height + 8) + 26 + 4
    lefts = [4 + n * (width + 4) for n in range(count)]
    return torch.stack([pixels[:, top : top + height : factor, left : left + width : factor] for left in lefts])


def test_visible_pixels_are_exactly_the_originals_and_masked_ones_the_prediction() -> None:
    """In float, by a literal repetition of what the decoder said of each patch."""
    torch.manual_seed(0)
    model = FCMAE(ModelConfig(img_size=32, stem_stride=1, decoder_dim=16, in_chans=2)).eval()
    images = torch.rand(3, 2, 32, 32)
    visible = random_masks(3, (4, 4), 0.6, seed=1)
    mean, std = (0.4, 0.1), (0.2, 0.7)
    pasted = paste_reconstruction(model, images, visible, Normalizer(mean, std))
    where = enlarge_mask(visible, PATCH).expand_as(images)
    assert torch.equal(pasted[where], images[where])

    normalized = (images - torch.tensor(mean).view(2, 1, 1)) / torch.tensor(std).view(2, 1, 1)
    with torch.no_grad():
        predicted = model(normalized, visible=visible).pred
    patch_mean, patch_std = patch_mean_std(patchify(normalized, PATCH))
    back = unpatchify(predicted * patch_std + patch_mean, PATCH, (4, 4))
    back = (back * torch.tensor(std).view(2, 1, 1) + torch.tensor(mean).view(2, 1, 1)).clamp(0, 1)
    torch.testing.assert_close(pasted[~where], back[~where])


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


def test_a_patch_goes_with_the_majority_of_the_masks_pixels(tmp_path: Path) -> None:
    """By counting, on a mask of 5 × 7 pixels a patch; and where the mask is the coarser one, by the nearest pixel."""
    pixels = np.random.default_rng(0).random((3 * 5, 4 * 7)) < 0.5
    Image.fromarray(pixels).save(tmp_path / "mask.png")  # a bilevel image
    share = pixels.reshape(3, 5, 4, 7).mean((1, 3))
    assert torch.equal(read_mask(tmp_path / "mask.png", (3, 4)), torch.from_numpy(share >= 0.5))
    Image.fromarray(np.array([[0, 127], [128, 255]], dtype=np.uint8)).save(tmp_path / "coarse.png")
    assert read_mask(tmp_path / "coarse.png", (4, 4)).tolist() == [[False] * 4] * 2 + [[True] * 4] * 2


def test_masks_are_those_of_the_seed_and_lower_ratios_add_patches() -> None:
    masks = {ratio: random_masks(5, (7, 7), ratio, seed=3) for ratio in (0.4, 0.6)}
    assert torch.equal(masks[0.6], random_masks(5, (7, 7), 0.6, seed=3))
    assert not torch.equal(masks[0.6], random_masks(5, (7, 7), 0.6, seed=4))
    assert (masks[0.4] | ~masks[0.6]).all()
    assert len({tuple(mask.flatten().tolist()) for mask in masks[0.6]}) == 5


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
        (["--img_size", "20"], "multiple of the patch size 8, got 20,20"),
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
    save_file({"stem.0.weight": torch.zeros(40, 3, 4, 4)}, tmp_path / "encoder.safetensors")
    assert main([str(tmp_path / "encoder.safetensors"), "--output", str(tmp_path / "out")]) == 1
    assert "was not written by fcmae.pretrain" in caplog.records[-1].getMessage()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((3, 4)), r"must be bool \[3, 4\], a value a patch; it is float64 \[3, 4\]"),
        (np.ones((4, 3), dtype=bool), r"it is bool \[4, 3\]"),
        (np.ones((3, 4), dtype=bool), "leaves 12 of 12 patches visible"),
        (np.zeros((3, 4), dtype=bool), "leaves 0 of 12 patches visible"),
    ],
)
def test_masks_that_do_not_fit_are_refused(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "mask.npy", array)
    with pytest.raises(UserError, match=message):
        read_mask(tmp_path / "mask.npy", (3, 4))


def test_a_mask_that_is_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mask.png").write_text("no image")
    (tmp_path / "mask.npy").write_text("no array")
    (tmp_path / "empty.npy").write_bytes(b"")
    for name in ("mask.png", "mask.npy", "empty.npy"):
        with pytest.raises(UserError, match="is neither an image nor"):
            read_mask(tmp_path / name, (3, 4))


def test_a_mask_of_too_many_pixels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (40, 40)).save(tmp_path / "mask.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow refuses from twice as many on
    with pytest.raises(UserError, match="exceeds limit"):
        read_mask(tmp_path / "mask.png", (3, 4))


@pytest.mark.parametrize(("alpha", "said"), [(0, True), (255, False)])
def test_transparency_of_a_mask_does_not_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, alpha: int, said: bool
) -> None:
    """The left half is white, the right half black; how transparent the left is changes nothing but the log."""
    image = Image.new("RGBA", (40, 30), (0, 0, 0, 255))
    image.paste((255, 255, 255, alpha), (0, 0, 20, 30))
    image.save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png", (3, 4)).tolist() == [[True, True, False, False]] * 3
    assert ("transparency is ignored" in caplog.text) is said


@pytest.mark.parametrize("ratios", ["0.5,1", "0", "x", "0.5,0.5", "nan"])
def test_ratios_that_are_none_are_refused(ratios: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--output", "out", "--mask_ratios", ratios])
    assert "between 0 and 1" in capsys.readouterr().err
