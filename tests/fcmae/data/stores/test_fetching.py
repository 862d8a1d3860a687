"""Against a server on loopback that hangs, refuses, and breaks off."""

import errno
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import pytest

from fcmae.data.stores import fetching
from fcmae.data.stores.access import Access
from fcmae.data.stores.ahead import AheadFile
from fcmae.data.stores.fetching import FetchError, check_alive, details, fetched, file_system, part
from fcmae.data.stores.remote_file import open_remote
from fcmae.errors import StoreError, UserError
from tests.fcmae.data.stores.server import Server, serving

DATA = bytes(range(256)) * 10


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(fetching, "WAITS", (0.01, 0.02))
    (tmp_path / "www").mkdir()
    for name in ("1.png", "2.png", "a b#.png"):
        (tmp_path / "www" / name).write_bytes(DATA)
    with serving(tmp_path / "www") as found:
        yield found


@pytest.fixture
def access(tmp_path: Path) -> Access:
    return Access(str(tmp_path / "cache"), "1MB", timeout=0.3)


def test_fetched_once_then_from_the_cache(server: Server, access: Access) -> None:
    for _ in range(3):
        assert fetched(f"{server.url}/1.png", access) == DATA
    assert server.count() == 1
    assert fetched(f"{server.url}/1.png", access, version="another") == DATA
    assert server.count() == 2
    assert fetched(f"{server.url}/a%20b%23.png", access) == DATA


def test_a_cached_file_of_another_length_is_fetched_again(server: Server, access: Access) -> None:
    access.cache.put(f"{server.url}/1.png\0", b"old")
    assert fetched(f"{server.url}/1.png", access, size=len(DATA)) == DATA


@pytest.mark.parametrize(
    ("fault", "message", "tries"),
    [
        ("hang", "no answer within 0.3 s (--data.timeout)", 3),
        ("break", "the connection broke off", 3),
        (503, "HTTP 503 Service Unavailable", 3),
        (429, "HTTP 429 Too Many Requests", 3),
        (404, "is not there", 1),
        (403, "access denied; are the credentials right, and still valid?", 1),
        (400, "HTTP 400 Bad Request", 1),
    ],
)
def test_faults_in_words(server: Server, access: Access, fault: str | int, message: str, tries: int) -> None:
    server.failing = {"1.png": fault}
    with pytest.raises(FetchError) as caught:
        fetched(f"{server.url}/1.png?signature=secret", access)
    assert str(caught.value) == message
    assert server.count() == tries
    server.failing = {}
    assert fetched(f"{server.url}/1.png", access) == DATA  # nothing of it was kept


def test_a_fault_that_passes_is_not_noticed(server: Server, access: Access) -> None:
    server.failing = {"1.png": 500}
    answer = server.requests

    class UpAgain(list):  # type: ignore[type-arg]
        def append(self, item: object) -> None:
            super().append(item)
            if len(self) == 2:
                server.failing = {}

    server.requests = UpAgain(answer)
    assert fetched(f"{server.url}/1.png", access) == DATA


def test_nobody_listens(access: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "WAITS", ())
    with pytest.raises(FetchError, match=r"^Connection refused$"):
        fetched("http://127.0.0.1:9/1.png", access)


def test_whole_store_or_one_file(server: Server, access: Access) -> None:
    """One file that fails is no reason to stop; a store of which nothing answers is."""
    error = FetchError(f"{server.url}/1.png?key=secret", "broken", False)
    others = [f"{server.url}/{n}.png" for n in (1, 2)]
    server.failing = {"1.png": "break"}
    check_alive(others, error, access)
    server.failing = {"": 404}
    check_alive(others, error, access)  # it answers
    for fault in ("hang", 503, 403):
        server.failing = {"": fault}
        started = time.monotonic()
        with pytest.raises(StoreError, match=r"/1\.png cannot be fetched: broken; neither can 2 others of its set$"):
            check_alive(others, error, access)
        assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://bucket/1.png", "s3:// needs a package that is not installed: pip install 'fcmae[s3]'"),
        ("gs://bucket/1.png", "gs:// needs a package that is not installed: pip install 'fcmae[gcs]'"),
        ("foo://bucket/1.png", "foo://bucket/1.png: Protocol not known: foo"),
    ],
)
def test_missing_packages(url: str, message: str, access: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    with pytest.raises(UserError) as caught:
        file_system(url, access)
    assert message in str(caught.value)


def test_missing_credentials(access: Access) -> None:
    class NoCredentialsError(Exception):
        """As botocore's."""

    error = fetching._as_fetch_error("s3://b/k", NoCredentialsError("Unable to locate credentials"), access)
    assert str(error) == "no credentials for s3:// were found"


def test_parts(server: Server, access: Access) -> None:
    size, version = details(f"{server.url}/1.png", access)
    assert (size, bool(version)) == (len(DATA), True)
    assert part(f"{server.url}/1.png", access, 10, 20, len(DATA)) == DATA[10:20]
    server.ranges = False
    with pytest.raises(FetchError, match="sends no parts of files"):
        part(f"{server.url}/1.png", access, 10, 20, len(DATA))


def test_large_files_come_in_parts(server: Server, access: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "BLOCK", 1000)
    assert fetched(f"{server.url}/1.png", access, size=len(DATA)) == DATA
    assert server.count() == 3


def test_remote_file_seeks(server: Server, access: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcmae.data.stores.remote_file.BLOCK", 100)
    with open_remote(f"{server.url}/1.png", access) as file:
        assert file.seek(-10, 2) == len(DATA) - 10
        assert file.read() == DATA[-10:]
        file.seek(250)
        assert file.read(300) == DATA[250:550]
        file.seek(0)
        assert file.read() == DATA
        count = server.count()
    with open_remote(f"{server.url}/1.png", access) as file:
        assert file.read() == DATA
    assert server.count() == count  # all blocks were kept


def _fetch_in_child(url: str, access: Access) -> None:
    assert fetched(url, access) == DATA


def test_after_a_fork(server: Server, access: Access) -> None:
    """fsspec's threads do not survive a fork, so a child makes its own file system."""
    url = f"{server.url}/1.png"
    fetched(f"{server.url}/2.png", access)
    child = get_context("fork").Process(target=_fetch_in_child, args=(url, access))
    child.start()
    child.join(30)
    assert child.exitcode == 0


def test_a_position_before_the_start_is_refused_as_by_the_system(server: Server, access: Access) -> None:
    """zipfile looks for the end of a file that may be too short for one."""
    for file in (open_remote(f"{server.url}/1.png", access), AheadFile(f"{server.url}/1.png", access)):
        with pytest.raises(OSError, match="before the start") as caught:
            file.seek(-len(DATA) - 1, 2)
        assert caught.value.errno == errno.EINVAL
        assert (file.seek(3), file.seek(2, 1), file.tell()) == (3, 5, 5)
