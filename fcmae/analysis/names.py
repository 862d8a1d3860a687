"""Networks as the user names them: [LABEL=]PATH or [LABEL=]NAME. Without torch, whose import takes seconds."""

import difflib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from fcmae.errors import UserError
from fcmae.models.sizes import list_models
from fcmae.runs.find import MODEL
from fcmae.runs.layout import CHECKPOINTS
from fcmae.weights.place import check_weights


@dataclass(frozen=True)
class Named:
    """A network as the user named it: LABEL=SOURCE, or just SOURCE."""

    label: str
    source: str
    is_path: bool

    @property
    def file_name(self) -> str:
        """The label in a form that is safe in a file name."""
        return re.sub(r"[^\w.+-]+", "_", self.label)


def parse_names(given: Sequence[str]) -> list[Named]:
    """Labels and sources, checked as far as possible without loading them.

    Raises:
        UserError: neither an existing path nor a timm name, a path that holds no weights, or two networks with the same
            label.
    """
    found = [_parse(one) for one in given]
    for number, one in enumerate(found):
        if one.file_name in [other.file_name for other in found[:number]]:
            raise UserError(f"two models would be named {one.label}; give one another label: LABEL={one.source}")
    return found


def _parse(given: str) -> Named:
    if not given:
        raise UserError("the name of a network is empty; give [LABEL=]PATH or [LABEL=]NAME of timm")
    label, equals, source = given.partition("=")
    if not equals or Path(given).exists():
        label, source = "", given
    elif not label or not source:
        raise UserError(f"{given!r} must be LABEL=PATH or LABEL=NAME")
    path = Path(source)
    if path.exists():
        check_weights(path)
        return Named(label or _label_of(path), source, is_path=True)
    check_is_of_timm(source)
    return Named(label or source, source, is_path=False)


def check_is_of_timm(name: str) -> None:
    """UserError if timm has no network of this name, which is no path either."""
    if "timm" in sys.modules:  # then it knows, also of networks that the caller has registered
        import timm

        import fcmae.models.isotropic  # noqa: F401  # registers its names with timm

        is_known, names = timm.is_model(name), timm.list_models()
    else:
        is_known, names = _may_be_of_timm(name)
    if is_known:
        return
    similar = difflib.get_close_matches(name, names, n=3)
    hint = f"; similar timm names: {', '.join(similar)}" if similar else ""
    raise UserError(f"{name} is neither a run, a checkpoint or a weights file, nor the name of a timm network{hint}")


def _may_be_of_timm(name: str) -> tuple[bool, list[str]]:
    """Whether timm's source has this name, and the names of its networks: reading it takes far less than running it."""
    source = _timm_source()
    names = re.findall(r"^@register_model\ndef (\w+)\(", source, re.MULTILINE)
    if name in list_models():  # isotropic ones are ours
        return True, names
    base = re.escape(name.partition(".")[0])  # what follows the dot names weights
    return not names or re.search(rf"\bdef {base}\(|['\"]{base}['\"]", source) is not None, names


@cache
def _timm_source() -> str:
    spec = find_spec("timm")
    folders = spec.submodule_search_locations if spec is not None else None
    files = sorted(Path(folders[0], "models").glob("*.py")) if folders else []
    return "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in files)


def _label_of(path: Path) -> str:
    """For a checkpoint in a run, the names of the run and the checkpoint; otherwise the file's own name."""
    path = path.resolve()
    if path.name == MODEL:
        path = path.parent
    if path.parent.name == CHECKPOINTS:
        return f"{path.parent.parent.name}-{path.name}"
    return path.name.removesuffix(".safetensors").removesuffix(".pth").removesuffix(".pt")
