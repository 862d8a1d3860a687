"""``python -m fcmae.reconstruct``: what a pretrained network makes of images that are masked, as pictures.

One picture for each mask ratio, and one for a mask of the user's own: originals, what the encoder sees, and the
reconstruction with the visible pixels pasted in.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fcmae.analysis.reconstructions import paste_reconstruction, reconstruction_picture, save_picture
from fcmae.cli.command import check_at_least, check_seed, exit_status, output_folder
from fcmae.cli.devices import choose_device
from fcmae.data.crop_batches import crop_batches
from fcmae.data.draws import sample_seed
from fcmae.data.folder import images_to_look_at
from fcmae.errors import UserError
from fcmae.models.fcmae import count_visible, random_visible
from fcmae.models.patches import enlarge_mask
from fcmae.weights.load import load_model
from fcmae.weights.settings import normalization

logger = logging.getLogger("fcmae")

RATIOS = (0.4, 0.6, 0.75)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or 1 after an error."""
    options = build_parser().parse_args(argv)
    return exit_status("fcmae.reconstruct", lambda: reconstruct(options))


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="python -m fcmae.reconstruct",
        description="What a pretrained network makes of masked images, as pictures: originals, what the encoder sees, "
        "and the reconstruction with the visible pixels pasted in. One picture for each mask ratio, and one for a mask "
        "of your own.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "ckpt",
        metavar="CKPT",
        help="a run folder, checkpoint folder or model.safetensors of fcmae.pretrain, decoder included",
    )
    add("--data.path", dest="data_path", metavar="DIR",
        help="folder of images, flat or nested; unset: photographs of scikit-image and scikit-learn")  # fmt: skip
    add("--output", required=True, metavar="DIR", help="folder for reconstruction-60.png and so on")
    add("--mask_ratios", type=_ratios, metavar="R,R,…",
        help="shares of the patches to mask, a picture each (default: 0.4,0.6,0.75; with --mask: none)")  # fmt: skip
    add("--mask", metavar="FILE",
        help="a mask for all images: an image of any size, white = visible, a patch as most of its pixels "
        "(transparency does not count); or a .npy file of bool [h, w], a value a patch, True = visible; draws "
        "reconstruction-mask.png")  # fmt: skip
    add(
        "--images",
        type=int,
        default=8,
        metavar="N",
        help="images in a picture, evenly spaced over the folder (default: 8)",
    )
    add("--img_size", type=_image_hw, metavar="N or H,W", help="size of the crops in pixels (default: the run's)")
    add("--seed", type=int, default=0, metavar="N", help="of the random masks (default: 0)")
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps, …; auto: the accelerator if any (default: auto)")
    add("--overwrite", action="store_true", help="replace pictures of the same names")
    return parser


def reconstruct(options: argparse.Namespace) -> list[Path]:
    """Draw as asked; returns the pictures' files.

    Raises:
        UserError: something the user can mend.
    """
    check_at_least(options, images=1)
    check_seed(options.seed)
    ratios = options.mask_ratios or (() if options.mask else RATIOS)
    titles = [f"{100 * ratio:g}" for ratio in ratios] + ["mask"] * bool(options.mask)
    names = [f"reconstruction-{title}.png" for title in titles]
    folder = output_folder(options.output, names, options.overwrite)

    device = choose_device(options.device)
    model = load_model(options.ckpt).to(device)
    image_hw = options.img_size or model.config.image_hw
    patch = model.patch_size
    if any(size % patch for size in image_hw):
        raise UserError(f"--img_size must be a multiple of the patch size {patch}, got {image_hw[0]},{image_hw[1]}")
    grid_hw = image_hw[0] // patch, image_hw[1] // patch

    own = [read_mask(options.mask, grid_hw)] if options.mask else []
    paths = images_to_look_at(options.data_path, options.images)
    images = torch.cat([b.images for b in crop_batches(paths, image_hw, model.config.in_chans)]).to(device)
    normalize = normalization(options.ckpt, model.config.in_chans)

    masks = [random_masks(len(images), grid_hw, ratio, options.seed) for ratio in ratios]
    masks += [mask.expand(len(images), *grid_hw) for mask in own]
    files = [folder / name for name in names]
    for file, mask in zip(files, masks, strict=True):
        visible = mask.to(device)
        pasted = paste_reconstruction(model, images, visible, normalize)
        where = enlarge_mask(visible, patch)
        save_picture(reconstruction_picture(images, pasted, where, 1 - visible.float().mean().item()), file)
        logger.info("%s: %d of %d patches visible", file, visible[0].sum(), visible[0].numel())
    return files


def random_masks(count: int, grid_hw: tuple[int, int], ratio: float, seed: int) -> Tensor:
    """A mask of its own for each image, bool [count, h, w]; that of the n-th depends on seed, n and ratio alone.

    A patch that is visible at one ratio is visible at every lower one.
    """
    num_visible = count_visible(grid_hw[0] * grid_hw[1], ratio)
    generators = (torch.Generator().manual_seed(sample_seed(seed, 0, n)) for n in range(count))
    return torch.cat([random_visible(1, grid_hw, num_visible, generator=generator) for generator in generators])


def read_mask(file: str | Path, grid_hw: tuple[int, int]) -> Tensor:
    """A user's mask on the patch grid, bool [h, w], True = visible.

    An image's pixels count as visible from half brightness on, and a patch is visible if at least half of its pixels
    are; transparency does not count. A .npy file holds the grid itself.

    Raises:
        UserError: not to be read, of another shape, or with everything or nothing visible.
    """
    height, width = grid_hw
    try:
        if Path(file).suffix.lower() == ".npy":
            array = np.load(file, allow_pickle=False)
            if array.dtype != np.bool_ or array.shape != grid_hw:
                raise UserError(
                    f"--mask {file} must be bool [{height}, {width}], a value a patch; it is {array.dtype} "
                    f"{list(array.shape)}"
                )
            visible = torch.from_numpy(array)
        else:
            with Image.open(file) as opened:
                if opened.has_transparency_data and np.asarray(opened.convert("RGBA"))[..., 3].min() < 255:
                    logger.warning("--mask %s: its transparency is ignored; white is visible, black is masked", file)
                white = np.asarray(opened.convert("L")) >= 128
            share = Image.fromarray(white.astype(np.float32)).resize((width, height), Image.Resampling.BOX)
            visible = torch.from_numpy(np.array(share) >= 0.5)
    except FileNotFoundError:
        raise UserError(f"--mask {file} does not exist") from None
    except UserError:
        raise
    except (OSError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UserError(f"--mask {file} is neither an image nor a .npy file of bool: {error}") from None
    if visible.all() or not visible.any():
        raise UserError(
            f"--mask {file} leaves {int(visible.sum())} of {visible.numel()} patches visible; at least one must be "
            f"visible (white, True) and one masked"
        )
    return visible


def _ratios(text: str) -> tuple[float, ...]:
    try:
        ratios = tuple(float(part) for part in text.split(","))
    except ValueError:
        ratios = ()
    if not ratios or not all(0 < ratio < 1 for ratio in ratios) or len(set(ratios)) < len(ratios):
        raise argparse.ArgumentTypeError(f"takes different numbers between 0 and 1, such as 0.4,0.6,0.75, got {text!r}")
    return ratios


def _image_hw(text: str) -> tuple[int, int]:
    parts = text.split(",")
    if len(parts) > 2 or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"takes a number of pixels, or height,width, got {text!r}")
    return int(parts[0]), int(parts[-1])


if __name__ == "__main__":
    sys.exit(main())
