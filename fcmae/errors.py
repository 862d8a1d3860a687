"""Errors that the user can fix: one clear line, no traceback on the command line."""

import errno
import os
import re
from collections.abc import Iterator


class UserError(ValueError):
    """Names the file or the flag, the value, and what would be accepted."""


class StoreError(UserError):
    """A store of images that cannot be reached any more. Names the URL; the run can be resumed later."""


class OtherProcessError(StoreError):
    """Of another process of the same run, which says it."""


# What errors of memory and of killed processes say, which are no bug and no wrong option
MEMORY = re.compile(r"out of memory|(can't|cannot|unable to) allocate|not enough memory|can't start new thread", re.I)
NO_SHARED_MEMORY, NO_OPEN_FILES = 75, 76  # exit status of a data loading process
SHARED = re.compile(rf"shared memory|\bshm\b|bus error|</torch_|exit code {NO_SHARED_MEMORY}\b", re.I)
KILLED = re.compile(r"DataLoader worker .*?(?:killed by signal: ([\w ]+)|exited unexpectedly)", re.I | re.S)
PEER = re.compile(r"closed by peer|reset by peer|connection refused|broken pipe|\bNCCL\b|\bgloo\b|TCPStore", re.I)
OPEN_FILES = re.compile(rf"too many open files|ancdata|exit code {NO_OPEN_FILES}\b", re.I)


STEERING = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Characters that end a line, or steer a terminal or the direction of text."""


def brief(text: object, length: int = 200) -> str:
    """What another library's error says, on one line; a long text ends with a sentence, or a word and an ellipsis."""
    line = " ".join(str(text).split())
    if len(line) <= length:
        return line
    for end, mark in ((". ", "."), (" ", " …")):
        kept = line[: length + 1].rpartition(end)[0]
        if len(kept) > length / 2:  # else it says too little
            return kept + mark
    return line[:length] + "…"


def in_a_line(text: str) -> str:
    """A text that names files, for one line of a log or a file: line breaks and control characters are escaped."""
    return STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def advice(
    error: BaseException, batch_size: str = "--batch_size", num_workers: str = "--data.num_workers"
) -> str | None:
    """What happened and what to do, in one line; None if the error is of no kind that is known here.

    Args:
        error: what was raised, or something raised because of it.
        batch_size: the flag that makes batches smaller, and what else helps to know about it.
        num_workers: the same for the number of loading processes.
    """
    chain = list(_chain(error))
    text = "\n".join(str(one) for one in chain)
    if OPEN_FILES.search(text):
        return f"too many open files: take fewer {num_workers}, or raise the limit with ulimit -n"
    if SHARED.search(text):
        return (
            f"shared memory (/dev/shm) is full or too small: take fewer {num_workers} or a smaller {batch_size}, or "
            f"give the container more (docker run --shm-size 8g)"
        )
    if killed := KILLED.search(text):
        return _of_killed(killed[1], batch_size, num_workers)
    if any(isinstance(one, MemoryError) or getattr(one, "errno", None) == errno.ENOMEM for one in chain) or (
        MEMORY.search(text)
    ):
        if re.search("CUDA|HIP|MPS", text):
            return f"the GPU is out of memory: take a smaller {batch_size}"
        return f"out of memory: take a smaller {batch_size} or fewer {num_workers}"
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and PEER.search(text):
        return "another process of this run has ended; its error is above"
    return None


def _of_killed(signal: str | None, batch_size: str, num_workers: str) -> str:
    if signal is None or signal.strip() == "Killed":
        return (
            f"a data loading process was killed, as the system does when memory is full: take fewer {num_workers} or a "
            f"smaller {batch_size}"
        )
    return (
        f"a data loading process ended with the signal {signal.strip()}; a damaged image may crash the library that "
        f"reads it: --data.num_workers 0 shows more"
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, then what it was raised from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
