"""Datasets of Hugging Face's hub by name: ``hf:owner/name`` is the Parquet that the hub keeps of every one."""

import logging
import re
from collections.abc import Iterable

from fcmae.data.stores.access import Access
from fcmae.data.stores.fetching import FetchError
from fcmae.data.stores.listing import Listed, listed
from fcmae.data.stores.urls import HUB
from fcmae.errors import UserError

logger = logging.getLogger(__name__)

NAME = re.compile(r"hf:(?P<name>[\w.-]+/[\w.-]+)(?:/(?P<config>[\w.-]+))?(?:@(?P<revision>[\w./-]+))?", re.I)
CONVERTED = "refs/convert/parquet"  # the branch that the hub fills
TRAIN = "train"
PARTIAL = "partial-"  # begins the folder of a split of which the hub has converted the first 5 GB only


def is_hub_name(source: str) -> bool:
    """Whether it is ``hf:owner/name``; a URL of the hub begins with ``hf://``."""
    return bool(HUB.match(source))


def hub_files(source: str, access: Access, flag: str = "--data.path") -> list[Listed]:
    """The files of a dataset, of the split ``train`` if it has one and none is chosen, nor all are.

    Of a revision its own files, else the hub's Parquet, in ``configuration/split/``, or its own if there is none.

    Raises:
        UserError: another form of name, no such dataset, or several configurations and none is named.
    """
    found = NAME.fullmatch(source)
    if found is None:
        raise UserError(
            f"{flag} {source} is not the name of a dataset; give hf:owner/name, or hf:owner/name/configuration"
        )
    name, config, revision = found["name"], found["config"], found["revision"]
    if revision:
        return listed(f"hf://datasets/{name}@{revision}" + (f"/{config}" if config else ""), access, flag)
    try:
        files = listed(f"hf://datasets/{name}@{CONVERTED}", access, flag)
    except UserError as error:
        if isinstance(error.__cause__, FetchError) and not error.__cause__.is_absent:
            raise
        return listed(f"hf://datasets/{name}" + (f"/{config}" if config else ""), access, flag)
    configs = list(dict.fromkeys(file.name.partition("/")[0] for file in files if "/" in file.name))
    if config is None and len(configs) > 1:
        raise UserError(
            f"{flag} {source} has several configurations; add one, as {source}/{configs[0]}: {', '.join(configs)}"
        )
    chosen = config or (configs[0] if configs else "")
    files = [file for file in files if file.name.startswith(f"{chosen}/")]
    if not files:
        raise UserError(f"{flag} {source} has no configuration {config}; there are {', '.join(configs)}")
    if access.split is None and not access.all_splits:
        return [file for file in files if file.name.split("/")[1].removeprefix(PARTIAL) == TRAIN] or files
    return files


def warn_if_partial(source: str, names: Iterable[str]) -> None:
    """One line if the hub's Parquet files of these names are only the beginning of a split."""
    parts = sorted({folder for name in names for folder in name.split("/")[:-1] if folder.startswith(PARTIAL)})
    if parts:
        logger.warning(
            "%s: %s holds only the first images of the split, about 5 GB; the rest is missing. For all of them give "
            "hf:owner/name@main, the dataset's own files, or download it",
            source, " and ".join(parts),
        )  # fmt: skip
