"""Names of archives: by ending, and several by a range of numbers."""

import os
import re
from collections.abc import Sequence

from fcmae.data.endings import EXTENSIONS, ending_of
from fcmae.data.stores.urls import shown

ENDINGS = (".tar", ".zip")
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz", ".tar.zst", ".tzst", ".tar.lz4")
BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
MOST = 10**6
"""Names that a range may stand for."""


def is_archive(path: str) -> bool:
    """Whether a path or URL names an archive that can be read by position, or a tar that cannot."""
    name = shown(path)
    return name.lower().endswith((*ENDINGS, *COMPRESSED)) and ending_of(name) not in EXTENSIONS


def is_compressed_tar(path: str) -> bool:
    """Whether a path or URL names a tar that must be unpacked from its start to be read."""
    return shown(path).lower().endswith(COMPRESSED)


def expanded(sources: Sequence[str]) -> list[str]:
    """``shards-{008..011}.tar`` stands for four names, with leading zeros as in the first number.

    A file whose name is such a text stands for itself.
    """
    return [name for source in sources for name in ([source] if os.path.lexists(source) else _expanded(source))]


def _expanded(source: str) -> list[str]:
    found = BRACES.search(source)
    if found is None:
        return [source]
    first, last = int(found[1]), int(found[2])
    if not 0 <= last - first < MOST:
        return [source]
    rest = _expanded(source[found.end() :])
    start, width = source[: found.start()], len(found[1])
    return [f"{start}{number:0{width}}{end}" for number in range(first, last + 1) for end in rest]
