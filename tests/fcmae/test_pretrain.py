"""python -m fcmae.pretrain: what a run writes, that it can be stopped anywhere, and what it refuses."""

import logging
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import fcmae
from fcmae.errors import UserError
from fcmae.models.sizes import SIZES, Size
from fcmae.pretrain import main, pretrain
from fcmae.report import report
from fcmae.runs import checkpoint as ckpt
from fcmae.runs.starts import read_starts
from fcmae.training import loop
from tests.fcmae.conftest import TINY
from tests.fcmae.finished_runs import (
    SHORT,
    Args,
    assert_same_weights,
    gradient_difference,
    losses,
    metrics,
    stop_after,
    weights,
)

pytestmark = pytest.mark.usefixtures("small_network")


def test_a_run_folder_holds_what_the_readme_says(tiny_args: Args, tmp_path: Path) -> None:
    assert main(tiny_args("run", "--log.pictures_every", "2")) == 0
    run = tmp_path / "run"
    lines = metrics(run)
    assert [m["step"] for m in lines] == list(range(1, 11))  # ceil(10 images × 4 epochs / 4)
    assert lines[-1]["epoch"] == 4
    assert all({"loss", "lr", "images_per_second", "data_wait", "epoch"} <= m.keys() for m in lines)
    assert all(0 <= m["data_wait"] <= 1 for m in lines)
    assert lines[0]["lr"] == 0
    assert max(m["lr"] for m in lines) == pytest.approx(0.05 * 4 / 256, rel=1e-6)

    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["name"] == "convnextv2_atto"
    assert config["train"]["mask_ratio"] == 0.6

    assert (run / "checkpoints" / "last").read_text().strip() == "step-00000010"
    assert {p.name for p in (run / "checkpoints").iterdir()} == {
        "last",
        "step-00000005",
        "step-00000008",
        "step-00000010",
    }

    pictures = sorted((run / "reconstructions").glob("*.png"))
    assert [p.stem for p in pictures] == ["step-00000005", "step-00000010"]
    with Image.open(pictures[-1]) as picture:
        assert picture.width > 8 * 160
        assert len(picture.getcolors(10**6) or []) > 100

    events = EventAccumulator(str(run / "tensorboard")).Reload()
    written = [(e.step, e.value) for e in events.Scalars("train/loss")]
    assert [s for s, _ in written] == list(range(1, 11))
    assert written[-1][1] == pytest.approx(lines[-1]["loss"], rel=1e-6)


def test_config_yaml_repeats_the_run(tiny_args: Args, tmp_path: Path) -> None:
    main(tiny_args("a"))
    again = ["--config", str(tmp_path / "a" / "config.yaml"), "--output", str(tmp_path / "b")]
    assert main(again) == 0
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert_same_weights(tmp_path / "a", tmp_path / "b")


