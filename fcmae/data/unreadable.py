"""Unreadable files: each is logged once per run, whichever process found it."""

import logging

from accelerate.utils import gather_object

logger = logging.getLogger(__name__)


class UnreadableFiles:
    """Logs each unreadable file once and counts them, across all processes of the run."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self._new: list[str] = []

    def note(self, messages: list[str]) -> None:
        """Keep a batch's messages until the next :meth:`share`."""
        self._new += [message for message in messages if message not in self.seen]

    def share(self, num_processes: int) -> None:
        """Gather the messages of all processes and log the new ones. Every process must call it."""
        messages = gather_object(self._new) if num_processes > 1 else self._new
        for message in sorted(set(messages) - self.seen):
            logger.warning("skipped, cannot be read: %s", message)
        self.seen.update(messages)
        self._new = []
