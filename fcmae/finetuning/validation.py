"""Predictions for center crops, and what a validation writes: RUN/validation/scores.json and mistakes.png."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torchvision.transforms.v2 import functional as TF

from fcmae.data.images import UnreadableImageError
from fcmae.data.unreadable import Unreadable, UnreadableFiles
from fcmae.data.workers import batches_of, serve_parent
from fcmae.errors import StoreError
from fcmae.files import replacing, write_text
from fcmae.finetuning.labeled_images import LabeledImages, LabeledSet
from fcmae.finetuning.pictures import captioned_grid
from fcmae.finetuning.samples import CenterCrops, validation_crop
from fcmae.finetuning.scores import Predictions, Scores, confused_pairs, confusion_matrix
from fcmae.runs.layout import VALIDATION

SCORES, MISTAKES = "scores.json", "mistakes.png"
THRESHOLD = 0.5  # of independent classes
FULL = 100  # classes; with more the matrix would be the most of the file, and its pairs say more
PAIRS = 1000


@torch.inference_mode()
def outputs(
    network: nn.Module, crops: CenterCrops, places: Sequence[int], device: torch.device, batch_size: int,
    num_workers: int, unreadable: UnreadableFiles,
) -> Iterator[tuple[Tensor, Tensor]]:  # fmt: skip
    """Batch by batch (places int64 [B], outputs float32 [B, C]) of the images that can be read; sets evaluation mode.

    The outputs are on the CPU.
    """
    network.eval()
    loader = DataLoader(
        Subset(crops, places), batch_size=batch_size, num_workers=num_workers, collate_fn=list,
        worker_init_fn=serve_parent,
    )  # fmt: skip
    with batches_of(loader) as batches:
        for batch in batches:
            unreadable.note(Unreadable(crops.images.names[n], one) for n, one in batch if isinstance(one, str))
            good = [(n, one) for n, one in batch if not isinstance(one, str)]
            if good:
                images = torch.stack([one for _, one in good]).to(device)
                found = network(images.contiguous(memory_format=torch.channels_last)).float().cpu()
                yield torch.tensor([n for n, _ in good]), found


def write_validation(
    run: Path, data: LabeledSet, found: Predictions, scores: Scores, crops: CenterCrops, step: int, mistakes: int
) -> None:
    """Write the scores, the confusion matrix or of many classes its largest cells, and the worst mistakes' picture.

    Where an image may have several labels, each class's average precision in place of the matrix.
    """
    content: dict[str, Any] = {
        "step": step,
        "classes": list(data.classes),
        "scores": scores.as_dict(),
        "images": len(found.places),
    }
    wrong = worst_mistakes(found, mistakes)
    if scores.precision is not None:
        counts = (found.labels > 0).sum(0).tolist()
        content["average_precision"] = [
            {"label": name, "images": count, "average_precision": value}
            for name, count, value in zip(data.classes, counts, scores.precision.of_classes, strict=True)
        ]
    else:
        if len(data.classes) <= FULL:
            content["confusion"] = confusion_matrix(found.predicted, found.labels, len(data.classes)).tolist()
        else:
            content["confused"] = [
                {"label": data.classes[label], "predicted": data.classes[taken], "images": count}
                for label, taken, count in confused_pairs(found.predicted, found.labels, PAIRS)
            ]
    content["mistakes"] = [
        {"image": data.val.names[int(found.places[n])]} | _said(found, n, data.classes) for n in wrong
    ]
    write_text(run / VALIDATION / SCORES, json.dumps(content, ensure_ascii=False, indent=1) + "\n")
    if wrong:
        pictures = [_pixels(data.val, int(found.places[n]), crops) for n in wrong]
        captions = [_caption(found, n, data.classes) for n in wrong]
        with replacing(run / VALIDATION / MISTAKES) as file:
            captioned_grid(pictures, captions).save(file, "PNG")
    else:
        (run / VALIDATION / MISTAKES).unlink(missing_ok=True)


def worst_mistakes(found: Predictions, count: int) -> list[int]:
    """Rows of at most ``count`` wrong predictions, those of the least probable truth first."""
    if found.labels.ndim == 1:
        is_wrong = found.predicted != found.labels
    else:
        is_wrong = ((found.probabilities >= THRESHOLD) != (found.labels > 0)).any(1)
    rows = is_wrong.nonzero()[:, 0]
    return [int(n) for n in rows[found.p_label[rows].argsort(stable=True)][:count]]


def _said(found: Predictions, row: int, classes: Sequence[str]) -> dict[str, Any]:
    outputs = found.outputs[row]
    if found.labels.ndim == 1:
        best, label = int(found.predicted[row]), int(found.labels[row])
        return {"label": classes[label], "predicted": classes[best], "probability": round(float(outputs[0]), 4)}
    names = [
        [classes[c] for c in one.nonzero()[:, 0]] for one in (found.labels[row] > 0, outputs.sigmoid() >= THRESHOLD)
    ]
    return {"label": names[0], "predicted": names[1]}


def _caption(found: Predictions, row: int, classes: Sequence[str]) -> str:
    said = _said(found, row, classes)
    if isinstance(said["label"], str):
        return f"{said['label']}\ntaken for {said['predicted']}\n{said['probability']:.0%}"
    return f"{', '.join(said['label']) or '–'}\ntaken for {', '.join(said['predicted']) or '–'}"


def _pixels(images: LabeledImages, place: int, crops: CenterCrops) -> Image.Image:
    """What the network saw, as far as a screen shows it: up to three channels."""
    try:
        crop = validation_crop(images.open(place, crops.reading), crops.image_hw, crops.crop_pct)
    except (UnreadableImageError, StoreError):  # it was there a moment ago
        return Image.new("RGB", crops.image_hw[::-1])
    unit = TF.to_dtype(crop, torch.float32, scale=True).nan_to_num(0.0)
    shown = unit[:3] if len(unit) >= 3 else unit[:1].expand(3, -1, -1)
    return TF.to_pil_image(shown)
