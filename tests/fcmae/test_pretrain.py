"""python -m fcmae.pretrain: what a run writes, that it can be stopped anywhere, and what it refuses."""

import itertools
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import fcmae
from fcmae.cli.pretrain_parser import parse_config
from fcmae.errors import UserError
from fcmae.models import sizes
from fcmae.pretrain import PretrainResult, main, pretrain
from fcmae.report import report
from fcmae.runs import checkpoint as ckpt
from fcmae.runs.starts import read_starts
from fcmae.training import console, loop
from tests.fcmae.conftest import TINY

Args = Callable[..., list[str]]
ROOT = Path(__file__).parents[2]


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[tuple[int, float]]:
    return [(m["step"], m["loss"]) for m in metrics(run)]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(ckpt.resolve_checkpoint(run) / ckpt.MODEL)


SHORT = ("--train.epochs", "1", "--train.warmup_epochs", "0.5")  # 3 steps


def gradient_difference(a: Path, b: Path) -> float:
    """Relative difference of AdamW's mean gradients: linear in the gradients, while losses hardly move in 3 steps."""

    def mean_gradient(run: Path) -> torch.Tensor:
        state = torch.load(ckpt.resolve_checkpoint(run) / ckpt.OPTIMIZER, weights_only=True)["state"]
        return torch.cat([state[i]["exp_avg"].flatten() for i in sorted(state)])

    left, right = mean_gradient(a), mean_gradient(b)
    assert right.norm() > 0
    return float((left - right).norm() / right.norm())


def assert_same_weights(a: Path, b: Path) -> None:
    left, right = weights(a), weights(b)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[k], right[k]) for k in left)


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """SIGTERM comes to this process during this many'th step."""
    done = itertools.count(1)
    train_step = loop._train_step

    def step_with_signal(*args: Any) -> torch.Tensor:
        if next(done) == steps:
            signal.raise_signal(signal.SIGTERM)
        return train_step(*args)

    monkeypatch.setattr(loop, "_train_step", step_with_signal)


def test_a_run_folder_holds_what_the_readme_says(tiny_args: Args, tmp_path: Path) -> None:
    assert main(tiny_args("run", "--log.pictures_every", "2")) == 0
    run = tmp_path / "run"
    lines = metrics(run)
    assert [m["step"] for m in lines] == list(range(1, 11))  # ceil(10 images × 4 epochs / 4)
    assert lines[-1]["epoch"] == 4
    assert all({"loss", "lr", "images_per_second", "epoch"} <= m.keys() for m in lines)
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


def test_it_learns(tiny_args: Args, tmp_path: Path) -> None:
    """Predicting nothing scores 1; smooth images are easy to complete, so 100 steps show."""
    args = tiny_args(
        "run", "--train.epochs", "40", "--log.every", "10", "--train.base_lr", "0.1", "--data.cache", "true"
    )
    assert main(args) == 0
    run = losses(tmp_path / "run")
    assert run[0][1] > 0.95
    assert run[-1][1] < 0.88


