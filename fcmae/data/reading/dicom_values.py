"""What the stored values of a DICOM frame mean: padding, rescaling, inversion, and the file's window (VOI LUT)."""

from typing import Any, NamedTuple

import numpy as np

GROUPS = ("PixelValueTransformationSequence", "FrameVOILUTSequence")
"""Functional groups of multi-frame files that hold what other files hold at the top."""


class Look(NamedTuple):
    """How the gray frames of a file are shown."""

    is_windowed: bool
    """As the file's window shows them, in uint8; else as numbers."""
    padding: tuple[int, int] | None
    """Lowest and highest stored value that means no data."""

    def padded(self, stored: np.ndarray) -> np.ndarray:
        """bool of the same shape: no data."""
        if self.padding is None:
            return np.zeros(stored.shape, bool)
        return (stored >= self.padding[0]) & (stored <= self.padding[1])

    def shown(self, stored: np.ndarray, described: Any, frame: int) -> np.ndarray:
        """[1, H, W] of stored values → uint8 if windowed, else numbers; NaN where padded."""
        here = _with_groups(described, frame)
        values = _rescaled(stored, here)
        if self.is_windowed:
            light = _in_window(values, here)
            return np.rint(255 * (1 - light if _is_inverted(here) else light)).astype(np.uint8)
        if _is_inverted(here):
            values = _inverted(values, stored.dtype, here)
        if self.padding is not None and (gone := self.padded(stored)).any():
            values = np.where(gone, np.float32(np.nan), values.astype(np.float32))
        elif self.padding is not None:
            values = values.astype(np.float32)
        return values.astype(bool) if here.BitsAllocated == 1 else values


def look_of(described: Any, may_window: bool) -> Look:
    """The look of a file, by the elements of its first frame."""
    here = _with_groups(described, 0)
    padding = here.get("PixelPaddingValue")
    if padding is not None:
        other = here.get("PixelPaddingRangeLimit")
        ends = [int(padding), int(padding if other is None else other)]
        if here.get("PixelRepresentation") == 1:  # some files state signed values as unsigned ones
            half = 2 ** (int(here.BitsAllocated) - 1)
            ends = [end - 2 * half if end >= half else end for end in ends]
        padding = min(ends), max(ends)
    return Look(may_window and (bool(here.get("VOILUTSequence")) or _window(here) is not None), padding)


def _with_groups(described: Any, frame: int) -> Any:
    """The elements that hold for one frame."""
    shared, each = (
        described.get(name) or () for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
    )
    groups = [*shared[:1], *each[frame : frame + 1]]
    if not groups:
        return described
    import pydicom

    found = pydicom.Dataset()
    found.update(described)
    for group in groups:
        for name in GROUPS:
            for item in group.get(name) or ():
                found.update(item)
    return found


def _is_inverted(here: Any) -> bool:
    return here.PhotometricInterpretation == "MONOCHROME1"


def _rescaled(stored: np.ndarray, here: Any) -> np.ndarray:
    """float32 after slope and intercept or the lookup table of the modality; as stored if there is neither."""
    from pydicom.pixels import apply_modality_lut

    if here.get("ModalityLUTSequence"):
        return apply_modality_lut(stored, here)
    slope, intercept = float(here.get("RescaleSlope") or 1), float(here.get("RescaleIntercept") or 0)
    if here.get("RescaleSlope") is None and here.get("RescaleIntercept") is None:
        return stored
    return (stored * slope + intercept).astype(np.float32)


def _inverted(values: np.ndarray, stored: np.dtype, here: Any) -> np.ndarray:
    """Bright for dark, in the range that the stored bits have."""
    if stored.kind == "f":
        return -values
    bits = int(here.BitsStored)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if stored.kind == "i" else (0, 2**bits - 1)
    ends = _rescaled(np.array([low, high], stored), here).astype(np.float64)
    return (ends[0] + ends[1] - values).astype(values.dtype)


def _window(here: Any) -> tuple[float, float] | None:
    """Center and width of the first window; None if there is none that can be used."""
    center, width = here.get("WindowCenter"), here.get("WindowWidth")
    if center is None or width is None:
        return None
    center, width = (float(one[0] if hasattr(one, "__len__") else one) for one in (center, width))
    exact = here.get("VOILUTFunction") in ("LINEAR_EXACT", "SIGMOID")
    usable = np.isfinite(center) and np.isfinite(width) and (width > 0 if exact else width >= 1)
    return (center, width) if usable else None


def _in_window(values: np.ndarray, here: Any) -> np.ndarray:
    """float32 in 0 … 1 (DICOM PS3.3, C.11.2)."""
    from pydicom.pixels import apply_voi

    if here.get("VOILUTSequence"):
        bits = int(here.VOILUTSequence[0].LUTDescriptor[2])
        return np.clip(apply_voi(np.rint(values).astype(np.int64), here).astype(np.float32) / (2**bits - 1), 0, 1)
    if (found := _window(here)) is None:
        raise ValueError("a frame without a window in a file that has one")
    center, width = found
    values = values.astype(np.float32)
    function = here.get("VOILUTFunction") or "LINEAR"
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -80, 80)))
    if function == "LINEAR_EXACT":
        return np.clip((values - center) / width + 0.5, 0, 1)
    if width == 1:
        return (values > center - 0.5).astype(np.float32)
    return np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1)
