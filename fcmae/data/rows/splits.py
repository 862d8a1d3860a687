"""Splits of a dataset, which the names of its files tell."""

import re


def in_split(name: str, split: str) -> bool:
    """Whether a file's name says that it is of a split."""
    return re.search(rf"(?:^|[/._-]){re.escape(split)}(?:[/._-]|\d|$)", name, re.I) is not None
