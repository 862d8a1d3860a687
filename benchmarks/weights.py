"""Weights that make a comparison mean something."""

from torch import nn


def randomize_grn(module: nn.Module) -> None:
    """GRN starts as the identity; give it something to do, so that a wrong one is noticed."""
    for name, parameter in module.named_parameters():
        if "grn" in name:
            nn.init.normal_(parameter, std=0.5)
