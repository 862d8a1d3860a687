"""Notices that another machine of a run is gone: its power, its network, or the process there that tells it lives.

NCCL waits ten minutes for such a machine. One process of each adds to a number of its own in the run's store every few
seconds, and looks at those of the others.
"""

import os
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

import torch.distributed as dist

BEAT = 5.0  # seconds
LOST = 60.0  # seconds without a change; a thread may have to wait for a busy process
TO_ANSWER = 30.0  # seconds, of the store
KEY = "fcmae/beats/{}"


class Heartbeats:
    """Tells the others that this machine lives, and which of theirs does not.

    Args:
        store: that all machines reach.
        mine: number of the process that stands for this machine.
        others: those that stand for the others.
        clock: seconds.
    """

    def __init__(
        self, store: dist.Store, mine: int, others: Sequence[int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.store, self.mine, self.clock = store, mine, clock
        self._last = dict.fromkeys(others, (-1, clock()))
        self._next = clock()

    def lost(self) -> str | None:
        """Which machine is lost, in words; None: none that is known of. To be called often; it acts every ``BEAT``."""
        now = self.clock()
        if now < self._next:
            return None
        self._next = now + BEAT
        try:
            self.store.add(KEY.format(self.mine), 1)
            for rank, (before, _) in self._last.items():
                beats = self.store.add(KEY.format(rank), 0)
                if beats != before:
                    self._last[rank] = beats, self.clock()
        except (RuntimeError, OSError) as error:  # torch's DistError is a RuntimeError
            reason = " ".join(str(error).split())[:100]
            return f"the store of the run, on its first machine, cannot be reached ({reason})"
        now = self.clock()
        gone = [rank for rank, (_, seen) in self._last.items() if now - seen > LOST]
        return f"the machine of process {gone[0]} has not been heard of for {LOST:g} s" if gone else None


def connect(mine: int, others: Sequence[int]) -> Heartbeats | None:
    """Heartbeats over the store that torch's processes met at; None if it is not known or cannot be reached."""
    try:
        store = dist.TCPStore(
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, wait_for_workers=False,
            timeout=timedelta(seconds=TO_ANSWER),
        )  # fmt: skip
    except (KeyError, ValueError, RuntimeError):
        return None
    return Heartbeats(store, mine, others)
