"""URLs among the values of ``--data.path``: which they are, and how messages and names show them."""

import re
from urllib.parse import unquote, urlsplit

URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.I)
HUB = re.compile(r"hf:(?!//)", re.I)
WEB = ("http", "https")


def is_url(text: str) -> bool:
    """Whether a source is a URL, ``hf:owner/name`` included; ``file://`` is a path, see :func:`local_path`."""
    return bool(HUB.match(text) or (URL.match(text) and not text.lower().startswith("file://")))


def local_path(text: str) -> str:
    """A ``file://`` URL as a path; everything else as it is."""
    return unquote(text[len("file://") :]) if text.lower().startswith("file://") else text


def protocol(url: str) -> str:
    """``s3``, ``https``, …"""
    return url.partition(":")[0].lower()


def shown(url: str) -> str:
    """A URL for messages and names: without user, password, query and fragment, which may hold secrets."""
    if protocol(url) not in WEB:
        return re.sub(r"(://)[^/@]*:[^/@]*@", r"\1", url)
    try:
        parts = urlsplit(url)
    except ValueError:  # no URL, as http://[x/
        return re.sub(r"(://)[^/]*@", r"\1", url).partition("?")[0].partition("#")[0]
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def why_invalid(url: str) -> str | None:
    """Why a text that begins like a URL is none; None: nothing is wrong with its form."""
    if protocol(url) not in WEB:
        return None
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # a port out of range is a ValueError
        return None if host else "it names no host"
    except ValueError as error:
        return str(error)


def base(url: str) -> str:
    """The folder of a URL's file, without a slash at its end."""
    return shown(url).rpartition("/")[0] if protocol(url) in WEB else url.rpartition("/")[0]


def last_part(url: str) -> str:
    """The file's name."""
    return shown(url).rstrip("/").rpartition("/")[2]


def has_magic(url: str) -> bool:
    """Whether it is a pattern; a question mark begins the query of a web address."""
    return any(sign in url for sign in ("*[" if protocol(url) in WEB else "*?["))
