"""Sets of sets: parts, unions and labels say the same about an image as the set that holds it."""

import pickle
from pathlib import Path

import numpy as np

from fcmae.data.sources.digest import digest
from fcmae.data.sources.files import ImageFiles
from fcmae.data.sources.image_set import Chosen, ImageSet, Joined, Labeled


def files(*names: str) -> ImageFiles:
    return ImageFiles([Path("/x", name) for name in names], list(names), [(len(name), 7) for name in names])


def rows(images: ImageSet) -> list[tuple[object, str, tuple[int, int]]]:
    return list(zip(images, images.names, images.stamps, strict=True))


def test_a_part_of_a_set() -> None:
    """Of any set as of files, also of a part; through pickle too, as for a worker that is not forked."""
    whole = files("a/1.png", "a/10.png", "b/2.png", "c.png")
    expected = rows(whole.subset([3, 0, 2]))
    part = Chosen(whole, np.array([3, 0, 2]))
    assert rows(part) == expected
    assert rows(pickle.loads(pickle.dumps(part))) == expected
    assert rows(part.subset([2, 1])) == [expected[2], expected[1]]
    assert digest(part) == digest(whole.subset([3, 0, 2]))
    assert part[-1] == whole[2]
    assert part[1:] == [whole[0], whole[2]]


def test_sets_after_each_other() -> None:
    one, two = files("a.png", "b.png"), files("a.png")
    both = Joined([one, files(), two])
    assert len(both) == 3
    assert list(both.names) == ["0/a.png", "0/b.png", "2/a.png"]
    assert list(both) == [*one, *two]
    assert list(both.stamps) == [*one.stamps, *two.stamps]
    assert rows(both.subset([2])) == rows(both)[2:]


def test_labels_are_part_of_the_names() -> None:
    whole = files("a.png", "b.png")
    assert list(Labeled(whole, np.array([3, 0])).names) == ["3:a.png", "0:b.png"]
    several = Labeled(whole, np.array([[True, False, True], [False, False, False]]))
    assert list(several.names) == ["[0, 2]:a.png", "[]:b.png"]
    assert list(several) == list(whole)
