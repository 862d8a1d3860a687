"""Tables of paths and labels."""

from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from fcmae.errors import UserError
from fcmae.finetuning.tables import read_table


def table(folder: Path, text: str, name: str = "t.csv") -> Path:
    file = folder / name
    file.write_text(text)
    return file


def test_a_label_each_with_paths_beside_the_table(tmp_path: Path) -> None:
    found = read_table(table(tmp_path, "image,label\na/1.png,cat\nb.png, dog\n"))
    assert not found.has_several
    assert [(row.path, row.labels, row.split) for row in found.rows] == [
        (str(tmp_path / "a/1.png"), ("cat",), None), (str(tmp_path / "b.png"), ("dog",), None),
    ]  # fmt: skip


def test_the_column_of_paths_may_have_any_name(tmp_path: Path) -> None:
    """As in a list to pretrain on; a usual name goes before it."""
    named = read_table(table(tmp_path, "id,photo,label\n1,a.png,cat\n2,b.jpg,dog\n"))
    assert ([row.name for row in named.rows], named.path_column) == (["a.png", "b.jpg"], "photo")
    usual = read_table(table(tmp_path, "mask,path,label\nm.png,a.png,cat\n"))
    assert [row.name for row in usual.rows] == ["a.png"]


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("path;label;note (a, b, c)\n1.png;cat;x\n", ("cat",)),
        ('path, label\n"1.png", "a cat"\n', ("a cat",)),
        ("path,label,label\n1.png,cat,dog\n", ("cat",)),
        ("path,label,path\n1.png,cat,2.png\n", ("cat",)),
        ("path,label,thumb.png\n1.png,cat,x\n", ("cat",)),
        ('"path";"label"\n"1.png";"cat"\n', ("cat",)),
    ],
)
def test_dialects(text: str, labels: tuple[str, ...], tmp_path: Path) -> None:
    """As many commas as semicolons; blanks before quotes; of two columns of a name the first."""
    (row,) = read_table(table(tmp_path, text)).rows
    assert (row.name, row.labels) == ("1.png", labels)


def test_named_columns_tell_the_dialect(tmp_path: Path) -> None:
    file = table(tmp_path, "wo\twas\tnotes, label\n1.png\tcat\tx\n", "t.tsv")
    for one in (file, table(tmp_path, file.read_text(), "t.csv")):
        (row,) = read_table(one, path_column="wo", label_column="was").rows
        assert (row.name, row.labels) == ("1.png", ("cat",))


def test_a_quoted_cell_may_hold_a_line_break(tmp_path: Path) -> None:
    found = read_table(table(tmp_path, 'path,note,label\n1.png,"two\nlines",cat\n2.png,,dog\n'))
    assert [row.labels for row in found.rows] == [("cat",), ("dog",)]


@pytest.mark.parametrize("separator", [";", "|"])
def test_several_labels(tmp_path: Path, separator: str) -> None:
    found = read_table(table(tmp_path, f"path,labels\n1.png,cat{separator} dog\n2.png,\n3.png,dog\n"))
    assert found.has_several
    assert [row.labels for row in found.rows] == [("cat", "dog"), (), ("dog",)]


