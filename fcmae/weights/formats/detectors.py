"""Detection and segmentation checkpoints: a dense format's backbone with a norm after each stage, necks and heads.

The official ConvNeXt V1 ones, and those of mmdet and mmseg with mmpretrain's ConvNeXt. The norms ``norm0`` to ``norm3``
act on feature maps; they are not the norm before a classifier and have no place here.
"""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from fcmae.weights.formats.base import Format, Named, Networks, nothing
from fcmae.weights.formats.mmpretrain import MMPRETRAIN
from fcmae.weights.formats.official import OFFICIAL

OUTPUT_NORMS = tuple(f"norm{stage}." for stage in range(4))
HEADS = (
    "neck.", "rpn_head.", "roi_head.", "bbox_head.", "mask_head.", "mask_feat_head.", "decode_head.",
    "auxiliary_head.", "panoptic_head.", "panoptic_fusion_head.", "semantic_head.", "encoder.", "decoder.",
    "query_embedding.", "level_embed", "memory_trans_fc.", "memory_trans_norm.", "dn_query_generator.",
    "data_preprocessor.", "ema_",
)  # fmt: skip


def in_detector(dense: Format, name: str) -> Format:
    """The detectors and segmentation networks whose backbone has the format ``dense``."""

    def matches(names: Sequence[str]) -> Networks:
        """The dense format's blocks beside the norm of an earlier stage's output."""
        there = set(names)
        return {
            prefix: telling
            for prefix, telling in dense.matches(names).items()
            if any(f"{prefix}{norm}weight" in there for norm in OUTPUT_NORMS[:-1])
        }

    def to_timm(name: str, tensor: Tensor) -> Named | None:
        return None if name.startswith(OUTPUT_NORMS) else dense.to_timm(name, tensor)

    return replace(
        dense,
        name=name,
        matches=matches,
        to_timm=to_timm,
        beside=nothing,
        held_as=("backbone.",),
        leftovers=(*OUTPUT_NORMS, *HEADS),
        published=False,
        target=None,
    )


OFFICIAL_DETECTOR = in_detector(OFFICIAL, "official detection and segmentation")
MMPRETRAIN_DETECTOR = in_detector(MMPRETRAIN, "mmdet and mmseg")
