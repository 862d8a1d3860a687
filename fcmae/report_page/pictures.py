"""Embeds an evenly spaced selection of pictures in the page, resized to screen size, as JPEG data: URIs."""

import base64
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from fcmae.progress import tracked

logger = logging.getLogger(__name__)

MAX_PICTURES = 12
MAX_SIDE = 1280  # pixels
JPEG_QUALITY = 85


@dataclass(frozen=True)
class EmbeddedPicture:
    """A reconstruction, ready for ``<img src>``."""

    step: int
    uri: str
    width: int
    height: int


def embed_pictures(files: Sequence[Path], limit: int = MAX_PICTURES) -> list[EmbeddedPicture]:
    """At most ``limit`` of the pictures step-<step>.png, including the first and the last.

    The log says how many were left out and which cannot be read.
    """
    chosen = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, min(limit, len(files))).round().astype(int))]
    if len(chosen) < len(files):
        logger.info("%d of %d reconstructions are shown, evenly spaced", len(chosen), len(files))
    embedded = map(_embed, tracked(chosen, len(chosen), "pictures"))
    return [picture for picture in embedded if picture is not None]


def _embed(file: Path) -> EmbeddedPicture | None:
    try:
        step = int(file.stem.removeprefix("step-"))
        with Image.open(file) as opened:
            picture = opened.convert("RGB")
    # Pillow raises all of these for damaged files, including one that a run is still writing
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        logger.warning("%s cannot be read and is skipped: %s", file, error)
        return None
    picture.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    jpeg = io.BytesIO()
    picture.save(jpeg, "JPEG", quality=JPEG_QUALITY, optimize=True)
    uri = "data:image/jpeg;base64," + base64.b64encode(jpeg.getvalue()).decode("ascii")
    return EmbeddedPicture(step, uri, picture.width, picture.height)
