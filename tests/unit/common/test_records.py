"""The one reader of delimited text: formats of names, headers, and records that are taken line by line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from recbole_siger.common.records import column_index, column_names, read_records, table_format
from recbole_siger.errors import UserError

PATH = Path("a.csv")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.csv", (",", True, False)),
        ("a.b.tsv", ("\t", True, False)),
        ("a.txt.gz", ("\t", True, False)),
        ("toy.inter", ("\t", False, True)),
        ("toy.item.gz", ("\t", False, True)),
        ("toy.user", ("\t", False, True)),
        ("a.json", None),
        ("a", None),
        ("a.gz", None),
    ],
)
def test_a_format_follows_from_the_name(name: str, expected: tuple[str, bool, bool] | None) -> None:
    assert table_format(Path(name)) == expected


def test_columns() -> None:
    names = column_names(["user_id:token", " item_id ", "x", "x"], typed=True)
    assert names == ["user_id", "item_id", "x", "x"]
    assert column_names(["a:b "], typed=False) == ["a:b "]
    assert column_index(PATH, names, "item_id", "fix") == 1
    complaint = (
        r"^a\.csv: has no column 'item' \(it has user_id, item_id, x, x\); did you mean `item_id`\?; fix$"
    )
    with pytest.raises(UserError, match=complaint):
        column_index(PATH, names, "item", "fix")
    with pytest.raises(UserError, match=r"^a\.csv: has two columns 'x' \(it has .*\); fix$"):
        column_index(PATH, names, "x", "fix")


def test_no_line_is_taken_before_its_record() -> None:
    """Offsets of slices rely on this."""
    taken: list[str] = []

    def lines() -> Iterator[str]:
        for line in ["a,b\n", '1,"x\n', 'y"\n', "\n", "2,z\n"]:
            taken.append(line)
            yield line

    seen = [(number, n, cells, len(taken)) for number, n, cells in read_records(lines(), ",", pytest.fail)]
    assert seen == [(1, 1, ["a", "b"], 1), (3, 2, ["1", "x\ny"], 3), (5, 1, ["2", "z"], 5)]


@pytest.mark.parametrize("strict", [False, True])
def test_text_after_a_quotation_mark_breaks_a_strict_record_only(strict: bool) -> None:
    broken: list[tuple[int, str]] = []
    lines = ["a,b\n", '1,"x" y\n', "2,z\n"]
    found = [
        cells for *_, cells in read_records(lines, ",", lambda *what: broken.append(what), strict=strict)
    ]
    assert found == [["a", "b"], *([] if strict else [["1", "x y"]]), ["2", "z"]]
    assert [line for line, _ in broken] == ([2] if strict else [])
