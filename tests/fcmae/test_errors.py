"""What messages quote of other libraries."""

import pytest

from fcmae.errors import brief

FIRST = (
    "The hub cannot be reached by this machine, and the files that were asked for are not in the local cache either."
)
LONG = f"{FIRST} " + "Check the connection of this machine and " * 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("two\n  lines", "two lines"),
        ("a" * 200, "a" * 200),
        (ValueError("bits must be 1 to 8"), "bits must be 1 to 8"),
        (LONG, FIRST),
        ("word " * 50, "word " * 39 + "word …"),
        ("Failed. " + "word " * 50, "Failed. " + "word " * 37 + "word …"),
        ("KeyError: " + "y" * 300, "KeyError: " + "y" * 190 + "…"),
    ],
)
def test_a_long_text_ends_with_a_sentence_or_a_word(text: object, expected: str) -> None:
    assert brief(text) == expected
    assert len(brief(text)) <= 202
