"""Masks on the patch grid: random, or read from a user's file."""

import logging
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fcmae.data.draws import sample_seed
from fcmae.errors import UserError
from fcmae.models.fcmae import count_visible, random_visible

logger = logging.getLogger("fcmae")


def random_masks(count: int, grid_hw: tuple[int, int], ratio: float, seed: int) -> Tensor:
    """One mask per image, bool [count, h, w]; the n-th depends only on seed, n and ratio.

    A patch that is visible at one ratio is also visible at every lower one.
    """
    num_visible = count_visible(grid_hw[0] * grid_hw[1], ratio)
    generators = (torch.Generator().manual_seed(sample_seed(seed, 0, n)) for n in range(count))
    return torch.cat([random_visible(1, grid_hw, num_visible, generator=generator) for generator in generators])


def read_mask(file: str | Path, grid_hw: tuple[int, int]) -> Tensor:
    """A user's mask on the patch grid, bool [h, w], True = visible.

    In an image file, pixels of at least half brightness count as visible, and a patch is visible if at least half of
    its pixels are; transparency is ignored. A .npy file holds the grid itself.

    Raises:
        UserError: an unreadable file, a wrong shape, or a mask with everything or nothing visible.
    """
    height, width = grid_hw
    try:
        if Path(file).suffix.lower() == ".npy":
            array = np.load(file, allow_pickle=False)
            if array.dtype != np.bool_ or array.shape != grid_hw:
                raise UserError(
                    f"--mask {file} must be bool [{height}, {width}], a value per patch; it is {array.dtype} "
                    f"{list(array.shape)}"
                )
            visible = torch.from_numpy(array)
        else:
            with Image.open(file) as opened:
                if opened.has_transparency_data and np.asarray(opened.convert("RGBA"))[..., 3].min() < 255:
                    logger.warning("--mask %s: transparency is ignored; white is visible, black is masked", file)
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
