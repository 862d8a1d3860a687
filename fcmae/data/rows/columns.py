"""Which column of a table holds images, and how: the bytes of files, or paths."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from fcmae.data.sources.lists import COLUMNS
from fcmae.errors import UserError, brief

USUAL = ("image", "images", "img", "picture", "photo", "jpg", "jpeg", "png", "webp", "tif", "tiff", "bytes", "content")
LABEL_COLUMNS = (
    *("label", "labels", "class", "classes", "class_name", "category", "categories", "target", "targets", "tags"),
    *("y", "diagnosis", "finding_labels", "finding labels", "cls", "fine_label"),
)
"""Names of the column of labels, in any case, of tables of paths and of images; the first found counts."""


class Column(NamedTuple):
    """A column of images."""

    name: str
    inside: str | None
    """The field of a struct, as ``datasets`` writes images: bytes, or path."""
    has_bytes: bool
    """False: paths."""

    @property
    def path(self) -> str:
        """As Parquet calls it."""
        return f"{self.name}.{self.inside}" if self.inside else self.name


def image_column(schema: Any, wanted: str | None, where: str, flag: str = "--data.path") -> Column | None:
    """The column of images of an Arrow schema; None if there is none.

    Args:
        schema: ``pyarrow.Schema``.
        wanted: its name; None: the first struct of bytes, else a column of bytes, else one of paths, by usual names.
        where: the file, for messages.
        flag: option, for messages.

    Raises:
        UserError: there is no column ``wanted``, or it holds no images.
    """
    columns = [column for field in schema if (column := _as_column(field))]
    if wanted is not None:
        found = next((column for column in columns if column.name == wanted), None)
        if found is None:
            what = "a column of other values" if wanted in schema.names else "not there"
            raise UserError(
                f"{flag} {where}: the column {wanted} (--data.column) is {what}; it needs the bytes of image files, or "
                f"paths; its columns are {', '.join(schema.names[:20])}"
            )
        return found
    of_bytes = [column for column in columns if column.has_bytes]
    structs = [column for column in of_bytes if column.inside]
    usual = [column for column in of_bytes if column.name.lower() in USUAL]
    paths = [column for column in columns if not column.has_bytes and column.name.lower() in COLUMNS]
    return next(iter([*structs, *usual, *(of_bytes if len(of_bytes) == 1 else []), *paths]), None)


def _as_column(field: Any) -> Column | None:
    from pyarrow import types

    def is_bytes(kind: Any) -> bool:
        return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)

    if types.is_struct(field.type):
        inside = next((one for one in field.type if one.name == "bytes" and is_bytes(one.type)), None)
        return None if inside is None else Column(field.name, "bytes", True)
    if is_bytes(field.type):
        return Column(field.name, None, True)
    is_text = types.is_string(field.type) or types.is_large_string(field.type) or types.is_string_view(field.type)
    return Column(field.name, None, False) if is_text else None


def label_column(schema: Any, wanted: str | None, where: str) -> str | None:
    """The column of labels: the one ``wanted``, or the first of the usual names; None if there is none.

    A column of masks or of boxes may be called ``label``, too: columns of bytes, of structs and of lists of these are
    no labels.

    Raises:
        UserError: there is no column ``wanted``, or it holds no labels.
    """
    if wanted is None:
        return usual_column([field.name for field in schema if may_hold_labels(field.type)], LABEL_COLUMNS)
    if wanted not in schema.names:
        raise UserError(
            f"{where} has no column {wanted} (--data.label_column); its columns are {', '.join(schema.names[:20])}"
        )
    if unfit := unfit_labels(schema, wanted):
        raise UserError(f"{where}: the column {unfit}")
    return wanted


def unfit_labels(schema: Any, name: str | None = None) -> str:
    """For a message: what a column holds in place of labels; empty if it may hold these, or is not there.

    Args:
        schema: ``pyarrow.Schema``.
        name: the column; None: the first of a usual name.
    """
    name = name or usual_column(schema.names, LABEL_COLUMNS)
    if name is None or may_hold_labels(kind := schema.field(name).type):
        return ""
    return f"{name} holds {brief(kind, 60)}, neither names nor numbers of classes"


def may_hold_labels(kind: Any) -> bool:
    """Whether its values are names, numbers, or lists of these."""
    from pyarrow import types

    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        kind = kind.value_type
    if types.is_dictionary(kind):
        kind = kind.value_type
    is_bytes = types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)
    return not (is_bytes or types.is_fixed_size_binary(kind) or types.is_nested(kind))


def usual_column(names: Sequence[str], usual: Sequence[str]) -> str | None:
    """The first of the usual names, which are in small letters, that a table has; of two alike its first."""
    lower = {name.strip().lower(): name for name in reversed(names)}
    return next((lower[name] for name in usual if name in lower), None)


def class_names(schema: Any, column: str) -> list[str] | None:
    """The names of the numbers in a column of labels, where ``datasets`` has written them."""
    try:
        feature = json.loads(schema.metadata[b"huggingface"])["info"]["features"][column]
        feature = feature[0] if isinstance(feature, list) else feature.get("feature", feature)  # of lists of labels
        return [str(name) for name in feature["names"]]
    except (LookupError, TypeError, ValueError, AttributeError):
        return None
