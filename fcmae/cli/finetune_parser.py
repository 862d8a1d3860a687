"""Settings of fine-tuning: WEIGHTS, recipes by name, and the recipe that suits the number of labeled images."""

import inspect
import sys
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from fcmae.cli.pretrain_parser import FINETUNING
from fcmae.cli.recipes import Given, Recipes
from fcmae.errors import UserError
from fcmae.finetuning.config import FinetuneConfig
from fcmae.finetuning.few_labels import FEW_LABELS, NAMES

PROG = "python -m fcmae.finetune"
DESCRIPTION = """Fine-tune pretrained weights on labeled images, and export the result for timm and transformers.

Without --config the number of training images decides: few_labels or few_labels_large below 10,000, else the paper's
recipe for the size of the network, V1's finetune_v1 or finetune_v1_base and the like from scratch, or for
supervised weights finetune_22k_1k_base and the like, of V1 finetune_v1_22k_1k.
Options override the configuration file; later files override earlier ones."""

FIRST = [
    inspect.Parameter(
        "weights",
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        default=None,
        annotation=FinetuneConfig | str | PathLike[str] | None,
    ),
    inspect.Parameter(
        "config",
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=FinetuneConfig | str | Path | Sequence[str | Path] | None,
    ),
]
"""The parameters of the function that are no plain settings."""

RECIPES = Recipes(FinetuneConfig, DESCRIPTION, lambda name: name.startswith(FINETUNING))


def parse_config(argv: Sequence[str] | None = None, prog: str = PROG) -> FinetuneConfig:
    """Parse arguments, by default ``sys.argv[1:]``, into a configuration.

    Raises:
        UserError: an unknown flag, a value of the wrong type or out of range, a file that does not exist.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    printing = [argument for argument in given if argument.startswith("--print_config")]  # ends the first parsing
    given = [argument for argument in given if argument not in printing]
    config = RECIPES.parse(given, prog)
    has_recipe = any(argument.partition("=")[0] == "--config" for argument in given)
    if not has_recipe and not (printing and config.data.path is None):
        given = ["--config", _recipe(config), *given]
        config = RECIPES.parse(given, prog)
    values = _computed(config, RECIPES.given(given, prog))
    flags = [*(f"--{name}={value}" for name, value in values.items()), *printing]
    return RECIPES.parse([*flags, *given], prog) if flags else config


def config_from(args: Sequence[Any], keywords: Mapping[str, Any]) -> FinetuneConfig:
    """The configuration for a call from Python, by the same rules as on the command line.

    Raises:
        UserError: as for :func:`parse_config`.
    """
    given = dict(keywords)
    if args and not isinstance(args[0], FinetuneConfig):
        if "weights" in given or len(args) > 1:
            raise UserError("finetune takes one argument by position, the weights; the others by name")
        given["weights"] = args[0]
        args = []
    if isinstance(given.get("weights"), PathLike):
        given["weights"] = fspath(given["weights"])
    config = RECIPES.from_call(args, given)
    if args or isinstance(given.get("config"), FinetuneConfig):
        return config
    if given.get("config") is None:
        given["config"] = _recipe(config)
        config = RECIPES.from_call((), given)
    values = _computed(config, RECIPES.given_in_call(given))
    return RECIPES.from_call((), given | values) if values else config


def _computed(config: FinetuneConfig, given: Given) -> dict[str, Any]:
    """What the recipe for few labels, if there is one, leaves open and nothing else gives."""
    is_open = NAMES - given.settings.keys()
    if FEW_LABELS not in given.recipes or not is_open:
        return {}
    from fcmae.finetuning.recipes import computed  # here, because it lists the images

    return computed(config, is_open)


def _recipe(config: FinetuneConfig) -> str:
    from fcmae.finetuning.recipes import recipe_for  # here, because it lists the images

    return recipe_for(config)
