"""SparK's pretraining checkpoints (``…_withdecoder_…_spark_style.pth``): the official V1 names inside its own module.

Its encoder is ConvNeXt V1 under sparse convolutions; the decoder is another one than FCMAE's and has no place here.
"""

from collections.abc import Sequence
from dataclasses import replace

from fcmae.weights.formats.base import Networks, nothing
from fcmae.weights.formats.names import Names
from fcmae.weights.formats.official import BLOCK, DOWNSAMPLING, OFFICIAL

ENCODER = "sparse_encoder.sp_cnn."
NAMES = Names([*DOWNSAMPLING, *BLOCK])


def matches(names: Sequence[str]) -> Networks:
    """The official blocks in SparK's encoder."""
    return {
        prefix: telling for prefix, telling in OFFICIAL.matches(names).items() if f".{prefix}".endswith(f".{ENCODER}")
    }


SPARK = replace(
    OFFICIAL,
    name="SparK",
    matches=matches,
    to_timm=NAMES.to_timm,
    from_timm=NAMES.from_timm,
    beside=nothing,
    held_as=(ENCODER,),
    # The network's own norm and classifier are there in some versions, untrained
    leftovers=(
        "norm.",
        "fc.",
        "dense_decoder.",
        "densify_norms.",
        "densify_projs.",
        "mask_tokens.",
        "imn_m",
        "imn_s",
        "norm_black",
    ),
    published=False,
    target=None,
)
