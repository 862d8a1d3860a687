"""The seam of sources: a sequence of images by index, each with a name and a stamp, whatever holds them."""

import hashlib
import os
from abc import abstractmethod
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Generic, TypeVar, overload

import numpy as np

from fcmae.data.stored import ImageRef

T = TypeVar("T")
Stamp = tuple[int, int]
"""Size in bytes, and time of the last change in nanoseconds (0 where there is none)."""


@dataclass(frozen=True)
class Lazily(Sequence[T], Generic[T]):
    """A sequence whose items are made when they are asked for."""

    length: int
    make: Callable[[int], T]
    """Index from 0 → item."""

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self.make(n) for n in range(self.length)[index]]
        return self.make(range(self.length)[index])


class ImageSet(Sequence[ImageRef]):
    """Images in training order.

    A subclass defines ``__len__``, ``item``, ``name``, ``stamp`` and ``identities``. It is picklable and shared
    by forked processes, so a large one keeps arrays or maps a file, and opens what it reads after the fork.
    """

    @abstractmethod
    def item(self, index: int) -> ImageRef:
        """The image at an index from 0: a path, or where else its bytes are."""

    @abstractmethod
    def name(self, index: int) -> str:
        """Relative to the source, as ``dog/1.jpg``: the same wherever the set lies. A class is its first part."""

    def given(self, index: int) -> str | None:
        """The image as the user named it: as in a list, or a path or URL among the sources; below a folder with that
        before it. None: the name is all there is to say, as of a single folder. No part of what identifies the set.
        """
        return None

    @abstractmethod
    def stamp(self, index: int) -> Stamp:
        """Tells a resumed run whether the image has changed."""

    @abstractmethod
    def identities(self) -> np.ndarray:
        """What tells images apart whatever they are called, uint64 [N] (:func:`fcmae.data.sources.same.keys`)."""

    @property
    def may_have_links(self) -> bool:
        """Whether an image of another set may be one of these under another name."""
        return True

    @property
    def names(self) -> Sequence[str]:
        """The name of each."""
        return Lazily(len(self), self.name)

    @property
    def stamps(self) -> Sequence[Stamp]:
        """The stamp of each."""
        return Lazily(len(self), self.stamp)

    def encoded_names(self, places: np.ndarray) -> Iterable[bytes]:
        """The names at int64 [N] indices as the system's bytes. A set of arrays has a faster way."""
        return (os.fsencode(self.name(place)) for place in places.tolist())

    def stamps_at(self, places: np.ndarray) -> tuple[Iterable[int], Iterable[int]]:
        """Sizes, and times, at int64 [N] indices. A set of arrays has a faster way."""
        sizes, times = array("q"), array("q")
        for size, time in map(self.stamp, places.tolist()):
            sizes.append(size)
            times.append(time)
        return sizes, times

    @property
    def total_bytes(self) -> int:
        """Of all images, compressed as they are."""
        return sum(size for size, _ in self.stamps)

    def bytes_at(self, places: np.ndarray) -> int:
        """Of those at int64 [N] indices."""
        return sum(self.stamps_at(places)[0])

    @property
    def is_far(self) -> bool:
        """Whether images come by URL, from a store that may go away."""
        return False

    @property
    def labels(self) -> Sequence[str] | None:
        """The class of each, where the source says so itself; None: folders may tell."""
        return None

    @overload
    def __getitem__(self, index: int) -> ImageRef: ...
    @overload
    def __getitem__(self, index: slice) -> list[ImageRef]: ...
    def __getitem__(self, index: int | slice) -> ImageRef | list[ImageRef]:
        return Lazily(len(self), self.item)[index]

    def subset(self, indices: Iterable[int]) -> "ImageSet":
        """Some of the images, in the order of ``indices``."""
        return Chosen(self, np.fromiter(indices, np.int64))

    def fingerprint(self) -> tuple[str, str, str]:
        """Hashes of all names, sizes and times, in order."""
        return fingerprint(self.names, self.stamps)


def fingerprint(names: Iterable[str], stamps: Sequence[Stamp]) -> tuple[str, str, str]:
    """Hashes of names, sizes and times."""
    return (
        hash_of(os.fsencode(name) for name in names),
        hash_of(b"%d" % size for size, _ in stamps),
        hash_of(b"%d" % time for _, time in stamps),
    )


def hash_of(parts: Iterable[bytes]) -> str:
    """A short hash of parts and of where they end."""
    whole = hashlib.blake2b(digest_size=8)
    for part in parts:
        whole.update(b"%d:" % len(part) + part)
    return whole.hexdigest()


