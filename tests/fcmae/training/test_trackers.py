"""Experiment trackers: they get what TensorBoard gets, and never stop or hold up a run."""

import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate import tracking
from accelerate.tracking import GeneralTracker
from PIL import Image

from fcmae.cli import command
from fcmae.config.watch import TRACKERS, LogConfig
from fcmae.pretrain import pretrain
from fcmae.runs.metrics import MetricsLog
from fcmae.training import tracker_kinds, trackers
from fcmae.training.tracker_kinds import Kind, Known, Names
from fcmae.training.trackers import Trackers
from tests.fcmae.finished_runs import stop_after
from tests.fcmae.test_pretrain_function import TINY_KEYWORDS

SETTINGS = {"train": {"epochs": 4, "betas": [0.9, 0.95]}, "output": None}


class Fake(GeneralTracker):
    """Of accelerate's interface; keeps what it gets, by the id of the run."""

    name, requires_logging_directory = "fake", False
    said: dict[str, list[Any]]
    fails: Callable[[str], None]

    def __init__(self, project: str, run: str, id: str | None) -> None:
        self.project, self.run, self.id = project, run, id or f"id{len(self.said)}"
        super().__init__()

    def start(self) -> None:
        type(self).fails("start")
        self.said.setdefault(self.id, []).append(("start", self.project, self.run))

    @property
    def tracker(self) -> Any:
        return SimpleNamespace(id=self.id)

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.said[self.id].append(values)

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        type(self).fails("log")
        self.said[self.id].append((step, values))

    def log_images(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self.said[self.id].append((step, values))

    def finish(self) -> None:
        type(self).fails("finish")
        self.said[self.id].append("finish")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    """A tracker that is registered under the name ``fake``, and continues runs."""
    made: type[Fake] = type("Fake", (Fake,), {"said": {}, "fails": staticmethod(lambda _: None)})
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "fake", made)
    kind = Kind(
        lambda names, known: (names.project, {"run": names.run, "id": known.id if known else None}),
        known=lambda run: Known(run.id),
        add_picture=tracker_kinds._one,
    )
    monkeypatch.setitem(tracker_kinds.KINDS, "fake", kind)
    return made


def send(folder: Path, *, steps: tuple[int, ...] = (1, 2), stop: bool = False) -> float:
    """Seconds that a log with the tracker takes, its end included."""
    start = time.monotonic()
    folder.mkdir(exist_ok=True)
    with Trackers(["fake"], "scans", folder, SETTINGS) as following, MetricsLog(folder, 0, following) as log:
        following.start()
        for step in steps:
            log.write({"step": step, "loss": 0.5})
        if stop:
            following.hurry()
    return time.monotonic() - start


def test_it_gets_settings_values_and_pictures(fake: type[Fake], tmp_path: Path) -> None:
    picture = Image.new("RGB", (4, 4))
    with Trackers(["tensorboard", "fake"], "scans", tmp_path / "mine", SETTINGS) as following:
        (tmp_path / "mine").mkdir()
        with MetricsLog(tmp_path / "mine", 0, following) as log:
            log.write({"step": 0, "knn_top1": 0.25}, "monitor")  # before the thread
            following.start()
            log.write({"step": 1, "loss": 0.5, "unreadable_images": 0})
            log.add_picture("reconstructions", picture, 1)
    assert fake.said == {
        "id0": [
            ("start", "scans", "mine"),
            {"train.epochs": 4, "train.betas": "0.9, 0.95", "output": None},
            (0, {"monitor/knn_top1": 0.25}),
            (1, {"train/loss": 0.5, "train/unreadable_images": 0}),
            (1, {"reconstructions": picture}),
            "finish",
        ]
    }
    assert json.loads((tmp_path / "mine" / "trackers.json").read_text()) == {"fake": {"id": "id0", "store": None}}


