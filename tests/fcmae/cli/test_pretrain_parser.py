"""The command line: recipes, precedence, one-line errors, and help that explains every option."""

import re
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from fcmae.cli.pretrain_parser import SIZE_RECIPES, build_parser, config_from, parse_config, recipe_names
from fcmae.config import PretrainConfig, PretrainModelConfig
from fcmae.errors import UserError
from fcmae.training.batch import base_learning_rate, divide_batch

PAPER_SIZES = ["atto", "femto", "pico", "nano", "tiny", "base", "large", "huge"]


def test_without_data_or_configuration_it_is_the_demo() -> None:
    demo = parse_config([])
    assert demo == parse_config(["--config", "demo"])
    assert demo.data.path is None
    assert demo.model.img_size == 64
    assert parse_config(["--model.name", "convnextv2_tiny"]).model.img_size == 64  # still the demo, another size
    assert parse_config(["--data.path", "x"]).model == PretrainModelConfig()


@pytest.mark.parametrize("form", ["pretrain", "configs/pretrain.yaml", "pretrain.yaml"])
def test_recipes_are_found_by_name_from_anywhere(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in (["--config", form], [f"--config={form}"]):
        assert parse_config(arguments).train.effective_batch == 4096


@pytest.mark.parametrize("form", ["pretrain_{}", "configs/pretrain_{}.yaml", "pretrain_{}.yaml"])
@pytest.mark.parametrize("size", PAPER_SIZES)
def test_names_of_a_recipe_per_size_mean_pretrain_with_that_size(
    form: str, size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = form.format(size)
    expected = parse_config(["--config", "pretrain", "--model.name", f"convnextv2_{size}"])
    assert expected.model.name == f"convnextv2_{size}"
    assert parse_config(["--config", name]) == expected
    assert parse_config([f"--config={name}"]) == expected
    other = parse_config(["--config", name, "--model.name", "convnext_tiny", "--train.epochs", "10"])
    assert (other.model.name, other.train.epochs) == ("convnext_tiny", 10)  # options still override


def test_a_file_with_the_name_of_an_old_recipe_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pretrain_tiny.yaml").write_text("train: {epochs: 3}\n")
    assert parse_config(["--config", "pretrain_tiny.yaml"]).train.epochs == 3
    assert parse_config(["--config", "pretrain_tiny"]).train.epochs == 800


def test_old_names_are_shipped_in_no_file() -> None:
    assert not SIZE_RECIPES.keys() & set(recipe_names())
    with pytest.raises(UserError, match="neither a file nor a recipe; recipes: auto, demo, pretrain"):
        parse_config(["--config", "elsewhere/pretrain_tiny.yaml"])


def test_a_recipe_of_fine_tuning() -> None:
    with pytest.raises(UserError, match=r"recipes: auto, demo, pretrain; that recipe is of another command$"):
        parse_config(["--config", "finetune_base"])


def test_a_file_of_ones_own_comes_before_a_recipe_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("demo.yaml").write_text("model: {name: convnextv2_pico}\n")
    assert parse_config(["--config", "demo.yaml"]).model.name == "convnextv2_pico"


@pytest.mark.parametrize("size", PAPER_SIZES)
def test_recipes_have_the_papers_values(size: str) -> None:
    """Table 8 of arXiv 2301.00808."""
    config = parse_config(["--config", "pretrain", "--model.name", f"convnextv2_{size}"])
    assert config.model == PretrainModelConfig(name=f"convnextv2_{size}")
    assert (config.model.decoder_dim, config.model.decoder_depth, config.model.norm_pix_loss) == (512, 1, True)
    train = config.train
    assert (train.effective_batch, train.batch_size, train.accumulation_steps) == (4096, None, None)
    for num_processes, memory in ((1, 64), (8, 512)):
        assert divide_batch(train, num_processes, lambda memory=memory: memory).effective == 4096  # type: ignore[misc]
    assert (train.epochs, train.warmup, train.mask_ratio) == (800, 40, 0.6)
    assert base_learning_rate(train, 4096) == 1.5e-4
    assert (train.min_lr, train.weight_decay, train.betas) == (0, 0.05, (0.9, 0.95))
    assert (config.data.crop_scale, config.data.hflip) == ((0.2, 1.0), 0.5)


def test_a_short_run_needs_no_other_warm_up() -> None:
    assert parse_config(["--config", "pretrain", "--train.epochs", "10"]).train.warmup == pytest.approx(0.5)
    assert parse_config(["--data.path", "x", "--train.epochs", "1"]).train.warmup == pytest.approx(0.05)


def test_a_batch_in_options_overrides_the_effective_batch_of_a_file() -> None:
    """As every option does: both of its factors together are a batch, one of them is not."""

    def batch(*options: str) -> tuple[int | None, int | None, int | None]:
        train = parse_config(["--config", "pretrain_tiny", *options]).train
        return train.effective_batch, train.batch_size, train.accumulation_steps

    assert batch("--train.batch_size", "64", "--train.accumulation_steps", "4") == (None, 64, 4)
    assert batch("--train.batch_size=64", "--train.accumulation_steps=4") == (None, 64, 4)
    assert batch("--train.batch_size", "64") == (4096, 64, None)
    assert batch("--train.accumulation_steps", "4") == (4096, None, 4)
    assert batch("--train.effective_batch", "256") == (256, None, None)
    three = ("--train.batch_size", "64", "--train.accumulation_steps", "4", "--train.effective_batch", "512")
    assert batch(*three) == (512, 64, 4)  # a contradiction of one's own, for divide_batch to name


def test_every_recipe_is_tested() -> None:
    assert recipe_names() == ["auto", "demo", "pretrain"]


def test_options_override_files_and_later_files_earlier_ones(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train: {epochs: 7, warmup_epochs: 1}\nmodel: {img_size: [64, 96]}\n")
    config = parse_config(["--config", "pretrain_base", "--config", str(file), "--train.batch_size", "3"])
    assert (config.model.name, config.train.epochs, config.train.batch_size) == ("convnextv2_base", 7, 3)
    assert config.model.img_size == (64, 96)
    assert parse_config(["--data.path", "x", "--model.img_size", "[64,96]"]).model.image_hw == (64, 96)


def test_help_explains_every_option_with_its_default() -> None:
    text = " ".join(build_parser().format_help().split())
    found = 0

    def check(make: type, prefix: str) -> None:
        nonlocal found
        for field in fields(make):
            kind = {f.name: type(getattr(make(), f.name)) for f in fields(make)}[field.name]
            if is_dataclass(kind):
                check(kind, f"{prefix}{field.name}.")
                continue
            found += 1
            option = re.search(
                rf"--{re.escape(prefix + field.name)} (?:\S+ )+?([A-Zβ][^()]*.*?) \(type: .*?default: \S+", text
            )
            assert option, f"{prefix}{field.name}"
            assert len(option[1]) > 15, f"{prefix}{field.name} is not explained: {option[1]}"

    check(PretrainConfig, "")
    assert found >= 40
    assert "Shipped recipes: auto, demo, pretrain. " in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train.epochs", "many"], "--train.epochs: Expected a whole number. Got value: many"),
        (["--train.epoch", "3"], "--train.epoch is not an option; the nearest is --train.epochs"),
        (["--train.precision", "fp8"], "--train.precision: Expected one of ['auto', 'fp32', 'bf16']. Got value: fp8"),
        (
            ["--config", "/nowhere.yaml"],
            "--config /nowhere.yaml is neither a file nor a recipe; recipes: auto, demo, pretrain",
        ),
        (["--config", "/"], "--config / is a folder; give a YAML file"),
        (
            ["--model.img_size", "64,96,128"],
            "--model.img_size: Expected a whole number or two whole numbers (1,2). Got value: [64, 96, 128]",
        ),
        (["--train.clip_grad", "x"], "--train.clip_grad: Expected a number or null. Got value: x"),
        (["--model.name", "resnet50"], "--model.name 'resnet50' is not known; choose one of convnextv2_atto, "),
        (["--model.img_size", "100"], "--model.img_size must be a multiple of the patch size 8"),
        (["--model.stem_stride", "3"], "--model.stem_stride must be 1, 2 or 4, got 3"),
        (["--train.mask_ratio", "1"], "--train.mask_ratio must be between 0 and 1, got 1.0"),
        (["--train.batch_size", "0"], "--train.batch_size must be at least 1, got 0"),
        (["--train.accumulation_steps", "0"], "--train.accumulation_steps must be at least 1, got 0"),
        (["--train.effective_batch", "0"], "--train.effective_batch must be at least 1, got 0"),
        (["--train.warmup_epochs", "-1"], "--train.warmup_epochs must be at least 0, got -1"),
        (["--train.warmup_epochs", "99"], "--train.warmup_epochs must be less than train.epochs"),
        (["--data.mean", "[0.5]"], "--data.mean must have one value per channel: model.in_chans is 3, got (0.5,)"),
        (["--data.crop_scale", "[0.5,2]"], "--data.crop_scale must be 0 < low ≤ high ≤ 1, got 0.5, 2"),
        (["--data.num_workers", "-1"], "--data.num_workers must be at least 0, got -1"),
        (["--seed", "-1"], "--seed must be at least 0 and less than 2⁶³, got -1"),
        (["--seed", "9" * 23], "--seed must be at least 0 and less than 2⁶³, got 9"),
        (["--train.base_lr", ".nan"], "--train.base_lr must be finite, got nan"),
        (["--train.clip_grad", ".inf"], "--train.clip_grad must be finite, got inf"),
        (["--data.mean", "[.nan,0.5,0.5]"], "--data.mean must be finite, got (nan, 0.5, 0.5)"),
        (["--model.drop_path_rate", ".nan"], "--model.drop_path_rate must be in [0, 1), got nan"),
        (["--model.ls_init_value", ".nan"], "--model.ls_init_value must be finite, got nan"),
        (["--nonsense"], "--nonsense is not an option"),
        (["pictures/"], "unexpected argument pictures/; options begin with --"),
    ],
)
def test_wrong_arguments_get_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        parse_config(arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x81\x82", "cannot be read as YAML"),
        (b"a: b: c", "cannot be read as YAML"),
        (b"", "holds no settings"),
        (b"- 1", "holds no settings"),
        (b"train: {epochs: null}", "mine.yaml, line 1: train.epochs is null; give a value, or leave it out for 800"),
        (b"resume: null", "mine.yaml, line 1: resume is null"),
        (b"trian: {epochs: 3}", "mine.yaml, line 1: trian is not a setting; the nearest is train"),
    ],
)
def test_wrong_files_get_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError) as error:
        parse_config(["--config", str(file), "--data.path", "x"])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("first", "second", "options", "expected"),
    [
        ("effective_batch: 4096", "batch_size: 8\n  accumulation_steps: 4", [], (None, 8, 4)),
        ("batch_size: 8\n  accumulation_steps: 4", "effective_batch: 64", [], (64, 8, None)),
        ("effective_batch: 4096", "batch_size: 8", ["--train.accumulation_steps", "2"], (4096, 8, 2)),
        ("effective_batch: 4096", "epochs: 3", ["--train", "{batch_size: 8, accumulation_steps: 2}"], (None, 8, 2)),
        ("batch_size: 8\n  accumulation_steps: 4", "epochs: 3", ["--train.effective_batch=16"], (16, 8, None)),
    ],
)
def test_a_later_layer_replaces_the_batch_of_an_earlier_one(
    tmp_path: Path, first: str, second: str, options: list[str], expected: tuple[int | None, ...]
) -> None:
    """Files and options alike; in Python too, where there are no options."""
    for name, text in (("a.yaml", first), ("b.yaml", second)):
        (tmp_path / name).write_text(f"train:\n  {text}\n")
    names = [str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")]
    train = parse_config(["--config", names[0], f"--config={names[1]}", "--data.path", "x", *options]).train
    assert (train.effective_batch, train.batch_size, train.accumulation_steps) == expected
    if not options:
        train = config_from((), {"config": names, "data": "x"}).train
        assert (train.effective_batch, train.batch_size, train.accumulation_steps) == expected


def test_an_unset_stem_is_that_of_the_size_and_named_in_the_runs_files() -> None:
    """4, as in the files of runs before it could be left unset; 16 for isotropic networks."""
    for name, stride in (("convnextv2_atto", 4), ("convnext_isotropic_base", 16)):
        config = parse_config(["--data.path", "x", "--model.name", name])
        assert config.model.stride == stride
        assert config.as_dict()["model"]["stem_stride"] == stride
