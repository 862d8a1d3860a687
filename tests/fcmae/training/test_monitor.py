"""--monitor.*: measures while training, and changes no number of it."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fcmae import pretrain
from fcmae.analysis.accuracy import top_accuracy
from fcmae.analysis.collapse import analyze_collapse
from fcmae.analysis.features import embedder
from fcmae.analysis.knn import knn_scores
from fcmae.analysis.names import parse_names
from fcmae.cli.pretrain_parser import parse_config
from fcmae.data.folder import image_files, training_images
from fcmae.data.holdout import hold_out
from fcmae.data.samples import PretrainDataset
from fcmae.errors import UserError
from fcmae.models import FCMAE
from fcmae.report_page.charts import knn_chart, loss_chart, stage_distance_chart
from fcmae.report_page.facts import headline_facts
from fcmae.runs import checkpoint as ckpt
from fcmae.runs.reader import read_run
from fcmae.training import loop
from fcmae.training.monitor import Monitor

Args = Callable[..., list[str]]
CPU = torch.device("cpu")


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(ckpt.resolve_checkpoint(run) / ckpt.MODEL)


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright and dark images, told apart by anything."""
    folder = tmp_path_factory.mktemp("classes")
    for name, level in (("bright", 180), ("dark", 20)):
        (folder / name).mkdir()
        for n in range(10):
            noise = np.random.default_rng(n).integers(0, 50, (32, 32, 3))
            Image.fromarray((noise + level).astype(np.uint8)).save(folder / name / f"{n}.png")
    return folder


@pytest.mark.usefixtures("small_network")
def test_losses_and_weights_are_the_same_bit_for_bit(tiny_args: Args, tmp_path: Path, classes: Path) -> None:
    """With drop path, which draws from torch's generator, and lines where they were asked for."""
    options = ["--model.drop_path_rate", "0.3"]
    assert pretrain.main(tiny_args("without", *options)) == 0
    monitor = ["--monitor.every", "2", "--monitor.data", str(classes), "--monitor.images", "8"]
    assert pretrain.main(tiny_args("with", *options, *monitor)) == 0
    plain, measured = weights(tmp_path / "without"), weights(tmp_path / "with")
    assert all(torch.equal(plain[name], measured[name]) for name in plain)

    log = lines(tmp_path / "with")
    with_loss = [line for line in log if "loss" in line]
    assert [(m["step"], m["loss"]) for m in with_loss] == [(m["step"], m["loss"]) for m in lines(tmp_path / "without")]
    found = [line for line in log if "loss" not in line]
    assert [(m["step"], m["epoch"]) for m in found] == [(0, 0), (5, 2), (10, 4)]
    names = {f"cosine_distance_stage_{n}" for n in range(4)} | {"knn_top1"}
    assert all(m.keys() == {"step", "epoch"} | names for m in found)
    assert all(0 < m[name] <= 1 for m in found for name in names)
    assert found[-1]["knn_top1"] == 1
    assert found[0]["cosine_distance_stage_3"] != found[-1]["cosine_distance_stage_3"]

    run = read_run(tmp_path / "with")
    assert stage_distance_chart(run) is not None, "the report finds the lines"
    assert knn_chart(run) is not None

    events = EventAccumulator(str(tmp_path / "with" / "tensorboard")).Reload()
    for name in names:
        written = [(e.step, e.value) for e in events.Scalars(f"monitor/{name}")]
        assert written == [(m["step"], pytest.approx(m[name], rel=1e-6)) for m in found]
    assert len(events.Scalars("train/loss")) == 10


def monitored(folder: Path, *options: str) -> tuple[Monitor, FCMAE]:
    arguments = ["--data.path", str(folder), "--model.img_size", "32", "--model.stem_stride", "1"]
    config = parse_config([*arguments, "--monitor.every", "1", *options])
    torch.manual_seed(0)
    dataset = PretrainDataset(image_files(folder), config.data, config.model, 0.6, 0)
    return Monitor(config, dataset), FCMAE(config.model)


