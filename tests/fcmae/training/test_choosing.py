"""When the recipe for small sets is taken, what of it, and that a run keeps what it began with."""

import json
import logging
import shutil
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from unittest.mock import Mock

import pytest
import yaml

from fcmae.cli.pretrain_parser import config_from, parse_config
from fcmae.config import PretrainConfig, small_sets
from fcmae.convert import convert
from fcmae.errors import UserError
from fcmae.pretrain import main, pretrain
from fcmae.reconstruct import reconstruct
from fcmae.runs.layout import flat
from fcmae.training import setup
from fcmae.training.choosing import chosen
from tests.fcmae.finished_runs import losses
from tests.fcmae.labeled_images import COLORS, fill, fill_classes

DEFAULTS = flat(PretrainConfig().as_dict())


def settings(*options: str, images: int = 1_969, processes: int = 1, before: dict | None = None) -> dict[str, object]:
    """What is other than the default, by dotted name."""
    config = chosen(parse_config(options), images, processes, before)
    assert type(config) is PretrainConfig
    return {name: value for name, value in flat(config.as_dict()).items() if value != DEFAULTS[name]}


OF_1969 = {
    "data.path": "x", "model.decoder_dim": 256, "data.crop_scale": [0.3, 1.0], "data.mean": "auto", "data.std": "auto",
    "train.epochs": 122, "train.batch_size": 64, "train.base_lr": 6e-3, "train.warmup_epochs": 6.1,
}  # fmt: skip


@pytest.mark.parametrize("options", [(), ("--config", "auto"), ("--config=configs/auto.yaml",)])
def test_a_small_set_takes_it_asked_for_or_not(options: Sequence[str]) -> None:
    assert settings(*options, "--data.path", "x") == OF_1969


def test_a_large_set_takes_it_only_if_asked() -> None:
    assert settings("--data.path", "x", images=99_999).items() >= {("train.epochs", 3)}
    assert settings("--data.path", "x", images=100_000) == {"data.path": "x"}
    assert settings("--config", "auto", "--data.path", "x", images=100_000) == OF_1969 | {
        "train.epochs": 3, "train.warmup_epochs": 0.15,
    }  # fmt: skip


def test_a_file_a_recipe_or_a_whole_configuration_is_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("data: {path: x}\ntrain: {epochs: 7}\n")
    assert settings("--config", str(file)) == {"data.path": "x", "train.epochs": 7}
    assert "model.decoder_dim" not in settings("--config", "pretrain", "--data.path", "x")
    assert "train.base_lr" not in settings("--config", "demo", "--data.path", "x")
    whole = PretrainConfig()
    assert chosen(config_from((whole,), {}), 5, 1, None) is whole


def test_a_file_of_ones_own_called_auto_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("auto.yaml").write_text("train: {epochs: 7}\n")
    assert settings("--config", "auto.yaml", "--data.path", "x") == {"data.path": "x", "train.epochs": 7}
    (tmp_path / "clone").mkdir()
    copied = shutil.copy(str(files("fcmae.configs") / "auto.yaml"), tmp_path / "clone")
    assert settings("--config", str(copied), "--data.path", "x") == OF_1969  # the recipe itself


GIVEN = {
    "model.stem_stride": 2, "model.decoder_dim": 32, "data.crop_scale": [0.2, 1.0], "data.mean": [0.1, 0.2, 0.3],
    "data.std": None, "train.epochs": 800, "train.batch_size": 3, "train.base_lr": 0.5, "train.warmup_epochs": 0,
}  # fmt: skip


@pytest.mark.parametrize("name", GIVEN)
def test_what_the_user_gives_wins_in_any_form(tmp_path: Path, name: str) -> None:
    """A flag, a group in JSON, a file before or after, a keyword; also the default's own value."""
    group, _, key = name.partition(".")
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({group: {key: GIVEN[name]}}))
    as_flag = yaml.safe_dump(GIVEN[name], default_flow_style=True).splitlines()[0]
    usual = ["--data.path", "x"]
    found = [
        chosen(config, 1_969, 1, None)
        for config in (
            parse_config([*usual, f"--{name}", as_flag]),
            parse_config([*usual, f"--{group}", yaml.safe_dump({key: GIVEN[name]}, default_flow_style=True)]),
            parse_config([*usual, "--config", str(file), "--config", "auto"]),
            parse_config([*usual, "--config", "auto", "--config", str(file)]),
            config_from((), {"data": {"path": "x"}, name: GIVEN[name]}),
            config_from(("auto",), {"path": "x", key: GIVEN[name]}),
        )
    ]
    assert all(one == found[0] for one in found)
    values = flat(found[0].as_dict())
    assert values[name] == GIVEN[name]
    # the rate follows the batch, the warm-up the epochs
    expected = OF_1969 | {name: GIVEN[name]}
    expected |= {"train.batch_size": {"train.base_lr": 0.128}, "train.epochs": {"train.warmup_epochs": 40.0}}.get(
        name, {}
    )
    expected["train.base_lr"] = pytest.approx(expected["train.base_lr"])
    assert {key: values[key] for key in expected} == expected


