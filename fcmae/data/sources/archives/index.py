"""The index of archives: where each image is, in order. One process makes it, once; all processes map the file."""

import hashlib
import json
import logging
import os
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fcmae.data.endings import EXTENSIONS, ending_of
from fcmae.data.sources.archives.listing import CLASS, members
from fcmae.data.sources.archives.member import Found, Member
from fcmae.data.sources.entries import NO_ENDING, Survey, natural_key
from fcmae.data.sources.first_bytes import LENGTH, OTHERS, ending_for
from fcmae.data.sources.image_set import Stamp, fingerprint
from fcmae.data.stores.access import Access
from fcmae.data.stores.fetching import FetchError, details, some_of, version_number
from fcmae.data.stores.urls import is_url, shown
from fcmae.data.zarr_folders import zarr_of
from fcmae.files import make_folder, naming, replacing
from fcmae.progress import tracked

logger = logging.getLogger(__name__)

VERSION = 2
LONGEST_LABEL = 1024  # bytes
BESIDE = ".fcmae"
"""Folder of indexes beside run folders."""
AT_ONCE = 8  # archives behind URLs that are asked for at the same time
COLUMNS = {
    "archive": np.int32, "offset": np.int64, "stored": np.int64, "size": np.int64, "method": np.uint8, "crc": np.int64,
    "name_end": np.int64, "names": np.uint8, "label": np.int32,
}  # fmt: skip

NUMBERS = ("offset", "stored", "size", "method", "crc")


@dataclass(frozen=True)
class Index:
    """Images in archives. Arrays are maps of the file where there is one; pickling it then keeps its path alone."""

    archives: tuple[str, ...]
    stamps: tuple[Stamp, ...]
    """Of the archives."""
    columns: dict[str, np.ndarray]
    """By :data:`COLUMNS`: [N] each; ``names`` the bytes of all names, ``name_end`` where each ends; ``label`` a place
    in ``classes``, or -1."""
    classes: tuple[str, ...]
    """Contents of the ``.cls`` files beside images."""
    fingerprint: tuple[str, str, str]
    """Of the images (:func:`fcmae.data.sources.image_set.fingerprint`)."""
    survey: Survey
    file: Path | None = None
    access: Access = field(default_factory=Access)
    """How those behind URLs are fetched."""

    def __len__(self) -> int:
        return len(self.columns["archive"])

    def __reduce__(self) -> tuple[Any, ...]:
        if self.file is not None:
            return _read, (self.file, self.access)
        columns = self.archives, self.stamps, self.columns, self.classes, self.fingerprint, self.survey
        return Index, (*columns, None, self.access)

    def name(self, index: int) -> str:
        """Of an image."""
        ends = self.columns["name_end"]
        start = ends.item(index - 1) if index else 0
        return os.fsdecode(self.columns["names"][start : ends.item(index)].tobytes())

    def member(self, index: int) -> Member:
        """Where an image is."""
        number = self.columns["archive"].item(index)
        found = Found(self.name(index), *[self.columns[name].item(index) for name in Found._fields[1:]])
        return _member(self.archives[number], found, self.stamps[number], self.access, some_of(self.archives))


def index_of(archives: Sequence[str], beside: Path | None, access: Access | None = None) -> Index:
    """The index of archives: the one that was made before, or a new one. One process makes it, the others wait.

    Args:
        archives: paths or URLs of .tar and .zip files.
        beside: a run folder. The index is kept in ``.fcmae`` next to it; without one in the user's cache.
        access: how URLs are fetched.

    Raises:
        OSError: an archive cannot be read; FetchError: cannot be fetched.
    """
    access = access or Access()
    paths = tuple(path if is_url(path) else os.path.abspath(path) for path in archives)
    stamps = _stamps(paths, access)
    folder = _cache() if beside is None else beside.absolute().parent / BESIDE
    key = hashlib.blake2b(json.dumps([VERSION, paths]).encode(), digest_size=10).hexdigest()
    file = folder / f"{key}.index"
    if (found := _kept(file, paths, stamps, access)) is not None:
        return found
    try:
        make_folder(folder)
        with FileLock(file.with_suffix(".lock")):
            if (found := _kept(file, paths, stamps, access)) is not None:  # another process has made it
                return found
            if file.exists():
                logger.info("the index of %s is not of today's files, or is damaged: it is made anew", _some(paths))
            made = _made(paths, stamps, access)
            _write(made, file)
        return _read(file, access)
    except (OSError, SafetensorError) as error:
        if isinstance(error, FetchError) or (isinstance(error, OSError) and error.filename in paths):
            raise
        logger.warning("the index of %s is kept in memory only: %s", _some(paths), error)
        return _made(paths, stamps, access)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fcmae" / "archives"


