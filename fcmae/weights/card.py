"""The model card of a converted folder, README.md: what the weights are, of which images, and under which license."""

from pathlib import Path
from typing import Any

from fcmae.data.normalizer import Pixels
from fcmae.errors import UserError
from fcmae.files import write_text
from fcmae.runs.checkpoint import read_state
from fcmae.weights.convert import Conversion
from fcmae.weights.formats import Target, targets
from fcmae.weights.settings import run_setting, says_normalization
from fcmae.wording import counted

CARD = "README.md"
SCRATCH = "scratch"  # what a run of fine-tuning says of random weights
MARK = "<!-- Written by fcmae convert; a card without this line is not replaced. -->"


def write_card(conversion: Conversion, ckpt: object, folder: Path, format: str, pixels: Pixels) -> Path | None:
    """Write the card; None if the folder has a card of the user's own, which stays."""
    card = folder / CARD
    if card.exists() and not has_our_card(folder):
        return None
    write_text(card, card_text(conversion, ckpt, format, pixels))
    return card


def imports_first(conversion: Conversion, format: str) -> list[str]:
    """What must be imported before a folder is loaded: timm learns of isotropic networks from us."""
    return ["import fcmae.models.isotropic"] if format == "timm" and conversion.weights.config.size.is_isotropic else []


def has_our_card(folder: Path) -> bool:
    """Whether a folder has a card that was written here."""
    card = folder / CARD
    return card.is_file() and MARK in card.read_text(encoding="utf-8", errors="replace")


def card_text(conversion: Conversion, ckpt: object, format: str, pixels: Pixels) -> str:
    """The card as Markdown, with the metadata that model hubs read on top."""
    weights = conversion.weights
    config = weights.config
    version = "convnextv2" if config.with_grn else "convnext"
    target = targets()[format][1]
    library = [f"library_name: {format}"] if target.module == format else []
    task = "image-classification" if weights.num_classes else "image-feature-extraction"
    file = None if weights.origin == "the state dict" else Path(weights.origin)
    training = _training(file)
    tags = [f"- {version}", *(["- fcmae"] if training else [])]
    head = ["---", *library, f"pipeline_tag: {task}", "tags:", *tags, "---", MARK]
    is_stated = training or says_normalization(ckpt)
    channels = "channel" if config.in_chans == 1 else "channels"
    facts = [
        ("Network", f"{config.name}, {_millions(conversion)} parameters"),
        ("Images", f"{config.in_chans} {channels}, {config.image_hw[0]} × {config.image_hw[1]} pixels"),
        *training,
        ("Normalization", _normalization(pixels) + ("" if is_stated else "; assumed, the source does not say")),
        ("Converted from", f"{weights.format}{'' if ckpt is None or file is None else f' (`{_name(ckpt)}`)'}"),
    ]
    network = "ConvNeXt V2" if config.with_grn else "ConvNeXt"
    classes = (
        f", with a classifier of {counted(weights.num_classes, 'class', 'classes')}" if weights.num_classes else ""
    )
    tuned = ", fine-tuned on labeled images" if training else ""
    what = f"The weights of a {network}{classes}{tuned}"
    if file is not None and _mask_ratio(file) is not None:
        what = f"A {network} encoder pretrained without labels by FCMAE (masked autoencoding, arXiv 2301.00808)"
    return "\n".join(
        [
            *head,
            f"# {config.name}",
            "",
            f"{what}, in the format of {format}.",
            "",
            "| | |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in facts),
            "",
            *_usage(target, target.loaded_by(weights), imports_first(conversion, format)),
            "## License",
            "",
            _license(conversion, file),
            "",
        ]
    )


def _usage(target: Target, usage: str, first: list[str]) -> list[str]:
    """Python that loads the folder by ``usage``, after the imports ``first``; empty if the format does not say."""
    imports = [f"import {target.module}", *first, ""] if target.module else first
    return ["```python", *imports, usage, "```", ""] if usage else []


def _training(file: Path | None) -> list[tuple[str, str]]:
    """What the run says of its images and its length; empty for weights that are not of a run."""
    if file is None:
        return []
    ratio, start = _mask_ratio(file), _start_of(file)
    if ratio is None and start is None:
        return []
    path: Any = run_setting(file, "data", "path", object)
    paths = path if isinstance(path, list) else [path]
    # Names alone: a card is published, and where the images lie is nobody's business
    names = " and ".join(f"`{Path(str(one)).name}`" for one in paths if one) or "the photos that ship with scikit-image"
    crops = (run_setting(file, "data", "repeat", int) or 1) * (run_setting(file, "data", "crops_per_image", int) or 1)
    try:
        state = read_state(file.parent)
    except UserError:
        return [("Data", names)]
    data = ("Data", f"{counted(state.samples_per_epoch // crops, 'image')} of {names}")
    length = f"{counted(state.step, 'step')} of {counted(state.effective_batch, 'image')}"
    if ratio is None:
        origin = "random weights" if start == SCRATCH else f"`{Path(start or '').name}`"
        return [data, ("Fine-tuning", f"{length}, from {origin}")]
    return [data, ("Pretraining", f"{length}, {ratio:.0%} masked")]


def _mask_ratio(file: Path) -> float | None:
    """Of the run of pretraining that a file lies in; None: it lies in none."""
    return run_setting(file, "train", "mask_ratio", float)


def _start_of(file: Path) -> str | None:
    """The weights that a run started from; None: not a run, or random ones of pretraining."""
    return run_setting(file, "model", "init_from", str) or run_setting(file, "", "weights", str)


def _license(conversion: Conversion, file: Path | None) -> str:
    start = None if file is None else _start_of(file)
    if start not in (None, SCRATCH):
        return (
            f"The run started from `{Path(str(start)).name}`; the license of those weights applies. Weights published "
            f"by the ConvNeXt V2 authors are under CC BY-NC 4.0, in every format."
        )
    if conversion.weights.may_be_published and conversion.weights.config.with_grn:
        return (
            "Not stated by the source. Weights published by the ConvNeXt V2 authors are under CC BY-NC 4.0, in every "
            "format, and so is what was trained from them."
        )
    return "Not stated: the weights' owner decides. Add `license:` to the metadata on top before publishing them."


def _normalization(pixels: Pixels) -> str:
    span = pixels.reading.value_range
    scale = "pixel values in 0 … 1" if span is None else f"values from {_numbers(span)} (low, high) become 0 … 1"
    return f"{scale}, mean {_numbers(pixels.mean)}, standard deviation {_numbers(pixels.std)}"


def _millions(conversion: Conversion) -> str:
    return f"{sum(tensor.numel() for tensor in conversion.state.values()) / 1e6:.1f}M"


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _name(ckpt: object) -> str:
    return Path(str(ckpt)).resolve().name
