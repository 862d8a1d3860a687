"""A file that cannot be read is named and counted once, whatever the reasons given."""

import logging

import pytest

from fcmae.data.unreadable import Unreadable, UnreadableFiles


def test_a_file_counts_once(caplog: pytest.LogCaptureFixture) -> None:
    files = UnreadableFiles()
    for reason in ("<_io.BytesIO object at 0x7f01>", "<_io.BytesIO object at 0x7f02>"):
        files.note([Unreadable("a.jpg", f"a.jpg: cannot identify {reason}"), Unreadable("b.jpg", "b.jpg: empty")])
        with caplog.at_level(logging.WARNING):
            files.share(num_processes=1)
    assert files.seen == {"a.jpg", "b.jpg"}
    assert caplog.messages == [
        "skipped, cannot be read: a.jpg: cannot identify <_io.BytesIO object at 0x7f01>",
        "skipped, cannot be read: b.jpg: empty",
    ]
