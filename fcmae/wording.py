"""Words that depend on a number."""


def counted(count: int, one: str, several: str = "") -> str:
    """``1 step``, ``2,000 steps``; ``several`` where an s does not make the plural."""
    return f"{count:,} {one if count == 1 else several or one + 's'}"
