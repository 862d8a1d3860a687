"""Unreadable files: each is logged and counted once per run, whichever process found it."""

import logging
from collections.abc import Iterable
from typing import NamedTuple

from accelerate.utils import gather_object

from fcmae.errors import in_a_line

logger = logging.getLogger(__name__)


class Unreadable(NamedTuple):
    """A file that cannot be read."""

    name: str
    message: str
    """Its path, and the reason."""


class UnreadableFiles:
    """Logs each unreadable file once and counts them, across all processes of the run."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        """Their names; the reason may differ from one time to the next."""
        self._new: dict[str, str] = {}

    def note(self, files: Iterable[Unreadable]) -> None:
        """Keep a batch's files until the next :meth:`share`."""
        for name, message in files:
            if name not in self.seen:
                self._new.setdefault(name, message)

    def share(self, num_processes: int) -> None:
        """Gather the files of all processes and log the new ones. Every process must call it."""
        new = list(self._new.items())
        for name, message in sorted(gather_object(new) if num_processes > 1 else new):
            if name not in self.seen:
                logger.warning("skipped, cannot be read: %s", in_a_line(message))
                self.seen.add(name)
        self._new = {}