def test_the_batch_is_that_of_all_processes_and_micro_batches() -> None:
    def rate(*options: str, processes: int = 1) -> object:
        return settings("--data.path", "x", *options, processes=processes).get("train.base_lr")

    assert rate(processes=4) == pytest.approx(1.5e-3)
    assert rate("--train.accumulation_steps", "2", processes=2) == pytest.approx(1.5e-3)
    assert rate("--train.effective_batch", "32", processes=4) == pytest.approx(12e-3)
    assert rate(processes=5) is None  # 320 images: what suits any set
    assert "train.batch_size" not in settings(
        "--data.path", "x", "--train.effective_batch", "32"
    )  # what fits in memory


def test_samples_of_an_epoch_count_not_files() -> None:
    assert settings("--data.path", "x", "--data.repeat", "5", "--data.crops_per_image", "2", images=1_000).items() >= {
        ("train.epochs", 24)
    }


def test_small_images_get_small_patches_and_sizes_that_do_not_divide_a_line() -> None:
    assert settings("--data.path", "x", "--model.img_size", "48")["model.stem_stride"] == 1
    assert settings("--data.path", "x", "--model.img_size", "96,64")["model.stem_stride"] == 2
    config = config_from((), {"path": "x", "img_size": (64, 96)})
    assert chosen(config, 10, 1, None).model.stem_stride == 2
    assert settings("--data.path", "x", "--model.img_size", "72")["model.stem_stride"] == 1
    with pytest.raises(UserError, match=r"^--model\.img_size must be a multiple of the patch size 8 .*got 70; .* 72$"):
        parse_config(["--data.path", "x", "--model.img_size", "70"])
    large = parse_config(["--data.path", "x", "--model.img_size", "48"])
    with pytest.raises(UserError, match=r"^--model\.img_size must be a multiple of the patch size 32"):
        chosen(large, 100_000, 1, None)


@pytest.mark.parametrize("keywords", [{"img_size": []}, {"img_size": (1, 2, 3)}, {"name": ["a"]}, {"img_size": "x"}])
def test_wrong_keywords_are_one_line(keywords: dict) -> None:
    with pytest.raises(UserError, match=r"img_size|name"):
        config_from((), {"path": "x", **keywords})


def test_more_epochs_than_the_warm_up_that_was_given() -> None:
    found = settings("--data.path", "x", "--train.warmup_epochs", "40", images=60_000)
    assert (found["train.epochs"], found["train.warmup_epochs"]) == (41, 40.0)


