"""Fetches bytes by URL through fsspec: every call has a time limit, failed ones are repeated, errors are one phrase."""

import errno
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import Any, TypeVar

from fcmae.data.stores.access import Access
from fcmae.data.stores.urls import WEB, is_url, protocol, shown
from fcmae.errors import StoreError, UserError
from fcmae.wording import counted

T = TypeVar("T")

WAITS = (1.0, 2.0, 4.0)  # seconds between one try and the next
BLOCK = 8 * 2**20  # bytes of one request; larger files come in several where their size is known
ASKED = 3  # other files that tell whether a whole store is gone
PATIENCE = 20  # time limits that a request of unknown length may take in all
PASSING = (408, 425, 429)  # statuses of HTTP below 500 that may be gone the next time
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "http": "http", "https": "http"}


class FetchError(OSError):
    """Bytes that could not be fetched."""

    def __init__(self, url: str, why: str, is_absent: bool) -> None:
        super().__init__(errno.ENOENT if is_absent else errno.EIO, why)
        self.url, self.why = url, why
        self.is_absent = is_absent
        """The store answers: it has no such file."""

    def __str__(self) -> str:
        return self.why

    def __reduce__(self) -> tuple[Any, ...]:
        return FetchError, (self.url, self.why, self.is_absent)


def file_system(url: str, access: Access) -> tuple[Any, str]:
    """fsspec's file system for a URL, and the path in it. fsspec makes one in each process, after a fork.

    Raises:
        UserError: the protocol is unknown, needs a package that is not installed, or its host cannot be reached.
    """
    try:
        return _file_system(url, access)
    except UserError:
        raise
    except Exception as error:  # some kinds of store connect at once
        raise UserError(f"{shown(url)} cannot be reached: {_as_fetch_error(url, error, access)}") from None


def _file_system(url: str, access: Access) -> tuple[Any, str]:
    import fsspec

    options: dict[str, Any] = {}
    try:
        if protocol(url) in WEB:
            from aiohttp import ClientTimeout

            limit = ClientTimeout(total=None, sock_connect=access.timeout, sock_read=access.timeout)
            options = {"client_kwargs": {"timeout": limit}}
        elif protocol(url) == "ftp":
            options = {"timeout": access.timeout}
        return fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        extra = EXTRAS.get(protocol(url))
        install = f"pip install 'fcmae[{extra}]'" if extra else " ".join(str(error).split())
        raise UserError(f"{shown(url)}: {protocol(url)}:// needs a package that is not installed: {install}") from None
    except (ValueError, TypeError) as error:  # an unknown protocol, no bucket in it, or a kind that takes no URL alone
        raise UserError(f"{shown(url)}: {' '.join(str(error).split())}") from None


def repeated(url: str, access: Access, call: Callable[[Any, str], T], limit: float | None = None) -> T:
    """``call(file system, path)``, tried up to four times with growing waits in between.

    Args:
        url: what is fetched.
        access: its ``timeout`` is that of a try.
        call: raises to fail.
        limit: another time limit in seconds.

    Raises:
        FetchError: it failed for good, or each time.
        UserError: as :func:`file_system`.
    """
    for wait in (*WAITS, None):
        try:
            return _tried(url, access, call, limit or access.timeout)
        except FetchError as error:
            if wait is None or error.is_absent or isinstance(error, _RefusedError):
                raise
            time.sleep(wait)
    raise AssertionError("unreachable: the last try returns or raises")


class _RefusedError(FetchError):
    """Another try would get the same answer: no access, no such bucket."""


def _tried(url: str, access: Access, call: Callable[[Any, str], T], limit: float) -> T:
    try:
        fs, path = _file_system(url, access)
        return _in_time(lambda: call(fs, path), limit)
    except (FetchError, UserError):
        raise
    except Exception as error:  # of fsspec, aiohttp, botocore, huggingface_hub, …
        raise _as_fetch_error(url, error, access) from None


