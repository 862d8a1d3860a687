"""What python -m fcmae.pretrain refuses, in one line, and that nothing is lost or written over."""

import errno
import json
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from safetensors import SafetensorError

from fcmae.config import DataConfig, PretrainConfig, TrainConfig
from fcmae.errors import UserError
from fcmae.pretrain import main
from fcmae.runs import checkpoint as ckpt
from fcmae.runs.layout import flat
from fcmae.training import fitting, resume
from fcmae.training.batch import Batch
from fcmae.training.resume import check_same_run, filled_in, make_and_lock

pytestmark = pytest.mark.usefixtures("small_network")

Args = Callable[..., list[str]]


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def error_of(args: list[str], caplog: pytest.LogCaptureFixture) -> str:
    caplog.clear()
    assert main(args) == 1
    message = caplog.messages[-1]
    assert message.startswith("fcmae.pretrain: error: ")
    assert "\n" not in message
    return message


def test_a_taken_run_folder_is_left_alone(tiny_args: Args, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main(tiny_args("run")) == 0
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    assert "already holds a run" in error_of(tiny_args("run", "--resume", "none"), caplog)
    other = error_of(tiny_args("run", "--model.decoder_dim", "32"), caplog)
    assert "--model.decoder_dim is 32, but" in other
    assert "was trained with 16" in other
    assert "--seed is 1" in error_of(tiny_args("run", "--seed", "1"), caplog)
    batch = error_of(tiny_args("run", "--train.batch_size", "8"), caplog)
    assert "trained with 4 images per step, now it would be 8" in batch
    older = str(tmp_path / "run" / "checkpoints" / "step-00000005")
    assert "would overwrite it" in error_of(tiny_args("run", "--resume", older), caplog)
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == before
    assert main(tiny_args("run")) == 0  # finished: nothing left to do
    assert len(metrics(tmp_path / "run")) == 10


def test_without_last_the_newest_complete_checkpoint_is_it(tiny_args: Args, tmp_path: Path) -> None:
    """Never anew over checkpoints that are there."""
    assert main(tiny_args("run")) == 0
    whole = metrics(tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "last").unlink()
    (tmp_path / "run" / "checkpoints" / "step-99999999").mkdir()  # not complete
    assert ckpt.resolve_checkpoint(tmp_path / "run").name == "step-00000010"
    assert main(tiny_args("run")) == 0
    assert metrics(tmp_path / "run") == whole


def test_a_run_without_a_checkpoint_is_left_alone_too(
    tiny_args: Args, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One that was killed early: its metrics and pictures are somebody's."""
    assert main(tiny_args("run")) == 0
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert "already holds a run" in error_of(tiny_args("run", "--resume", "none"), caplog)


def test_a_folder_is_written_by_one_run_at_a_time(
    tiny_args: Args, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lock = make_and_lock(tmp_path / "run")
    assert "is in use by another process" in error_of(tiny_args("run"), caplog)
    assert [p.name for p in (tmp_path / "run").iterdir()] == [".lock"]
    lock.release()
    assert main(tiny_args("run")) == 0
    assert main(tiny_args("run", "--train.epochs", "5")) == 0  # released at the end


@pytest.mark.parametrize("variable", ["TORCHELASTIC_RESTART_COUNT", "GROUP_WORLD_SIZE"])
def test_the_lock_of_a_machine_that_died_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """A network drive frees it after a while; a machine that takes the place of another has not been restarted."""
    held = make_and_lock(tmp_path)
    monkeypatch.setenv(variable, "2")
    monkeypatch.setattr(resume.logger, "warning", lambda *_: held.release())
    lock = make_and_lock(tmp_path)
    assert lock.is_locked
    monkeypatch.undo()
    with pytest.raises(UserError, match="in use by another process"):
        make_and_lock(tmp_path)
    lock.release()


def test_a_folder_that_cannot_be_locked_is_not_written_to(
    tiny_args: Args, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("filelock.FileLock.acquire", no_locks)
    assert "cannot be created or locked: No locks available" in error_of(tiny_args("run"), caplog)
    assert list((tmp_path / "run").iterdir()) == []


def test_a_finished_run_has_nothing_to_give_to_another_folder(
    tiny_args: Args, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert main(tiny_args("run")) == 0
    message = error_of(tiny_args("other", "--resume", str(tmp_path / "run")), caplog)
    assert "is at step 10, and --train.epochs 4 ends at step 10: nothing is left to train" in message
    assert not (tmp_path / "other").exists()


def test_a_batch_larger_than_an_epoch_is_mentioned(
    tiny_args: Args, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert main(tiny_args("run", "--train.batch_size", "16")) == 0
    assert any(
        "a step takes 16 samples" in m and "more than the 10 of an epoch: 3 steps in total" in m
        for m in caplog.messages
    )


def test_a_disk_that_is_full_is_one_line(
    tiny_args: Args, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: No space left on device (os error 28)")

    monkeypatch.setattr(ckpt, "save_file", full)
    message = error_of(tiny_args("run"), caplog)
    assert "no checkpoint could be written" in message
    assert "No space left on device" in message


def test_a_backend_that_cannot_run_here_is_one_line(
    tiny_args: Args, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcmae.sparse.backends.triton.missing_on", lambda _: "a GPU")
    message = error_of(tiny_args("run", "--model.backend", "triton"), caplog)
    assert "--model.backend triton needs a GPU; take auto or torch" in message
    monkeypatch.setitem(sys.modules, "MinkowskiEngine", None)
    monkeypatch.delitem(sys.modules, "fcmae.sparse.backends.minkowski", raising=False)
    message = error_of(tiny_args("run", "--model.backend", "minkowski"), caplog)
    assert "--model.backend 'minkowski' needs MinkowskiEngine" in message
    assert "make minkowski" in message
    assert not (tmp_path / "run").exists()


def test_a_run_may_go_on_with_another_backend(tiny_args: Args, tmp_path: Path) -> None:
    """Backend and recomputation are no part of the run: the same losses but for rounding."""
    assert main(tiny_args("grid")) == 0
    other = ("--model.backend", "masked", "--model.checkpoint_stages", "[0,1]")
    first = str(tmp_path / "grid" / "checkpoints" / "step-00000005")
    assert main(tiny_args("other", "--resume", first, *other)) == 0
    for a, b in zip(metrics(tmp_path / "grid")[5:], metrics(tmp_path / "other"), strict=True):
        assert a["step"] == b["step"]
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)
    assert main(tiny_args("other", "--train.epochs", "5")) == 0  # and back, in its own folder


def test_longer_training_goes_on_and_says_so(tiny_args: Args, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main(tiny_args("run")) == 0
    assert main(tiny_args("run", "--train.epochs", "8")) == 0
    assert "--train.epochs was 4 and is now 8: training changes from here on" in caplog.messages
    assert [m["step"] for m in metrics(tmp_path / "run")] == list(range(1, 21))


def recorded(run: Path) -> dict:
    return yaml.safe_load((run / "config.yaml").read_text())["train"]


def without(args: list[str], flag: str) -> list[str]:
    at = args.index(flag)
    return [*args[:at], *args[at + 2 :]]


def test_an_unset_warm_up_is_recorded_and_the_same_command_resumes(
    tiny_args: Args, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also with other epochs: the warm-up of the steps that are done stays, unless it would be all of the training."""
    args = without(tiny_args("run"), "--train.warmup_epochs")
    assert main(args) == 0
    assert recorded(tmp_path / "run")["warmup_epochs"] == pytest.approx(0.2)
    assert main(args) == 0
    assert len(metrics(tmp_path / "run")) == 10
    assert main([*args, "--train.epochs", "5"]) == 0
    assert recorded(tmp_path / "run")["warmup_epochs"] == pytest.approx(0.2)
    assert len(metrics(tmp_path / "run")) == 13
    assert not any("warmup" in m for m in caplog.messages)
    assert "--train.warmup_epochs is 1.0, but" in error_of([*args, "--train.warmup_epochs", "1"], caplog)


def test_warm_up_of_a_resumed_run() -> None:
    def warmup(epochs: int, before: dict, given: float | None = None) -> float | None:
        return filled_in(TrainConfig(epochs=epochs, warmup_epochs=given), Batch(4, 1, 1), before).warmup_epochs

    assert warmup(800, {}) == 40
    assert warmup(400, {"train.warmup_epochs": 40}) == 40  # a run of before there was unset
    assert warmup(400, {"train.warmup_epochs": 40}, given=7) == 7
    assert warmup(40, {"train.warmup_epochs": 40}) == 2  # not longer than the training
    assert warmup(400, {"train.warmup_epochs": "many"}) == 20


def test_learning_rate_of_a_resumed_run() -> None:
    def base_lr(size: int, before: dict, given: float | None = None) -> float | None:
        return filled_in(TrainConfig(base_lr=given), Batch(size, 1, 1), before).base_lr

    assert base_lr(16, {}) == pytest.approx(2.4e-2)
    assert base_lr(4096, {}) == 1.5e-4
    assert base_lr(16, {"train.base_lr": 1.5e-4}) == 1.5e-4  # a run of before there was unset
    assert base_lr(16, {"train.base_lr": 1.5e-4}, given=1e-3) == 1e-3
    assert base_lr(16, {"train.base_lr": "high"}) == pytest.approx(2.4e-2)


def test_a_batch_from_one_wish_is_logged_recorded_and_resumed(
    tiny_args: Args, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same images per step as with the batch given by its factors, and a size that no other memory changes."""
    monkeypatch.setattr(fitting, "CPU_LIMIT", 3)  # of 4 images, 2 × 2
    assert main(tiny_args("factors", "--train.batch_size", "2", "--train.accumulation_steps", "2")) == 0
    args = [*without(tiny_args("wish"), "--train.batch_size"), "--train.effective_batch", "4"]
    with caplog.at_level(logging.INFO):
        assert main([*args, "--train.epochs", "2"]) == 0
    chosen = "--train.batch_size 2 × --train.accumulation_steps 2 × 1 process"
    assert f"4 images per step: {chosen}" in caplog.messages
    train = recorded(tmp_path / "wish")
    assert (train["effective_batch"], train["batch_size"], train["accumulation_steps"]) == (4, 2, None)

    monkeypatch.setattr(fitting, "CPU_LIMIT", 64)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert main(args) == 0  # 4 epochs, as given first
    assert f"4 images per step: {chosen}" in caplog.messages
    assert [m["step"] for m in metrics(tmp_path / "wish")] == list(range(1, 11))
    first, second = metrics(tmp_path / "factors")[0]["loss"], metrics(tmp_path / "wish")[0]["loss"]
    assert first == second
    assert main([*args, "--train.batch_size", "4"]) == 0  # shared differently
    message = error_of([*args[:-1], "8"], caplog)
    assert "trained with 4 images per step, now it would be 8" in message
    assert message.endswith("or give only --train.effective_batch 4")
    assert "is not a multiple of 3" in error_of([*args, "--train.batch_size", "3"], caplog)


def test_the_header_names_the_peak_learning_rate_and_a_low_one_is_warned_of_once(
    tiny_args: Args, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert main(tiny_args("good", "--train.epochs", "2")) == 0
        assert any("5 steps of 4 (2 epochs), peak learning rate 0.000781, " in m for m in caplog.messages)
        assert not any("a peak learning rate of" in m for m in caplog.messages)
        assert main(tiny_args("low", "--train.epochs", "2", "--train.base_lr", "1.5e-4")) == 0
    warned = [record for record in caplog.records if "a peak learning rate of" in record.getMessage()]
    assert [record.levelname for record in warned] == ["WARNING"]
    assert "a peak learning rate of 2.3e-06 with 4 images per step is low" in warned[0].getMessage()
    assert "--train.base_lr 0.096 makes it 1.5e-03" in warned[0].getMessage()


def test_damaged_checkpoints_are_named(tiny_args: Args, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main(tiny_args("run")) == 0
    last = ckpt.resolve_checkpoint(tmp_path / "run")
    for name in (ckpt.MODEL, ckpt.OPTIMIZER, ckpt.STATE):
        whole = (last / name).read_bytes()
        (last / name).write_bytes(whole[: len(whole) // 2])
        assert str(last / name) in error_of(tiny_args("run"), caplog)
        (last / name).write_bytes(whole)
    (last / ckpt.STATE).unlink()
    assert "step-00000010', which is not there or not complete" in error_of(tiny_args("run"), caplog)


def test_wrong_folders(tiny_args: Args, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "file").write_text("")
    assert "does not exist; give a folder" in error_of([*tiny_args(), "--data.path", str(tmp_path / "no")], caplog)
    assert "holds no images" in error_of([*tiny_args(), "--data.path", str(empty)], caplog)
    assert "is a file; give a folder" in error_of([*tiny_args(), "--output", str(tmp_path / "file")], caplog)
    (empty / "config.yaml").write_text("model: {name: convnextv2_atto}  # mine")
    assert "holds a config.yaml that was not written by a run" in error_of(
        [*tiny_args(), "--output", str(empty)], caplog
    )
    below_a_file = str(tmp_path / "file" / "run")
    assert "cannot be created or locked: Not a directory" in error_of([*tiny_args(), "--output", below_a_file], caplog)
    assert "--resume takes auto, none or a path" in error_of(tiny_args("run", "--resume", "newest"), caplog)
    assert "has no checkpoint in it" in error_of(tiny_args("run", "--resume", str(empty)), caplog)
    one_patch = error_of(tiny_args("run", "--model.img_size", "8"), caplog)
    assert "masks none" in one_patch
    assert not (tmp_path / "run").exists()  # an error leaves no folder behind


def test_an_edited_config_yaml_is_refused_as_the_option_is(
    tiny_args: Args, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert main(tiny_args("run")) == 0
    file = tmp_path / "run" / "config.yaml"
    text = file.read_text()
    for old, new, flag in (
        ("base_lr: 0.05", "base_lr: 0.5", "--train.base_lr is 0.5, but"),
        ("mask_ratio: 0.6", "mask_ratio: 0.4", "--train.mask_ratio is 0.4, but"),
        ("seed: 0", "seed: 7", "--seed is 7, but"),
        ("hflip: 0.5", "hflip: 0.0", "--data.hflip is 0.0, but"),
    ):
        assert old in text
        file.write_text(text.replace(old, new))
        assert flag in error_of(["--config", str(file)], caplog)
    file.write_text(text.replace("epochs: 4\n", "epochs: 5\n", 1))
    assert main(["--config", str(file)]) == 0
    assert "--train.epochs was 4 and is now 5: training changes from here on" in caplog.messages


@pytest.mark.parametrize("option", ["--train.base_lr 0.5", "--train.weight_decay 0.9", "--train.betas [0.5,0.5]"])
def test_an_option_that_changes_training_does(tiny_args: Args, tmp_path: Path, option: str) -> None:
    usual = ("--data.crop_scale", "0.2,1.0", "--data.mean", "null", "--data.std", "null")  # losses tell apart the decay
    assert main(tiny_args("a", *usual)) == 0
    first = ["--resume", str(tmp_path / "a" / "checkpoints" / "step-00000005")]
    assert main(tiny_args("b", *usual, *first, *option.split())) == 0
    assert [m["step"] for m in metrics(tmp_path / "b")] == [6, 7, 8, 9, 10]
    assert metrics(tmp_path / "b")[-1]["loss"] != metrics(tmp_path / "a")[-1]["loss"]


def test_a_run_is_where_its_config_file_lies(tiny_args: Args, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main(tiny_args("old")) == 0
    (tmp_path / "old").rename(tmp_path / "new")
    with caplog.at_level(logging.INFO):
        assert main(["--config", str(tmp_path / "new" / "config.yaml"), "--train.epochs", "5"]) == 0
    assert f"the run was moved or copied from {tmp_path}/old; it goes on in {tmp_path}/new" in caplog.messages
    assert not (tmp_path / "old").exists()
    assert [m["step"] for m in metrics(tmp_path / "new")] == list(range(1, 14))


def test_what_a_killed_process_still_had_to_write_is_made_up(tiny_args: Args, tmp_path: Path) -> None:
    """Killed between its checkpoint and its picture and line of the monitor."""
    options = ["--log.pictures_every", "4", "--monitor.every", "4", "--monitor.images", "2"]
    assert main(tiny_args("run", *options)) == 0
    run, whole = tmp_path / "run", (tmp_path / "run" / "metrics.jsonl").read_text()
    picture = run / "reconstructions" / "step-00000010.png"
    drawn = picture.read_bytes()
    picture.unlink()
    assert "cosine" in whole.splitlines()[-1]
    (run / "metrics.jsonl").write_text("".join(f"{line}\n" for line in whole.splitlines()[:-1]))
    for _ in range(2):
        assert main(tiny_args("run", *options)) == 0
        assert (run / "metrics.jsonl").read_text() == whole
        assert picture.read_bytes() == drawn


def test_a_run_older_than_crops_per_image_had_one(tmp_path: Path) -> None:
    config = PretrainConfig(data=DataConfig(crops_per_image=2))
    before = flat(PretrainConfig().as_dict())
    del before["data.crops_per_image"]
    check_same_run(PretrainConfig(), tmp_path, before)
    check_same_run(config, tmp_path, {})  # nothing tells
    with pytest.raises(UserError, match=r"--data.crops_per_image is 2, but .* was trained with 1; resume with the "):
        check_same_run(config, tmp_path, before)
