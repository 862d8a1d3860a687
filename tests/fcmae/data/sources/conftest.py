"""Images by URL: a server of the folder of images, and access that gives up at once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fcmae.data.stores import fetching
from fcmae.data.stores.access import Access
from tests.fcmae.data.stores.server import Server, serving


@pytest.fixture
def access(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Access:
    monkeypatch.setattr(fetching, "WAITS", (0.01,))
    return Access(str(tmp_path / "cache"), "20MB", timeout=0.5)


@pytest.fixture
def server(image_folder: Path) -> Iterator[Server]:
    with serving(image_folder) as found:
        yield found
