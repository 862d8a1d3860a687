"""What is special about each experiment tracker of accelerate: its names, how its run is continued, and pictures."""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from accelerate import tracking
from accelerate.tracking import GeneralTracker
from PIL import Image


class Names(NamedTuple):
    """What a tracker calls the run."""

    project: str
    run: str
    folder: Path
    """The run folder."""


class Known(NamedTuple):
    """What the run folder records of a tracker's run: enough to continue it from any working directory."""

    id: str
    store: str | None = None
    """Where the tracker keeps it, if it does not say so itself."""


class Kind(NamedTuple):
    """How accelerate's class of a tracker is used."""

    arguments: Callable[[Names, Known | None], tuple[str, dict[str, Any]]]
    """The first argument and the keywords of the class; may raise what makes the tracker unusable."""
    known: Callable[[Any], Known | None] = lambda _: None
    """Of a tracker's own run object."""
    add_picture: Callable[[Any, str, Image.Image, int], None] | None = None
    """Called with accelerate's tracker, a name, an RGB picture and a step; None: it takes none."""
    where: Callable[[Any], str] = lambda _: ""
    """Of a tracker's own run object: where to look at the run."""
    keeps_settings: bool = False
    """Whether the settings of a run cannot change once they are set."""


def start(kind: str, names: Names, known: Known | None, settings: dict[str, Any]) -> GeneralTracker:
    """A tracker that has started a run, or continued the one that is known; raises whatever the tracker raises."""
    how = KINDS.get(kind, PLAIN)
    first, keywords = how.arguments(names, known)
    made = tracking.LOGGER_TYPE_TO_CLASS[kind]
    folder = (names.folder.parent,) if made.requires_logging_directory else ()
    tracker: Any = made(first, *folder, **keywords)
    tracker.main_process_only = False  # no other process has one, and accelerate's state may be gone at the end
    tracker.start()
    if known is None or not how.keeps_settings:
        tracker.store_init_configuration(settings)
    return tracker


def is_known(kind: str) -> bool:
    """Whether accelerate has a tracker of this name, or somebody has registered one."""
    return kind in tracking.LOGGER_TYPE_TO_CLASS


def _wandb(names: Names, known: Known | None) -> tuple[str, dict[str, Any]]:
    import wandb

    settings = wandb.Settings(silent=True, console="off")
    wandb.setup(settings)
    # init would ask for a key, on a terminal
    if wandb.setup().settings.mode == "online" and not _has_wandb_key(wandb):
        raise RuntimeError("not logged in; run wandb login, or set WANDB_MODE=offline")
    return names.project, {
        "name": names.run, "id": known.id if known else uuid.uuid4().hex[:12], "resume": "allow",
        "dir": str(names.folder), "settings": settings,
    }  # fmt: skip


def _has_wandb_key(wandb: Any) -> bool:
    try:
        return bool(wandb.login(prompt=False, verify=False))
    except TypeError:  # an older version
        return wandb.api.api_key is not None


def _mlflow(names: Names, known: Known | None) -> tuple[str, dict[str, Any]]:
    import mlflow

    if known is not None and known.store is not None:
        mlflow.set_tracking_uri(known.store)  # the default depends on the working directory
    return names.project, {"run_name": names.run, "run_id": known.id if known else None}


def _mlflow_known(run: Any) -> Known:
    import mlflow

    return Known(run.info.run_id, mlflow.get_tracking_uri())


def _mlflow_picture(_tracker: Any, name: str, picture: Image.Image, step: int) -> None:
    import mlflow

    mlflow.log_image(picture, artifact_file=f"{name}/step-{step:08d}.png")


def _several(tracker: Any, name: str, picture: Image.Image, step: int) -> None:
    tracker.log_images({name: [picture]}, step=step)


def _one(tracker: Any, name: str, picture: Image.Image, step: int) -> None:
    tracker.log_images({name: picture}, step=step)


def _array(tracker: Any, name: str, picture: Image.Image, step: int) -> None:
    tracker.log_images({name: np.asarray(picture)}, step=step)


KINDS = {
    "aim": Kind(
        # the first argument is the name of the run, not of the project
        lambda names, known: (names.run, {"experiment": names.project} | ({"run_hash": known.id} if known else {})),
        known=lambda run: Known(run.hash),
        add_picture=_one,
    ),
    "clearml": Kind(
        lambda names, known: (
            names.project,
            {"project_name": names.project, "task_name": names.run, "continue_last_task": known.id if known else False},
        ),
        known=lambda task: Known(task.id),
        add_picture=_array,
    ),
    "comet_ml": Kind(
        lambda names, known: (names.project, {"experiment_key": known.id if known else uuid.uuid4().hex}),
        known=lambda experiment: Known(experiment.get_key()),
        where=lambda experiment: experiment.url or "",
    ),
    "dvclive": Kind(lambda names, known: (names.run, {"dir": str(names.folder / "dvclive"), "resume": True})),
    "mlflow": Kind(_mlflow, known=_mlflow_known, add_picture=_mlflow_picture, keeps_settings=True),
    "swanlab": Kind(
        lambda names, known: (
            names.project,
            {"experiment_name": names.run, "resume": "allow", "id": known.id if known else uuid.uuid4().hex[:21]},
        ),
        known=lambda run: Known(run.public.run_id),
        add_picture=_several,
    ),
    "trackio": Kind(lambda names, known: (names.project, {"name": names.run, "resume": "allow"})),
    "wandb": Kind(
        _wandb,
        known=lambda run: Known(run.id),
        add_picture=_several,
        where=lambda run: f"offline, in {run.dir}" if run.offline else run.url or "",
    ),
}  # fmt: skip
PLAIN = Kind(lambda names, known: (names.project, {}))  # registered by the user
