"""Words that depend on a number."""


def counted(count: int, one: str, several: str = "") -> str:
    """``1 step``, ``2,000 steps``; ``several`` where an s does not make the plural."""
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def none_readable(count: int, reason: str = "", of: str = "", how: str = "") -> str:
    """That no image can be read, and why the first cannot.

    ``none of the 2,000 images of x can be read with y; the first: reason``, or of a single one ``the only image of x
    cannot be read with y: reason``.
    """
    return _none(count, reason, of, f"can be read{how}", f"cannot be read{how}")


def none_there(count: int, first: str, of: str = "") -> str:
    """That no image is there: ``none of the 2 images of x is there; the first: a.png``."""
    return _none(count, first, of, "is there", "is not there")


def _none(count: int, first: str, of: str, does: str, does_not: str) -> str:
    if count == 1:
        return f"the {'only image' if of else 'image'}{of} {does_not}" + f": {first}" * bool(first)
    return f"none of the {count:,} images{of} {does}" + f"; the first: {first}" * bool(first)
