"""The mark in a checkpoint folder that tells which run wrote it. Only marked folders are ever deleted.

The mark names the run and the folder. So a copy under another name, such as ``step-00001200-best``, is not the run's.
A run takes over the name of the checkpoint that it resumes from in its own folder, so a moved or copied run remains
the same run.
"""

import json
import shutil
import uuid
from contextlib import suppress
from pathlib import Path

MARK = "written_by.json"
DELETED = ".deleted-"


def new_run() -> str:
    """A name for a run that no other run has."""
    return uuid.uuid4().hex[:12]


def write_mark(folder: Path, run: str, name: str) -> None:
    """Mark ``folder``, which will be called ``name``, as written by ``run``."""
    (folder / MARK).write_text(json.dumps({"run": run, "checkpoint": name}) + "\n", encoding="utf-8")


def marked_run(folder: Path) -> str | None:
    """The run that wrote a checkpoint folder. None: no mark, a damaged one, or that of another folder."""
    with suppress(OSError, ValueError, RecursionError):
        mark = json.loads((folder / MARK).read_text(encoding="utf-8"))
        if isinstance(mark, dict) and mark.get("checkpoint") == folder.name and isinstance(mark.get("run"), str):
            return mark["run"]
    return None


def delete_marked(folder: Path, run: str) -> None:
    """Delete a checkpoint folder if ``run`` wrote it. A process that dies meanwhile leaves no half of a checkpoint."""
    if folder.is_symlink() or marked_run(folder) != run:
        return
    doomed = folder.with_name(f"{DELETED}{run}-{folder.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    with suppress(OSError):
        folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
