"""Reads what ``torch.save`` wrote without running anything that the file brings.

torch's weights-only unpickler comes first. A file that holds objects of other classes besides its tensors (arguments
with paths, a training framework's logs) is read a second time with an inert placeholder for each of them.
"""

import argparse
import collections
import logging
import pickle
import sys
import warnings
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from fcmae.called import command_line
from fcmae.errors import UserError

logger = logging.getLogger(__name__)

# Functions that rebuild tensors and plain data; each is given out wrapped, so that a file cannot change it
REBUILD: dict[str, Callable[..., Any]] = {
    "_codecs.encode": lambda text, encoding="utf-8": text.encode(encoding),
    "builtins.bytearray": bytearray,
    "builtins.complex": complex,
    "builtins.frozenset": frozenset,
    "builtins.set": set,
    "collections.Counter": collections.Counter,
    "collections.OrderedDict": OrderedDict,
    "collections.defaultdict": lambda *_: OrderedDict(),
    "torch.Size": torch.Size,
    "torch.Tensor": torch.Tensor,
    "torch.device": torch.device,
    "torch._tensor._rebuild_from_type_v2": lambda rebuild, _kind, args, _state: rebuild(*args),
    "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": lambda data, grad, hooks, _state: torch._utils._rebuild_parameter(
        data, grad, hooks
    ),
    "torch._utils._rebuild_tensor": torch._utils._rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
    "torch._utils._rebuild_tensor_v3": torch._utils._rebuild_tensor_v3,
    "torch.nn.parameter.Parameter": torch.nn.Parameter,
}

# Modules of the standard library whose objects are plain data. A file that names anything else there is refused: no
# checkpoint needs it.
PLAIN_MODULES = frozenset({
    "argparse", "collections", "copyreg", "datetime", "decimal", "enum", "fractions", "functools", "ipaddress",
    "logging", "operator", "pathlib", "random", "re", "types", "typing", "uuid", "zoneinfo",
})  # fmt: skip
PLAIN_BUILTINS = frozenset({
    "bytes", "dict", "float", "getattr", "int", "list", "object", "range", "slice", "str", "tuple", "type",
})  # fmt: skip


class Placeholder:
    """Stands for an object of a class that is not loaded. Whatever the file does with it has no effect."""

    name = "an object"

    def __new__(cls, *args: Any, **kwargs: Any) -> "Placeholder":
        """Take any arguments."""
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Ignore them."""

    def __call__(self, *args: Any, **kwargs: Any) -> "Placeholder":
        """What such an object would return is a placeholder too."""
        return Placeholder()

    def __setstate__(self, state: Any) -> None:
        """Ignore its contents."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Ignore an entry, of a subclass of dict."""

    def append(self, item: Any) -> None:
        """Ignore an item, of a subclass of list."""

    def extend(self, items: Any) -> None:
        """Ignore items."""

    def add(self, item: Any) -> None:
        """Ignore an item, of a subclass of set."""


class _Refused(pickle.UnpicklingError):
    """A global that only code needs."""


class RestrictedPickle(SimpleNamespace):
    """The parts of the module ``pickle`` that ``torch.load`` uses."""

    def __init__(self) -> None:
        self.replaced: set[str] = set()
        self.known: dict[str, type] = {}
        find = self.find

        class Unpickler(pickle.Unpickler):
            def find_class(self, module: str, name: str) -> Any:
                return find(module, name)

        super().__init__(
            __name__="pickle",
            Unpickler=Unpickler,
            UnpicklingError=pickle.UnpicklingError,
            load=lambda file, **options: Unpickler(file, **options).load(),
        )

    def find(self, module: str, name: str) -> Any:
        """What the file gets for a global: nothing of its own choice is imported."""
        if (module, name) in NAME_MAPPING:  # torch.save writes the names of Python 2
            module, name = NAME_MAPPING[module, name]
        module = IMPORT_MAPPING.get(module, module)
        full = f"{module}.{name}"
        if full == "argparse.Namespace":
            return type("Namespace", (argparse.Namespace,), {})
        if full in REBUILD:
            function = REBUILD[full]
            return lambda *args: function(*args)
        if module == "torch" and isinstance(dtype := vars(torch).get(name), torch.dtype):
            return dtype
        top = module.partition(".")[0]
        plain = name in PLAIN_BUILTINS if top == "builtins" else top in PLAIN_MODULES
        if top in sys.stdlib_module_names and not plain:
            raise _Refused(full)
        if top != "builtins":
            self.replaced.add(full)
        return self.known.setdefault(full, type(name.rpartition(".")[2], (Placeholder,), {"name": full}))


def unpickled(file: Path, allow_pickle: bool) -> Any:
    """The contents of a torch file. Objects other than tensors and plain data are placeholders.

    Args:
        file: zip or older format of ``torch.save``.
        allow_pickle: unpickle everything, which runs code that the file brings.

    Raises:
        UserError: damaged, no torch file, or one that only running its code would read.
    """
    try:
        with file.open("rb") as opened, torch.serialization.safe_globals([argparse.Namespace]), _no_warnings():
            return torch.load(opened, map_location="cpu", weights_only=not allow_pickle)
    except pickle.UnpicklingError:
        if allow_pickle:
            raise UserError(_NEITHER.format(file)) from None
    except ModuleNotFoundError as error:  # with allow_pickle
        raise UserError(
            f"{file} needs the module {error.name}, which is not installed; without --allow_pickle such objects are "
            f"ignored"
        ) from None
    except Exception as error:  # torch raises anything from EOFError to RuntimeError for a truncated file
        if "TorchScript" in str(error):
            raise UserError(f"{file} is a TorchScript program; save its state_dict with torch.save instead") from None
        raise UserError(f"{file} cannot be read; is it truncated? {_first_line(error)}") from error
    return _with_placeholders(file)


_NEITHER = "{} cannot be read; it is neither a torch nor a safetensors file"


def _with_placeholders(file: Path) -> Any:
    restricted = RestrictedPickle()
    try:
        with file.open("rb") as opened, _no_warnings():
            found = torch.load(opened, map_location="cpu", weights_only=False, pickle_module=restricted)
    except _Refused as refused:
        raise UserError(needs_code(str(file), str(refused))) from None
    except pickle.UnpicklingError:
        raise UserError(_NEITHER.format(file)) from None
    except Exception as error:
        raise UserError(f"{file} cannot be read; is it truncated? {_first_line(error)}") from error
    if restricted.replaced:
        some = sorted(restricted.replaced)
        more = f" and {len(some) - 3} more" if len(some) > 3 else ""
        logger.info("%s: objects that are not tensors or plain data are ignored: %s%s", file, ", ".join(some[:3]), more)
    return found


def needs_code(origin: str, name: str) -> str:
    """The message for a file that holds ``name`` where weights are expected."""
    command = command_line("convert", origin, "NEW.safetensors", "--allow_pickle")
    return (
        f"{origin} holds more than tensors ({name}), and loading it would run code that it brings. If you "
        f"trust it: {command} (in Python allow_pickle=True)"
    )


def saved_arguments(found: Any) -> Mapping[str, Any]:
    """An argparse namespace's or a dict's values; empty for anything else."""
    if isinstance(found, argparse.Namespace):
        return vars(found)
    return found if isinstance(found, Mapping) else {}


def _no_warnings() -> "warnings.catch_warnings[Any]":
    """torch's, of pickle protocols and its own older formats: nothing that the user could do."""
    return warnings.catch_warnings(action="ignore")


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
