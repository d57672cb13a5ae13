"""Streaming readers: broken records are listed, broken files are errors."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from recbole_siger.errors import UserError
from recbole_siger.prepare.records import Rejected, find_file, read_json_lines, read_rows


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_json_lines(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, b'{"a": 1}\n\n{"a": 2\n[3]\n{"a": "\xff"}\n{\'a\': 4}\n{"a": 5}')
    rejected = Rejected()
    assert list(read_json_lines(path, rejected)) == [(1, {"a": 1}), (7, {"a": 5})]
    assert rejected.rows == [
        (name, 3, "not JSON"),
        (name, 4, "not an object"),
        (name, 5, "not UTF-8"),
        (name, 6, "not JSON"),
    ]


def test_literals_are_parsed_and_never_run(tmp_path: Path) -> None:
    lines = [
        "{'a': 'it\\'s', 'b': [1, None]}",
        '{"a": true}',
        "__import__('os').abort()",
        "{'a': open('x')}",
        "{",
    ]
    lines += ["[" * 5_000, "{[]: 1}", "{'a': 1} "]
    path = write(tmp_path / "meta.json.gz", "\n".join(lines).encode())
    rejected = Rejected()
    found = list(read_json_lines(path, rejected, literals=True))
    assert found == [(1, {"a": "it's", "b": [1, None]}), (2, {"a": True}), (8, {"a": 1})]
    assert [line for _, line, _ in rejected.rows] == [3, 4, 5, 6, 7]
    assert {reason for _, _, reason in rejected.rows} == {"neither JSON nor a Python literal"}


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_a_line_without_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("recbole_siger.prepare.records.MAX_LINE", 1_000)
    path = write(tmp_path / name, b'{"a": 1}\n' + b" " * 1_001)
    for read in (read_json_lines, read_rows):
        with pytest.raises(UserError, match="line 2 has more than 1,000 bytes; write one record a line"):
            list(read(path, Rejected()))  # type: ignore[operator]


def test_gzip_data_that_grow_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole_siger.prepare.records.MAX_LINE", 100_000)
    path = write(tmp_path / "a.json.gz", b'{"a": 1}\n' * 1_000_000)
    with pytest.raises(UserError, match=r"a\.json\.gz: line .*: its .* bytes unpack to more than"):
        list(read_json_lines(path, Rejected()))
    path = write(tmp_path / "b.json", b'{"a": 1}\n' * 30_000)
    assert len(list(read_json_lines(path, Rejected()))) == 30_000


def truncated(content: bytes) -> bytes:
    return gzip.compress(content)[:-20]


def flipped(content: bytes) -> bytes:
    """Change a byte in the middle, which the checksum at the end of a gzip file notices."""
    data = bytearray(gzip.compress(content, compresslevel=0))
    data[len(data) // 2] ^= 1
    return bytes(data)


@pytest.mark.parametrize("damage", [truncated, flipped, lambda content: content])
def test_a_damaged_gzip_is_an_error(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "reviews.json.gz"
    path.write_bytes(damage(b"".join(json.dumps({"n": n}).encode() + b"\n" for n in range(5_000))))
    with pytest.raises(UserError, match=r"reviews\.json\.gz: is damaged or truncated .*; download it again"):
        list(read_json_lines(path, Rejected()))
    with pytest.raises(UserError, match="is damaged or truncated"):
        list(read_rows(path, Rejected()))


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no\.csv: no such file"):
        list(read_rows(tmp_path / "no.csv", Rejected()))


def test_rows(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.csv", b'\xef\xbb\xbfa,b\r\n1,"x, ""y""\nz"\r\n\r\n1,2,3\n4,\xff\n5,\xef\xbf\xbd\n'
    )
    rejected = Rejected()
    assert list(read_rows(path, rejected)) == [
        (1, ["a", "b"]),
        (3, ["1", 'x, "y"\nz']),
        (7, ["5", "\ufffd"]),  # a replacement character that was there is a character like any other
    ]
    assert rejected.rows == [("a.csv", 5, "3 cells, 2 expected"), ("a.csv", 6, "not UTF-8")]


def test_rows_without_quotation_marks_and_with_long_separators(tmp_path: Path) -> None:
    path = write(tmp_path / "movies.dat", '1::"Hi\n2::Am\xe9lie\n3\n'.encode("latin-1"))
    rejected = Rejected()
    rows = list(read_rows(path, rejected, sep="::", encoding="latin-1"))
    assert rows == [(1, ["1", '"Hi']), (2, ["2", "Am\xe9lie"])]
    assert rejected.rows == [("movies.dat", 3, "1 cells, 2 expected")]


def test_a_quotation_mark_that_never_closes_is_a_broken_record(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", b'a,b\n1,2\n3,"' + b"x,y\n" * 50_000)
    rejected = Rejected()
    rows = list(read_rows(path, rejected))
    assert rows[:3] == [(1, ["a", "b"]), (2, ["1", "2"]), (4, ["x", "y"])]
    assert rows[-1] == (50_002, ["x", "y"])
    assert len(rows) == 2 + 49_999
    assert rejected.rows == [("a.csv", 3, "field larger than field limit (131072)")]


@pytest.mark.parametrize("broken", ['"3,4', '3,"4'])
@pytest.mark.parametrize("rest", ["", "5,6\n7,8\n"])
def test_a_stray_quotation_mark_swallows_no_record(tmp_path: Path, broken: str, rest: str) -> None:
    path = write(tmp_path / "a.csv", f"a,b\n1,2\n{broken}\n{rest}".encode())
    rejected = Rejected()
    rows = list(read_rows(path, rejected))
    assert rows == [(1, ["a", "b"]), (2, ["1", "2"]), *([(4, ["5", "6"]), (5, ["7", "8"])] if rest else [])]
    assert rejected.rows == [("a.csv", 3, "a quotation mark is opened and never closed")]


def test_a_broken_record_of_several_lines_names_them(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", b'a,b\n"1,2\n3,4\n5",6,7\n8,9\n')
    rejected = Rejected()
    assert list(read_rows(path, rejected)) == [(1, ["a", "b"]), (5, ["8", "9"])]
    assert rejected.rows == [("a.csv", 4, "3 cells in lines 2 to 4, 2 expected")]


def test_rejected_csv(tmp_path: Path) -> None:
    rejected = Rejected()
    rejected.add(tmp_path / "a.csv", 7, 'item "x", y')
    rejected.write(tmp_path / "rejected.csv")
    assert (tmp_path / "rejected.csv").read_bytes() == b'file,line,reason\na.csv,7,"item ""x"", y"\n'
    assert rejected.first(tmp_path / "a.csv") == 'line 7: item "x", y'
    assert rejected.first(tmp_path / "b.csv") == "the file is empty"


def test_find_file_prefers_names_in_their_order(tmp_path: Path) -> None:
    for name in ("b.json.gz", "b.json", "c.csv"):
        (tmp_path / name).touch()
    assert find_file(tmp_path, ["a.json", "b.json", "c.csv"]) == tmp_path / "b.json.gz"
    assert find_file(tmp_path, ["c.csv", "b.json"]) == tmp_path / "c.csv"
    assert find_file(tmp_path, ["d"]) is None
