import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fcmae.data.stores.access import Access, bytes_of
from fcmae.data.stores.cache import DIGEST, TEMPORARY, TOTAL, Cache
from fcmae.errors import UserError


def entries(cache: Cache) -> list[Path]:
    return [one for folder in cache.folder.iterdir() if folder.is_dir() for one in folder.iterdir()]


def held(cache: Cache) -> int:
    return sum(one.stat().st_size for one in entries(cache))


def test_what_is_put_is_got_and_another_key_is_not(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c", 10_000)
    cache.put("a", b"1" * 100)
    cache.put("empty", b"")
    assert cache.get("a") == b"1" * 100
    assert cache.get("empty") == b""
    assert cache.get("b") is None


@pytest.mark.parametrize("harm", ["cut", "changed", "emptied", "another"])
def test_a_damaged_entry_is_a_missing_one(tmp_path: Path, harm: str) -> None:
    cache = Cache(tmp_path, 10_000)
    cache.put("a", bytes(range(100)))
    (file,) = entries(cache)
    stored = file.read_bytes()
    if harm == "another":  # a whole entry under another key's name
        other = Cache(tmp_path / "other", 10_000)
        other.put("b", bytes(100))
        stored = entries(other)[0].read_bytes()
    file.write_bytes({"cut": stored[:50], "changed": b"x" + stored[1:], "emptied": b"", "another": stored}[harm])
    assert cache.get("a") is None
    cache.put("a", bytes(range(100)))
    assert cache.get("a") == bytes(range(100))


def test_the_least_recently_used_go_first_and_the_limit_holds(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1000)
    for n in range(8):
        cache.put(str(n), b"x" * (100 - DIGEST))
        os.utime(cache._file(str(n)), (1000 + n, 1000 + n))
    assert cache.get("0") is not None  # used now
    for n in range(8, 11):
        cache.put(str(n), b"x" * (100 - DIGEST))
        assert held(cache) <= 1000
    assert cache.get("0") is not None
    assert cache.get("1") is None
    assert cache.get("10") is not None


def test_an_entry_too_large_for_it_changes_nothing(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1000)
    cache.put("small", b"x")
    cache.put("large", b"x" * 2000)
    assert cache.get("large") is None
    assert cache.get("small") == b"x"


@pytest.mark.parametrize("text", ["", "12", "none", "-5"])
def test_a_damaged_count_is_counted_anew(tmp_path: Path, text: str) -> None:
    cache = Cache(tmp_path, 1000)
    for n in range(8):
        cache.put(str(n), b"x" * 200)
        (tmp_path / TOTAL).write_text(text if n < 6 else "")
    cache.put("last", b"x" * 200)
    assert cache.get("last") is not None
    assert held(cache) <= 1000


def test_several_threads_keep_the_limit(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 2000)
    over: list[int] = []

    def work(which: int) -> None:
        for n in range(8):
            cache.put(f"{which}/{n}", b"x" * 300)
            over.append(held_now(cache))

    def held_now(cache: Cache) -> int:
        total = 0
        for one in entries(cache):
            with contextlib.suppress(FileNotFoundError):
                total += one.stat().st_size
        return total

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(over) <= 2000


def test_other_files_in_its_folder_stay(tmp_path: Path) -> None:
    own = [tmp_path / "de" / "a.jpg", tmp_path / "uk" / ("0" * 30), tmp_path / "ab.txt", tmp_path / "ff" / "notes"]
    for one in own:
        one.parent.mkdir(exist_ok=True)
        one.write_bytes(b"x" * 2000)
        os.utime(one, (1000, 1000))
    (tmp_path / "aa").write_bytes(b"a file where a folder could be")
    cache = Cache(tmp_path, 1000)
    for n in range(20):
        cache.put(str(n), b"x" * 200)
    assert all(one.stat().st_size == 2000 for one in own)
    assert sum(cache.get(str(n)) is not None for n in range(20)) >= 3


def test_what_another_process_writes_stays_and_counts(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1000)
    for n in range(8):
        cache.put(str(n), b"x" * 84)
    being_written, abandoned = (tmp_path / "ab" / f"{TEMPORARY}{n}" for n in range(2))
    being_written.parent.mkdir(exist_ok=True)
    being_written.write_bytes(b"x" * 800)
    os.utime(being_written, (time.time() - 10, time.time() - 10))  # longer ago than any entry
    abandoned.write_bytes(b"x" * 100)
    os.utime(abandoned, (1000, 1000))
    (tmp_path / TOTAL).unlink()
    cache.put("new", b"x" * 50)
    assert cache.get("new") is not None
    cache.put("no room", b"x" * 300)
    assert cache.get("no room") is None
    assert being_written.exists()
    assert not abandoned.exists()
    assert held(cache) <= 1000


def test_killed_while_writing(tmp_path: Path) -> None:
    """What a killed process leaves is whole or not there, and the cache goes on working."""
    code = f"""
import itertools, pathlib
from fcmae.data.stores.cache import Cache
cache = Cache(pathlib.Path({str(tmp_path)!r}), 2_000_000)
print(flush=True)
for n in itertools.count():
    cache.put(str(n % 50), bytes([n % 50]) * 100_000)
"""
    for delay in (0.02, 0.05, 0.11):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        cache = Cache(tmp_path, 2_000_000)
        found = [(n, data) for n in range(50) if (data := cache.get(str(n))) is not None]
        assert found
        assert all(data == bytes([n]) * 100_000 for n, data in found)
        cache.put("after", b"x")
        assert cache.get("after") == b"x"
        assert held(cache) <= 2_000_000


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    cache = Cache(tmp_path / "file" / "c", 1000)
    with pytest.raises(UserError, match=r"--data.cache_dir .*file/c cannot be written to: Not a directory"):
        cache.check()
    cache.put("a", b"1")
    cache.put("b", b"1")
    assert cache.get("a") is None
    assert [record.message for record in caplog.records] == [
        f"--data.cache_dir {cache.folder}: no more is kept in it: Not a directory"
    ]


def test_without_a_cache_nothing_is_written(tmp_path: Path) -> None:
    cache = Access(str(tmp_path / "c"), "0").cache
    cache.check()
    cache.put("a", b"1")
    assert cache.get("a") is None
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("50GB", 50 * 10**9), ("1.5 MiB", 1572864), ("200mb", 2 * 10**8), ("7", 7), ("2T", 2 * 10**12)],
)
def test_sizes(text: str, size: int) -> None:
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "big", "50XB", "-1GB", "GB"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="cache_size must be a size such as 50GB, 500MB or 0"):
        bytes_of(text)
