"""A table is checked once and read in slices, with line numbers in every complaint."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from recbole_siger.common.tables import open_table
from recbole_siger.errors import UserError


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("step", [1, 2, 3, 5])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_slices_are_the_table(tmp_path: Path, step: int, bom: bytes, end: str) -> None:
    lines = ["item_id,title", "a,Größe", 'b,"two', 'lines, ""quoted"""', "", "c,", '"d",plain']
    path = write(tmp_path, "items.csv", bom + end.join(lines).encode())
    table = open_table(path, "item_id", ["title"], step=step)
    two = f'two{end}lines, "quoted"'
    expected = [("a", "Größe"), ("b", two), ("c", ""), ("d", "plain")]
    assert [(item, row["title"]) for item, row in table.all_rows()] == expected
    assert table.n_rows == 4
    assert len(table.offsets) == -(-4 // step)
    for number in reversed(range(len(table.offsets))):  # in any order
        rows = [(item, row["title"]) for item, row in table.rows(number)]
        assert rows == expected[number * step : (number + 1) * step]


def test_atomic_files_have_types_and_plain_quotes(tmp_path: Path) -> None:
    path = write(tmp_path, "toy.item", 'item_id:token\ttitle:token_seq\n1\t"Heroes" and\n2\t"open\n')
    table = open_table(path, "item_id", ["title"])
    assert [row["title"] for _, row in table.all_rows()] == ['"Heroes" and', '"open']


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("i.csv", "item_id\ttitle\n1\tx\n", r"no column 'item_id' .*separated by commas\?"),
        ("i.tsv", "item_id,title\n1,x\n", r"no column 'item_id' .*separated by tabs\?"),
        ("i.csv", "item_id,titel\n1,x\n", r"no column 'title' \(it has item_id, titel\).*`titel`"),
        ("i.csv", "item_id,title\n1,x\n2,y\n1,z\n", "line 4: item_id '1' is repeated"),
        ("i.csv", "item_id,title\n1,x\n2\n", "line 3: 1 values for 2 columns"),
        ("i.csv", "item_id,title\n,x\n", "line 2: item_id is ''"),
        ("i.csv", 'item_id,title\n"a\tb",x\n', "line 2: item_id is"),
        ("i.csv", "item_id,title,title\n1,x,y\n", "two columns have one name"),
        ("i.csv", 'item_id,title\n1,"x" y\n', "line 2: .*quotation mark"),
        ("i.csv", 'item_id,title\n1,"x\n', "line 2: .*quotation mark"),
        ("i.csv", b"item_id,title\n1,\xff\n", "line 2 is not UTF-8"),
        ("i.csv", "", "is empty"),
        ("i.csv", "item_id,title\n", "no rows"),
        ("i.json", "{}", "the suffix is not that of a table"),
    ],
)
def test_bad_tables(tmp_path: Path, name: str, text: str | bytes, complaint: str) -> None:
    path = write(tmp_path, name, text)
    with pytest.raises(UserError, match=complaint) as caught:
        open_table(path, "item_id", ["title"])
    assert str(path) in str(caught.value)


def test_a_missing_table(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such table"):
        open_table(tmp_path / "i.csv", "item_id", [])


def test_an_id_may_stand_twice_where_it_is_no_key(tmp_path: Path) -> None:
    path = write(tmp_path, "r.tsv", "user_id\treview\nu\tone\nu\ttwo\n")
    assert open_table(path, "user_id", ["review"], unique=False).n_rows == 2


@pytest.mark.parametrize("text", ["x" * 200_000, 'x 5" ' * 40_000, '"' + "x, " * 70_000 + '"'])
def test_a_text_of_any_length(tmp_path: Path, text: str) -> None:
    """Whatever csv's limit, which stays as it is for others."""
    limit = csv.field_size_limit()
    path = write(tmp_path, "items.tsv", f"item_id\ttitle\ni1\t{text}\ni2\ty\n")
    titles = [row["title"] for _, row in open_table(path, "item_id", ["title"]).all_rows()]
    assert titles == [text.strip('"'), "y"]
    assert csv.field_size_limit() == limit
