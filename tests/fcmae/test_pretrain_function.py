"""pretrain() as a function: keywords, results, errors."""

from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest

from fcmae.cli.pretrain_parser import parse_config
from fcmae.errors import UserError
from fcmae.pretrain import PretrainResult, main, pretrain
from tests.fcmae.finished_runs import SHORT, Args, assert_same_weights, losses, stop_after

pytestmark = pytest.mark.usefixtures("small_network")

TINY_KEYWORDS: dict[str, Any] = {
    "img_size": 32, "stem_stride": 1, "decoder_dim": 16, "batch_size": 4, "epochs": 4, "warmup_epochs": 1,
    "base_lr": 0.05, "num_workers": 0, "log": {"every": 1, "pictures_every": 0},
}  # fmt: skip


def test_from_python(tiny_args: Args, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run of the command bit for bit; the result says where it is and how it ended, and nothing is printed."""
    assert main(tiny_args("cli")) == 0
    capsys.readouterr()
    result = pretrain(data=image_folder, output=tmp_path / "python", **TINY_KEYWORDS)
    assert capsys.readouterr().out == ""
    assert losses(tmp_path / "python") == losses(tmp_path / "cli")
    assert_same_weights(tmp_path / "python", tmp_path / "cli")
    assert result == PretrainResult(tmp_path / "python", 10, losses(tmp_path / "cli")[-1][1], is_complete=True)
    assert pretrain(config=tmp_path / "python" / "config.yaml") == result  # nothing left to train
    with pytest.raises(FrozenInstanceError):
        result.steps = 3  # type: ignore[misc]


def test_a_configuration_is_an_argument_too(tiny_args: Args, tmp_path: Path) -> None:
    config = parse_config(tiny_args("a", *SHORT))
    first, second = pretrain(config), pretrain(replace(config, output=str(tmp_path / "b")))
    assert (first.folder, first.steps) == (tmp_path / "a", 3)
    assert (second.folder, second.loss) == (tmp_path / "b", first.loss)
    assert first.loss == losses(tmp_path / "a")[-1][1]


def test_a_stopped_run_says_so_and_goes_on(image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keywords = TINY_KEYWORDS | {"data": image_folder, "output": tmp_path / "run"}
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        stopped = pretrain(**keywords)
    assert (stopped.steps, stopped.is_complete) == (4, False)
    assert stopped.loss == losses(tmp_path / "run")[-1][1]
    done = pretrain(**keywords)
    assert (done.steps, done.is_complete) == (10, True)
    assert [step for step, _ in losses(tmp_path / "run")] == list(range(1, 11))


def test_errors_from_python(image_folder: Path, tmp_path: Path) -> None:
    """The same as on the command line, raised; no folder is left behind."""
    for keywords, message in (
        ({"data": tmp_path / "nowhere"}, f"--data.path {tmp_path}/nowhere does not exist"),
        ({"data": image_folder, "epochs": 0}, "--train.epochs must be at least 1, got 0"),
        ({"data": image_folder, "img_size": 100}, "--model.img_size must be a multiple of the patch size 8"),
        ({"data": image_folder, "epoch": 1}, "epoch is not a setting; the nearest is epochs"),
    ):
        with pytest.raises(UserError) as error:
            pretrain(output=tmp_path / "run", **keywords)
        assert message in str(error.value)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
