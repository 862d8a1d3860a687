"""What messages quote of other libraries."""

import pytest

from fcmae.errors import brief

LONG = "The hub cannot be reached, and the file is not in the cache. " + "Check the connection of this machine and " * 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("two\n  lines", "two lines"),
        ("a" * 200, "a" * 200),
        (ValueError("bits must be 1 to 8"), "bits must be 1 to 8"),
        (LONG, "The hub cannot be reached, and the file is not in the cache."),
        ("word " * 50, "word " * 39 + "word …"),
    ],
)
def test_a_long_text_ends_with_a_sentence_or_a_word(text: object, expected: str) -> None:
    assert brief(text) == expected
    assert len(brief(text)) <= 202
