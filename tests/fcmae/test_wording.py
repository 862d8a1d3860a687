import pytest

from fcmae.wording import counted, none_readable, none_there


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (counted(1, "step"), "1 step"),
        (counted(2000, "step"), "2,000 steps"),
        (counted(0, "class", "classes"), "0 classes"),
        (none_readable(1), "the image cannot be read"),
        (none_readable(1, "a.png: cut off"), "the image cannot be read: a.png: cut off"),
        (none_readable(1, "why", " of x", " with y"), "the only image of x cannot be read with y: why"),
        (
            none_readable(2000, "why", " of x", " with y"),
            "none of the 2,000 images of x can be read with y; the first: why",
        ),
        (none_readable(2), "none of the 2 images can be read"),
        (none_there(1, "a.png", " in the table"), "the only image in the table is not there: a.png"),
        (none_there(2, "a.png", " in the table"), "none of the 2 images in the table is there; the first: a.png"),
    ],
)
def test_a_line_fits_its_number(said: str, expected: str) -> None:
    assert said == expected
