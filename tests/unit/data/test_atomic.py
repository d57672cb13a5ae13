"""Atomic files are read as they are: every id is text, every number exact, every odd row one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_siger.data import atomic
from recbole_siger.data.atomic import AtomicFile
from recbole_siger.errors import UserError

HEADER = "user_id:token\titem_id:token\ttime:float\n"
IDS = ("user_id", "item_id")


def read(path: Path, content: str | bytes, **options: str) -> dict[str, list[Any]]:
    file = path / "toy.inter"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    opened = AtomicFile(file, **options)
    return {name: cells.tolist() for name, cells in opened.read(opened.fields, IDS).items()}


def refusal(path: Path, content: str | bytes, **options: str) -> str:
    with pytest.raises(UserError) as caught:
        read(path, content, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix(f"{path / 'toy.inter'}: ")


ODD_IDS = [
    "NA",
    "null",
    "None",
    "nan",
    "007",
    "7",
    "7.0",
    "1e5",
    "True",
    '"wide',
    "a b",
    " x",
    "日本",
    "#",
    "\\N",
]


def test_ids_are_text_whatever_they_look_like(tmp_path: Path) -> None:
    rows = "".join(
        f"{one}\t{other}\t{n}\n" for n, (one, other) in enumerate(zip(ODD_IDS, ODD_IDS[::-1], strict=True))
    )
    columns = read(tmp_path, HEADER + rows)
    assert columns["user_id"] == ODD_IDS
    assert columns["item_id"] == ODD_IDS[::-1]
    assert columns["time"] == list(range(len(ODD_IDS)))


CELLS = st.text(st.characters(exclude_characters="\t\n\r\0", exclude_categories=["Cs"]), min_size=1)
ROWS = st.lists(st.tuples(CELLS, CELLS, st.floats(allow_nan=False, allow_infinity=False)), min_size=1)


@settings(max_examples=100, deadline=None)
@given(ROWS, st.sampled_from(["\n", "\r\n", "\t\n", "\n\n"]))
def test_any_text_is_read_back(tmp_path_factory: pytest.TempPathFactory, rows: list[Any], end: str) -> None:
    body = "".join(f"{user}\t{item}\t{time!r}{end}" for user, item, time in rows)
    try:
        columns = read(tmp_path_factory.getbasetemp(), HEADER + body)
    except UserError as error:
        assert "[PAD]" in str(error)  # noqa: PT017  # the one id that is RecBole's own
        return
    assert list(zip(*columns.values(), strict=True)) == rows


def test_blocks_meet_at_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "_CHARACTERS", 7)
    rows = [(f"u{n % 5}", f"item{n % 3}", n + 0.25) for n in range(53)]
    body = "".join(f"{u}\t{i}\t{t}\n" for u, i, t in rows)
    assert list(zip(*read(tmp_path, HEADER + body).values(), strict=True)) == rows
    body = body.replace("u2\titem1\t7.25\n", "\n\nu2\titem1\n")
    assert refusal(tmp_path, HEADER + body).startswith("line 11: 2 cells, but line 1 names 3 columns; ")


def test_equal_ids_are_one_string(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "_CHARACTERS", 11)
    users = read(tmp_path, HEADER + "long user\tx\t1\nlong user\ty\t2\n")["user_id"]
    assert users[0] is users[1]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1700000000123456789", "1700000000123456788"], [1700000000123456789, 1700000000123456788]),
        (["9007199254740993", "3"], [9007199254740993, 3]),
        (["1700000000.123457", "1700000000.123458"], [1700000000.123457, 1700000000.123458]),
        (["0.1", "1e300"], [0.1, 1e300]),
    ],
)
def test_numbers_keep_64_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cells: list[str], expected: list[float]
) -> None:
    content = HEADER + "".join(f"u\ti\t{cell}\n" for cell in cells)
    assert read(tmp_path, content)["time"] == expected
    monkeypatch.setattr(atomic, "_CHARACTERS", 1)  # each row a block of its own
    assert read(tmp_path, content)["time"] == expected


def test_numbers_that_are_missing(tmp_path: Path) -> None:
    times = read(tmp_path, HEADER + "".join(f"u\ti\t{one}\n" for one in ("", "NA", "nan", "null", "5")))[
        "time"
    ]
    assert np.isnan(times[:4]).all()
    assert times[4] == 5


@pytest.mark.parametrize("cell", ["good", "1_000", "inf", "-Infinity", "1,5", "0x10", "12 h"])
def test_text_among_numbers(tmp_path: Path, cell: str) -> None:
    message = refusal(tmp_path, f"{HEADER}u\ti\t1\n\nu\tj\t{cell}\n")
    assert message == f"line 4: time {cell!r} is not a finite number; write one"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("u\ti\t1\n\ti\t2\n", "line 3: user_id is empty; write the id or remove the row"),
        ("u\t\t1\n", "line 2: item_id is empty; write the id or remove the row"),
        ("u\ta\0\t1\n", "line 2: item_id 'a\\x00' holds a NUL character; remove it, or set the file's"),
        ("[PAD]\ti\t1\n", "line 2: user_id '[PAD]' is RecBole's name of the padding; choose another id"),
        ("u\ti\n", "line 2: 2 cells, but line 1 names 3 columns; write one cell for each column"),
        ("u\ti\t1\t2\n", "line 2: 4 cells, but line 1 names 3 columns; write one cell for each column"),
        ("u\ti\t1\nu,j,2\n", "line 3: 1 cells, but line 1 names 3 columns; write one cell for each column"),
        ("u i 1\n", "line 2: 1 cells, but line 1 names 3 columns; write one cell for each column"),
    ],
)
def test_a_row_that_is_wrong(tmp_path: Path, rows: str, message: str) -> None:
    assert refusal(tmp_path, HEADER + rows).startswith(message)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("\n", "the first line is empty; write the columns there as NAME:TYPE"),
        (
            "user_id\titem_id\n",
            "line 1: 'user_id' does not name a column; write NAME:TYPE, with one of the types",
        ),
        ("user_id:token,item_id:token\n", "line 1: 'user_id:token,item_id:token' does not name a column"),
        ("user_id:token\titem_id:int\n", "line 1: 'item_id:int' does not name a column"),
        (":token\titem_id:token\n", "line 1: ':token' does not name a column"),
        ("a:token\tb:float\ta:token\n", "line 1: two columns are named 'a'; rename one"),
    ],
)
def test_a_header_that_is_wrong(tmp_path: Path, header: str, message: str) -> None:
    assert refusal(tmp_path, header + "u\ti\n").startswith(message)


def test_an_empty_file(tmp_path: Path) -> None:
    assert refusal(tmp_path, "") == "the first line is empty; write the columns there as NAME:TYPE"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    content = (HEADER + "é\tü\t1\n").encode(encoding)
    options = {} if encoding.startswith("utf-8") else {"encoding": encoding}
    assert read(tmp_path, content, **options) == {"user_id": ["é"], "item_id": ["ü"], "time": [1]}


def test_encodings_that_are_wrong(tmp_path: Path) -> None:
    content = (HEADER + "é\tü\t1\n").encode("latin-1")
    fix = "; save the file as UTF-8, or set `encoding`"
    assert refusal(tmp_path, content) == f"the text is not in the encoding 'utf-8'{fix}"
    assert refusal(tmp_path, content, encoding="ascii") == f"the text is not in the encoding 'ascii'{fix}"
    message = refusal(tmp_path, content, encoding="utf-99")
    assert message == "encoding='utf-99': Python knows no such encoding; use utf-8"


@pytest.mark.parametrize("separator", [",", "|", "::", ".*", "é"])
def test_a_separator_is_text_and_no_pattern(tmp_path: Path, separator: str) -> None:
    content = (HEADER + "u.*1\ti\t2\n").replace("\t", separator)
    if separator == ".*":
        content = content.replace("u.*1", "u1")
    columns = read(tmp_path, content, separator=separator)
    assert columns["item_id"] == ["i"]
    assert columns["time"] == [2]
