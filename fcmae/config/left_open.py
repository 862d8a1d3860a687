"""A configuration of which some settings are chosen when the images are listed."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from fcmae.config.pretrain import PretrainConfig
from fcmae.errors import UserError


@dataclass(frozen=True)
class OpenConfig(PretrainConfig):
    """Settings of pretraining of which the user has left some to the recipe for small sets."""

    left_open: frozenset[str] = frozenset()
    """Their dotted names. Until they are chosen they have their defaults; the stem's stride has the recipe's."""
    for_any_set: bool = False
    """Whether the recipe is for a large set, too: it was asked for."""

    def settled(self, values: Mapping[str, Any]) -> PretrainConfig:
        """The configuration with these values of settings that were left open, by dotted name, and defaults of others.

        Raises:
            UserError: values that do not go together with the user's, such as patches that do not divide the images.
        """
        found = {"model.stem_stride": None, **values}
        groups = {field.name: getattr(self, field.name) for field in fields(PretrainConfig)}
        for group in ("model", "data", "train"):
            changes = {
                name.partition(".")[2]: value
                for name, value in found.items()
                if name in self.left_open and name.startswith(f"{group}.")
            }
            try:
                groups[group] = replace(groups[group], **changes)
            except ValueError as error:
                raise UserError(f"--{group}.{error}") from None
        return PretrainConfig(**groups)
