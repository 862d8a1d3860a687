"""Writes converted weights in the layout that the target library expects."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from fcmae.files import replacing, write_text
from fcmae.runs.find import MODEL
from fcmae.weights.card import has_our_card, write_card
from fcmae.weights.convert import Conversion
from fcmae.weights.destination import FILES, check_destination
from fcmae.weights.formats import Format, targets
from fcmae.weights.recognize import full_name
from fcmae.weights.settings import metadata_of, pixels
from fcmae.weights.stated import stated_beside


def write(
    conversion: Conversion, ckpt: object, dst: Path, format: str, overwrite: bool = False
) -> tuple[list[Path], dict[str, Tensor]]:
    """Write a folder that the library can load, or only the weights if ``dst`` has a file suffix.

    A folder for timm (``timm.create_model("local-dir:DST")``) and for transformers (``from_pretrained(DST)``) holds
    ``model.safetensors`` and ``config.json``, and for transformers also the preprocessor's config; one for mmpretrain
    holds ``model.pth``. Those for timm and transformers also have what the checkpoint states: names of the classes,
    several labels, the crop of validation. Each has a model card, README.md. The networks of these libraries have a
    final norm. If the checkpoint has none, it is written with its initial values, weight 1 and bias 0: in folders and
    in single files.
    A .safetensors file without a configuration beside it says in its metadata how pixels are read.

    Returns:
        The files written, and the tensors in them.

    Raises:
        UserError: the destination already exists, or the library cannot build this network from a folder.
    """
    names, target = targets()[format]
    check_destination(dst, overwrite)
    state = _with_norm(conversion, names) if target.final_norm else conversion.state
    read_as = pixels(ckpt, conversion.weights.config.in_chans)
    if (suffix := dst.suffix.lower()) in FILES:
        with replacing(dst) as file:
            _save(state, file, suffix, target.entry, metadata_of(ckpt, read_as))
        return [dst], state
    stated = stated_beside(ckpt)
    texts = {name: values(conversion.weights, read_as, stated) for name, values in target.folder_files.items()}
    dst.mkdir(parents=True, exist_ok=True)
    _remove_other_formats(dst, {target.weights_file, *texts})
    header = {} if texts else metadata_of(ckpt, read_as)
    with replacing(dst / target.weights_file) as file:
        _save(state, file, Path(target.weights_file).suffix, target.entry, header)
    for name, values in texts.items():
        write_text(dst / name, json.dumps(values, ensure_ascii=False, indent=2) + "\n")
    written = [dst / target.weights_file, *(dst / name for name in texts)]
    card = write_card(conversion, ckpt, dst, format, read_as)
    return [*written, *([] if card is None else [card])], state


def _remove_other_formats(folder: Path, written: set[str]) -> None:
    """Where a folder is overwritten in another format, what that format alone has would mislead."""
    converted = has_our_card(folder)
    if not converted and not (folder / MODEL).exists():
        return
    known = {name for _, target in targets().values() for name in target.folder_files}
    known |= {target.weights_file for _, target in targets().values()} if converted else set()
    for stale in known - written:
        (folder / stale).unlink(missing_ok=True)


def _save(state: dict[str, Tensor], file: Path, suffix: str, entry: str | None, metadata: dict[str, str]) -> None:
    seen: set[int] = set()
    separate = {}  # safetensors takes no tied tensors, nor views into one buffer
    for name, tensor in state.items():
        place = tensor.untyped_storage().data_ptr()
        separate[name] = (
            tensor.contiguous() if place not in seen else tensor.clone(memory_format=torch.contiguous_format)
        )
        seen.add(place)
    try:
        if suffix == ".safetensors":
            save_file(separate, file, metadata={"format": "pt"} | metadata)
        else:
            torch.save(separate if entry is None else {entry: separate}, file)
    except (SafetensorError, RuntimeError) as error:  # how safetensors and torch report a full disk
        raise OSError(f"{file.parent} cannot be written to: {' '.join(str(error).split())}") from error


def _with_norm(conversion: Conversion, format: Format) -> dict[str, Tensor]:
    if any(name.startswith("head.norm.") for name in conversion.weights.head):
        return conversion.state
    like = next(iter(conversion.state.values()))
    width = conversion.weights.config.size.dims[-1]
    weight, bias = (full_name(format, conversion.prefix, f"head.norm.{kind}") for kind in ("weight", "bias"))
    return conversion.state | {weight: like.new_ones(width), bias: like.new_zeros(width)}
