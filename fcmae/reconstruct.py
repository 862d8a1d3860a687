"""Reconstructions of masked images, as a command (``fcmae reconstruct``) and as a function.

    from fcmae.reconstruct import reconstruct

    pictures = reconstruct("runs/mine", output="pictures", mask_ratios=(0.4, 0.6))

One picture per mask ratio, and one for a mask of the user's own: originals, what the encoder sees, and the
reconstruction with the visible pixels pasted in.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from fcmae.cli.command import end, exit_status, output_folder, say
from fcmae.cli.keywords import keyword_function
from fcmae.cli.parser import parse
from fcmae.config import check_least, check_seed
from fcmae.config.pixels import ImagesConfig, PixelConfig
from fcmae.errors import UserError
from fcmae.weights.place import check_weights

PROG = "python -m fcmae.reconstruct"
RATIOS = (0.4, 0.6, 0.75)


@dataclass(frozen=True)
class ReconstructDataConfig(PixelConfig, ImagesConfig):
    """The images."""

    def __post_init__(self) -> None:
        ImagesConfig.__post_init__(self)
        PixelConfig.__post_init__(self)


@dataclass(frozen=True)
class ReconstructConfig:
    """Draw what a pretrained network reconstructs of masked images.

    Each picture shows originals, what the encoder sees, and the reconstruction with the visible pixels pasted in. One
    picture per mask ratio, and one for a mask of your own.
    """

    ckpt: str
    """Run folder, checkpoint folder or model.safetensors of fcmae.pretrain, or a training checkpoint of the official
    code: encoder and decoder."""
    data: ReconstructDataConfig = field(default_factory=ReconstructDataConfig, metadata={"bare": "path"})
    output: str = "reconstructions"
    """Folder for reconstruction-60.png and so on."""
    overwrite: bool = False
    """Replace pictures of the same names."""
    mask_ratios: tuple[float, ...] | None = None
    """Shares of the patches to mask, a picture for each. Unset: 0.4, 0.6 and 0.75; none with a mask of your own."""
    mask: str | None = None
    """A mask for all images: an image of any size, white = visible, where a patch follows most of its pixels
    (transparency does not count); or a .npy file of bool [h, w], a value per patch, True = visible. Draws
    reconstruction-mask.png."""
    images: int = 8
    """Images per picture: the same number from each subfolder (class), evenly spaced."""
    img_size: int | tuple[int, int] | None = None
    """Size of the crops in pixels, one number or height,width; unset: the run's."""
    seed: int = 0
    """Seed of the random masks."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, …; auto: the accelerator if there is one."""
    allow_pickle: bool = False
    """Unpickle whatever a weights file holds. This runs code from the file; only for files that you trust."""
    use_ema: bool = True
    """Where a weights file has weights and their average over the steps (EMA), take the average; false: the others."""

    def __post_init__(self) -> None:
        check_least(self, images=1)
        check_seed(self.seed)
        ratios = self.mask_ratios
        if ratios is not None and not _are_ratios(ratios):
            raise ValueError(
                f"mask_ratios must be different numbers between 0 and 1, such as 0.4,0.6, got {list(ratios)}"
            )
        if self.image_hw is not None and min(self.image_hw) < 1:
            raise ValueError(f"img_size must be a number of pixels, or height,width, got {self.img_size}")

    @property
    def image_hw(self) -> tuple[int, int] | None:
        """Height and width, if they are given."""
        return (self.img_size, self.img_size) if isinstance(self.img_size, int) else self.img_size


def _are_ratios(ratios: Sequence[float]) -> bool:
    return bool(ratios) and all(0 < ratio < 1 for ratio in ratios) and len(set(ratios)) == len(ratios)


class Picture(NamedTuple):
    """A picture that was drawn."""

    file: Path
    visible: int
    """Visible patches of each image."""
    patches: int
    """Patches of each image."""


@keyword_function(ReconstructConfig)
def reconstruct(config: ReconstructConfig) -> list[Picture]:
    """Draw what a pretrained network reconstructs of masked images; returns the pictures, one per mask.

    The settings are keywords (``data="images/"`` is ``data.path``), which :class:`ReconstructConfig` explains;
    a whole ``ReconstructConfig`` is accepted too.

    Raises:
        UserError: a wrong setting, a checkpoint, mask or image that cannot be read, pictures that would be overwritten.
    """
    from fcmae.data.folder import images_to_look_at

    ratios = config.mask_ratios or (() if config.mask else RATIOS)
    titles = [f"{100 * ratio:g}" for ratio in ratios] + ["mask"] * bool(config.mask)
    names = [f"reconstruction-{title}.png" for title in titles]
    folder = output_folder(config.output, names, config.overwrite)

    check_weights(config.ckpt)
    if config.mask and not Path(config.mask).is_file():
        what = "is not a file" if Path(config.mask).exists() else "does not exist"
        raise UserError(f"--mask {config.mask} {what}; give an image, white = visible, or a .npy file of bool")
    paths = images_to_look_at(config.data.path, config.images, config.data.access)

    import torch  # here, because these imports take seconds

    from fcmae.analysis.masks import random_masks, read_mask
    from fcmae.analysis.reconstructions import paste_reconstruction, reconstruction_picture, save_picture
    from fcmae.cli.devices import choose_device
    from fcmae.data.crop_batches import crop_batches
    from fcmae.models.patches import enlarge_mask
    from fcmae.weights.load import load_model
    from fcmae.weights.settings import pixels

    device = choose_device(config.device)
    model = load_model(config.ckpt, allow_pickle=config.allow_pickle, use_ema=config.use_ema).to(device)
    image_hw = config.image_hw or model.config.image_hw
    try:
        grid_hw = replace(model.config, img_size=image_hw).grid_hw
    except ValueError as error:
        raise UserError(f"--{error}") from None

    own = [read_mask(config.mask, grid_hw)] if config.mask else []
    normalize, reading = config.data.over(pixels(config.ckpt, model.config.in_chans))
    images = torch.cat([b.images for b in crop_batches(paths, image_hw, reading)]).to(device)

    masks = [random_masks(len(images), grid_hw, ratio, config.seed) for ratio in ratios]
    masks += [mask.expand(len(images), *grid_hw) for mask in own]
    pictures = []
    for name, mask in zip(names, masks, strict=True):
        visible = mask.to(device)
        pasted = paste_reconstruction(model, images, visible, normalize)
        where = enlarge_mask(visible, model.patch_size)
        save_picture(reconstruction_picture(images, pasted, where, 1 - visible.float().mean().item()), folder / name)
        pictures.append(Picture(folder / name, int(visible[0].sum()), visible[0].numel()))
    return pictures


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Run the command line; returns the exit status: 0, or 1 after an error."""
    return exit_status(prog, lambda: _show(reconstruct(parse(ReconstructConfig, argv, prog))))


def _show(pictures: Sequence[Picture]) -> None:
    for picture in pictures:
        say(f"{picture.file}: {picture.visible} of {picture.patches} patches visible\n")


if __name__ == "__main__":
    end(main())
