"""Measures a set of images: every file once, the values of a sample, a few pictures."""

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass, field, replace
from random import Random

import numpy as np

from fcmae.data.draws import sample_seed
from fcmae.data.endings import ending_of
from fcmae.data.pixel_reading import PixelReading
from fcmae.data.sources.files import collect
from fcmae.data.sources.image_set import ImageSet
from fcmae.data.stores.access import Access
from fcmae.data.unreadable import Unreadable
from fcmae.data.workers import mapped
from fcmae.errors import UserError
from fcmae.progress import tracked
from fcmae.survey.advice import Sizes, advise, best_channels
from fcmae.survey.duplicates import equal_contents, look_alike
from fcmae.survey.facts import SIDE, Facts, Kind, Surveyed
from fcmae.survey.values import MeasuredValues, SampledValues, measured
from fcmae.wording import none_readable

WINDOWS, PER_FILE = 512, 8
"""Windows of the sample in all where it has fewer files, and most of one file."""
AT_ONCE = 8  # images that a process returns together


@dataclass
class Surveyor:
    """Collects the facts of a set; arrays, so that a million files take little memory."""

    count: int
    heights: np.ndarray = field(init=False)
    widths: np.ndarray = field(init=False)
    windowed: np.ndarray = field(init=False)
    signatures: np.ndarray = field(init=False)
    has_signature: np.ndarray = field(init=False)
    kinds: Counter[Kind] = field(default_factory=Counter)
    declared: Counter[float] = field(default_factory=Counter)
    digests: dict[int, bytes] = field(default_factory=dict)
    stacks: int = 0
    uniform: list[int] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.heights, self.widths = np.zeros((2, self.count), np.int32)
        self.windowed, self.has_signature = np.zeros((2, self.count), bool)
        self.signatures = np.zeros((self.count, SIDE, SIDE), np.uint8)

    def add(self, place: int, facts: Facts | Unreadable) -> None:
        """The facts of one more file."""
        if isinstance(facts, Unreadable):
            self.unreadable.append(facts)
            return
        self.heights[place], self.widths[place], self.windowed[place] = facts.height, facts.width, facts.windowed
        self.kinds[facts.kind] += 1
        self.stacks += facts.planes > 1
        if facts.nodata is not None:
            self.declared[facts.nodata] += 1
        if facts.content is not None:
            self.digests[place] = facts.content
        if facts.signature is None:
            self.uniform.append(place)
        else:
            self.signatures[place], self.has_signature[place] = facts.signature, True

    @property
    def sizes(self) -> Sizes:
        """Of the readable files."""
        there = self.heights > 0
        return Sizes(self.heights[there], self.widths[there], self.windowed[there])


@dataclass(frozen=True)
class Survey:
    """Everything that was found."""

    images: ImageSet
    facts: Surveyor
    in_chans: int
    values: MeasuredValues
    sampled: int
    """Files of the sample that could be read."""
    equal: list[list[int]]
    """Groups of places of files with equal bytes."""
    alike: list[list[int]]
    """Groups of places of pictures that look alike, those of equal bytes among them."""
    flags: list[str]
    notes: list[str]


def survey(
    sources: Sequence[str], reading: PixelReading, sample: int, seed: int, num_workers: int, access: Access
) -> Survey:
    """Survey a set of images.

    Args:
        sources: as ``--data.path`` takes them.
        reading: what pages are, the value of missing pixels, and the largest image; its channels do not matter.
        sample: files whose values are measured.
        seed: draws the sample.
        num_workers: processes; they do not change the result.
        access: how URLs and tables are read.

    Raises:
        UserError: no images, or none that can be read.
    """
    images = collect(sources, flag="SOURCE", access=access)
    facts = Surveyor(len(images))
    found = mapped(Surveyed(images, reading, _of_equal_size(images)), num_workers, AT_ONCE)
    for place, one in enumerate(tracked(found, len(images), "images")):
        facts.add(place, one)
    if not facts.kinds:
        raise UserError(none_readable(len(images), facts.unreadable[0].message, of=f" of {' '.join(sources)}"))
    in_chans = best_channels(facts.kinds)
    taken = [kind for kind in facts.kinds if kind.fits(in_chans)]
    places = np.flatnonzero(facts.heights > 0).tolist()
    random = Random(sample_seed(seed, 1, len(images)))
    chosen = sorted(random.sample(places, min(sample, len(places))))
    each = min(PER_FILE, -(-WINDOWS // len(chosen)))
    is_deep = all(kind.is_deep for kind in taken)
    fitting = replace(reading, in_chans=in_chans, value_range=reading.value_range if is_deep else None)
    sampled = SampledValues(images, chosen, fitting, each, seed)
    of_sample = tracked(mapped(sampled, num_workers, AT_ONCE), len(chosen), "values of a sample")
    of_files = [one for one in of_sample if one is not None]
    if not of_files:
        raise UserError(none_readable(len(chosen), of=f" drawn from {' '.join(sources)}"))
    is_unsigned = all(np.dtype(kind.dtype).kind == "u" for kind in taken)
    values = measured(of_files, is_deep, is_unsigned, reading.nodata)
    with_signature = np.flatnonzero(facts.has_signature)
    alike = [with_signature[group].tolist() for group in look_alike(facts.signatures[with_signature])]
    flags, notes = advise(facts.kinds, facts.sizes, values, reading)
    return Survey(images, facts, in_chans, values, len(of_files), equal_contents(facts.digests), alike, flags, notes)


def _of_equal_size(images: ImageSet) -> Set[int]:
    """Places of the files that are as long as another: only these can have equal bytes."""
    sizes = Counter(size for size, _ in images.stamps)
    return {place for place, (size, _) in enumerate(images.stamps) if sizes[size] > 1}


def endings(images: ImageSet) -> Counter[str]:
    """Ending → count."""
    return Counter(ending_of(name) or "without" for name in images.names)
