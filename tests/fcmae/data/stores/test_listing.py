import uuid
from pathlib import Path

import fsspec
import pytest

from fcmae.data.stores import fetching
from fcmae.data.stores.access import Access
from fcmae.data.stores.listing import listed
from fcmae.data.stores.urls import base, has_magic, is_url, last_part, local_path, shown
from fcmae.errors import UserError
from tests.fcmae.data.stores.server import serving

NAMES = ["2.png", "10.png", "dog/1.jpg", "dog/.hidden.jpg", "notes.txt", ".trash/3.png"]


@pytest.fixture
def access(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Access:
    monkeypatch.setattr(fetching, "WAITS", ())
    return Access(str(tmp_path / "cache"), "1MB", timeout=5)


def bucket() -> str:
    """A bucket in memory."""
    name = f"memory://{uuid.uuid4().hex}"
    for one in NAMES:
        with fsspec.open(f"{name}/{one}", "wb") as file:
            file.write(one.encode())
    return name


def test_folder_in_natural_order(access: Access) -> None:
    url = bucket()
    found = listed(url, access)
    assert [one.name for one in found] == ["2.png", "10.png", "dog/1.jpg", "notes.txt"]
    assert [one.size for one in found] == [5, 6, 9, 9]
    assert [fetching.fetched(one.url, access) for one in found] == [one.name.encode() for one in found]


@pytest.mark.parametrize(("pattern", "names"), [("*.png", ["2.png", "10.png"]), ("d?g/*.jpg", ["dog/1.jpg"])])
def test_patterns(access: Access, pattern: str, names: list[str]) -> None:
    assert [one.name for one in listed(f"{bucket()}/{pattern}", access)] == names


def test_pages_of_a_web_server(access: Access, tmp_path: Path) -> None:
    for one in NAMES:
        (tmp_path / "www" / one).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "www" / one).write_text(one)
    with serving(tmp_path / "www") as server:
        assert [one.name for one in listed(server.url, access)] == ["2.png", "10.png", "dog/1.jpg", "notes.txt"]
        assert [one.name for one in listed(f"{server.url}/dog/", access)] == ["1.jpg"]
        assert [one.name for one in listed(f"{server.url}/*.png", access)] == ["2.png", "10.png"]
        assert [one.name for one in listed(f"{server.url}/2.png", access)] == ["2.png"]
        for fault, message in ((403, "cannot be listed: access denied"), (404, "is not there"), (500, "HTTP 500")):
            server.failing = {"": fault}
            with pytest.raises(UserError, match=message):
                listed(f"{server.url}/other{fault}", access)


def test_nothing_there(access: Access) -> None:
    with pytest.raises(UserError, match=r"--data.path memory://nowhere/x is not there"):
        listed("memory://nowhere/x", access)


def test_urls() -> None:
    assert [is_url(text) for text in ("s3://b/x", "HTTP://h/x", "hf:owner/name", "hf://datasets/o/n")] == [True] * 4
    assert [is_url(text) for text in ("a/b", "C:\\x", "C:/x", "file:///x", "a:b", "//x")] == [False] * 6
    assert local_path("file:///a%20b") == "/a b"
    assert local_path("a%20b") == "a%20b"
    assert shown("https://me:secret@host:8/a/b.png?X-Signature=1#f") == "https://host:8/a/b.png"
    assert shown("s3://key:secret@bucket/a?b#c@d") == "s3://bucket/a?b#c@d"
    assert last_part("https://host/a/b.png?x=/c.jpg") == "b.png"
    assert base("s3://b/list/all.txt") == "s3://b/list"
    assert not has_magic("https://host/a.png?x=1")
    assert has_magic("s3://b/?.png")
