"""Tables of one's own."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from tests.unit.prepare.conftest import Preparer, inter, manifest

INTER = "user_id,item_id,rating,timestamp\n" + "".join(
    f"u{u},i{i},{u + i},{2020 + u}-01-0{i}\n" for u in (1, 2, 3) for i in (1, 2, 3)
)
ITEMS = 'item_id,Name of it,price\ni1,"One, ""1""",3\ni3,Three,\nother,x,1\nNA,y,2\n'


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "my.csv").write_text(INTER)
    (tmp_path / "items.csv").write_text(ITEMS)
    return {"inter": tmp_path / "my.csv", "items": tmp_path / "items.csv"}


def test_dates_texts_and_names(run: Preparer, files: dict[str, Path]) -> None:
    folder = run("csv", **files)
    assert inter(folder)[0] == "u1\ti1\t2.0\t1609459200"  # 2021-01-01 UTC
    assert len(inter(folder)) == 9
    assert (folder / "toy.item").read_text().splitlines() == [
        "item_id:token\tName_of_it:token_seq\tprice:token_seq",
        'i1\tOne, "1"\t3',
        "i2\t\t",
        "i3\tThree\t",
    ]
    assert (folder / "rejected.csv").read_text().splitlines()[1:] == [
        "items.csv,5,item_id is missing: 'NA' is a word for a missing value"
    ]
    assert list(manifest(folder)["inputs"]) == ["my.csv", "items.csv"]
    assert run.lines[-1].startswith("next: recbole-siger run --model=LightGCN --dataset=toy")


def test_a_table_of_users(run: Preparer, files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text('user_id,About me\nu3,"likes, cars"\nu1,old\nnobody,x\n')
    folder = run("csv", **files, users=tmp_path / "users.csv")
    assert (folder / "users.tsv").read_text().splitlines() == [
        "user_id\tAbout_me", "u1\told", "u2\t", "u3\tlikes, cars"
    ]  # fmt: skip
    assert (folder / "toy.user").read_text().splitlines()[0] == "user_id:token\tAbout_me:token_seq"
    assert manifest(folder)["users"] == {"with_record": 2, "columns": {"About_me": 2}}
    assert list(manifest(folder)["inputs"]) == ["my.csv", "items.csv", "users.csv"]
    (tmp_path / "users.csv").write_text("user_id,about\nu1,a\nu1,b\n")
    assert "line 3: user 'u1' is already in line 2; keep one line for each user" in run.refusal(
        "csv", **files, users=tmp_path / "users.csv", name="twice"
    )
    (tmp_path / "users.csv").write_text("user_id,about\nx1,a\n")
    assert "none of its 1 users has an interaction that is kept; write the user ids of my.csv" in run.refusal(
        "csv", **files, users=tmp_path / "users.csv", name="none"
    )


def test_an_atomic_file_of_users(run: Preparer, files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "shop.user").write_text('user_id:token\tabout:token_seq\nu1\t"old\nu3\tyoung\n')
    folder = run("csv", **files, users=tmp_path / "shop.user")
    assert (folder / "users.tsv").read_text().splitlines() == [
        "user_id\tabout", 'u1\t "old', "u2\t", "u3\tyoung"
    ]  # fmt: skip


def test_columns_of_other_names_and_a_tab(run: Preparer, files: dict[str, Path]) -> None:
    text = INTER.replace("user_id", "who").replace("item_id", "sku").replace("timestamp", "when")
    files["inter"].write_text(text.replace(",", "\t"))
    files["items"].write_text("sku\ttitle\ni1\tOne\n")
    names = {"user_col": "who", "item_col": "sku", "time_col": "when", "sep": "tab"}
    folder = run("csv", **files, **names)
    assert inter(folder)[0] == "u1\ti1\t2.0\t1609459200"
    assert (folder / "items.tsv").read_text().splitlines()[:2] == ["item_id\ttitle", "i1\tOne"]
    folder = run("csv", inter=files["inter"], name="bare", **(names | {"time_col": "rating"}))
    assert inter(folder)[0] == "u1\ti1\t2.0\t2"


def test_atomic_files_and_gzip(run: Preparer, files: dict[str, Path], tmp_path: Path) -> None:
    header, _, rest = INTER.partition("\n")
    atomic = "user_id:token\titem_id:token\n" + "".join(
        "\t".join(line.split(",")[:2]) + "\n" for line in rest.splitlines()
    )
    (tmp_path / "shop.inter").write_text(atomic)
    assert inter(run("csv", inter=tmp_path / "shop.inter"))[0] == "u1\ti1"
    (tmp_path / "my.csv.gz").write_bytes(gzip.compress((header + "\n" + rest).encode()))
    assert len(inter(run("csv", inter=tmp_path / "my.csv.gz", name="gz"))) == 9


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"user_col": "who"}, "my.csv: has no column 'who' (it has user_id, item_id, rating, timestamp)"),
        ({"rating_col": "stars"}, "has no column 'stars'"),
        ({"time_col": "when"}, "has no column 'when'"),
        (
            {"sep": ";"},
            "has no column 'user_id' (it has user_id,item_id,rating,timestamp); name the column",
        ),
        ({"sep": ";;"}, "sep=';;': expected one character, or tab"),
        ({"inter": "no.csv"}, "no.csv: no such file; correct the path"),
        ({"items": "no.csv"}, "no.csv: no such file; correct the path"),
        (
            {"k_core": 4},
            "no interaction remains with k_core=4 (of 9); choose a lower --k_core; 0 keeps all interactions",
        ),
        ({"k_core": -1}, "command line: k_core='-1': expected an integer"),
        (
            {"split": "rnadom"},
            "split='rnadom': expected one of 'random', 'leave_one_out', 'temporal'; did you",
        ),
        ({"ratios": "8:2"}, "ratios='8:2': expected three integers from 1, for example 8:1:1"),
        ({"ratios": "8:0:2"}, "ratios='8:0:2': expected three"),
        ({"split": "temporal", "ratios": "100:1:1"}, "split=temporal gives valid no row (9 rows in all)"),
        ({"seed": "x"}, "command line: seed='x': expected an integer"),
        (
            {"split": "leave_one_out", "ratios": "7:2:1"},
            "command line: --ratios=7:2:1 has no effect with --split=leave_one_out; remove it",
        ),
        ({"split": "temporal", "seed": "3"}, "--seed=3 has no effect with --split=temporal; remove it"),
        ({"name": "a/b"}, "command line: name='a/b': use letters"),
        ({"name": "x" * 101}, "digits, '-', '_' and '.', at most 100, such as 'shop'"),
        ({"overwrite": "maybe"}, "command line: --overwrite=maybe: write --overwrite alone"),
        ({"sed": "3"}, "command line: prepare csv has no option --sed; did you mean `se"),
        ({"source": "raw"}, "command line: prepare csv has no option --source"),
    ],
)
def test_refused_options(run: Preparer, files: dict[str, Path], values: dict[str, Any], says: str) -> None:
    assert says in run.refusal("csv", **(files | values))


