"""Settings of pretraining: flags or keywords override YAML files; recipes by name; the demo recipe by default."""

import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from fcmae.cli.recipes import Given, Recipes
from fcmae.config import PretrainConfig, PretrainModelConfig, small_sets
from fcmae.config.left_open import OpenConfig
from fcmae.models.sizes import SIZES

DEMO = "demo"
PROG = "python -m fcmae.pretrain"
FINETUNING = ("few_labels", "finetune")
"""How the names of the recipes of fine-tuning begin."""
# Older recipe names, one per model size. Each stands for the pretrain recipe with that --model.name.
SIZE_RECIPES = {f"pretrain_{size}": f"convnextv2_{size}" for size in
                ("atto", "femto", "pico", "nano", "tiny", "base", "large", "huge")}  # fmt: skip

DESCRIPTION = """Pretrain a ConvNeXt on unlabeled images with FCMAE.

With neither --config nor --data.path it runs the demo recipe: a small network on bundled photos, a few minutes on two
cores. Without --config, fewer than 100,000 images are trained on by the recipe auto, which chooses epochs, learning
rate, crops, mean and std, patch size and width of the decoder, and more of them by the defaults below. Options override
the configuration file; later files override earlier ones."""

CONFIG_PARAMETER = inspect.Parameter(
    "config",
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    default=None,
    annotation=PretrainConfig | str | Path | Sequence[str | Path] | None,
)
"""The extra parameter of the function: a whole configuration, or recipes and YAML files; later ones override."""

RECIPES = Recipes(
    PretrainConfig,
    DESCRIPTION,
    lambda name: not name.startswith(FINETUNING),
    default=DEMO,
    older={old: ("pretrain", model) for old, model in SIZE_RECIPES.items()},
)


def recipe_names() -> list[str]:
    """Names of the shipped recipes, which --config accepts without a path."""
    return RECIPES.names()


def build_parser(prog: str = PROG) -> ArgumentParser:
    """The parser; defaults and help come from the dataclasses."""
    return RECIPES.parser(prog)


def parse_config(argv: Sequence[str] | None = None, prog: str = PROG) -> PretrainConfig:
    """Parse arguments, by default ``sys.argv[1:]``, into a configuration.

    What the recipe for small sets may choose is left open, in an :class:`fcmae.config.left_open.OpenConfig`.

    Raises:
        UserError: an unknown flag, a value of the wrong type or out of range, a file that does not exist.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    given = RECIPES.given(arguments, prog)
    is_printed = any(one.startswith("--print_config") for one in arguments)  # without what is chosen later
    flags = [] if is_printed else [f"--{name}={value}" for name, value in _stem_stride(given).items()]
    return _left_open(RECIPES.parse([*flags, *arguments], prog), given)


def config_from(args: Sequence[Any], keywords: Mapping[str, Any]) -> PretrainConfig:
    """The configuration for a call from Python, by the same rules as on the command line.

    Raises:
        UserError: as for :func:`parse_config`.
    """
    keywords = dict(keywords)
    if args and "config" not in keywords and not isinstance(args[0], PretrainConfig):
        args, keywords["config"] = args[1:], args[0]
    if args or isinstance(keywords.get("config"), PretrainConfig):
        return RECIPES.from_call(args, keywords)
    given = RECIPES.given_in_call(keywords)
    return _left_open(RECIPES.from_call((), keywords | _stem_stride(given)), given)


def _may_choose(given: Given) -> bool:
    """Whether the recipe for small sets was asked for, or is the default if there are few images."""
    return small_sets.AUTO in given.recipes or (not given.recipes and given.settings.get("data.path") is not None)


def _stem_stride(given: Given) -> dict[str, int]:
    """The recipe's, where it may choose: the stride decides which image sizes are refused."""
    settings = {name.removeprefix("model."): value for name, value in given.settings.items()}
    if "stem_stride" in settings or not _may_choose(given):
        return {}
    if isinstance(start := settings.get("init_from"), str):
        from fcmae.weights.settings import stated_network  # here, because it imports torch

        return {f"model.{one}": value for one, value in stated_network(start).items() if one == "stem_stride"}
    name, size = (settings.get(one, getattr(PretrainModelConfig, one)) for one in ("name", "img_size"))
    sides = size if isinstance(size, list | tuple) else [size]
    are_sides = 1 <= len(sides) <= 2 and all(isinstance(side, int) for side in sides)
    if not isinstance(name, str) or name not in SIZES or not are_sides:
        return {}  # what is wrong with them the parser says
    stride = small_sets.stem_stride(name, (min(sides), max(sides)))
    return {} if stride == SIZES[name].stem_stride else {"model.stem_stride": stride}


def _left_open(config: PretrainConfig, given: Given) -> PretrainConfig:
    """The configuration, with what the recipe may choose left open."""
    if not _may_choose(given):
        return config
    names = small_sets.NAMES - given.settings.keys()
    if config.train.effective_batch is not None:
        names -= {"train.batch_size"}
    groups = {field.name: getattr(config, field.name) for field in fields(config)}
    return OpenConfig(**groups, left_open=names, for_any_set=small_sets.AUTO in given.recipes)
