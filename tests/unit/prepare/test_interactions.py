"""What counts as an id, a number and a time, and how rows are kept."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recbole_siger.prepare.interactions import MISSING, collect, number, read_token, timestamp
from recbole_siger.prepare.item_table import ItemTable, clean, flatten
from recbole_siger.prepare.records import Rejected


@pytest.mark.parametrize("word", sorted(MISSING))
def test_words_that_pandas_reads_as_missing_are_no_ids(word: str) -> None:
    assert pd.read_csv(io.StringIO(f"a\tb\n{word}\tx\n"), sep="\t", dtype=str)["a"].isna().all()
    with pytest.raises(ValueError, match="user is missing"):
        read_token("user", word)


@pytest.mark.parametrize("value", ["a\tb", "a\nb", 'a"b', "a\ud83d", "a\0b"])
def test_ids_that_would_break_a_line(value: str) -> None:
    with pytest.raises(
        ValueError, match="contains a tab, a line end, a quotation mark, NUL or an unpaired surr"
    ):
        read_token("item", value)


@pytest.mark.parametrize("value", [{"$oid": "5"}, ["B1"], 5.0, True])
def test_records_that_are_no_ids(value: object) -> None:
    with pytest.raises(ValueError, match=r"item .* is no text"):
        read_token("item", value)
    with pytest.raises(ValueError, match=r"item \[PAD\] is RecBole's name of the padding"):
        read_token("item", "[PAD]")


def test_ids_keep_their_zeros_and_inner_blanks() -> None:
    assert read_token("item", " 007 a ") == "007 a"
    assert read_token("item", 7) == "7"


@pytest.mark.parametrize(
    "value", ["nan", "inf", "", None, "five", "1_000", True, [5], pytest.param(10**400, id="large")]
)
def test_no_number(value: object) -> None:
    with pytest.raises(ValueError, match=r"rating is .*, not a finite number"):
        number("rating", value)


def test_times() -> None:
    assert timestamp("time", "1e3") == 1000.0
    assert timestamp("time", 1_700_000_000_123_456_789) == 1_700_000_000_123_456_789
    assert timestamp("time", "1970-01-01T01:00:00+01:00") == 0.0
    assert timestamp("time", " 1970-01-01 00:00:10 ") == 10.0
    with pytest.raises(ValueError, match="time is 'yesterday', neither a number nor an ISO 8601 date"):
        timestamp("time", "yesterday")


def test_rows_are_collected_in_order() -> None:
    records = [(2, "b x 5 1.5"), (3, "a x nan 2"), (4, "b y 3 2"), (5, "c x 1 3")]
    rejected = Rejected()

    def read(line: str) -> tuple[str, str, float, float]:
        user, item, rating, time = line.split()
        return user, item, number("rating", rating), number("time", time)

    rows = collect(Path("f.csv"), records, read, rejected)
    assert rejected.rows == [("f.csv", 3, "rating is 'nan', not a finite number")]
    assert rows.table().to_csv(sep="\t", index=False).splitlines() == [
        "user_id:token\titem_id:token\trating:float\ttimestamp:float",
        "b\tx\t5.0\t1.5",
        "b\ty\t3.0\t2.0",
        "c\tx\t1.0\t3.0",
    ]
    kept = rows.keep(np.array([False, True, True]))
    assert (len(kept), kept.n_users, kept.n_items, kept.item_tokens()) == (2, 2, 2, ["x", "y"])
    assert kept.table()["timestamp:float"].tolist() == [2, 3]
    assert str(kept.table()["timestamp:float"].dtype) == "int64"


def test_a_time_beyond_the_integers_is_kept(tmp_path: Path) -> None:
    rows = collect(Path("f.csv"), [(1, 5.0), (2, 1e30)], lambda time: ("u", "i", None, time), Rejected())
    assert rows.table()["timestamp:float"].tolist() == [5.0, 1e30]


def test_nanoseconds_are_kept_to_the_last_digit() -> None:
    times = [1_700_000_000_123_456_789, 1_700_000_000_123_456_790]
    rows = collect(
        Path("f.csv"), enumerate(map(str, times)), lambda t: ("u", t, None, timestamp("t", t)), Rejected()
    )
    assert rows.table()["timestamp:float"].tolist() == times


def test_texts_stand_on_one_line_in_either_reading(tmp_path: Path) -> None:
    table = ItemTable({"title": "token_seq", "brand": "token"})
    table.add("b", {"title": '"Quoted"\ttitle\r\n\u2028with 12" and\0end', "brand": None})
    table.add("c", {"title": ["x", ["y", "x"]], "brand": 3})
    table.write(tmp_path / "toy", ["a", "b", "c"])
    text = (tmp_path / "items.tsv").read_text(encoding="utf-8")
    assert text.splitlines() == [
        "item_id\ttitle\tbrand",
        "a\t\t",
        'b\t "Quoted" title with 12" and end\t',
        "c\tx y\t3",
    ]
    assert (tmp_path / "toy.item").read_text(encoding="utf-8").splitlines()[0] == (
        "item_id:token\ttitle:token_seq\tbrand:token"
    )
    for quoting in (0, 3):  # csv.QUOTE_MINIMAL, as RecBole reads, and QUOTE_NONE
        frame = pd.read_csv(
            tmp_path / "items.tsv", sep="\t", dtype=str, quoting=quoting, keep_default_na=False
        )
        assert frame["title"].str.strip().tolist() == ["", '"Quoted" title with 12" and end', "x y"]
    assert table.facts(["a", "b", "c"]) == {"with_record": 2, "columns": {"title": 2, "brand": 1}}


def test_flatten_and_clean() -> None:
    assert flatten([["a", ""], None, {"b": 1}, ["a", 2.5]]) == "a 2.5"
    assert clean("  ") == ""
    assert clean("cut \ud83d") == "cut \ufffd"
