"""Fine-tuning as a whole: a run and its files, resuming bit for bit, exports that give the same logits."""

import csv
import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from fcmae.data.images import open_image
from fcmae.data.normalizer import Normalizer
from fcmae.data.pixel_reading import PixelReading
from fcmae.errors import UserError
from fcmae.finetune import FinetuneResult, finetune
from fcmae.finetuning.average import average_decay
from fcmae.finetuning.classes import check_same_classes
from fcmae.finetuning.config import FinetuneConfig
from fcmae.finetuning.samples import validation_crop
from fcmae.finetuning.task import Finetuning
from fcmae.models import create_model
from fcmae.predict import predict
from fcmae.runs import checkpoint as ckpt
from fcmae.runs.find import read_state
from fcmae.runs.state import checksum
from fcmae.training import loop
from tests.fcmae.finished_runs import metrics, stop_after
from tests.fcmae.forked import train_together

ALL: dict[str, Any] = {
    "augment": {
        "mixup": 0.8, "cutmix": 1.0, "rand_augment": "rand-m9-mstd0.5-inc1", "random_erasing": 0.5,
    },
    "ema": 0.9, "layer_decay": 0.8, "drop_path_rate": 0.2,
}  # fmt: skip


def run(colors: Path, folder: Path, **more: Any) -> FinetuneResult:
    """Of 25 images, in 7 steps of 8."""
    settings = {
        "weights": "scratch", "data": str(colors), "output": str(folder), "img_size": 32, "epochs": 2, "batch_size": 8,
        "num_workers": 0, "log": {"every": 1}, "config": "few_labels",
    }  # fmt: skip
    return finetune(**settings | more)


def tensors(folder: Path, file: str) -> dict[str, torch.Tensor]:
    return load_file(ckpt.resolve_checkpoint(folder) / file)


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Will hold the classifier's weights before the first step and after each."""
    course: list[torch.Tensor] = []
    train_step = loop._train_step
    begin = Finetuning.begin

    def note(run: Any) -> None:
        course.append(run.bare_model.head.fc.weight.detach().clone())

    def begin_and_note(self: Finetuning, run: Any, metrics: Any) -> None:
        begin(self, run, metrics)
        note(run)
        monkeypatch.setattr(loop, "_train_step", lambda *args: (train_step(*args), note(run))[0])

    monkeypatch.setattr(Finetuning, "begin", begin_and_note)
    return course