def test_a_quotation_mark_of_an_atomic_file_is_a_character(run: Preparer, tmp_path: Path) -> None:
    """As RecBole reads it; in a csv file it would enclose the rest of the file."""
    rows = "".join(f"u{u}\ti{i}\n" for u in (1, 2, 3) for i in (1, 2, 3))
    (tmp_path / "shop.inter").write_text("user_id:token\titem_id:token\n" + rows)
    (tmp_path / "shop.item").write_text('item_id:token\tname:token_seq\ni1\t5" disk\ni2\t"open\ni3\tx\n')
    folder = run("csv", inter=tmp_path / "shop.inter", items=tmp_path / "shop.item")
    assert (folder / "rejected.csv").read_text().splitlines() == ["file,line,reason"]
    assert [line.split("\t")[0] for line in (folder / "toy.item").read_text().splitlines()[1:]] == [
        "i1",
        "i2",
        "i3",
    ]
    assert "open" in (folder / "toy.item").read_text()


@pytest.mark.parametrize(
    ("which", "content", "says"),
    [
        ("inter", "", "my.csv: is empty; write a header"),
        ("inter", "user_id,item_id\n", "my.csv: has no usable interaction (the file is empty)"),
        ("inter", "user_id,item_id\n,i1\n", "has no usable interaction (line 2: user_id is missing)"),
        ("inter", "user_id,item_id,user_id\na,b,c\n", "has two columns 'user_id'"),
        ("inter", "user_id,item_id\na,b\na,c\n", "split=random gives valid no row (2 rows in all)"),
        ("items", "", "items.csv: is empty"),
        ("items", "id,title\ni1,x\n", "items.csv: has no column 'item_id' (it has id, title)"),
        ("items", "item_id,t\ni1,x\ni2,y\ni1,z\n", "line 4: item 'i1' is already in line 2; keep one"),
        ("items", "item_id,a b,a_b\ni1,x,y\n", "give each column a different name"),
        ("items", "item_id,t\nI1,x\n", "none of its 1 items has an interaction that is kept"),
    ],
)
def test_refused_files(run: Preparer, files: dict[str, Path], which: str, content: str, says: str) -> None:
    files[which].write_text(content)
    assert says in run.refusal("csv", **files)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (INTER.encode("utf-16"), "my.csv: line 1: not UTF-8; write a header, in UTF-8"),
        (INTER.replace("\n", "\r").encode(), "my.csv: line 1: new-line character seen in unquoted field"),
    ],
)
def test_a_broken_header_is_an_error(
    run: Preparer, files: dict[str, Path], content: bytes, says: str
) -> None:
    files["inter"].write_bytes(content)
    assert says in run.refusal("csv", **files)


def test_splits_that_need_times(run: Preparer, files: dict[str, Path]) -> None:
    files["inter"].write_text("user_id,item_id\na,b\na,c\na,d\n")
    for split in ("leave_one_out", "temporal"):
        message = run.refusal("csv", inter=files["inter"], split=split)
        assert f"has no timestamps, but split={split} requires them; use --split=random" in message


def test_missing_options_and_kinds(run: Preparer) -> None:
    assert "prepare csv requires --inter; see" in run.refusal("csv")
    assert "prepare 'amzon': expected one of amazon, microlens, movielens, csv; did you mean `amazon`?" in (
        run.refusal("amzon")
    )
