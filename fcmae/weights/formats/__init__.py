"""The formats of weights, a module for each. To add one, add a module and its line here."""

from fcmae.weights.formats.base import Format, Named, Networks, Target
from fcmae.weights.formats.detectors import MMPRETRAIN_DETECTOR, OFFICIAL_DETECTOR
from fcmae.weights.formats.minkowski import MMEARTH_TRAINING, OFFICIAL_TRAINING
from fcmae.weights.formats.mmearth import MMEARTH, MMEARTH_UNET
from fcmae.weights.formats.mmpretrain import MMPRETRAIN
from fcmae.weights.formats.official import ISOTROPIC, OFFICIAL
from fcmae.weights.formats.own import OWN
from fcmae.weights.formats.spark import SPARK
from fcmae.weights.formats.timm import TIMM
from fcmae.weights.formats.transformers import TRANSFORMERS

# Where two formats are identified by the same names, the more specific one comes first and gets them
KNOWN: list[Format] = [
    OWN,
    TIMM,
    MMEARTH_TRAINING,
    OFFICIAL_TRAINING,
    MMEARTH_UNET,
    MMEARTH,
    SPARK,
    OFFICIAL_DETECTOR,
    OFFICIAL,
    ISOTROPIC,
    TRANSFORMERS,
    MMPRETRAIN_DETECTOR,
    MMPRETRAIN,
]

__all__ = ["KNOWN", "Format", "Named", "Networks", "Target", "targets"]


def targets() -> dict[str, tuple[Format, Target]]:
    """The formats that are written, by name."""
    return {format.name: (format, format.target) for format in KNOWN if format.target is not None}