def test_a_stopped_run_goes_on_bit_for_bit(colors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With everything that draws random numbers, an average of the weights, and a step in the middle of an epoch."""
    with monkeypatch.context() as patched:
        course = recorded(patched)
        whole = run(colors, tmp_path / "whole", **ALL)
    assert whole.is_complete
    assert whole.steps == 7
    with monkeypatch.context() as patched:
        stop_after(patched, 2)
        assert not run(colors, tmp_path / "parts", **ALL).is_complete
    resumed = finetune(config=tmp_path / "parts" / "config.yaml", num_workers=2)
    assert resumed.is_complete
    with monkeypatch.context() as patched:  # nor is what was validated validated again
        patched.setattr(Finetuning, "validate", None)
        again = run(colors, tmp_path / "parts", **ALL)
        assert (again.best, again.best_step, again.is_complete) == (resumed.best, resumed.best_step, True)
    apart = ("images_per_second", "data_wait", "unreadable_images")  # the latter counts since the start of the process
    lines = [[{k: v for k, v in m.items() if k not in apart} for m in metrics(tmp_path / name)]
             for name in ("whole", "parts")]  # fmt: skip
    assert lines[0] == lines[1]
    assert (whole.best, whole.best_step) == (resumed.best, resumed.best_step)
    for file in ("model.safetensors", "average.safetensors"):
        left, right = tensors(tmp_path / "whole", file), tensors(tmp_path / "parts", file)
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left)
    plain, average = (tensors(tmp_path / "whole", file) for file in ("model.safetensors", "average.safetensors"))
    assert not torch.equal(plain["head.fc.weight"], average["head.fc.weight"])
    expected, decay = course[0], average_decay(ALL["ema"], whole.steps)
    for weight in course[1:]:  # once after each step
        expected = decay * expected + (1 - decay) * weight
    assert len(course) == 8
    assert torch.allclose(average["head.fc.weight"], expected, atol=1e-6)
    best = load_file(tmp_path / "whole" / "checkpoints" / "best" / "model.safetensors")
    assert whole.best_step == 7
    assert torch.equal(best["head.fc.weight"], average["head.fc.weight"])  # what is validated and kept is the average


def test_a_run_that_ended_before_its_export_exports_when_it_is_called_again(
    colors: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Killed at the start of the export, within it, or with an export of earlier weights: the same files as ever."""
    settings: dict[str, Any] = {"epochs": 1, "name": "convnextv2_atto", "output": str(tmp_path / "run")}
    run(colors, tmp_path / "run", **settings)
    export = tmp_path / "run" / "export"
    whole = {file: file.read_bytes() for file in export.rglob("*") if file.is_file()}

    def older() -> None:
        said = json.loads((export / "exported.json").read_text())
        (export / "exported.json").write_text(json.dumps(said | {"step": 1}))
        (export / "timm" / "model.safetensors").write_bytes(b"older")

    def within() -> None:
        (export / "exported.json").unlink()
        shutil.rmtree(export / "transformers")

    for damage in (lambda: shutil.rmtree(export), within, older, lambda: shutil.rmtree(export / "timm")):
        damage()
        with caplog.at_level("INFO", "fcmae"):
            caplog.clear()
            run(colors, tmp_path / "run", **settings)
        assert {file: file.read_bytes() for file in export.rglob("*") if file.is_file()} == whole
        assert "local-dir:" in caplog.text
    before = export.stat().st_mtime_ns
    with caplog.at_level("INFO", "fcmae"):
        caplog.clear()
        run(colors, tmp_path / "run", **settings)
    assert "nothing is left to train" in caplog.text
    assert export.stat().st_mtime_ns == before


def test_colors_are_learned_and_everything_is_written(colors: Path, tmp_path: Path) -> None:
    """From a run whose pixel settings it takes over, to folders that timm and transformers load by themselves."""
    pretrained = _pretrained(tmp_path / "pretrained")
    mean = "mean: [0.1, 0.2, 0.3], std: [0.3, 0.2, 0.25]"
    (pretrained / "config.yaml").write_text(f"# fcmae 0\ndata: {{{mean}, value_range: [0, 200]}}\n")
    folder = tmp_path / "run"
    found = run(colors, folder, weights=pretrained, epochs=4, base_lr=0.1, layer_decay=1)
    assert found.best is not None
    assert found.best > 0.6
    scored = [line for line in metrics(folder) if "val_top1" in line]
    assert [line["step"] for line in scored] == [4, 7, 10, 13]
    assert all(line["val_top1_low"] < line["val_top1"] <= line["val_top1_high"] <= 1 for line in scored)
    written = json.loads((folder / "validation" / "scores.json").read_text())
    assert sum(map(sum, written["confusion"])) == written["images"]
    assert written["step"] == found.best_step
    config = (folder / "config.yaml").read_text()
    assert "- 0.1\n" in config
    assert str(pretrained) in config

    best = folder / "checkpoints" / "best"
    assert read_state(best).checksums == {"model.safetensors": checksum(best / "model.safetensors")}
    import fcmae

    dense: Any = fcmae.create_dense(best, 3).eval()
    images = torch.randn(2, 3, 32, 32)
    expected = dense(images)
    of_timm: Any = timm.create_model(f"local-dir:{folder / 'export' / 'timm'}", pretrained=True).eval()
    assert torch.allclose(of_timm(images), expected, rtol=1e-5, atol=1e-5)
    assert list(of_timm.pretrained_cfg["mean"]) == [0.1, 0.2, 0.3]
    assert of_timm.pretrained_cfg["label_names"] == ["blue", "green", "red"]
    from transformers import AutoModelForImageClassification

    theirs: Any = AutoModelForImageClassification.from_pretrained(folder / "export" / "transformers").eval()
    assert torch.allclose(theirs(images).logits, expected, rtol=1e-5, atol=1e-5)
    assert theirs.config.id2label == {0: "blue", 1: "green", 2: "red"}
    card = (folder / "export" / "timm" / "README.md").read_text()
    assert f"| Fine-tuning | {found.best_step} steps of 8 images, from `pretrained` |" in card
    assert "The run started from `pretrained`; the license of those weights applies." in card
    processor = json.loads((folder / "export" / "transformers" / "preprocessor_config.json").read_text())
    assert (processor["size"], processor["crop_size"]) == ({"shortest_edge": 36}, {"height": 32, "width": 32})
    assert processor["rescale_factor"] == pytest.approx(1 / 200)

    table = tmp_path / "table.csv"
    predicted = predict(folder, colors, output=table, features=tmp_path / "features.npz", num_workers=0)
    assert predicted.unreadable == 1
    assert len(predicted.paths) == 30
    with table.open() as opened:
        rows = list(csv.DictReader(opened))
    assert [row["label"] for row in rows] == list(predicted.labels)
    assert np.mean([row["path"].startswith(row["label"]) for row in rows]) > 0.6
    read = PixelReading(value_range=(0.0, 200.0))
    normalize = Normalizer((0.1, 0.2, 0.3), (0.3, 0.2, 0.25))
    crop = normalize(validation_crop(open_image(colors / predicted.paths[4], read), (32, 32), 0.875))
    assert torch.allclose(dense(crop[None]).softmax(1)[0], predicted.probabilities[4], atol=1e-5)
    assert float(rows[4]["p_green"]) == pytest.approx(predicted.probabilities[4, 1].item(), abs=1e-5)
    features = np.load(tmp_path / "features.npz")
    assert features["features"].shape == (30, 320)
    logits = dense.head.fc(torch.from_numpy(features["features"]))
    assert torch.allclose(logits.softmax(1), predicted.probabilities, atol=1e-5)
    for wrong, message in (
        ({"run": pretrained}, "is not a run of fcmae finetune with weights"),
        ({"output": table}, "--output .* exists; give another, or --overwrite"),
        ({"output": tmp_path / "x.txt"}, "must end in .csv or .parquet"),
        ({"images": tmp_path / "nothing"}, "IMAGES .* does not exist"),
    ):
        with pytest.raises(UserError, match=message):
            predict(**{"run": folder, "images": colors} | wrong)

    (pretrained / "config.yaml").write_text("# fcmae 0\ntrain: {mask_ratio: 0.6}\n")
    with pytest.raises(UserError, match="of pretraining; fine-tune it as WEIGHTS"):
        run(colors, pretrained)


def _pretrained(folder: Path) -> Path:
    """A run of pretraining before its first step."""
    model = create_model("convnextv2_atto", img_size=32, decoder_dim=16)
    state = ckpt.TrainState(1, 1, 1)
    ckpt.save_checkpoint(folder, model, asdict(model.config), torch.optim.SGD(model.parameters()), state)
    return folder


def test_several_labels_and_only_the_classifier_is_trained(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Classes that need not exclude one another; frozen weights stay what they were, bit for bit."""
    random = np.random.default_rng(0)
    rows = []
    for n in range(20):
        pixels = random.integers(0, 60, (32, 32, 3))
        labels = [name for channel, name in enumerate(("red", "green")) if (n >> channel) % 2]
        pixels[..., [("red", "green").index(name) for name in labels]] += 180
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{n}.png")
        rows.append(f"{n}.png,{';'.join(labels)}\n")
    (tmp_path / "table.csv").write_text("path,labels\n" + "".join(rows))
    with caplog.at_level("INFO"):
        found = run(tmp_path / "table.csv", tmp_path / "run", freeze="head", epochs=3, base_lr=0.3)
    (line,) = [one for one in caplog.messages if "binary cross-entropy" in one]
    assert re.match(
        r"images to train on with several labels \(.*\): [345]\. Each", line
    )  # of 5 in all, a fifth held out
    scored = [line for line in metrics(tmp_path / "run") if "val_map" in line]
    assert found.best == max(line["val_map"] for line in scored)
    assert found.best > 0.6
    before = {name: tensor for name, tensor in _initial().items() if not name.startswith("head.")}
    after = tensors(tmp_path / "run", "model.safetensors")
    assert all(torch.equal(after[name].flatten(), tensor.flatten()) for name, tensor in before.items())
    assert after["head.fc.weight"].abs().max() > 0.01
    assert json.loads((tmp_path / "run" / "classes.json").read_text()) == {
        "classes": ["green", "red"], "multi_label": True,
    }  # fmt: skip
    p = predict(tmp_path / "run", tmp_path, num_workers=0).probabilities
    exact = predict(tmp_path / "run", tmp_path, num_workers=0, threshold=float(p[0, 0]))  # from which on it is given
    given = [[name for name, share in zip(exact.classes, row, strict=True) if share >= p[0, 0]] for row in p]
    assert [";".join(names) for names in given] == list(exact.labels)
    assert "green" in exact.labels[0]


def _initial() -> dict[str, torch.Tensor]:
    from fcmae.finetuning.config import FinetuneModelConfig
    from fcmae.finetuning.network import random_weights

    return random_weights(FinetuneModelConfig(), 0).encoder


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"augment": {"mixup": 0.8}, "batch_size": 5}, "need an even --train.batch_size, got 5"),
        ({"img_size": 40}, r"--model\.img_size must be a multiple of the patch size 32"),
        ({"weights": "nothing"}, "WEIGHTS nothing does not exist"),
        ({"bands": (1, 2)}, r"--data\.bands must name one band per channel"),
        ({"augment": {"rand_augment": "strong"}}, r"rand_augment must be such as"),
        ({"augment": {"rand_augment": "rand-x9"}}, r"--augment\.rand_augment rand-x9 is not understood"),
        ({"freeze": 5}, "freeze must be 0 to 4, or head"),
        ({"data": "nowhere"}, r"--data\.path nowhere does not exist"),
    ],
)
def test_each_mistake_gets_its_line(colors: Path, tmp_path: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(colors, tmp_path / "run", **more)
    assert not (tmp_path / "run").exists()


def test_the_recipe_follows_the_number_of_images(colors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fcmae.cli.finetune_parser import config_from, parse_config
    from fcmae.finetuning import recipes

    few = parse_config(["scratch", "--data.path", str(colors), "--train.epochs", "3"])
    assert (few.weights, few.train.epochs, few.train.layer_decay_by) == ("scratch", 3, "layer")
    monkeypatch.setattr(recipes, "FEW", 10)
    many = parse_config(["scratch", "--data.path", str(colors), "--model.name", "convnextv2_base"])
    assert (many.train.epochs, many.train.layer_decay, many.augment.cutmix) == (300, 1.0, 1.0)  # supervised training
    assert many == config_from(("scratch",), {"data": str(colors), "model": "convnextv2_base"})
    pretrained = parse_config(["convnextv2_base.fcmae", "--data.path", str(colors)])
    assert (pretrained.train.layer_decay, pretrained.train.layer_decay_by) == (0.6, "three")
    assert parse_config(["--data", str(colors), "--config", "few_labels", "x/y"]).weights == "x/y"
    assert config_from((), {"config": FinetuneConfig(seed=3)}).seed == 3


def test_a_run_goes_on_with_its_own_classes_only(
    colors: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A renamed folder, another order and one class more would train the outputs of other classes."""
    folder, images = tmp_path / "run", tmp_path / "images"
    shutil.copytree(colors, images)
    with caplog.at_level("WARNING", "fcmae"):
        run(images, folder, epochs=1, value_range=(0, 200), augment={"rand_augment": "rand-m9"})
    assert "--augment.rand_augment is left out: it takes 8-bit images of the range 0,255, but " in caplog.text
    weights = (folder / "classes.json").read_bytes()
    (images / "blue").rename(images / "violet")
    changed = (
        r'--data\.path .* has other classes than .*classes\.json: "violet" was not there, "blue" is missing; resume'
    )
    with pytest.raises(UserError, match=changed):
        run(images, folder, epochs=2)
    (images / "violet").rename(images / "blue")
    shutil.copytree(images / "blue", images / "azure")
    with pytest.raises(UserError, match=r'classes\.json: "azure" was not there; resume'):
        run(images, folder, epochs=2)
    assert (folder / "classes.json").read_bytes() == weights
    with pytest.raises(UserError, match=r'classes\.json: "green" is in the place of "blue"'):
        check_same_classes(folder, ["green", "blue", "red"], False, "--data.path x")
    with pytest.raises(UserError, match=r"--data.path x: images may have several labels, but had one in"):
        check_same_classes(folder, ["blue", "green", "red"], True, "--data.path x")
    check_same_classes(folder, ["blue", "green", "red"], False, "--data.path x")
    check_same_classes(tmp_path, ["a"], True, "--data.path x")  # of a run without the file


def test_two_processes_are_one(colors: Path, tmp_path: Path) -> None:
    """The images of a step are shared, and so are those to validate on: the same losses, the same scores."""
    settings: dict[str, Any] = {
        "batch_size": 4, "effective_batch": 8, "epochs": 1, "drop_path_rate": 0.0, "device": "cpu"
    }  # fmt: skip
    run(colors, tmp_path / "one", **settings)
    arguments = "scratch --config few_labels --model.img_size 32 --model.drop_path_rate 0 --train.effective_batch 8 "
    arguments += "--train.batch_size 4 --train.epochs 1 --data.num_workers 0 --log.every 1 --device cpu"
    places = ["--data.path", str(colors), "--output", str(tmp_path / "two")]
    train_together("fcmae.finetune", [*arguments.split(), *places], tmp_path / "log", is_small=False)
    one, two = (metrics(tmp_path / name) for name in ("one", "two"))
    for left, right in zip(one, two, strict=True):
        assert left.keys() == right.keys()
        for name in {"loss", "val_loss", "val_top1", "val_top1_high"} & left.keys():
            assert left[name] == pytest.approx(right[name], rel=1e-5)


def test_a_learning_rate_that_is_far_off_gets_a_line(
    colors: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(colors, tmp_path / "run", epochs=1, base_lr=2e-4)
    line = "a peak learning rate of 6.3e-06 with 8 images per step is low: training will be slow"
    assert [message for message in caplog.messages if "a peak learning rate of" in message] == [
        f"{line}; --train.base_lr 0.032 makes it 1.0e-03"
    ]