def _in_time(call: Callable[[], T], limit: float) -> T:
    """The result of a call, made in another thread; TimeoutError if it takes longer. That thread is left to itself."""
    done: list[tuple[bool, Any]] = []

    def work() -> None:
        try:
            done.append((True, call()))
        except BaseException as error:  # raised in the thread that waits
            done.append((False, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(limit)
    if not done:
        raise TimeoutError
    succeeded, result = done[0]
    if not succeeded:
        raise result
    return result


def _as_fetch_error(url: str, error: Exception, access: Access) -> FetchError:
    while isinstance(error, FileNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # fsspec says so of whatever went wrong while it asked for details
    name = type(error).__name__
    status = getattr(error, "status", None) or getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, FileNotFoundError | IsADirectoryError) or status in (404, 410):
        return FetchError(url, "is not there", is_absent=True)
    if "Timeout" in name:
        return FetchError(url, f"no answer within {access.timeout:g} s (--data.timeout)", is_absent=False)
    if name in ("NoCredentialsError", "DefaultCredentialsError", "PartialCredentialsError"):
        return _RefusedError(url, f"no credentials for {protocol(url)}:// were found", is_absent=False)
    if isinstance(error, PermissionError) or status in (401, 403):
        return _RefusedError(url, "access denied; are the credentials right, and still valid?", is_absent=False)
    if isinstance(status, int) and status >= 400:
        kind = _RefusedError if status < 500 and status not in PASSING else FetchError
        return kind(url, f"HTTP {status} {getattr(error, 'message', '')}".strip(), is_absent=False)
    if isinstance(error, NotImplementedError):  # fsspec's, where a kind of store lacks an operation
        return _RefusedError(url, _one_line(f"the store cannot do this {error}", url), is_absent=False)
    inner = getattr(error, "os_error", error)
    number = getattr(inner, "errno", None) or 0
    if name in ("ClientPayloadError", "ServerDisconnectedError", "IncompleteRead"):
        return FetchError(url, "the connection broke off", is_absent=False)
    why = os.strerror(number) if number > 0 else getattr(inner, "strerror", None) or _one_line(str(inner), url)
    return FetchError(url, why or name, is_absent=False)


def _one_line(text: str, url: str) -> str:
    return " ".join(text.replace(url, shown(url)).split())


def fetched(url: str, access: Access, version: str = "", size: int | None = None) -> bytes:
    """The whole file, from the cache if it is there.

    Args:
        url: of the file.
        access: time limits and cache.
        version: what changes when the file does, as far as known; a part of the cache's key.
        size: bytes, if known; a file of another length is fetched again.

    Raises:
        FetchError: after several tries.
    """
    key = _key(url, version)
    data = access.cache.get(key)
    if data is None or (size is not None and len(data) != size):
        data = downloaded(url, access, size)
        access.cache.put(key, data)
    return data


def is_fetched(url: str, access: Access, version: str = "") -> bool:
    """Whether the whole file is in the cache, where :func:`fetched` finds it."""
    return access.cache.has(_key(url, version))


def _key(url: str, version: str) -> str:
    return f"{url}\0{version}"


def downloaded(url: str, access: Access, size: int | None = None) -> bytes:
    """The whole file, not from the cache; raises as :func:`fetched`."""
    if size is not None and size > BLOCK:
        return part(url, access, 0, size, size)

    def call(fs: Any, path: str) -> bytes:
        data = fs.cat_file(path)
        if size is not None and len(data) != size:
            raise OSError(f"the connection ended after {len(data):,} of {size:,} bytes")
        return data

    return repeated(url, access, call, access.timeout * (PATIENCE if size is None else 1))


def part(url: str, access: Access, start: int, end: int, size: int) -> bytes:
    """Bytes ``start`` to ``end`` of a file of ``size`` bytes, not from the cache.

    Raises:
        FetchError: after several tries, or the server sends whole files only.
    """
    if end - start > BLOCK:
        return b"".join(part(url, access, n, min(n + BLOCK, end), size) for n in range(start, end, BLOCK))

    def call(fs: Any, path: str) -> bytes:
        data = fs.cat_file(path, start=start, end=end)
        if len(data) == size > end - start:
            why = "the server sends no parts of files (range requests), which large files and archives need"
            raise _RefusedError(url, why, is_absent=False)
        if len(data) != end - start:
            raise OSError(f"the connection ended after {len(data):,} of {end - start:,} bytes")
        return data

    return repeated(url, access, call)


def kept_part(url: str, access: Access, start: int, end: int, size: int, version: str, *, keeps: bool = True) -> bytes:
    """:func:`part` from the cache if it is there; raises as it does. With ``keeps`` False it is not put there."""
    data = access.cache.get(_part_key(url, start, end, size, version))
    if data is None:
        data = part(url, access, start, end, size)
        if keeps:
            keep_part(url, access, start, data, size, version)
    return data


def keep_part(url: str, access: Access, start: int, data: bytes, size: int, version: str) -> None:
    """Put bytes from ``start`` on into the cache, where :func:`kept_part` finds them."""
    access.cache.put(_part_key(url, start, start + len(data), size, version), data)


def _part_key(url: str, start: int, end: int, size: int, version: str) -> str:
    return f"{url}\0{version}\0{size}\0{start}-{end}"


def sends_parts(url: str, access: Access, length: int, size: int, version: str, version_of_whole: str) -> bool:
    """Whether the store sends parts of a file; what it sends to tell goes into the cache.

    Args:
        url: of the file.
        access: time limits and cache.
        length: bytes that are asked for, fewer than ``size``.
        size: of the file.
        version: of the file, for its parts (:func:`kept_part`).
        version_of_whole: the same for all of it (:func:`fetched`).

    Raises:
        FetchError: after several tries.
    """
    if access.cache.has(_part_key(url, 0, length, size, version)):
        return True

    def call(fs: Any, path: str) -> bytes:
        data: bytes = fs.cat_file(path, start=0, end=length)
        if len(data) not in (length, size):
            raise OSError(f"the connection ended after {len(data):,} of {length:,} bytes")
        return data

    # a server that knows no parts sends all of it, which takes its time
    data = repeated(url, access, call, access.timeout * PATIENCE)
    if len(data) == length:
        keep_part(url, access, 0, data, size, version)
        return True
    access.cache.put(_key(url, version_of_whole), data)
    return False


def version_number(version: str) -> int:
    """A number that stands for a version in the stamp of a file behind a URL."""
    return int.from_bytes(blake2b(version.encode(), digest_size=6).digest(), "big")


def details(url: str, access: Access) -> tuple[int | None, str]:
    """Size in bytes and version of a file, as far as the store tells them; raises as :func:`fetched`."""
    return described(repeated(url, access, lambda fs, path: fs.info(path)))


VERSIONS = (
    *("ETag", "etag", "md5Hash", "blob_id", "checksum", "generation", "Content-MD5", "Digest"),
    *("LastModified", "last_modified", "Last-Modified", "mtime"),
)
"""What changes with a file, as stores call it in fsspec; the surest first."""


def described(info: dict[str, Any]) -> tuple[int | None, str]:
    """(size, version) of what fsspec says of a file."""
    version = next((str(info[name]) for name in VERSIONS if info.get(name)), "")
    return info.get("size"), version


def some_of(paths: Sequence[str]) -> tuple[str, ...]:
    """A few URLs among these, for :func:`check_alive`."""
    chosen = (paths[n * len(paths) // ASKED] for n in range(ASKED if paths else 0))
    return tuple(dict.fromkeys(path for path in chosen if is_url(path)))


def check_alive(urls: Iterable[str], error: FetchError, access: Access) -> None:
    """After an error: StoreError if none of these files can be reached either.

    One image that fails is skipped like a damaged one. A store that is gone stops the run, which is resumed later.
    """
    answers: list[bool] = []
    asked = list(dict.fromkeys(urls))

    def ask(url: str) -> None:
        try:
            _tried(url, access, lambda fs, path: fs.cat_file(path, start=0, end=1), access.timeout)
        except FetchError as failed:
            answers.append(failed.is_absent)
        except UserError:  # another kind of store, whose package is not installed: no answer
            answers.append(False)
        else:
            answers.append(True)

    threads = [threading.Thread(target=ask, args=(url,), daemon=True) for url in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(access.timeout)
    if not any(answers):
        others = f"; neither can {counted(len(asked), 'other')} of its set" if len(asked) > 1 else ""
        raise StoreError(f"{shown(error.url)} cannot be fetched: {error.why}{others}")
