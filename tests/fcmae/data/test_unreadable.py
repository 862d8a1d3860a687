"""A file that cannot be read is named and counted once, whatever the reasons given."""

import logging
from pathlib import Path

import pytest

from fcmae.cli.quiet import PlainFormatter
from fcmae.data.images import UnreadableImageError, read_image
from fcmae.data.sources.files import collect
from fcmae.data.unreadable import Unreadable, UnreadableFiles
from fcmae.errors import in_a_line
from tests.fcmae.data.sources.packed import make_tar


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


HOSTILE = "a\n2026 fcmae: all is well\x1b[31m\u2028\u202e\x85.png"


def test_a_name_is_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of a file, of a member, in what the search has found and in the formatter; ordinary names stay as they are."""
    shown = r"a\n2026 fcmae: all is well\x1b[31m\u2028\u202e\x85.png"
    assert in_a_line(HOSTILE) == shown
    for name in ("é ü\u202f猫👩\u200d🚀\t(1).png", "back\\slash", "\udcff.png"):
        assert in_a_line(name) == name
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / HOSTILE).write_bytes(b"\x89PNG\r\n\x1a\nno image")
    (tmp_path / "set" / f"{HOSTILE}.gif").symlink_to("nowhere")
    files = UnreadableFiles()
    with caplog.at_level(logging.INFO):
        paths = [collect(tmp_path / "set")[0], collect(make_tar(tmp_path / "a.tar", tmp_path / "set", [HOSTILE]))[0]]
        for path in paths:
            with pytest.raises(UnreadableImageError) as caught:
                read_image(path)
            files.note([Unreadable(str(path), str(caught.value)), Unreadable("raw", HOSTILE)])
        files.share(num_processes=1)
    assert sum(shown in message for message in caplog.messages) == 4
    for message in caplog.messages:
        assert len(message.splitlines()) == 1
        assert "\x1b" not in message
    record = logging.LogRecord("fcmae", logging.INFO, "", 0, "two\nlines \x1b[31m", None, None)
    assert PlainFormatter("%(message)s").format(record) == "two\nlines \\x1b[31m"