def test_a_resumed_run_continues_the_trackers_run(
    fake: type[Fake], image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped and resumed: one run of the tracker, every step once; another folder is another run."""
    log = {"every": 1, "pictures_every": 4, "trackers": ["fake"], "project": "scans"}
    keywords = TINY_KEYWORDS | {"data": image_folder, "output": tmp_path / "run", "log": log}
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        assert not pretrain(**keywords).is_complete
    assert pretrain(**keywords).is_complete
    assert list(fake.said) == ["id0"]
    said = fake.said["id0"]
    sent = [one for one in said if len(one) == 2]
    assert [step for step, values in sent if "train/loss" in values] == list(range(1, 11))
    assert [step for step, values in sent if "reconstructions" in values] == [10]
    assert said.count("finish") == said.count(("start", "scans", "run")) == 2
    assert send(tmp_path / "run2") < trackers.TO_SEND
    assert list(fake.said) == ["id0", "id1"]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ModuleNotFoundError(name="comet_ml.x"), "comet_ml is not installed; pip install comet-ml"),
        (RuntimeError("not logged in;\n run login"), "not logged in; run login"),
        (SystemExit(), "SystemExit"),
    ],
)  # fmt: skip
def test_one_that_cannot_start_is_left_out(
    fake: type[Fake], tmp_path: Path, caplog: pytest.LogCaptureFixture, error: BaseException, line: str
) -> None:
    def fail(what: str) -> None:
        raise error

    fake.fails = staticmethod(fail)
    with caplog.at_level(logging.INFO, "fcmae"):
        send(tmp_path)
    assert caplog.messages == [f"fake: {line}; training goes on without it"]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    assert not (tmp_path / "trackers.json").exists()


def test_one_that_fails_for_a_while_is_named_once(
    fake: type[Fake], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []

    def fail(what: str) -> None:
        calls.append(what)
        if what == "log" and calls.count("log") in (2, 3):
            raise ConnectionError("the server\nis away")

    fake.fails = staticmethod(fail)
    send(tmp_path, steps=(1, 2, 3, 4))
    assert [line[0] for line in fake.said["id0"][2:-1]] == [1, 4]
    assert caplog.messages == [
        "fake: the server is away; training goes on, metrics.jsonl has the values",
        "fake: 2 values did not arrive; metrics.jsonl has them",
    ]


@pytest.mark.parametrize("at", ["start", "log", "finish"])
def test_one_that_hangs_holds_nothing_up(
    fake: type[Fake], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """The run ends in the time that is set, and the process does not wait for the tracker either."""
    over = threading.Event()
    monkeypatch.setattr(command, "_in_a_hurry", [])
    monkeypatch.setattr(trackers, "TO_SEND_STOPPED", 0.2)
    fake.fails = staticmethod(lambda what: over.wait(60) if what == at else None)
    try:
        assert send(tmp_path, stop=True) < 20
        assert caplog.messages == ["fake: not everything could be sent in time; metrics.jsonl has it all"]
        assert command._in_a_hurry
    finally:
        over.set()


def test_one_that_does_not_keep_up_is_given_up(
    fake: type[Fake], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()
    monkeypatch.setattr(trackers, "WAITING", 5)
    fake.fails = staticmethod(lambda what: over.wait(60) if what == "start" else None)
    try:
        assert send(tmp_path, steps=tuple(range(1, 20))) < 20
    finally:
        over.set()
    assert caplog.messages == ["fake: it does not keep up; training goes on without it"]


def test_a_setting_that_cannot_change_is_sent_once(fake: type[Fake], monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow refuses another value of a setting, and would be lost with a longer schedule."""
    monkeypatch.setitem(tracker_kinds.KINDS, "fake", tracker_kinds.KINDS["fake"]._replace(keeps_settings=True))
    names = Names("scans", "mine", Path("mine"))
    tracker_kinds.start("fake", names, None, {"epochs": 1})
    tracker_kinds.start("fake", names, Known("id0"), {"epochs": 2})
    assert [one for one in fake.said["id0"] if isinstance(one, dict)] == [{"epochs": 1}]


def test_names(fake: type[Fake]) -> None:
    """Those of accelerate and those registered there; others are refused before anything starts."""
    assert set(tracking.LOGGER_TYPE_TO_CLASS) - {"fake"} == set(TRACKERS)
    assert LogConfig(trackers=("fake", "wandb")).trackers == ("fake", "wandb")
    with pytest.raises(ValueError, match=r"trackers takes aim, .*wandb, got 'wanbd'"):
        LogConfig(trackers=("wanbd",))


@pytest.mark.parametrize(
    ("setting", "sent"),
    [
        ("https://me:secret@host/images.tar?sig=secret", "https://host/images.tar"),
        (("s3://bucket/a-{0..7}.tar", "/data/what?.png"), "s3://bucket/a-{0..7}.tar, /data/what?.png"),
        ([0.9, 0.95], "0.9, 0.95"),
        (True, True),
        (None, None),
    ],
)
def test_settings_are_sent_without_secrets(setting: Any, sent: Any) -> None:
    assert trackers._scalar(setting) == sent
