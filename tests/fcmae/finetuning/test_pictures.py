"""Captions under pictures."""

import numpy as np
import pytest
from PIL import Image

from fcmae.finetuning.pictures import CELL, captioned_grid


def caption(text: str) -> np.ndarray:
    """The pixels below a white picture."""
    grid = captioned_grid([Image.new("RGB", (8, 8), "white")], [text])
    return np.asarray(grid.convert("L"))[8 + CELL :]


@pytest.mark.parametrize("letters", ["Üéñß", "Жук", "άλφ", "šč"])
def test_letters_of_other_languages_are_no_boxes(letters: str) -> None:
    """What a font lacks it draws as one box, whatever the letter."""
    missing = caption("\ue123")
    drawn = [caption(letter) for letter in letters]
    assert (missing < 128).any()
    for letter in drawn:
        assert (letter < 128).any()
        assert not np.array_equal(letter, missing)
    assert len({letter.tobytes() for letter in drawn}) == len(letters)


def test_a_long_caption_is_cut_to_the_width_of_its_picture() -> None:
    wide = captioned_grid([Image.new("RGB", (8, 8), "white")] * 2, ["W" * 60, ""])
    below = np.asarray(wide.convert("L"))[8 + CELL :]
    assert (below[:, : 8 + CELL] < 128).any()
    assert not (below[:, 8 + CELL + 8 :] < 128).any()
