"""Settings of pretraining: flags or keywords override YAML files; recipes by name; the demo recipe by default."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from fcmae.cli.recipes import Recipes
from fcmae.config import PretrainConfig

DEMO = "demo"
PROG = "python -m fcmae.pretrain"
FINETUNING = ("few_labels", "finetune")
"""How the names of the recipes of fine-tuning begin."""
# Older recipe names, one per model size. Each stands for the pretrain recipe with that --model.name.
SIZE_RECIPES = {f"pretrain_{size}": f"convnextv2_{size}" for size in
                ("atto", "femto", "pico", "nano", "tiny", "base", "large", "huge")}  # fmt: skip

DESCRIPTION = """Pretrain a ConvNeXt on unlabeled images with FCMAE.

With neither --config nor --data.path it runs the demo recipe: a small network on bundled photos, a few minutes on two
cores. Options override the configuration file; later files override earlier ones."""

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

    Raises:
        UserError: an unknown flag, a value of the wrong type or out of range, a file that does not exist.
    """
    return RECIPES.parse(argv, prog)


def config_from(args: Sequence[Any], keywords: Mapping[str, Any]) -> PretrainConfig:
    """The configuration for a call from Python, by the same rules as on the command line.

    Raises:
        UserError: as for :func:`parse_config`.
    """
    given = dict(keywords)
    if args and "config" not in given and not isinstance(args[0], PretrainConfig):
        args, given["config"] = args[1:], args[0]
    return RECIPES.from_call(args, given)