def test_a_printed_configuration_has_nothing_of_it(capsys: pytest.CaptureFixture) -> None:
    """It would fix one of its values, beside defaults, in the file that is made of it."""
    with pytest.raises(SystemExit):
        parse_config(["--data.path", "x", "--model.img_size", "96", "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["model"]["stem_stride"] is None


@pytest.mark.usefixtures("small_network")
def test_a_run_that_starts_from_another_has_its_stem_decoder_and_pixels(tmp_path: Path) -> None:
    fill(tmp_path / "images", (40, 80, 120), 4)
    usual = {"data": tmp_path / "images", "img_size": 32, "epochs": 1, "num_workers": 0, "device": "cpu"}
    first = pretrain(output=tmp_path / "first", decoder_dim=8, mean=(0.1, 0.2, 0.3), **usual).folder
    then = pretrain(output=tmp_path / "then", init_from=str(first), **usual).folder
    before, after = (flat(yaml.safe_load((run / "config.yaml").read_text())) for run in (first, then))
    for name in sorted(small_sets.OF_WEIGHTS):
        assert after[name] == before[name]
    assert (after["model.stem_stride"], after["model.decoder_dim"], after["data.mean"]) == (1, 8, [0.1, 0.2, 0.3])


def test_weights_that_say_nothing_leave_the_defaults() -> None:
    found = settings("--data.path", "x", "--model.init_from", "y", "--model.img_size", "96")
    left_alone = ("model.stem_stride", "model.decoder_dim", "data.mean", "data.std")
    assert not [name for name in left_alone if name in found]
    assert found["train.epochs"] == 122


def test_it_needs_images_of_ones_own() -> None:
    with pytest.raises(UserError, match=r"^--data\.path is missing: the recipe trains on your own images"):
        pretrain(config="auto")


def test_a_resumed_run_keeps_its_settings_and_those_of_older_versions() -> None:
    """Recorded values; however many images there are now; and an old run's are the defaults of its time."""
    recorded = flat(chosen(parse_config(["--data.path", "x"]), 1_969, 1, None).as_dict())
    for images in (5, 10**6):
        found = settings("--data.path", "x", images=images, before=recorded)
        kept_by_resume = ("train.base_lr", "train.warmup_epochs")  # see test_resume.py
        assert found == {name: value for name, value in OF_1969.items() if name not in kept_by_resume}
    assert settings("--data.path", "x", images=5, before=DEFAULTS) == {"data.path": "x"}
    assert settings("--data.path", "x", images=5, before={}) == {"data.path": "x"}


@pytest.mark.usefixtures("small_network")
def test_a_run_is_resumed_by_the_same_command_and_read_by_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_classes(tmp_path / "images", COLORS, 4)
    monkeypatch.setattr(small_sets, "IMAGES_SEEN", 36)
    run = tmp_path / "run"
    usual = ["--data.path", str(tmp_path / "images"), "--output", str(run), "--model.img_size", "32"]
    usual += ["--data.num_workers", "0", "--device", "cpu", "--log.every", "1"]
    with caplog.at_level(logging.INFO):
        assert main([*usual, "--train.batch_size", "4"]) == 0
    assert "12 images to train on: --config auto (--model.stem_stride 1 --model.decoder_dim 256 " in caplog.text
    assert "peak learning rate 0.0015" in caplog.text
    recorded = yaml.safe_load((run / "config.yaml").read_text())
    wanted = {"epochs": 3, "batch_size": 4, "warmup_epochs": 0.15, "base_lr": 0.096}
    assert {name: recorded["train"][name] for name in wanted} == wanted
    assert (recorded["model"]["stem_stride"], recorded["model"]["decoder_dim"]) == (1, 256)
    assert recorded["data"]["crop_scale"] == [0.3, 1.0]
    assert all(isinstance(one, float) for one in recorded["data"]["mean"] + recorded["data"]["std"])
    before = losses(run)
    assert len(before) == 9

    # other images, another recipe, more of them than its limit: the run goes on as it began
    fill(tmp_path / "images" / "more", (1, 2, 3), 4)
    for name, value in (("IMAGES_SEEN", 1), ("DECODER_DIM", 8), ("CROP_SCALE", (0.9, 1.0)), ("LIMIT", 2)):
        monkeypatch.setattr(small_sets, name, value)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert main([*usual, "--train.batch_size", "4", "--train.epochs", "4"]) == 0
    assert "--config auto" not in caplog.text
    assert "16 images, 16 steps of 4 (4 epochs), peak learning rate 0.0015" in caplog.text
    after = yaml.safe_load((run / "config.yaml").read_text())
    assert flat(after) == flat(recorded) | {"train.epochs": 4}
    assert losses(run)[:9] == before
    assert len(losses(run)) == 16

    pictures = reconstruct(str(run), data=str(tmp_path / "images"), output=str(tmp_path / "pictures"), images=2)
    assert {picture.patches for picture in pictures} == {16}
    convert(str(run), str(tmp_path / "timm"), format="timm")
    stated = json.loads((tmp_path / "timm" / "config.json").read_text())["pretrained_cfg"]
    assert (stated["mean"], stated["input_size"]) == (recorded["data"]["mean"], [3, 32, 32])


@pytest.mark.usefixtures("small_network")
@pytest.mark.parametrize(("limit", "decoder_dim"), [(32, 256), (31, 512)])
def test_the_number_of_images_decides_from_python_too(
    colors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, decoder_dim: int
) -> None:
    """31 files, one of which is damaged; they are listed once."""
    monkeypatch.setattr(small_sets, "LIMIT", limit)
    listed = Mock(wraps=setup.training_images)
    monkeypatch.setattr(setup, "training_images", listed)
    done = pretrain(
        data=colors, output=tmp_path / "run", img_size=64, epochs=1, batch_size=16, num_workers=0, device="cpu"
    )
    found = yaml.safe_load((done.folder / "config.yaml").read_text())
    assert listed.call_count == 1
    assert found["model"]["decoder_dim"] == decoder_dim
    assert found["model"]["stem_stride"] == (2 if decoder_dim == 256 else 4)
