"""Damaged files of a run folder: read, or refused in one line; never a traceback, and nothing is lost."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fcmae.errors import UserError
from fcmae.pretrain import main
from fcmae.runs import checkpoint as ckpt
from fcmae.runs.metrics import MetricsLog
from fcmae.runs.state import LARGEST
from tests.fcmae.small_runs import save_run

pytestmark = pytest.mark.usefixtures("small_network")

GOOD = {"step": 1, "effective_batch": 1, "samples_per_epoch": 1}
DAMAGED_STATES: dict[str, bytes] = {
    "empty": b"",
    "truncated": json.dumps(GOOD).encode()[:20],
    "NUL bytes": bytes(100),
    "NUL bytes at its end": json.dumps(GOOD).encode() + bytes(100),
    "not UTF-8": b'{"step": "\xff\xfe"}',
    "UTF-16": json.dumps(GOOD).encode("utf-16"),
    "a list": b"[1, 2]",
    "a number": b"7",
    "null": b"null",
    "deep": b"[" * 100_000,
    "a deep value": b'{"step": ' + b"[" * 100_000,
    "no step": json.dumps({"effective_batch": 1, "samples_per_epoch": 1}).encode(),
    "no effective_batch": json.dumps({"step": 1, "samples_per_epoch": 1}).encode(),
    "another step": json.dumps(GOOD | {"step": 2}).encode(),
    "5000 digits": b'{"step": ' + b"9" * 5000 + b"}",
} | {
    f"{name} {value!r}"[:60]: json.dumps(GOOD | {name: value}).encode()
    for name, values in {
        "step": [None, "1", 1.0, True, -1, [1], LARGEST, 10**400, float("nan")],
        "effective_batch": [0, -4, "4", None, 1e300],
        "samples_per_epoch": [0, float("inf"), {}, LARGEST],
        "images_digest": [3, None],
        "pending_losses": [3, "x", ["x"], [None], [float("nan")], [10**400], {"0": 1}, [[1]]],
        "settings": [[], "x", None],
    }.items()
    for value in values
}


@pytest.mark.parametrize("content", DAMAGED_STATES.values(), ids=DAMAGED_STATES.keys())
def test_a_damaged_state_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    folder = ckpt.resolve_checkpoint(save_run(tmp_path / "run"))
    (folder / ckpt.STATE).write_bytes(content)
    with pytest.raises(UserError) as error:
        ckpt.read_state(folder)
    assert str(error.value).startswith(
        f"{folder / ckpt.STATE} cannot be read, so {folder} is not a complete checkpoint"
    )
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000


def test_a_state_of_a_later_version_is_read(tmp_path: Path) -> None:
    folder = ckpt.resolve_checkpoint(save_run(tmp_path / "run"))
    (folder / ckpt.STATE).write_text(json.dumps(GOOD | {"new": [1]}))
    assert ckpt.read_state(folder) == ckpt.TrainState(1, 1, 1)


@pytest.mark.parametrize("name", [ckpt.STATE, ckpt.MODEL, ckpt.OPTIMIZER])
def test_a_folder_in_the_place_of_a_file_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    run = save_run(tmp_path / "run")
    folder = ckpt.resolve_checkpoint(run)
    (folder / name).unlink()
    (folder / name).mkdir()
    (run / "checkpoints" / "last").unlink()
    assert ckpt.last_checkpoint(run) is None  # not complete


@pytest.mark.parametrize("content", [b"", bytes(14), b"step-99999999", b"..", b"/", b"\xff\xfe", b"x" * 5000, b"a\nb"])
def test_a_damaged_pointer_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    pointer = save_run(tmp_path / "run") / "checkpoints" / "last"
    pointer.write_bytes(content)
    with pytest.raises(UserError, match="which is not there or not complete; delete"):
        ckpt.last_checkpoint(tmp_path / "run")
    pointer.unlink()
    pointer.mkdir()
    with pytest.raises(UserError, match="is not a file that a run wrote"):
        ckpt.last_checkpoint(tmp_path / "run")


DAMAGED_LINES: dict[str, bytes] = {
    "not UTF-8": b"\xff\xfe\x00",
    "NUL bytes": bytes(4096),
    "deep": b"[" * 100_000,
    "cut": b'{"step": 2, "lo',
    "two in one": b'{"step": 2, "loss": 1}{"step": 2, "loss": 1}',
    "a list": b"[2]",
    "a number": b"2",
    "no step": b'{"loss": 1}',
    "step as text": b'{"step": "2"}',
    "step null": b'{"step": null}',
    "step true": b'{"step": true}',
    "step NaN": b'{"step": NaN}',
    "step huge": b'{"step": ' + b"9" * 5000 + b"}",
    "step below 0": b'{"step": -1}',
}


@pytest.mark.parametrize("ending", [b"", b"\n"], ids=["cut off", "whole"])
@pytest.mark.parametrize("damage", DAMAGED_LINES.values(), ids=DAMAGED_LINES.keys())
def test_damaged_lines_of_metrics_are_set_aside_and_the_others_stay(
    tmp_path: Path, damage: bytes, ending: bytes
) -> None:
    good = [b'{"step": 1, "loss": 0.5}', b'{"step": 2, "loss": 0.25}']
    (tmp_path / "metrics.jsonl").write_bytes(good[0] + b"\n" + damage + b"\n" + good[1] + b"\n" + damage + ending)
    with MetricsLog(tmp_path, start_step=2) as log:
        log.write({"step": 3, "loss": 0.125})
    assert (tmp_path / "metrics.jsonl").read_bytes().splitlines() == [*good, b'{"step": 3, "loss": 0.125}']
    assert (tmp_path / "metrics.superseded.jsonl").read_bytes() == 2 * (damage + b"\n")


def test_a_line_without_its_end_of_line_stays_whole(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1, "loss": 0.5}')
    with MetricsLog(tmp_path, start_step=1) as log:
        log.write({"step": 2})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": 0.5}\n{"step": 2}\n'
    assert not (tmp_path / "metrics.superseded.jsonl").exists()


def test_other_things_in_the_place_of_files_and_folders(
    tiny_args: Callable[..., list[str]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, is_folder in (
        ("metrics.jsonl", True), ("metrics.superseded.jsonl", True), (".lock", True), ("config.yaml", True),
        ("tensorboard", False), ("checkpoints", False), ("reconstructions", False),
    ):  # fmt: skip
        run = tmp_path / f"run-{name}"
        run.mkdir()
        (run / name).mkdir() if is_folder else (run / name).write_text("mine")
        assert main([*tiny_args(), "--output", str(run)]) == 1
        assert caplog.messages[-1].startswith("fcmae.pretrain: error: ")
        assert str(run) in caplog.messages[-1]
        assert (run / name).is_dir() if is_folder else (run / name).read_text() == "mine"
