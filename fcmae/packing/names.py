"""Names of members in WebDataset's layout: the part before the first dot of the last part tells samples apart."""

from collections.abc import Sequence
from pathlib import PurePosixPath

from fcmae.data.splits import are_splits


def key_of(name: str) -> str:
    """``dog/1.5.jpg`` → ``dog/1_5``: the image's name without its ending; other dots would end the key."""
    path = PurePosixPath(name.replace("\\", "_"))
    parts = [part for part in path.parts if part not in ("/", "..")]
    stem = PurePosixPath(parts[-1]).stem.replace(".", "_")
    return "/".join([*parts[:-1], stem])


def changed_keys(names: Sequence[str]) -> dict[int, str]:
    """Places of the images whose key another image has already → another key, such as ``dog/1-png``."""
    taken: set[str] = set()
    changed = {}
    for place, name in enumerate(names):
        key = key_of(name)
        if key in taken:
            ending = PurePosixPath(name).suffix.lower().removeprefix(".") or "2"
            base = f"{key}-{ending}"
            number, key = 1, base
            while key in taken:
                number += 1
                key = f"{base}-{number}"
            changed[place] = key
        taken.add(key)
    return changed


def class_of(name: str) -> str | None:
    """The folder that an image's label is, the first one; None: it lies in none."""
    parts = PurePosixPath(name).parts
    return parts[0] if len(parts) > 1 else None


def classes_of(names: Sequence[str]) -> list[str]:
    """The classes in order of their names, if every image lies in one and there are two or more; else none.

    None either where ``train/`` and ``val/`` split the set: there the path says it all.
    """
    found = set()
    for name in names:
        label = class_of(name)
        if label is None:
            return []
        found.add(label)
    return sorted(found) if len(found) > 1 and not are_splits(found) else []
