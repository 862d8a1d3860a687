"""Files that could not be read: each named once, whichever process of the run met it."""

import logging

from accelerate.utils import gather_object

logger = logging.getLogger(__name__)


class UnreadableFiles:
    """Names each unreadable file in the log once, and counts them, whichever process of the run met it."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self._new: list[str] = []

    def note(self, messages: list[str]) -> None:
        """Remember those of a batch until the next :meth:`share`."""
        self._new += [message for message in messages if message not in self.seen]

    def share(self, num_processes: int) -> None:
        """Bring together what all processes noted, and warn about what is new; all must call it."""
        messages = gather_object(self._new) if num_processes > 1 else self._new
        for message in sorted(set(messages) - self.seen):
            logger.warning("skipped, cannot be read: %s", message)
        self.seen.update(messages)
        self._new = []
