"""Several folders, globs, and lists of paths as --data.path."""

import logging
import os
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from fcmae.data.sources.files import collect
from fcmae.data.sources.lists import listed_paths
from fcmae.errors import UserError

JPEG = b"\xff\xd8\xff\xe0"


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Folders a and b with 1.png, 2.png and 10.png each."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in (1, 2, 10):
            (tmp_path / name / f"{number}.png").write_bytes(JPEG)
    return tmp_path


def names(paths: list[Path]) -> list[str]:
    return [f"{path.parent.name}/{path.name}" for path in paths]


ALL = ["a/1.png", "a/2.png", "a/10.png", "b/1.png", "b/2.png", "b/10.png"]


def test_several_folders_in_the_order_given(two: Path) -> None:
    assert names(collect([two / "b", two / "a"]).paths) == ALL[3:] + ALL[:3]
    (two / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty holds no images"):
        collect([two / "a", two / "empty"])


def test_globs_in_natural_order(two: Path) -> None:
    for pattern in ("*/*.png", "**/*.png", "*", "[ab]", "?/*"):
        found = collect(f"{two}/{pattern}")
        assert names(found.paths) == ALL
        assert found.names == ALL
    assert names(collect(f"{two}/*/1*.png").paths) == ["a/1.png", "a/10.png", "b/1.png", "b/10.png"]
    (two / "a" / ".hidden.png").write_bytes(JPEG)
    assert names(collect(f"{two}/a/*.png").paths) == ALL[:3]
    assert names(collect(f"{two}/a/.*.png").paths) == ["a/.hidden.png"]
    with pytest.raises(UserError, match=r"\*\.tif holds no images; looked among what it matches"):
        collect(f"{two}/*.tif")


def test_a_name_with_wildcards_that_is_there_is_itself(two: Path) -> None:
    (two / "set[1]*").mkdir()
    (two / "set[1]*" / "x.png").write_bytes(JPEG)
    assert collect(two / "set[1]*").names == ["x.png"]


def test_files_as_a_shell_expands_them(two: Path) -> None:
    given = [str(two / name) for name in ("b/2.png", "a/10.png", "a/1.png")]
    assert collect(given).names == ["b/2.png", "a/10.png", "a/1.png"]
    assert names(collect([*given, str(two / "a")]).paths) == ["b/2.png", "a/10.png", "a/1.png", "a/2.png"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.txt", b"b/2.png\na/10.png\n\n"),
        ("list.lst", b"\xef\xbb\xbfb/2.png\r\na/10.png"),
        ("list.txt", "b/2.png\na/10.png".encode("utf-16")),
        ("list.csv", b"b/2.png\na/10.png\n"),
        ("list.csv", b"label,Path\n1,b/2.png\n0,a/10.png\n"),
        ("list.csv", b"label;image\n1;b/2.png\n0;a/10.png\n"),
        ("list.csv", b'id,where\n1,"b/2.png"\n2,a/10.png\n'),
        ("list.csv", b"image_id;label;notes, if any\nb/2.png;cat;a, b\na/10.png;dog;c, d\n"),
        ("list.tsv", b"wo\tnotes, path\nb/2.png\ta, b\na/10.png\tc, d\n"),
        ("list.tsv", b"b/2.png\tcat\na/10.png\tdog\n"),
    ],
)
def test_lists_keep_their_order(two: Path, name: str, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    (two / name).write_bytes(content)
    monkeypatch.chdir("/")
    assert names(collect(two / name).paths) == ["b/2.png", "a/10.png"]


def test_paths_in_a_list(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Absolute, relative to the list, or to the working directory; folders too; each file once."""
    (two / "lists").mkdir()
    (two / "lists" / "x.txt").write_text(f"{two}/a/2.png\n{two}/b\n{two}/b/1.png\n")
    assert names(collect(two / "lists" / "x.txt").paths) == ["a/2.png", *ALL[3:]]
    (two / "lists" / "y.txt").write_text("a/1.png\n")
    monkeypatch.chdir(two)
    assert names(collect("lists/y.txt").paths) == ["a/1.png"]


def given(sources: str | list[str]) -> list[str | None]:
    images = collect(sources)
    return [images.given(n) for n in range(len(images))]


def test_what_the_user_called_an_image(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else is listed. The names, by which a set is known to a resumed run, begin at the folder of all."""
    monkeypatch.chdir(two)
    for more in ("", "a/2.png\n", "b/1.png\n"):
        Path("list.csv").write_text(f"path\na/1.png\n{more}")
        assert given("list.csv") == given(str(two / "list.csv")) == f"a/1.png\n{more}".split()
    lines = [f"file://{two}/a/1.png", "./b/../b/2.png", f"{two}/a/2.png"]
    Path("list.txt").write_text("\n".join(lines))
    assert given("list.txt") == lines
    assert collect("list.txt").names == ["a/1.png", "b/2.png", "a/2.png"]
    Path("list.txt").write_text("./b/\na/1.png")
    assert given("list.txt") == ["./b/1.png", "./b/2.png", "./b/10.png", "a/1.png"]

    assert given("a") == [None] * 3
    assert given("a/1.png") == given("[a]/1.png") == ["a/1.png"]
    assert given(["b/2.png", "a/10.png"]) == ["b/2.png", "a/10.png"]
    assert given(["./b", str(two / "a"), "list.csv", "list.txt"])[2:4] == ["./b/10.png", f"{two}/a/1.png"]
    assert collect(["b", "a"]).names[2:4] == ["0/10.png", "1/1.png"]
    assert given(["b", "a"]) == [*ALL[3:], *ALL[:3]]
    chosen = collect(["b", "a"]).subset([4, 0])
    assert [chosen.given(n) for n in range(2)] == ["a/2.png", "b/1.png"]


def test_tables_and_archives_among_the_sources(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(two)
    pq.write_table(pa.table({"path": ["a/1.png", "a/2.png"]}), "table.parquet")
    assert given("table.parquet") == ["a/1.png", "a/2.png"]
    with zipfile.ZipFile("z.zip", "w") as packed:
        packed.write("a/1.png")
    assert given("z.zip") == [None]
    Path("list.txt").write_text("a/1.png\nhttps://host/x/1.png?version=2\nb/1.png")
    assert given(["b", "z.zip", "list.txt"])[2:] == [
        *("b/10.png", "z.zip/a/1.png", "a/1.png", "https://host/x/1.png?version=2"),
    ]


def test_a_line_says_how_many_are_given_twice(two: Path, caplog: pytest.LogCaptureFixture) -> None:
    (two / "list.txt").write_text("a/1.png\nb/1.png\na/1.png\nb/../a/1.png")
    with caplog.at_level(logging.INFO):
        assert given(str(two / "list.txt")) == ["a/1.png", "b/1.png"]
    assert "2 further names (links, or given twice) of files in the set are left out" in caplog.text


def test_one_image_is_a_set_of_one(two: Path) -> None:
    """By its ending or its first bytes, as in a list."""
    (two / "without").write_bytes(JPEG)
    for name in ("a/1.png", "without"):
        assert collect(two / name).names == [Path(name).name]
        assert collect(f"file://{two}/{name}").paths == [two / name]
    (two / "text.md").write_text("text")
    with pytest.raises(
        UserError, match=r"^--data\.path .*text\.md is a file, not a folder; give a folder of images, im"
    ):
        collect(two / "text.md")


def test_names_that_are_not_utf8(two: Path) -> None:
    odd = os.fsdecode(os.fsencode(two) + b"/a/caf\xe9.png")
    Path(odd).write_bytes(JPEG)
    (two / "list.txt").write_bytes(os.fsencode(odd) + b"\n")
    assert listed_paths(str(two / "list.txt")) == [(odd, odd)]
    assert [str(path) for path in collect(two / "list.txt")] == [odd]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\n", "lists no paths"),
        ("a.csv", b"", "lists no paths"),
        ("a.csv", b"x,y\n1,2\n", r"no column of paths; name it path in the first line \(x, y\)"),
        ("a.txt", b"none.png\n", r"holds no images; looked at the paths in it .*none\.png \(No such file"),
        ("a.txt", b"\0\1\2\n", "is not a list of paths"),
    ],
)
def test_wrong_lists_get_one_line(two: Path, name: str, content: bytes, message: str) -> None:
    (two / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        collect(two / name)
    assert str(error.value).startswith("--data.path ")
    assert "\n" not in str(error.value)


def test_what_a_recipe_leaves_open_must_be_named() -> None:
    with pytest.raises(UserError, match=r"^--data\.path is missing: the recipe trains on your own images; give"):
        collect("???")