def _some(paths: Sequence[str]) -> str:
    return shown(paths[0]) + (f" and {len(paths) - 1:,} more archives" if len(paths) > 1 else "")


def _pool(paths: Sequence[str]) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(AT_ONCE if any(map(is_url, paths)) else 1)


def _stamps(paths: Sequence[str], access: Access) -> tuple[Stamp, ...]:
    """Sizes and times of change; in place of the time of a URL a number that stands for its version."""
    with _pool(paths) as pool:
        return tuple(pool.map(lambda path: _stamp(path, access), paths))


def _stamp(path: str, access: Access) -> Stamp:
    if is_url(path):
        size, version = details(path, access)
        return size or 0, version_number(version)
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns


def _member(path: str, found: Found, stamp: Stamp, access: Access, others: tuple[str, ...] = ()) -> Member:
    return Member(path, found, stamp, access, others) if is_url(path) else Member(path, found, stamp)


def _kept(file: Path, paths: tuple[str, ...], stamps: tuple[Stamp, ...], access: Access) -> Index | None:
    """The index in a file; None if there is none of these archives as they are now."""
    try:
        found = _read(file, access)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None
    return found if found.archives == paths and found.stamps == stamps else None


def _made(paths: tuple[str, ...], stamps: tuple[Stamp, ...], access: Access) -> Index:
    """Lists the archives. Images are in natural order of their names, then in the order of their archives."""
    survey = Survey()
    names: list[str] = []
    labels: list[str | None] = []
    numbers = {name: array("q") for name in ("archive", *NUMBERS)}
    with _pool(paths) as pool:
        listed = pool.map(lambda path, stamp: _listed(path, stamp, access), paths, stamps)
        for number, one in enumerate(tracked(listed, len(paths), "indexing archives")):
            survey.add(one.survey)
            names += one.names
            labels += one.labels
            numbers["archive"].extend([number] * len(one.names))
            for name in NUMBERS:
                numbers[name].extend(one.numbers[name])
    classes = sorted({label for label in labels if label is not None})
    places_of_classes = {label: place for place, label in enumerate(classes)}
    numbers["label"] = array("q", [-1 if label is None else places_of_classes[label] for label in labels])
    del labels
    keys = [natural_key(name) for name in names]
    order = sorted(range(len(names)), key=names.__getitem__)
    order.sort(key=keys.__getitem__)
    del keys
    archive = numbers["archive"]
    # of equal names in one archive the last counts, as when it is unpacked
    places = [
        one
        for one, after in pairwise([*order, -1])
        if after < 0 or names[one] != names[after] or archive[one] != archive[after]
    ]
    survey.repeated += len(order) - len(places)
    columns = {name: np.array(values, COLUMNS[name])[places] for name, values in numbers.items()}
    encoded = [os.fsencode(names[place]) for place in places]
    columns["name_end"] = np.fromiter(accumulate(map(len, encoded)), np.int64, len(encoded))
    columns["names"] = np.frombuffer(b"".join(encoded), np.uint8)
    of_images = [(size, stamps[n][1]) for size, n in zip(columns["size"], columns["archive"], strict=True)]
    hashes = fingerprint([names[place] for place in places], of_images)
    return Index(paths, stamps, columns, tuple(classes), hashes, survey, None, access)


class _Listed(NamedTuple):
    """The images in one archive, in its order."""

    names: list[str]
    labels: list[str | None]
    numbers: "dict[str, array[int]]"
    survey: Survey


