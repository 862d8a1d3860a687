"""Reconstruction pictures: originals, masked images and reconstructions, one row each."""

import math
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2 import functional as TF
from torchvision.utils import make_grid

from fcmae.data.normalizer import Normalizer
from fcmae.files import replacing
from fcmae.models import FCMAE
from fcmae.models.patches import enlarge_mask

GRAY = 0.5
SHOWN, FAINT = (0.005, 0.995), 0.2
"""Quantiles that become black and white where they are less than ``FAINT`` apart."""
TILE = 160  # minimum side of a tile in pixels; smaller images are enlarged by an integer factor
GAP, BACKGROUND = 4, 255
LINE = 1.5  # height of a caption, in font sizes
FONT_SHARE, LEAST_FONT = 1 / 34, 16  # of the picture's width: about 11 pixels on a phone's 375


def paste_reconstruction(model: FCMAE, images: Tensor, visible: Tensor, normalize: Normalizer) -> Tensor:
    """The reconstruction where masked, the original pixels where visible.

    Args:
        model: in eval mode, on the images' device.
        images: float32 [B, C, H, W] in 0 … 1.
        visible: bool [B, h, w], True = kept.
        normalize: the normalization the model was trained with.

    Returns:
        float32 [B, C, H, W] in 0 … 1.
    """
    given = normalize(images)
    with torch.no_grad():
        output = FCMAE.forward(model, given, visible)  # uncompiled: compiling does not pay off for one picture
    _, pasted = model.reconstruct(given, output)
    return torch.where(enlarge_mask(visible, model.patch_size), images, normalize.inverse(pasted.float()))


def reconstruction_picture(original: Tensor, pasted: Tensor, where: Tensor, mask_ratio: float) -> Image.Image:
    """Three rows of tiles with captions: originals, masked ones, and reconstructions.

    Args:
        original: [N, C, H, W] in 0 … 1, or NaN; of more than three channels the first three are shown, of two the
            first.
        pasted: the reconstruction with visible pixels pasted in.
        where: bool [N, 1, H, W], True = visible.
        mask_ratio: shown in the caption.
    """
    original, pasted = _as_seen(original, pasted)
    rows = {
        "original": original,
        f"masked {mask_ratio:.0%}": torch.where(where, original, GRAY),
        "reconstruction, visible patches pasted in": pasted,
    }
    strips = [_row(images) for images in rows.values()]
    size = font_size(strips[0].width)
    font, line = ImageFont.load_default(size), round(LINE * size)
    width = max(strips[0].width, *(2 * GAP + math.ceil(font.getlength(caption)) for caption in rows))
    picture = Image.new("RGB", (width, sum(strip.height + line for strip in strips)), (BACKGROUND,) * 3)
    draw, top = ImageDraw.Draw(picture), 0
    for caption, strip in zip(rows, strips, strict=True):
        draw.text((GAP, top + line // 2), caption, fill=(30, 30, 30), font=font, anchor="lm")
        picture.paste(strip, (0, top + line))
        top += line + strip.height
    return picture


def font_size(width: int) -> int:
    """Size of the captions' letters in pixels, for rows of this width."""
    return max(LEAST_FONT, round(FONT_SHARE * width))


def _as_seen(original: Tensor, pasted: Tensor) -> tuple[Tensor, Tensor]:
    """Both stretched alike where the originals use so little of 0 … 1 that they would look black; missing is black."""
    shown = (original.nan_to_num(0.0), pasted.nan_to_num(0.0))
    pixels = original.flatten()[:: max(1, original.numel() // 2**20)].float()
    pixels = pixels[~pixels.isnan()]
    if pixels.numel() == 0:
        return shown
    low, high = (float(pixels.quantile(share)) for share in SHOWN)
    if high - low >= FAINT or high == low:
        return shown
    return ((shown[0] - low) / (high - low)).clamp(0, 1), ((shown[1] - low) / (high - low)).clamp(0, 1)


def _row(images: Tensor) -> Image.Image:
    shown = images[:, :3] if images.shape[1] >= 3 else images[:, :1]
    factor = max(1, -(-TILE // min(shown.shape[2:])))
    shown = shown.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    grid = make_grid(shown.float().cpu(), nrow=len(shown), padding=GAP, pad_value=1.0)
    return TF.to_pil_image(grid.clamp(0, 1))


def save_picture(picture: Image.Image, file: Path) -> None:
    """Write a PNG; creates its folder if needed."""
    with replacing(file) as temporary:
        picture.save(temporary, format="PNG")
