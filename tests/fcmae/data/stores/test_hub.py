"""Data sets of the Hugging Face hub: which of their files are taken, and what is said of parts of them."""

import pytest

from fcmae.data.classes import class_parts
from fcmae.data.rows.opening import Table
from fcmae.data.sources import remote
from fcmae.data.sources.files import collect
from fcmae.data.stores import fetching, hub
from fcmae.data.stores.access import Access
from fcmae.data.stores.listing import Listed
from fcmae.errors import UserError

CONVERTED = "hf://datasets/o/n@refs/convert/parquet"


@pytest.mark.parametrize(
    ("source", "split", "there", "expected"),
    [
        ("hf:o/n", None, ["default/train/0000.parquet", "default/test/0000.parquet"], ["default/train/0000.parquet"]),
        ("hf:o/n", "test", ["default/train/0000.parquet", "default/test/0000.parquet"], ["default/test/0000.parquet"]),
        (
            "hf:o/n",
            None,
            ["default/all/1.parquet", "default/all/0.parquet"],
            ["default/all/1.parquet", "default/all/0.parquet"],
        ),
        ("hf:o/n/b", None, ["a/train/0.parquet", "b/train/0.parquet"], ["b/train/0.parquet"]),
        (
            "hf:o/n",
            None,
            ["a/train/0.parquet", "b/train/0.parquet"],
            "has several configurations; add one, as hf:o/n/a: a, b",
        ),
        ("hf:o/n/c", None, ["a/train/0.parquet"], "has no configuration c; there are a"),
    ],
)
def test_names_of_the_hub(
    source: str, split: str | None, there: list[str], expected: list[str] | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def listed(url: str, access: Access, flag: str) -> list[Listed]:
        assert url == CONVERTED
        return [Listed(f"{url}/{name}", name, 1, "v") for name in there]

    monkeypatch.setattr(hub, "listed", listed)
    monkeypatch.setattr(remote, "table_images", lambda tables, access, survey, flag: [table.where for table in tables])
    if isinstance(expected, str):
        with pytest.raises(UserError) as caught:
            collect(source, access=Access(split=split))
        assert expected in str(caught.value)
    else:
        monkeypatch.setattr(remote, "listed_images", lambda paths, *rest: paths)
        found = remote.remote_images(source, Access(split=split), remote.Survey(), None, "--data.path")
        assert found == [f"{CONVERTED}/{name}" for name in expected]


@pytest.mark.parametrize(
    ("source", "split", "partial"),
    [
        ("hf:o/n", None, "partial-train"),
        ("hf:o/n", "train", "partial-train"),
        (CONVERTED, None, "partial-train"),
        ("hf:o/n", "test", None),
    ],
)
def test_a_part_of_a_split_is_named(
    source: str,
    split: str | None,
    partial: str | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The hub's Parquet ends after about 5 GB of a large split; splits whose names only end alike are others."""
    names = [f"default/{one}/0.parquet" for one in ("partial-train", "pretrain", "test")]
    there = [Listed(f"{CONVERTED}/{name}", name, 1, "v") for name in names]
    for module in (hub, remote):
        monkeypatch.setattr(module, "listed", lambda url, access, flag: there)
    monkeypatch.setattr(remote, "table_images", lambda tables, access, survey, flag: [table.where for table in tables])
    monkeypatch.setattr(remote, "listed_images", lambda paths, *rest: paths)
    monkeypatch.setattr(remote, "file_system", lambda url, access: None)
    found = remote.remote_images(source, Access(split=split), remote.Survey(), None, "--data.path")
    if source == "hf:o/n":
        assert found == [f"{CONVERTED}/{names[2 if split == 'test' else 0]}"]
    lines = [line for line in caplog.messages if "the rest is missing" in line]
    assert [line.startswith(f"{source}: {partial} holds only") for line in lines] == [True] * (partial is not None)


def test_labeled_images_of_the_hub_are_of_all_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The classes' own split is that of the files, so they need both."""
    found: list[str] = []

    def table_images(tables: list[Table], access: Access, survey: remote.Survey, flag: str) -> list[str]:
        found.extend(table.name for table in tables)
        raise UserError("enough")

    names = ["default/train/0.parquet", "default/validation/0.parquet"]
    monkeypatch.setattr(hub, "listed", lambda url, access, flag: [Listed(f"{url}/{one}", one, 1, "v") for one in names])
    monkeypatch.setattr(remote, "table_images", table_images)
    with pytest.raises(UserError, match="enough"):
        class_parts("hf:o/n")
    assert found == names
    with pytest.raises(UserError, match="enough"):
        class_parts("hf:o/n", access=Access(split="train"))
    assert found == [*names, names[0]]


def test_a_dataset_that_the_hub_has_not_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    def listed(url: str, access: Access, flag: str) -> list[Listed]:
        if url == CONVERTED:
            raise UserError("gone") from fetching.FetchError(url, "is not there", True)
        assert url == "hf://datasets/o/n"
        return [Listed(f"{url}/1.png", "1.png", 1, "v")]

    monkeypatch.setattr(hub, "listed", listed)
    assert list(collect("hf:o/n").names) == ["1.png"]