def test_columns_by_name_and_tabs(tmp_path: Path) -> None:
    file = table(tmp_path, "id\tlabel\tfile\tsplit\tgrade\n0\tx\t1.png\tTrain\t2\n1\ty\t2.png\tval\t3\n", "t.tsv")
    assert [row.labels for row in read_table(file).rows] == [("x",), ("y",)]
    assert [row.labels for row in read_table(file, label_column="grade").rows] == [("2",), ("3",)]
    assert [row.split for row in read_table(file).rows] == ["train", "val"]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("path,label\na.png,cat\nb.png,\n", {}, r"the label is missing in row 2 \(b.png\)"),
        ("path,label\n,cat\n", {}, "row 1 has no path"),
        (
            "path,thing\na.png,cat\n",
            {},
            r"no column of labels; name it label, or give .* \(path, thing",
        ),
        ("x,label\na,cat\n", {}, "no column of paths"),
        ("path,label\na.png,cat\n", {"label_column": "kind"}, "--data.label_column kind is not a column of"),
        ("path,label\na.png,cat\n", {"split_column": "part"}, "--data.split_column part is not a column of"),
        (
            "path,label\na.png,cat\nhttps://me:secret@example.com/b.png?key=1,dog\n",
            {},
            r"row 2 is a URL, https://example.com/b.png, which a table of labels cannot have; download the images, or",
        ),
        ("path,label\n", {}, "has no rows"),
        (
            "a.png,y\nb.png,y\n",
            {},
            r"its first row has an image, a\.png, and no names of columns; begin it with a header",
        ),
        ("", {}, "is empty"),
        ("\n \n", {}, "is empty"),
        (f'path,label\na.png,"{200_000 * "x"}"\n', {}, r"is not a table, line 2: field larger than"),
    ],
)
def test_what_is_missing_gets_a_line(tmp_path: Path, text: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_table(table(tmp_path, text), **options)


def test_parquet_with_lists_of_labels(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    parquet.write_table(pyarrow.table({"path": ["1.png", "2.png"], "labels": [["cat", "dog"], []]}), file)
    assert [row.labels for row in read_table(file).rows] == [("cat", "dog"), ()]
    parquet.write_table(pyarrow.table({"path": ["1.png", "2.png"], "label": [3, 10]}), file)
    assert [row.labels for row in read_table(file).rows] == [("3",), ("10",)]
    parquet.write_table(pyarrow.table({"path": ["1.png", "2.png"], "label": [3.0, float("nan")]}), file)
    with pytest.raises(UserError, match=r"the label is missing in row 2 \(2\.png\)"):
        read_table(file)


@pytest.mark.parametrize(
    "vectors", [[[0, 1], [1, 0]], [[0.0, 1.0, 0.0]] * 3, [[True, False], [True, True]], [[0.2, 0.8]]]
)
def test_vectors_are_no_names_of_classes(tmp_path: Path, vectors: list[list[float]]) -> None:
    """As names, 0 and 1 would be in every row, and every score would be perfect."""
    file = tmp_path / "t.parquet"
    paths = [f"{n}.png" for n in range(len(vectors))]
    parquet.write_table(pyarrow.table({"path": paths, "labels": vectors}), file)
    with pytest.raises(
        UserError, match=r"its labels, such as \['.*\], are numbers for every class in turn \(one-hot\)"
    ):
        read_table(file)
    text = "".join(f"{n}.png,{';'.join(map(str, one))}\n" for n, one in enumerate(vectors))
    with pytest.raises(UserError, match="one-hot"):
        read_table(table(tmp_path, "path,labels\n" + text))


@pytest.mark.parametrize(
    "labels", [[[0, 1], [1]], [[1, 2], [0, 1]], [[0], [1]], [["a", "b"], ["a", "c"]], [[0, 1], []]]
)
def test_numbers_and_names_of_classes_are_no_vectors(tmp_path: Path, labels: list[list]) -> None:
    file = tmp_path / "t.parquet"
    parquet.write_table(pyarrow.table({"path": ["1.png", "2.png"], "labels": labels}), file)
    assert [row.labels for row in read_table(file).rows] == [tuple(map(str, one)) for one in labels]


def test_a_missing_value_is_no_name(tmp_path: Path) -> None:
    for text in ("1.png,cat\n2.png,nan\n", "1.png,cat;dog\n2.png,NaN;cat\n"):
        with pytest.raises(UserError, match=r"the label in row 2 \(2\.png\) is \w+, a missing value"):
            read_table(table(tmp_path, "path,label\n" + text))
    file = tmp_path / "t.parquet"
    parquet.write_table(pyarrow.table({"path": ["1.png"], "labels": [["cat", None]]}), file)
    with pytest.raises(UserError, match="is nan, a missing value"):
        read_table(file)


@pytest.mark.parametrize("value", ["NA", "N/A", "null", "<NA>", "nan", "NaN"])
@pytest.mark.parametrize("others", ["cat", "cat;dog"])
def test_missing_values_of_other_programs_are_no_classes(tmp_path: Path, value: str, others: str) -> None:
    """R writes NA, which became a class."""
    with pytest.raises(UserError, match=rf"the label in row 2 \(2\.png\) is {value}, a missing value; leave such rows"):
        read_table(table(tmp_path, f"path,label\n1.png,{others}\n2.png,{value}\n"))
    near = ["na", "NULL", "None", "none", "NAN1"]  # names of classes, as they are not spelled so
    rows = "".join(f"{n}.png,{name}\n" for n, name in enumerate(near))
    assert [row.labels for row in read_table(table(tmp_path, "path,label\n" + rows)).rows] == [(one,) for one in near]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_encodings_of_spreadsheets(tmp_path: Path, encoding: str) -> None:
    """UTF-16 was "no text file", although predict and pretrain read it."""
    file = tmp_path / "t.csv"
    mark = b"\xff\xfe" if encoding == "utf-16-le" else b""
    file.write_bytes(mark + "path;label\r\n1.png;K\xe4se\r\n2.png;Brot\r\n".encode(encoding))
    assert [(row.name, row.labels) for row in read_table(file).rows] == [("1.png", ("K\xe4se",)), ("2.png", ("Brot",))]


def test_a_path_may_be_a_file_url(tmp_path: Path) -> None:
    found = read_table(table(tmp_path, "path,label\nfile:///set/a%20b.png,cat\n"))
    assert [row.path for row in found.rows] == ["/set/a b.png"]