@pytest.mark.parametrize("stop", [1, 4, 9])
def test_stopping_anywhere_and_going_on_changes_nothing(
    tiny_args: Args, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    """Bit for bit on a CPU: losses and weights, with drop path, accumulation and a log interval that the stop cuts."""
    options = ["--model.drop_path_rate", "0.3", "--train.accumulation_steps", "2", "--train.batch_size", "2",
               "--log.every", "3", "--train.clip_grad", "1"]  # fmt: skip
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


def command(args: list[str], *launcher: str) -> list[str]:
    return [sys.executable, *(launcher or ("-m",)), "fcmae.pretrain", *args]


def start(args: list[str], *launcher: str) -> subprocess.Popen:
    return subprocess.Popen(
        command(args, *launcher), cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for_lines(run: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while not (run / "metrics.jsonl").is_file() or len((run / "metrics.jsonl").read_text().splitlines()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


LONG = ["--train.epochs", "400", "--data.num_workers", "2", "--log.checkpoint_every", "2"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_save_and_say_how_to_go_on(tiny_args: Args, tmp_path: Path, number: signal.Signals) -> None:
    """The signal goes to the whole process group, workers included, as a terminal's Ctrl-C does."""
    process = start(tiny_args("run", *LONG))
    wait_for_lines(tmp_path / "run", 3)
    os.killpg(process.pid, number)
    _, text = process.communicate(timeout=60)
    assert process.returncode == 0, text
    assert "Traceback" not in text
    run = tmp_path / "run"
    steps = metrics(run)[-1]["step"]
    go_on = f"{sys.executable} -m fcmae.pretrain --config {run}/config.yaml"
    assert f"stopped at step {steps} of 1000; saved. To resume: {go_on}" in text
    assert ckpt.read_state(ckpt.resolve_checkpoint(run)).step == steps
    assert main(["--config", f"{run}/config.yaml", "--train.epochs", str(-(-(steps + 3) * 4 // 10))]) == 0
    assert [m["step"] for m in metrics(run)] == list(range(1, len(metrics(run)) + 1))


def test_a_killed_run_goes_on_from_its_last_checkpoint(tiny_args: Args, tmp_path: Path) -> None:
    """kill -9, then resume: every step once in metrics.jsonl, the same losses as never killed, nothing thrown away."""
    process = start(tiny_args("run", *LONG))
    wait_for_lines(tmp_path / "run", 13)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()  # type: ignore[union-attr]
    run = tmp_path / "run"
    saved = ckpt.read_state(ckpt.resolve_checkpoint(run)).step
    assert saved % 5 == 0
    before = losses(run)
    (run / "checkpoints" / ".partial-step-00000999").mkdir()  # what a death in mid-checkpoint leaves
    assert main([*tiny_args("run", *LONG), "--train.epochs", "20"]) == 0
    after = losses(run)
    assert [s for s, _ in after] == list(range(1, 51))
    assert after[:saved] == before[:saved]
    lost = before[saved:]
    superseded = run / "metrics.superseded.jsonl"
    kept = [json.loads(line)["step"] for line in superseded.read_text().splitlines()] if superseded.is_file() else []
    assert kept == [s for s, _ in lost]
    assert not list((run / "checkpoints").glob(".partial*"))


def launch(args: list[str], *launcher: str) -> str:
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command(args, *launcher), cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")


def test_two_processes_train_as_one(tiny_args: Args, image_folder: Path, tmp_path: Path) -> None:
    """torchrun: the same samples a step, gradients averaged over both; what either cannot read is named once."""
    shutil.copytree(image_folder, tmp_path / "images")
    broken = tmp_path / "images" / "a" / "0.png"
    broken.write_bytes(broken.read_bytes()[:100])
    options = (*SHORT, "--data.path", str(tmp_path / "images"))
    assert main(tiny_args("one", *options)) == 0
    args = tiny_args("two", *options, "--train.batch_size", "1", "--train.accumulation_steps", "2")
    text = launch(args, *TORCHRUN)
    assert "2 × cpu" in text
    assert text.count(f"skipped, cannot be read: {broken}") == 1
    assert metrics(tmp_path / "two")[-1]["unreadable_images"] == 1
    assert text.count("done: 3 steps") == 1
    assert gradient_difference(tmp_path / "two", tmp_path / "one") < 1e-4
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    torch.testing.assert_close(torch.tensor(one), torch.tensor(two), rtol=1e-5, atol=0)


def test_two_processes_share_an_effective_batch_and_one_goes_on(tiny_args: Args, tmp_path: Path) -> None:
    """Warned of the learning rate once; RUN/config.yaml resumes on another number of processes."""
    args = [*tiny_args("two", *SHORT), "--train.batch_size", "null", "--train.effective_batch", "4"]
    text = launch([*args, "--train.base_lr", "1e-3"], *TORCHRUN)
    assert text.count("4 images per step: --train.batch_size 2 × --train.accumulation_steps 1 × 2 processes") == 1
    assert text.count("a peak learning rate of ") == 1
    assert main(["--config", str(tmp_path / "two" / "config.yaml"), "--train.epochs", "2"]) == 0
    assert [m["step"] for m in metrics(tmp_path / "two")] == [1, 2, 3, 4, 5]


def test_two_processes_stop_together_and_go_on(tiny_args: Args, tmp_path: Path) -> None:
    """SIGTERM reaches one process of two; both stop after the same step, and the run goes on from there."""
    args = [*tiny_args("run", *LONG, "--train.batch_size", "2"), "--data.num_workers", "0"]
    process = start(args, *TORCHRUN)
    wait_for_lines(tmp_path / "run", 3)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGTERM)
    _, text = process.communicate(timeout=120)
    assert process.returncode == 0, text[-3000:]
    run = tmp_path / "run"
    saved = ckpt.read_state(ckpt.resolve_checkpoint(run)).step
    assert saved % console.STEPS_BETWEEN_QUESTIONS == 0
    assert text.count(f"stopped at step {saved} of 1000; saved. To resume: torchrun --nproc-per-node 2 -m") == 1
    assert [m["step"] for m in metrics(run)] == list(range(1, saved + 1))
    epochs = str(-(-(saved + 3) * 4 // 10))
    assert main([*args, "--train.batch_size", "4", "--train.epochs", epochs]) == 0  # on one process
    assert [m["step"] for m in metrics(run)] == list(range(1, len(metrics(run)) + 1))


def test_accelerate_launch(tiny_args: Args, tmp_path: Path) -> None:
    assert main(tiny_args("plain", *SHORT)) == 0
    launch(tiny_args("launched", *SHORT), "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "-m")
    assert gradient_difference(tmp_path / "launched", tmp_path / "plain") < 1e-4


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
    assert any(m.startswith("2 image file(s) could not be read") for m in caplog.messages)
    assert metrics(tmp_path / "run")[-1]["unreadable_images"] == 2


def test_bf16_autocast(tiny_args: Args, tmp_path: Path) -> None:
    """Close to float32, and not float32."""
    main(tiny_args("fp32", *SHORT))
    assert main(tiny_args("bf16", *SHORT, "--train.precision", "bf16")) == 0
    assert 1e-4 < gradient_difference(tmp_path / "bf16", tmp_path / "fp32") < 0.2


def test_torch_compile_trains_the_same(tiny_args: Args, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one block a stage: compiling twelve takes a minute and a half."""
    atto = sizes.SIZES["convnextv2_atto"]
    monkeypatch.setitem(sizes.SIZES, "convnextv2_atto", atto._replace(depths=(1, 1, 1, 1)))
    main(tiny_args("eager", *SHORT))
    assert main(tiny_args("compiled", *SHORT, "--train.compile", "true")) == 0
    assert gradient_difference(tmp_path / "compiled", tmp_path / "eager") < 1e-3
    assert weights(tmp_path / "eager").keys() == weights(tmp_path / "compiled").keys()


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
        ({"data": image_folder, "img_size": 100}, "--model.img_size must be a multiple of the patch size 32"),
        ({"data": image_folder, "epoch": 1}, "epoch is not a setting; the nearest is epochs"),
    ):
        with pytest.raises(UserError) as error:
            pretrain(output=tmp_path / "run", **keywords)
        assert message in str(error.value)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


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
