"""How much of an image validation takes."""

FULL_CROP_FROM = 384  # pixels; from there on the papers validate on whole images
CROP_PCT = 0.875


def crop_share(crop_pct: float | None, image_hw: tuple[int, int]) -> float:
    """``crop_pct``, the share of the largest center crop, or the papers' for this size."""
    if crop_pct is not None:
        return crop_pct
    return 1.0 if min(image_hw) >= FULL_CROP_FROM else CROP_PCT
