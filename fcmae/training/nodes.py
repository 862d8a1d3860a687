"""Several machines ("nodes"): who writes to the run folder, and which checkpoint all of them resume from.

The nodes may share one run folder, or have one each, on local disks. Whether they share it is found out, by a file
that the main process makes. A shared folder is written by the main process, others by one process of each node: any
node that survives has the whole run. A node whose folder lacks the newest checkpoint is sent it.
"""

import logging
import os
import time
import uuid
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from filelock import FileLock

from fcmae.errors import UserError
from fcmae.files import replacing
from fcmae.runs import checkpoint as ckpt
from fcmae.runs.find import BEST, steps_of
from fcmae.runs.layout import METRICS, PICTURES, SUPERSEDED, VALIDATION

logger = logging.getLogger("fcmae")

TO_APPEAR = 10.0  # seconds that a network drive may take to show what another node wrote
BETWEEN_LOOKS = 0.2
PIECE = 2**26  # bytes of a checkpoint sent at once
TOKEN = ".node-"


def appears(path: Path, seconds: float = TO_APPEAR) -> bool:
    """Whether a file or folder is there, or comes within this time."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        with suppress(OSError):
            os.listdir(path.parent)  # lets NFS look again, which remembers what was missing
        if time.monotonic() > deadline:
            return False
        time.sleep(BETWEEN_LOOKS)
    return True


def wait_for(path: Path) -> None:
    """UserError if a file that another process made does not appear on this node."""
    if not appears(path):
        raise UserError(f"{path}, which another process has made, cannot be seen on this machine after {TO_APPEAR:g} s")


def several_nodes(accelerator: Accelerator) -> bool:
    """Whether the processes are on more than one node; torchrun's on one machine count as such, too."""
    return accelerator.num_processes > 1 and sum(gather_object([accelerator.is_local_main_process])) > 1


def writing_lock(accelerator: Accelerator, folder: Path, take: Callable[[], FileLock]) -> FileLock | None:
    """Let the processes that write to the run folder ``take`` it; None in the others. All of them must call it."""
    lock = take() if accelerator.is_main_process else None
    if not several_nodes(accelerator):
        return lock
    token = [f"{TOKEN}{uuid.uuid4().hex[:12]}"]
    broadcast_object_list(token)
    mark = folder / token[0]
    if lock is not None:
        mark.touch()
    accelerator.wait_for_everyone()
    if lock is None and accelerator.is_local_main_process and not appears(mark):
        lock = take()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        mark.unlink(missing_ok=True)
    return lock


def is_shared(accelerator: Accelerator, lock: FileLock | None) -> bool:
    """Whether all nodes write to one folder. All processes must call it."""
    return accelerator.num_processes == 1 or sum(gather_object([lock is not None])) == 1


def agreed(accelerator: Accelerator, folder: Path, find: Callable[[], Path | None], is_own: bool) -> Path | None:
    """The checkpoint that ``find`` returns, once it returns the same on all nodes. All processes must call it.

    Args:
        accelerator: of all of them.
        folder: the run folder.
        find: looks for the checkpoint to resume; None: there is none.
        is_own: whether it looks in ``folder``. Then nodes that lack the newest one are sent it.

    Raises:
        UserError: what ``find`` raises, in all processes; or the checkpoint was given by its path, and is another one
            on another node.
    """
    if accelerator.num_processes == 1:
        return find()
    deadline = time.monotonic() + TO_APPEAR
    while True:
        found, error = _found(find)
        name = None if found is None else found.name
        everyones = gather_object([(name, error, time.monotonic() > deadline)])
        names, errors = [name for name, _, _ in everyones], [error for _, error, _ in everyones]
        if len(set(zip(names, errors, strict=True))) == 1 or everyones[0][2]:
            break
        time.sleep(BETWEEN_LOOKS)
    if any(errors):
        bad = next(rank for rank, error in enumerate(errors) if error)
        raise UserError(errors[bad] if all(errors) else f"{errors[bad]} (on the machine of process {bad})")
    if len(set(names)) == 1:
        return found
    newest = max((name for name in names if name is not None), key=lambda name: (steps_of(Path(name)), name))
    source, lacking = names.index(newest), [rank for rank, name in enumerate(names) if name != newest]
    if not is_own:
        raise UserError(
            f"--resume: process {source} finds {newest}, process {lacking[0]} {names[lacking[0]]}; copy the same "
            f"checkpoint to the same path on each machine"
        )
    logger.info(
        "%s is missing in --output on the machines of processes %s: sent from process %d", newest, lacking, source
    )
    receives = accelerator.is_local_main_process and accelerator.process_index in lacking
    _send(accelerator, folder, newest, source, receives)
    return find()


def _found(find: Callable[[], Path | None]) -> tuple[Path | None, str | None]:
    """The checkpoint, or the error that looking for it raised."""
    try:
        return find(), None
    except UserError as error:
        return None, str(error)


def _send(accelerator: Accelerator, folder: Path, name: str, source: int, receives: bool) -> None:
    """Copy a checkpoint and what the run has written besides from one process's disk to others'.

    Their own lines of metrics.jsonl, which end earlier, are kept in metrics.superseded.jsonl.
    """
    here = folder / ckpt.FOLDER / name
    sends = accelerator.process_index == source
    files: list[Any] = [None]
    if sends:
        files = [[(str(one.relative_to(folder)), one.stat().st_size) for one in _files(here, folder)]]
    broadcast_object_list(files, from_process=source)
    partial = folder / ckpt.FOLDER / f"{ckpt.PARTIAL}{uuid.uuid4().hex[:12]}-{name}"
    for path, size in files[0]:
        file = folder / path
        target = partial / file.relative_to(here) if file.is_relative_to(here) else file
        with replacing(target) if receives else nullcontext() as temporary:
            for start in range(0, size, PIECE):
                piece = [_piece(file, start, min(PIECE, size - start)) if sends else None]
                broadcast_object_list(piece, from_process=source)
                if temporary is not None:
                    with temporary.open("ab") as opened:
                        opened.write(piece[0] or b"")
            if temporary is not None and path == METRICS:
                _set_aside(folder, temporary)
    if receives:
        ckpt.adopt(partial, folder, name)
    accelerator.wait_for_everyone()


def _files(checkpoint: Path, folder: Path) -> list[Path]:
    beside = [folder / ckpt.FOLDER / BEST, folder / PICTURES, folder / VALIDATION]
    inside = [one for place in (checkpoint, *beside) for one in sorted(place.rglob("*")) if one.is_file()]
    return [*inside, folder / METRICS] if (folder / METRICS).is_file() else inside


def _set_aside(folder: Path, newer: Path) -> None:
    """Keep the lines of a metrics.jsonl that is to be replaced."""
    file = folder / METRICS
    if file.is_file() and (lines := file.read_bytes()) != newer.read_bytes():
        with (folder / SUPERSEDED).open("ab") as opened:
            opened.write(lines)


def _piece(file: Path, start: int, size: int) -> bytes:
    with file.open("rb") as opened:
        opened.seek(start)
        return opened.read(size)