@dataclass(frozen=True)
class Chosen(ImageSet):
    """Some images of a set."""

    whole: ImageSet
    places: np.ndarray
    """int64 [N], indices into the whole."""

    def __len__(self) -> int:
        return len(self.places)

    def item(self, index: int) -> ImageRef:
        """As of the whole."""
        return self.whole.item(int(self.places[index]))

    def name(self, index: int) -> str:
        """As of the whole."""
        return self.whole.name(int(self.places[index]))

    def given(self, index: int) -> str | None:
        """As of the whole."""
        return self.whole.given(int(self.places[index]))

    def stamp(self, index: int) -> Stamp:
        """As of the whole."""
        return self.whole.stamp(int(self.places[index]))

    def identities(self) -> np.ndarray:
        """As of the whole."""
        return self.whole.identities()[self.places]

    @property
    def may_have_links(self) -> bool:
        """As of the whole."""
        return self.whole.may_have_links

    @property
    def total_bytes(self) -> int:
        """As of the whole."""
        return self.whole.bytes_at(self.places)

    @property
    def is_far(self) -> bool:
        """As of the whole."""
        return self.whole.is_far

    def subset(self, indices: Iterable[int]) -> ImageSet:
        """Some of them."""
        return Chosen(self.whole, self.places[np.fromiter(indices, np.int64)])

    def encoded_names(self, places: np.ndarray) -> Iterable[bytes]:
        """As of the whole."""
        return self.whole.encoded_names(self.places[places])

    def stamps_at(self, places: np.ndarray) -> tuple[Iterable[int], Iterable[int]]:
        """As of the whole."""
        return self.whole.stamps_at(self.places[places])

    def fingerprint(self) -> tuple[str, str, str]:
        """As of any set, without an object for each image."""
        sizes, times = self.whole.stamps_at(self.places)
        of_sizes, of_times = (hash_of(b"%d" % one for one in some) for some in (sizes, times))
        return hash_of(self.whole.encoded_names(self.places)), of_sizes, of_times


class Joined(ImageSet):
    """Several sets, one after the other. Each name begins with the number of its set: ``1/dog/2.jpg``.

    Args:
        parts: the sets.
        sources: what the user called each, where that is a single text.
    """

    def __init__(self, parts: Sequence[ImageSet], sources: Sequence[str | None] | None = None) -> None:
        self.parts, self.sources = tuple(parts), sources or (None,) * len(parts)
        self._ends = list(accumulate(map(len, self.parts)))

    def __len__(self) -> int:
        return self._ends[-1]

    def _place(self, index: int) -> tuple[int, int]:
        number = bisect_right(self._ends, index)
        return number, index - (self._ends[number - 1] if number else 0)

    def item(self, index: int) -> ImageRef:
        """As of its set."""
        number, place = self._place(index)
        return self.parts[number].item(place)

    def name(self, index: int) -> str:
        """The number of its set, and its name there."""
        number, place = self._place(index)
        return f"{number}/{self.parts[number].name(place)}"

    def given(self, index: int) -> str | None:
        """As of its set, or its name there after the source."""
        number, place = self._place(index)
        if (given := self.parts[number].given(place)) is not None or (source := self.sources[number]) is None:
            return given
        return os.path.join(source, self.parts[number].name(place))

    def stamp(self, index: int) -> Stamp:
        """As of its set."""
        number, place = self._place(index)
        return self.parts[number].stamp(place)

    def identities(self) -> np.ndarray:
        """As of their sets."""
        return np.concatenate([part.identities() for part in self.parts])

    @property
    def may_have_links(self) -> bool:
        """As of any of the sets, and among them."""
        return True

    @property
    def is_far(self) -> bool:
        """As of any of the sets."""
        return any(part.is_far for part in self.parts)

    @property
    def total_bytes(self) -> int:
        """Of all sets."""
        return sum(part.total_bytes for part in self.parts)


@dataclass(frozen=True)
class Labeled(ImageSet):
    """A set whose names begin with the labels, so that other labels are another set to a resumed run."""

    whole: ImageSet
    numbers: np.ndarray
    """Labels, [N], or [N, C] where an image may have several."""

    def __len__(self) -> int:
        return len(self.whole)

    def item(self, index: int) -> ImageRef:
        """As of the whole."""
        return self.whole.item(index)

    def name(self, index: int) -> str:
        """``3:dog/2.jpg``, or ``[0, 3]:dog/2.jpg`` where an image may have several."""
        number = self.numbers[index]
        return f"{np.flatnonzero(number).tolist() if number.ndim else number}:{self.whole.name(index)}"

    def stamp(self, index: int) -> Stamp:
        """As of the whole."""
        return self.whole.stamp(index)

    def identities(self) -> np.ndarray:
        """As of the whole."""
        return self.whole.identities()

    @property
    def is_far(self) -> bool:
        """As of the whole."""
        return self.whole.is_far