@pytest.mark.usefixtures("small_network")
@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_drawn_and_the_mode_stays(image_folder: Path, classes: Path, training: bool) -> None:
    monitor, model = monitored(image_folder, "--monitor.data", str(classes), "--model.drop_path_rate", "0.9")
    model.train(training)
    before, random = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    first = monitor.measure(model, CPU)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(module.training == training for module in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert monitor.measure(model, CPU) == first  # drop path is off


def test_distances_are_those_of_the_collapse_analysis(image_folder: Path) -> None:
    """Of whole training images: the mean over the blocks of a stage."""
    monitor, model = monitored(image_folder)
    measured = monitor.measure(model, CPU)
    assert "knn_top1" not in measured
    images = monitor.dataset.normalize(monitor.dataset.fixed_samples(256).image)
    for stage, depth in enumerate((2, 2, 6, 2)):
        blocks = [row.distance for row in analyze_collapse(model.encoder, images) if row.stage == stage]
        assert len(blocks) == depth
        assert measured[f"cosine_distance_stage_{stage}"] == pytest.approx(sum(blocks) / depth, rel=1e-6)


@pytest.mark.parametrize("backend", ["grid", "masked"])
def test_neighbors_are_those_of_evaluate(image_folder: Path, tmp_path: Path, backend: str) -> None:
    """The same accuracy from a checkpoint's dense network, whatever computes the training."""
    options = ["--monitor.data", "digits", "--monitor.images", "60", "--model.backend", backend]
    monitor, model = monitored(image_folder, *options)
    state = ckpt.TrainState(step=1, effective_batch=1, samples_per_epoch=1)
    described = {"name": "convnextv2_atto", "img_size": 32, "stem_stride": 1}
    ckpt.save_checkpoint(tmp_path / "run", model, described, torch.optim.SGD(model.parameters()), state)
    network = embedder(parse_names([str(tmp_path / "run")])[0], CPU)
    train, test = (
        network.features(part, (32, 32), 32, CPU)
        for part in (monitor.labeled.train, monitor.labeled.test)  # type: ignore[union-attr]
    )
    scores = knn_scores(train.x, train.labels, test.x, 10)
    assert monitor.measure(model, CPU)["knn_top1"] == top_accuracy(scores, test.labels).share


def test_digits_are_labeled_images_too(image_folder: Path) -> None:
    monitor, model = monitored(image_folder, "--monitor.data", "digits", "--monitor.images", "100")
    assert 0.1 < monitor.measure(model, CPU)["knn_top1"] < 1  # above chance even with random weights


@pytest.mark.usefixtures("small_network")
def test_old_runs_go_on_and_the_monitor_may_change(
    tiny_args: Args, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A config.yaml from before there was a monitor; then with one; the losses are those of an unstopped run."""
    assert pretrain.main(tiny_args("whole")) == 0
    with monkeypatch.context() as patch:
        done = 0

        def save_and_stop(run: loop.Run, state: ckpt.TrainState) -> None:
            nonlocal done
            save(run, state)
            done += 1
            if done == 2:
                raise KeyboardInterrupt

        save = loop._save
        patch.setattr(loop, "_save", save_and_stop)
        assert pretrain.main(tiny_args("stopped")) == 130
    file = tmp_path / "stopped" / "config.yaml"
    text = file.read_text()
    old = yaml.safe_load(text)
    assert old.pop("monitor") == {"every": 0, "data": None, "images": 256, "holdout": 0.0}
    file.write_text(text.splitlines()[0] + "\n" + yaml.safe_dump(old))

    assert pretrain.main(["--config", str(file), "--monitor.every", "1", "--monitor.images", "4"]) == 0
    log = lines(tmp_path / "stopped")
    assert next(m for m in log if "loss" not in m)["step"] > 5
    for a, b in zip([m for m in log if "loss" in m], lines(tmp_path / "whole"), strict=True):
        assert (a["step"], a["loss"]) == (b["step"], b["loss"])
    assert pretrain.main(["--config", str(file), "--monitor.every", "3"]) == 0  # nothing left to train; nothing wrong


@pytest.mark.usefixtures("small_network")
def test_a_run_begun_anew_does_not_repeat_its_first_line(tiny_args: Args, tmp_path: Path) -> None:
    """A process that died before its first checkpoint leaves a line of step 0."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text(
        '{"step": 0, "epoch": 0, "knn_top1": 0.5}\n{"step": 1, "loss": 1}\n'
    )
    options = ["--monitor.every", "4", "--monitor.images", "2"]
    assert pretrain.main(tiny_args("run", *options)) == 0
    assert [m["step"] for m in lines(tmp_path / "run")] == [*range(11), 10]
    assert len((tmp_path / "run" / "metrics.superseded.jsonl").read_text().splitlines()) == 2


@pytest.mark.usefixtures("small_network")
def test_images_that_went_away_end_no_training(
    tiny_args: Args, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    measure = Monitor.measure

    def fail_later(self: Monitor, model: FCMAE, device: torch.device) -> dict[str, float]:
        if caplog.records and any("step 0:" in record.getMessage() for record in caplog.records):
            raise UserError("none of the images can be read")
        return measure(self, model, device)

    monkeypatch.setattr(Monitor, "measure", fail_later)
    with caplog.at_level(logging.INFO, logger="fcmae"):
        assert pretrain.main(tiny_args("run", "--monitor.every", "4", "--monitor.images", "2")) == 0
    assert "not measured at step 10: none of the images can be read" in caplog.text
    assert lines(tmp_path / "run")[-1]["step"] == 10


@pytest.mark.usefixtures("small_network")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--monitor.every", "1", "--monitor.data", "nowhere"], "--monitor.data nowhere does not exist"),
        (["--monitor.every", "-1"], "--monitor.every must be at least 0, got -1"),
        (["--monitor.images", "0"], "--monitor.images must be at least 1, got 0"),
        (["--monitor.data", ""], "--monitor.data is empty"),
    ],
)
def test_wrong_options_get_one_line_and_no_run_folder(
    tiny_args: Args, tmp_path: Path, caplog: pytest.LogCaptureFixture, options: list[str], message: str
) -> None:
    assert pretrain.main(tiny_args("run", *options)) == 1
    error = caplog.records[-1].getMessage()
    assert message in error
    assert "\n" not in error
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("small_network")
def test_the_folder_is_noted_with_its_whole_path(
    tiny_args: Args,
    tmp_path: Path,
    classes: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Also while it is not used, which is said."""
    monkeypatch.chdir(classes.parent)
    options = ["--train.epochs", "1", "--train.warmup_epochs", "0", "--monitor.data", classes.name]
    assert pretrain.main(tiny_args("run", *options)) == 0
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["monitor"]["data"] == str(classes.resolve())
    assert "--monitor.every is 0" in caplog.text


def held_out(folder: Path, *options: str) -> tuple[Monitor, FCMAE]:
    arguments = ["--data.path", str(folder), "--model.img_size", "32", "--model.stem_stride", "1"]
    config = parse_config([*arguments, "--monitor.holdout", "0.3", *options])
    trained, held = hold_out(training_images(str(folder)), 0.3, config.seed)
    sets = [PretrainDataset(images, config.data, config.model, 0.6, 0) for images in (trained, held)]
    torch.manual_seed(0)
    return Monitor(config, *sets), FCMAE(config.model)


@pytest.mark.usefixtures("small_network")
def test_the_held_out_loss_is_the_models_on_center_crops(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean over images, whatever the batches; drop path is off, and nothing is drawn."""
    monitor, model = held_out(image_folder, "--model.drop_path_rate", "0.9")
    assert monitor.held_out is not None
    count = len(monitor.held_out.paths)
    assert count >= 2
    sample = monitor.held_out.fixed_samples(count)
    assert set(monitor.held_out.paths).isdisjoint(monitor.dataset.paths)
    model.eval()
    with torch.no_grad():
        expected = model(monitor.dataset.normalize(sample.image), visible=sample.visible).loss.item()
    model.train()
    random = torch.get_rng_state()
    assert monitor.measure(model, CPU) == {"holdout_loss": pytest.approx(expected, rel=1e-5)}
    monkeypatch.setattr("fcmae.training.monitor.BATCH", count - 1)
    assert monitor.measure(model, CPU) == {"holdout_loss": pytest.approx(expected, rel=1e-5)}
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training


@pytest.mark.usefixtures("small_network")
def test_a_run_with_images_held_out(
    tiny_args: Args, tmp_path: Path, image_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They are in no batch, and measuring them changes no loss; header, metrics, TensorBoard and report show them."""
    trained, held = hold_out(training_images(str(image_folder)), 0.3, 0)
    with caplog.at_level(logging.INFO):
        assert pretrain.main(tiny_args("run", "--monitor.holdout", "0.3", "--train.epochs", "3")) == 0
    assert f"{len(trained)} images and {len(held)} held out, " in caplog.text
    for images, name in ((trained, "trained"), (held, "held")):
        (tmp_path / f"{name}.txt").write_text("".join(f"{path}\n" for path in images.paths))
    assert pretrain.main(tiny_args("only", "--data.path", f"{tmp_path}/trained.txt", "--train.epochs", "3")) == 0
    log = lines(tmp_path / "run")
    with_loss = [(line["step"], line["loss"]) for line in log if "loss" in line]
    assert with_loss == [(line["step"], line["loss"]) for line in lines(tmp_path / "only")]
    found = [line for line in log if "loss" not in line]
    assert len(found) == 4, "before the first step and after each epoch"
    assert all(line.keys() == {"step", "epoch", "holdout_loss"} for line in found)
    assert found[0]["holdout_loss"] != found[-1]["holdout_loss"]

    run = read_run(tmp_path / "run")
    chart = loss_chart(run)
    assert chart is not None
    assert [series["name"] for series in chart.data["series"]] == ["loss", "held-out images"]
    assert chart.data["series"][1]["y"] == pytest.approx([line["holdout_loss"] for line in found], rel=1e-5)
    assert ("Held-out loss", f"{found[-1]['holdout_loss']:.4f}") in [fact[:2] for fact in headline_facts(run)]
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert len(events.Scalars("monitor/holdout_loss")) == len(found)

    for run_name, now, before in (("run", "0.2", "0.3"), ("run", "0", "0.3"), ("only", "0.1", "0")):
        data = [] if run_name == "run" else ["--data.path", f"{tmp_path}/trained.txt"]
        assert pretrain.main(tiny_args(run_name, *data, "--monitor.holdout", now, "--train.epochs", "3")) == 1
        assert f"--monitor.holdout is {now}, but" in caplog.messages[-1]
        assert f"was trained with {before}; " in caplog.messages[-1]


@pytest.mark.usefixtures("small_network")
def test_other_pixels_between_stop_and_resume_are_said_in_a_line(
    tiny_args: Args, tmp_path: Path, image_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(image_folder, tmp_path / "images")
    args = tiny_args("run", "--data.path", str(tmp_path / "images"), "--train.warmup_epochs", "0")
    assert pretrain.main([*args, "--train.epochs", "1"]) == 0
    assert pretrain.main([*args, "--train.epochs", "1"]) == 0
    assert "images of the checkpoint" not in caplog.text
    shutil.copy(tmp_path / "images/a/0.png", tmp_path / "images/a/2.png")
    assert pretrain.main([*args, "--train.epochs", "1"]) == 0
    said = "these are not the images of the checkpoint (other contents under the same names): training changes"
    assert caplog.messages.count(f"{said} from here on") == 1