def _listed(path: str, stamp: Stamp, access: Access) -> _Listed:
    listed = _Listed([], [], {name: array("q") for name in NUMBERS}, Survey())
    of_keys: dict[str, str] = {}
    for found in _named(path, listed.survey, access):
        member = _member(path, found, stamp, access)
        if found.name.endswith(CLASS) and found.size <= LONGEST_LABEL:
            with _damaged_ones_passed():
                of_keys[_key(found.name)] = member.read_bytes().decode(errors="replace").strip()
        if _is_image(member, listed.survey):
            listed.names.append(found.name)
            for name in NUMBERS:
                listed.numbers[name].append(getattr(found, name))
    listed.labels.extend(of_keys.get(_key(name)) if of_keys else None for name in listed.names)
    return listed


@contextmanager
def _damaged_ones_passed() -> Iterator[None]:
    """A file that cannot be read is passed over; one that cannot be fetched would be missing for good."""
    try:
        yield
    except FetchError:
        raise
    except OSError:
        pass


def _named(path: str, survey: Survey, access: Access) -> Iterator[Found]:
    is_remote = is_url(path)
    with nullcontext() if is_remote else naming(Path(path)):
        yield from members(path, survey, access if is_remote else None)


def _key(name: str) -> str:
    """What the files of one sample have in common in WebDataset's layout: all up to the first dot of the last part."""
    folder, _, last = name.rpartition("/")
    return f"{folder}/{last.partition('.')[0]}"


def _is_image(member: Member, survey: Survey) -> bool:
    """By its ending, or by its first bytes if the ending is missing or unknown, as for files; not if it is hidden."""
    found = member.found
    if found.name.startswith(".") or "/." in found.name:
        return False
    ending, zarr = ending_of(found.name), zarr_of(found.name)
    if zarr is not None:
        survey.zarrs.add(f"{str(member).removesuffix(found.name)}{zarr}")
        return False
    if ending in EXTENSIONS:
        return True
    if ending not in OTHERS and ending != CLASS:
        with _damaged_ones_passed():
            if ending_for(member.head(LENGTH)) in EXTENSIONS:
                return True
    survey.passed_over[ending or NO_ENDING] += 1
    return False


def _write(index: Index, file: Path) -> None:
    """A safetensors file, whose library checks its structure; the checksum is of the columns."""
    said = index.survey
    about = {
        "version": VERSION, "archives": index.archives, "stamps": index.stamps, "fingerprint": index.fingerprint,
        "checksum": _checksum(index.columns), "classes": index.classes,
        "survey": [said.passed_over, said.not_regular, said.damaged, said.repeated, sorted(said.zarrs)],
    }  # fmt: skip
    with replacing(file) as temporary:
        save_file(index.columns, temporary, {"fcmae": json.dumps(about)})


def _read(file: Path, access: Access) -> Index:
    """The index in a file, mapped.

    Raises:
        OSError, SafetensorError, ValueError, KeyError, TypeError: there is none, or it is damaged.
    """
    with safe_open(file, "np") as opened:
        about = json.loads(opened.metadata()["fcmae"])
    if about["version"] != VERSION:
        raise ValueError(f"version {about['version']}")
    with open(file, "rb") as raw:
        length = int.from_bytes(raw.read(8), "little")
        header = json.loads(raw.read(length))
    mapped = np.asarray(np.memmap(file, np.uint8, "r"))  # items of a memmap take several times as long
    columns = {}
    for name, dtype in COLUMNS.items():
        start, end = header[name]["data_offsets"]
        columns[name] = mapped[8 + length + start : 8 + length + end].view(dtype)
    if _checksum(columns) != about["checksum"]:
        raise ValueError("its checksum differs")
    passed_over, not_regular, damaged, repeated, zarrs = about["survey"]
    return Index(
        tuple(about["archives"]), tuple((size, time) for size, time in about["stamps"]), columns,
        tuple(about["classes"]), tuple(about["fingerprint"]),
        Survey(Counter(passed_over), not_regular, damaged=damaged, zarrs=set(zarrs), repeated=repeated), file, access,
    )  # fmt: skip


def _checksum(columns: dict[str, np.ndarray]) -> str:
    whole = hashlib.blake2b(digest_size=16)
    for name in COLUMNS:
        whole.update(columns[name].tobytes())
    return whole.hexdigest()