def test_it_learns(tiny_args: Args, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Predicting nothing scores 1; smooth images are easy to complete, so 100 steps of a small network show."""
    monkeypatch.setitem(SIZES, "convnextv2_atto", Size((1, 1, 1, 1), (16, 16, 32, 32), conv_mlp=True))
    args = tiny_args(
        "run", "--train.epochs", "40", "--log.every", "10", "--train.base_lr", "0.4", "--data.cache", "true"
    )
    assert main(args) == 0
    run = losses(tmp_path / "run")
    assert run[0][1] > 0.95
    assert run[-1][1] < 0.88


@pytest.mark.parametrize(
    ("stop", "more"),
    [
        (1, ()),
        (4, ()),
        (9, ()),
        (4, ("--data.crops_per_image", "3", "--train.epochs", "1", "--train.warmup_epochs", "0")),
    ],
)
def test_stopping_anywhere_and_going_on_changes_nothing(
    tiny_args: Args, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int, more: tuple[str, ...]
) -> None:
    """Bit for bit on a CPU: losses and weights, with drop path, accumulation, and a stop within a log interval and
    between the crops of an image."""
    options = ["--model.drop_path_rate", "0.3", "--train.accumulation_steps", "2", "--train.batch_size", "2",
               "--log.every", "3", "--train.clip_grad", "1", *more]  # fmt: skip
    assert main(tiny_args("whole", *options)) == 0
    with monkeypatch.context() as patch:
        stop_after(patch, stop)
        assert main(tiny_args("cut", *options)) == 0
    assert ckpt.read_state(ckpt.resolve_checkpoint(tmp_path / "cut")).step == stop
    assert main(tiny_args("cut", *options, "--data.num_workers", "1")) == 0
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert_same_weights(tmp_path / "cut", tmp_path / "whole")


def test_going_on_in_another_folder_from_a_path(tiny_args: Args, tmp_path: Path) -> None:
    assert main(tiny_args("a")) == 0
    middle = tmp_path / "a" / "checkpoints" / "step-00000005"
    assert main(tiny_args("b", "--resume", str(middle))) == 0
    assert losses(tmp_path / "b") == losses(tmp_path / "a")[5:]
    assert_same_weights(tmp_path / "a", tmp_path / "b")


def test_accumulation_is_a_larger_batch(tiny_args: Args, tmp_path: Path) -> None:
    """And the measure can tell: half of the micro-batches would not do."""
    assert main(tiny_args("one", *SHORT)) == 0
    assert main(tiny_args("four", *SHORT, "--train.batch_size", "1", "--train.accumulation_steps", "4")) == 0
    assert main(tiny_args("other", *SHORT, "--seed", "1")) == 0
    assert gradient_difference(tmp_path / "four", tmp_path / "one") < 1e-4
    assert gradient_difference(tmp_path / "other", tmp_path / "one") > 1e-2


def test_gradients_are_clipped(tiny_args: Args, tmp_path: Path) -> None:
    """A bound far below the gradient's norm leaves a mean gradient of at most that norm."""
    assert main(tiny_args("run", *SHORT, "--train.clip_grad", "1e-4")) == 0
    state = torch.load(ckpt.resolve_checkpoint(tmp_path / "run") / ckpt.OPTIMIZER, weights_only=True)["state"]
    norm = torch.cat([moments["exp_avg"].flatten() for moments in state.values()]).norm()
    assert 0 < norm < 1e-4


def test_gradients_are_summed_over_processes_once_a_step(tiny_args: Args, monkeypatch: pytest.MonkeyPatch) -> None:
    """no_sync around all micro-batches but the last."""
    entered = []
    monkeypatch.setattr(Accelerator, "no_sync", lambda self, model: entered.append(model) or self.autocast())
    assert main(tiny_args("run", "--train.batch_size", "1", "--train.accumulation_steps", "4")) == 0
    assert len(entered) == 3 * 10


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(
    tiny_args: Args, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    args = tiny_args("run", "--log.checkpoint_every", "1")
    assert main([*args, "--train.base_lr", "1e30", "--train.warmup_epochs", "2"]) == 1
    message = caplog.messages[-1]
    assert "not finite after step" in message or "the loss is" in message
    assert "at step" in message or "after step" in message
    kept = ckpt.last_checkpoint(tmp_path / "run")
    if kept is None:
        assert "no checkpoint had been written yet" in message
    else:
        assert str(kept) in message
        assert all(v.isfinite().all() for v in load_file(kept / ckpt.MODEL).values())


def test_the_step_of_a_nan_is_named_exactly(
    tiny_args: Args, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Losses are read every 10 steps only; the message names the step all the same, and step 5's checkpoint stays."""
    step = iter(range(1, 100))
    real = loop._train_step

    def nan_at_7(*args: object) -> torch.Tensor:
        loss = real(*args)  # type: ignore[arg-type]
        return loss * torch.nan if next(step) == 7 else loss

    monkeypatch.setattr(loop, "_train_step", nan_at_7)
    assert main(tiny_args("run", "--log.every", "10", "--log.checkpoint_every", "2")) == 1
    assert "the loss is nan at step 7; stopped, the last good checkpoint is kept: " in caplog.messages[-1]
    assert "Try --resume " in caplog.messages[-1]
    assert "Traceback" not in caplog.text
    kept = ckpt.resolve_checkpoint(tmp_path / "run")
    assert kept.name == "step-00000005"
    monkeypatch.setattr(loop, "_train_step", real)
    assert main(tiny_args("other", "--resume", str(kept), "--train.clip_grad", "1", "--train.base_lr", "0.01")) == 0
    assert "--train.clip_grad was None and is now 1.0: training changes from here on" in caplog.messages


def test_unreadable_images_are_skipped_counted_and_named(
    tiny_args: Args, tmp_path: Path, image_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for i, path in enumerate(sorted(image_folder.rglob("*.png"))):
        (folder / f"{i}.png").write_bytes(path.read_bytes()[: 100 if i in (2, 5) else None])
    with caplog.at_level(logging.INFO):
        assert main([*tiny_args("run"), "--data.path", str(folder)]) == 0
    for name in ("2.png", "5.png"):
        assert len([m for m in caplog.messages if m.startswith("skipped") and name in m]) == 1
    assert any(m.startswith("2 image files could not be read") for m in caplog.messages)
    assert metrics(tmp_path / "run")[-1]["unreadable_images"] == 2


def test_bf16_autocast(tiny_args: Args, tmp_path: Path) -> None:
    """Close to float32, and not float32."""
    main(tiny_args("fp32", *SHORT))
    assert main(tiny_args("bf16", *SHORT, "--train.precision", "bf16")) == 0
    assert 1e-4 < gradient_difference(tmp_path / "bf16", tmp_path / "fp32") < 0.2


def test_torch_compile_trains_the_same(tiny_args: Args, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In graphs that PyTorch runs: compiling their kernels takes minutes."""
    compiled, compile_ = list[str](), nn.Module.compile
    monkeypatch.setattr(
        nn.Module, "compile", lambda self: (compiled.append(type(self).__name__), compile_(self, backend="aot_eager"))
    )
    main(tiny_args("eager", *SHORT))
    assert main(tiny_args("compiled", *SHORT, "--train.compile", "true")) == 0
    assert compiled == ["FCMAE"]
    assert gradient_difference(tmp_path / "compiled", tmp_path / "eager") < 1e-3
    assert weights(tmp_path / "eager").keys() == weights(tmp_path / "compiled").keys()


def test_the_device_is_recorded_and_tensorboard_has_the_pictures(tiny_args: Args, tmp_path: Path) -> None:
    """A finished run that is started again trains nothing and records no start."""
    arguments = tiny_args("run", "--device", "cpu", "--log.pictures_every", "4")
    assert main(arguments) == 0
    run = tmp_path / "run"
    (start,) = read_starts(run)
    assert (start["step"], start["precision"], start["processes"], start["effective_batch"]) == (0, "fp32", 1, 4)
    assert start["hardware"].endswith(f"{torch.get_num_threads()} threads")
    assert start["peak_lr"] == pytest.approx(0.05 * 4 / 256)
    assert yaml.safe_load((run / "config.yaml").read_text())["device"] == "cpu"
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert [image.step for image in events.Images("reconstructions")] == [10]
    assert main(arguments) == 0
    assert len(read_starts(run)) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take no such names")
def test_names_that_are_not_utf8(image_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of images, their folder and the run: trained on, recorded, resumed, and reported."""
    odd = os.fsdecode(b"caf\xe9")
    shutil.copytree(image_folder / "a", tmp_path / odd)
    (tmp_path / odd / "0.png").rename(tmp_path / odd / f"{odd}.png")
    (tmp_path / odd / f"bad{odd}.png").write_bytes(b"junk")
    run = tmp_path / f"run{odd}"
    arguments = [*TINY, "--data.path", str(tmp_path / odd), "--output", str(run), "--log.pictures_every", "1"]
    assert main([*arguments, "--train.epochs", "2"]) == 0
    assert f"bad{odd}.png" in caplog.text
    assert main(["--config", str(run / "config.yaml"), "--train.epochs", "3"]) == 0
    assert [m["step"] for m in metrics(run)] == list(range(1, len(metrics(run)) + 1))
    assert metrics(run)[-1]["unreadable_images"] == 1
    assert len(list((run / "tensorboard").glob("events.*"))) == 2
    assert list((run / "reconstructions").glob("*.png"))
    assert report(run).size > 10_000
    assert fcmae.load_model(run).config.img_size == 32


def test_a_paper_recipe_needs_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A forgotten --data.path does not train for days on the bundled photos."""
    for recipe in ("pretrain", "pretrain_tiny"):
        assert main(["--config", recipe, "--output", str(tmp_path / "run")]) == 1
        assert "--data.path is missing: the recipe trains on your own images; give a folder" in caplog.messages[-1]
        assert "\n" not in caplog.messages[-1]
    with pytest.raises(UserError, match=r"--data\.path is missing"):
        pretrain(config="pretrain", output=tmp_path / "run")
    assert not (tmp_path / "run").exists()
