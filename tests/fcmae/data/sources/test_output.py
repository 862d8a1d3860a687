"""A run is not written among its images."""

import re
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from fcmae.data.sources.output import check_output_apart
from fcmae.data.stores.access import Access
from fcmae.errors import UserError
from tests.fcmae.data.sources.packed import folder_of_images, make_tar
from tests.fcmae.data.sources.tabled import table_of

RUN = "# fcmae 0.1.0\nseed: 0\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``set`` with images in cat/ and dog/, the same elsewhere in an archive and a table, and lists of them."""
    images = folder_of_images(tmp_path / "set")
    (tmp_path / "set" / "empty").mkdir()
    (tmp_path / "set" / "notes").mkdir()
    (tmp_path / "set" / "notes" / "readme.txt").write_text("none")
    (tmp_path / "set" / "runs" / "old" / "reconstructions").mkdir(parents=True)
    (tmp_path / "set" / "runs" / "old" / "config.yaml").write_text(RUN)
    (tmp_path / "set" / "runs" / "old" / "reconstructions" / "1.png").write_bytes((images / "cat/1.png").read_bytes())
    for folder in ("shards", "tables", "results"):
        (tmp_path / folder).mkdir()
    make_tar(tmp_path / "shards" / "a.tar", images, ["cat/1.png", "dog/é.png"])
    table_of(images, tmp_path / "tables" / "a.parquet", ["cat/1.png", "dog/é.png"])
    (tmp_path / "results" / "figure.png").write_bytes((images / "cat/1.png").read_bytes())
    (images / "cat" / "list.txt").write_text("1.png\n2.jpg\n")
    (tmp_path / "list.txt").write_text("set/cat/1.png\nset/dog/é.png\n")
    (tmp_path / "link").symlink_to("set")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("sources", "output", "holds"),
    [
        ("set", "set", None),
        ("link", "set", None),
        ("set", "link", None),
        ("set", "set/cat", "set, 1.png"),
        ("link", "set/cat", "link, 1.png"),
        (("results", "set"), "set/cat", "set, 1.png"),
        ("set/*/*.png", "set/cat", "set/*/*.png, 1.png"),
        ("set/*/*.png", "set", "set/*/*.png, cat/1.png"),
        ("set/cat/list.txt", "set/cat", "set/cat/list.txt, 1.png"),
        ("list.txt", "set", "list.txt, cat/1.png"),
        ("shards/a.tar", "shards", "shards/a.tar, a.tar"),
        ("shards/*.tar", "shards", "shards/*.tar, a.tar"),
        ("tables/a.parquet", "tables", "tables/a.parquet, a.parquet"),
    ],
)
def test_a_folder_of_the_images_is_refused(
    here: Path, sources: str | tuple[str, ...], output: str, holds: str | None
) -> None:
    message = f"--output {output} is the folder of the images, --data.path; give another"
    if holds is not None:
        message = f"--output {output} holds images of --data.path {holds}; give another"
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        check_output_apart(sources, Path(output), Access())
    (here / output / "config.yaml").write_text(RUN)
    check_output_apart(sources, Path(output), Access())  # it is resumed


@pytest.mark.parametrize(
    ("sources", "output"),
    [
        ("set", "."),
        ("set", "set/empty"),
        ("set", "set/notes"),
        ("set", "set/new"),
        ("set", "set/runs"),
        ("set", "results"),
        ("set/*/*.png", "."),
        ("set/cat/*.png", "set"),
        ("set/cat/*.png", "set/dog"),
        ("*/*.jpg", "results"),
        ("shards/a.tar", "."),
        ("shards/a.tar", "set"),
        ("list.txt", "results"),
        ("nowhere", "results"),
        ("s3://bucket/set", "set"),
        ("photo-tiles", "results"),
        (None, "set"),
    ],
)
def test_other_folders_are_taken(here: Path, sources: str | None, output: str) -> None:
    """No error, and nothing is written there."""
    before = sorted(here.rglob("*"))
    check_output_apart(sources, Path(output), Access())
    assert sorted(here.rglob("*")) == before


def test_tables_are_read_as_the_settings_say(here: Path) -> None:
    """Of two columns of images one is chosen; without that the table is refused where the images are read."""
    rows = [{"bytes": (here / "set/cat/1.png").read_bytes(), "path": "1.png"}]
    parquet.write_table(pa.table({"left": rows, "right": rows}), "tables/a.parquet")
    message = "--output tables holds images of --data.path tables/a.parquet, a.parquet; give another"
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        check_output_apart("tables/a.parquet", Path("tables"), Access(column="left"))
