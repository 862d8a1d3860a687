"""A grid of images with a caption under each."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

CELL, GAP, LINE, COLUMNS = 128, 8, 14, 6  # pixels, and images in a row

FONT = "fonts/ttf/DejaVuSans.ttf"
"""Of matplotlib's: it has Latin, Greek, Cyrillic, Hebrew and Arabic letters, Pillow's own font English ones alone."""


def captioned_grid(pictures: Sequence[Image.Image], captions: Sequence[str]) -> Image.Image:
    """An RGB picture with ``COLUMNS`` images in a row; captions of several lines are cut to the width of an image."""
    font = ImageFont.truetype(Path(get_data_path()) / FONT, size=11)
    lines = [caption.split("\n") for caption in captions]
    text = LINE * max(map(len, lines)) + 4
    rows = -(-len(pictures) // COLUMNS)
    columns = min(COLUMNS, len(pictures))
    grid = Image.new("RGB", (columns * (CELL + GAP) + GAP, rows * (CELL + text + GAP) + GAP), "white")
    draw = ImageDraw.Draw(grid)
    for number, (picture, caption) in enumerate(zip(pictures, lines, strict=True)):
        left = GAP + number % COLUMNS * (CELL + GAP)
        top = GAP + number // COLUMNS * (CELL + text + GAP)
        larger = picture.resize(_fitted(picture.size), Image.Resampling.NEAREST if max(picture.size) < CELL else None)
        grid.paste(larger, (left + (CELL - larger.width) // 2, top + (CELL - larger.height) // 2))
        for place, line in enumerate(caption):
            draw.text((left, top + CELL + 2 + place * LINE), _cut(line, draw, font), fill="black", font=font)
    return grid


def _fitted(size: tuple[int, int]) -> tuple[int, int]:
    scale = CELL / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _cut(line: str, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont) -> str:
    line = line.encode("utf-8", errors="replace").decode()  # names may be any bytes
    if draw.textlength(line, font) <= CELL:
        return line
    while line and draw.textlength(line + "…", font) > CELL:
        line = line[:-1]
    return line + "…"
