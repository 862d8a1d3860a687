"""Checks of settings that several groups share."""

import math


def check_finite(config: object) -> None:
    """NaN passes every range check, so it needs one of its own."""
    for name, value in vars(config).items():
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise ValueError(f"{name} must be finite, got {value}")


def check_least(config: object, **lowest: float) -> None:
    """ValueError for a field that is set and less than its lowest value."""
    for name, least in lowest.items():
        value = getattr(config, name)
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def check_seed(seed: int) -> None:
    """ValueError for a seed that torch's generators do not take."""
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed must be at least 0 and less than 2⁶³, got {seed}")
