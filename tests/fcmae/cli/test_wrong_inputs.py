"""Wrong inputs of every command: one line, exit status 1, nothing written; without importing torch where possible."""

import json
import logging
import os
import subprocess
import sys
import zipfile
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fcmae.cli.fields import closest, leaves
from fcmae.config import PretrainConfig
from fcmae.models import create_model

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders and files that are not what they should be, and images/ and labeled/ that are."""
    folder = tmp_path_factory.mktemp("wrong")
    random = np.random.default_rng(0)
    for name in ("images/0", "images/1", "labeled/a/0", "labeled/a/1", "labeled/b/0", "labeled/b/1"):
        file = folder / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(file)
    (folder / "empty").mkdir()
    (folder / "two-bands").mkdir()
    np.save(folder / "two-bands" / "two.npy", random.integers(0, 256, (48, 48, 2), dtype=np.uint8))
    (folder / "texts").mkdir()
    (folder / "texts" / "a.txt").write_text("no image")
    (folder / "broken").mkdir()
    (folder / "broken" / "a.png").write_bytes(b"no image")
    (folder / "text.txt").write_text("hello")
    (folder / "settings.yaml").write_text("train:\n  epochs: 3\n")
    (folder / "nothing.pth").write_bytes(b"")
    (folder / "folder").mkdir()
    torch.save({}, folder / "folder" / "mine.pth")
    with zipfile.ZipFile(folder / "labeled.zip", "w") as archive:
        archive.writestr("a/0.png", "no image")
    (folder / "bad.pth").write_bytes(b"nothing")
    (folder / "bad.safetensors").write_bytes(b"nothing")
    torch.save({"a": torch.zeros(2)}, folder / "other.pth")
    torch.save([1, 2], folder / "list.pth")
    torch.save({"state": {}, "param_groups": [{"lr": 1.0}]}, folder / "optimizer.pt")
    torch.save(create_model("convnextv2_atto", decoder_dim=1).encoder.state_dict(), folder / "net.pth")
    return folder


# refused while parsing: no torch is needed
BY_THE_PARSER = [
    ("pretrain", "train.epochs 3", "options begin with --: --train.epochs"),
    ("pretrain", "train.epoch=3", "options begin with --: --train.epochs"),
    ("pretrain", "-train.epochs 3", "the nearest is --train.epochs"),
    ("pretrain", "--epochs 3", "the nearest is --train.epochs"),
    ("pretrain", "--train.epoch 3", "the nearest is --train.epochs"),
    ("pretrain", "--lr 1", "the nearest is --train.base_lr"),
    ("pretrain", "--learning-rate 1", "the nearest is --train.base_lr"),
    ("pretrain", "--train.lr 1", "the nearest is --train.base_lr"),
    ("pretrain", "--batch-size 3", "the nearest is --train.batch_size"),
    ("pretrain", "--data_path images", "the nearest is --data.path"),
    ("pretrain", "--output_dir x", "the nearest is --output"),
    ("pretrain", "--gpu 0", "the nearest is --device"),
    ("pretrain", "--workers 3", "the nearest is --data.num_workers"),
    ("pretrain", "--data.crop_scale 0.2", "takes 2 values, such as --data.crop_scale 0.2,1; got 0.2"),
    ("pretrain", "--data.crop_scale=0.2", "takes 2 values, such as --data.crop_scale 0.2,1; got 0.2"),
    ("pretrain", "--data.crop_scale 1,2,3", "takes 2 values, such as --data.crop_scale 0.2,1; got 1,2,3"),
    ("pretrain", "--data.crop_scale a,b", "Expected a number. Got value: a"),
    ("pretrain", "--train.betas 0.9", "takes 2 values, such as --train.betas 0.9,0.95; got 0.9"),
    ("pretrain", "--train 3", "--train is a group of options, got '3'; write --train.epochs, "),
    ("pretrain", '--train {"epoch":3}', "--train.epoch is not an option; the nearest is --train.epochs"),
    ("pretrain", "--train", "--train needs a value"),
    ("pretrain", "--config", "--config needs a value"),
    ("pretrain", "--config=", "--config is empty; give a YAML file or a recipe: auto, demo, pretrain"),
    ("pretrain", "--config pretain", "recipes: auto, demo, pretrain; the nearest is pretrain"),
    ("pretrain", "--config empty", "--config empty is a folder"),
    ("pretrain", "--config bad.safetensors", "holds no settings"),
    ("pretrain", "--seed", "--seed needs a value"),
    ("pretrain", "--seed=", "--seed: Expected a whole number"),
    ("pretrain", "--data.hflip yes", "--data.hflip: Expected a number. Got value: yes"),
    ("pretrain", "--seed 1.5", "--seed: Expected a whole number. Got value: 1.5"),
    ("pretrain", "--train.epochs -1", "--train.epochs must be at least 1, got -1"),
    ("pretrain", "images", "unexpected argument images"),
    ("pretrain", "--model convnextv2_tinny", "the nearest is convnextv2_tiny"),
    ("pretrain", "--model.name ConvNeXtV2_Tiny", "the nearest is convnextv2_tiny"),
    ("pretrain", "--train.compile maybe", "--train.compile: Expected true or false. Got value: maybe"),
    ("pretrain", "--train.precision fp16", "Expected one of ['auto', 'fp32', 'bf16']. Got value: fp16"),
    ("pretrain", "--train.mask_ratio 60", "--train.mask_ratio must be between 0 and 1, got 60.0"),
    ("pretrain", "--train.mask_ratio 60%", "--train.mask_ratio: Expected a number. Got value: 60%"),
    ("pretrain", "--model.img_size 224x224", "Expected a whole number or two whole numbers (1,2). Got value: 224x224"),
    ("pretrain", "--model.img_size 100", "must be a multiple of the patch size"),
    ("pretrain", "--model.checkpoint_stages 9", "--model.checkpoint_stages must be from 0 to 3"),
    ("pretrain", "--data.path", "--data.path needs a value"),
    ("evaluate", "", "[LABEL=]CKPT is missing; see --help"),
    ("evaluate", "x --pretained", "the nearest is --pretrained"),
    ("evaluate", "x --config a.yaml", "--config is not an option"),
    ("evaluate", "x --k 0", "--k must be at least 1, got 0"),
    ("evaluate", "x --output text.txt", "--output text.txt is a file; give a folder"),
    ("collapse", "", "[LABEL=]MODEL is missing; see --help"),
    ("collapse", "x --layers", "--layers needs a value"),
    ("collapse", "x --tap relu", "Expected one of ['expansion', 'act', 'grn', 'block']. Got value: relu"),
    ("collapse", "x --picture -1", "--picture must be at least 0, got -1"),
    ("reconstruct", "", "CKPT is missing; see --help"),
    ("reconstruct", "a b", "unexpected argument b"),
    ("reconstruct", "a --mask_ratio 0.5", "the nearest is --mask_ratios"),
    ("reconstruct", "a --mask_ratios 2", "--mask_ratios must be different numbers between 0 and 1"),
    ("convert", "", "SRC is missing; see --help"),
    ("convert", "a", "DST is missing; see --help"),
    ("convert", "a b --fromat timm", "the nearest is --format"),
    ("finetune", "scratch --train.freeze heads", "Expected head or a whole number. Got value: heads"),
    ("export", "", "CKPT is missing; see --help"),
    ("export", "nowhere", "nowhere does not exist"),
    ("export", "a --output b.txt", "--output must be a file that ends in .onnx, got 'b.txt'"),
    ("export", "a --format tflite", "Expected one of ['onnx']. Got value: tflite"),
    ("export", "a --img_size 0", "--img_size must be a number of pixels, or height,width, got 0"),
    ("report", "", "RUN is missing; see --help"),
    ("report", "nowhere", "nowhere does not exist; give a run folder"),
    ("report", "text.txt", "text.txt is a file; give a run folder"),
    ("report", "empty", "empty is not a run folder"),
]  # fmt: skip
# refused by looking at paths, names and first bytes: no torch either
BY_THE_PATHS = [
    ("pretrain", "--data.path nowhere", "--data.path nowhere does not exist; give a folder of images"),
    ("pretrain", "--data.path images,nowhere", "--data.path nowhere does not exist"),
    ("pretrain", "--config pretrain", "--data.path is missing: the recipe trains on your own images"),
    ("evaluate", "=", "'=' must be LABEL=PATH or LABEL=NAME"),
    ("evaluate", "nowhere", "nowhere is neither a run, a checkpoint or a weights file, nor the name of a timm network"),
    ("evaluate", "runs/nowhere", "runs/nowhere is neither"),
    ("evaluate", "convnextv2_attto", "similar timm names: convnextv2_atto"),
    ("evaluate", "a= --k 3", "'a=' must be LABEL=PATH or LABEL=NAME"),
    ("evaluate", "convnextv2_atto convnextv2_atto", "two models would be named convnextv2_atto"),
    ("evaluate", "text.txt", "text.txt cannot be read: it is a text file, neither a torch nor a safetensors file"),
    ("evaluate", "images/0.png", "images/0.png cannot be read: it is an image, not weights; weights are a run folder"),
    ("evaluate", "settings.yaml", "settings.yaml cannot be read: it is a YAML file, neither"),
    ("evaluate", "empty", "empty has no checkpoint in it"),
    ("evaluate", "convnextv2_atto --data nowhere", "--data.path nowhere does not exist"),
    ("evaluate", "convnextv2_atto --data images", "--data.path images"),
    ("evaluate", "convnextv2_atto --data text.txt", "--data.path text.txt is not a folder"),
    ("evaluate", "convnextv2_atto --data empty", "--data.path empty holds no images"),
    ("evaluate", "convnextv2_atto --data=", "--data.path is empty"),
    ("evaluate", "convnextv2_atto --data.value_range 0,1", "--data.value_range is for the image files of a folder"),
    ("evaluate", "convnextv2_atto --data labeled --data.value_range 1", "value_range must be low,high"),
    ("evaluate", "convnextv2_atto --data labeled --data.bands 0", "--data.bands are counted from 1"),
    ("evaluate", "convnextv2_atto --data labeled --data.std 0", "--data.std must be above 0"),
    ("evaluate", "convnextv2_atto --data labeled --data.dataset cifar10", "--data.dataset cifar10 is not known"),
    ("collapse", "nowhere", "nowhere is neither"),
    ("collapse", "text.txt", "text.txt cannot be read: it is a text file"),
    ("collapse", "resnet18 --data nowhere", "--data.path nowhere does not exist"),
    ("collapse", "convnextv2_atto --picture 99 --data images", "--picture 99: there are 2 images, 0 to 1"),
    ("reconstruct", "nowhere", "nowhere does not exist; give a run folder, "),
    ("reconstruct", "empty", "empty has no checkpoint in it"),
    ("reconstruct", "labeled.zip", "labeled.zip cannot be read: it is a zip archive without torch's data; weights are"),
    ("reconstruct", "list.pth --data nowhere", "--data.path nowhere does not exist"),
    ("reconstruct", "list.pth --mask nowhere.png", "--mask nowhere.png does not exist"),
    ("reconstruct", "list.pth --mask images", "--mask images is not a file; give an image"),
    ("reconstruct", "folder", "folder holds 1 weights file, none of a known name; give one, such as folder"),
    ("convert", "nowhere out", "nowhere does not exist"),
    ("convert", "nowhere.pth out", "nowhere.pth does not exist"),
    ("convert", "images out", "images has no checkpoint in it"),
    ("convert", "text.txt out", "text.txt cannot be read: it is a text file"),
    ("convert", "nothing.pth out", "nothing.pth is empty"),
    ("convert", "list.pth images", "images exists; give another DST, or --overwrite"),
    ("convert", "list.pth text.txt --overwrite", "text.txt: .txt files are not written; give a folder"),
    ("convert", "list.pth out.onnx", "out.onnx: .onnx files are not written"),
]  # fmt: skip
# refused by what reads the files
BY_THE_WORK = [
    ("pretrain", "--data.path empty", "--data.path empty"),
    ("pretrain", "--data.path texts", "--data.path texts"),
    ("pretrain", "--data.path broken", "--data.path broken"),
    ("pretrain", "--data.path images --model.init_from nowhere.pth", "--model.init_from"),
    ("pretrain", "--data.path images --model.init_from bad.pth", "bad.pth"),
    ("pretrain", "--data.path images --model.init_from other.pth", "other.pth"),
    ("pretrain", "--data.path images --resume nowhere", "--resume takes auto, none or a path: nowhere does not exist"),
    ("pretrain", "--data.path images --output text.txt", "--output text.txt is a file; give a folder"),
    ("pretrain", "--data.path images --device abacus", "--device abacus cannot be used here: no such device; here are"),
    ("pretrain", "--data.path images --device cuda:99", "--device cuda:99 cannot be used here"),
    ("evaluate", "bad.safetensors", "bad.safetensors"),
    ("evaluate", "list.pth", "list.pth"),
    ("evaluate", "convnextv2_atto --device gpu", "--device gpu cannot be used here: no such device; here are"),
    (
        "evaluate",
        "convnextv2_atto --data labeled --data.bands 1,2",
        "bands must name one band per channel: the network",
    ),
    ("evaluate", "convnextv2_atto --data labeled --data.mean 0.5", "--data.mean must have one value per channel: the"),
    ("evaluate", "convnextv2_atto.nonsense", "timm has no weights of the name convnextv2_atto.nonsense"),
    ("collapse", "convnextv2_atto --data two-bands", "but the network takes 3; pick as many with --data.bands"),
    ("reconstruct", "bad.pth", "bad.pth"),
    ("convert", "other.pth out", "other.pth"),
    ("export", "other.pth", "other.pth"),
    ("convert", "optimizer.pt out", "optimizer.pt holds the state of an optimizer, not weights"),
    ("convert", "net.pth images/0.png/out", "error: images/0.png/out: Not a directory"),
]


@pytest.mark.parametrize(("command", "line", "message"), [*BY_THE_PARSER, *BY_THE_PATHS, *BY_THE_WORK])
def test_one_line_and_nothing_written(
    command: str,
    line: str,
    message: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(place)
    before = sorted(os.listdir(place))
    caplog.set_level(logging.WARNING)
    assert import_module(f"fcmae.{command}").main(line.split(), prog=f"fcmae {command}") == 1
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert errors[0].startswith(f"fcmae {command}: error: ")
    assert message in errors[0]
    assert "\n" not in errors[0]
    assert sorted(os.listdir(place)) == before


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("evaluate", [""], "the name of a network is empty"),
        ("collapse", [""], "the name of a network is empty"),
        ("reconstruct", [""], "the path of the weights is empty"),
        ("convert", ["", "out"], "the path of the weights is empty"),
        ("convert", ["list.pth", ""], "DST is empty"),
        ("report", [""], "RUN is empty"),
        ("pretrain", ["--data.path=~/nowhere"], "does not exist (the shell leaves ~ as it is after = and in quotes)"),
    ],
)
def test_empty_and_unexpanded_paths(
    command: str,
    arguments: list[str],
    message: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An empty path is not the working directory."""
    monkeypatch.chdir(place)
    assert import_module(f"fcmae.{command}").main(arguments) == 1
    assert message in caplog.messages[-1]


def test_what_is_similar_to_no_option_gets_no_hint() -> None:
    """An option of the same group is not similar by that alone."""
    names = list(leaves(PretrainConfig))
    assert closest("train.nonsense", names) is None
    assert closest("train.epoch", names) == "train.epochs"
    assert closest("trian.epochs", names) == "train.epochs"


def test_parser_and_paths_refuse_without_torch(place: Path) -> None:
    """All of them in one process, which never imports torch: that alone takes seconds."""
    code = (
        "import json, sys; from importlib import import_module; import logging; logging.disable(logging.CRITICAL)\n"
        "for command, line in json.loads(sys.argv[1]):\n"
        "    assert import_module(f'fcmae.{command}').main(line.split()) == 1\n"
        "    assert 'torch' not in sys.modules and 'timm' not in sys.modules, (command, line)\n"
        "print('all refused')"
    )
    lines = [(command, line) for command, line, _ in [*BY_THE_PARSER, *BY_THE_PATHS]]
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(lines)],
        cwd=place, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "all refused\n"), done.stderr
