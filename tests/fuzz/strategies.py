"""Hypothesis strategies: edits of good files, values of options, odd words of a command line."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

__all__ = ["Edit", "edits", "keys", "nested", "odd_words", "yaml_text"]

DEEP = 20_000

INSERTS: tuple[bytes, ...] = (
    *(
        b'"',
        b"'",
        b"\0",
        b"\xef\xbb\xbf",
        b"\r\n",
        b"\r",
        b"\x1b[31m",
        b"\t",
        b",",
        b"|",
        b"\xff\xfe",
        b"\x85",
    ),
    *(
        b"9" * 400,
        b"-1",
        b"NaN",
        b"-inf",
        b"1e999",
        b"1e-400",
        b"0x1F",
        b"NA",
        b"null",
        b"true",
        b"2024-99-99",
    ),
    *("\u2028".encode(), "\u202e".encode(), "\u0661".encode(), b"\xed\xa0\x80", b"=1+1", b"[/x]", b"a[/b]"),
    *(
        b": ",
        b"- ",
        b"{",
        b"}",
        b"[",
        b"&a [*a, *a]",
        b"*a",
        b"!!int x",
        b"!!binary x",
        b"<<: 3\n",
        b"%YAML 9",
    ),
    *(
        b"!!python/object/apply:os.mkdir [pwned]\n",
        b"? [a]\n: b\n",
        b"[" * 3_000,
        b'"' * 3,
        b"\n\n\n",
        b"    ",
    ),
)

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)

WHOLES: tuple[bytes, ...] = (
    *(
        b"",
        b"\n",
        b"\0" * 64,
        b"[]",
        b"{}",
        b"null",
        b"3",
        b'"x"',
        b"a",
        b"- a\n- b\n",
        b"NaN",
        b'{"a": NaN}',
    ),
    *(
        b"[" * DEEP,
        b'{"a":' * DEEP,
        b"- " * DEEP,
        BOMB.encode(),
        b"a: 1\na: 2\n",
        b"!!set {a, b}\n",
        b"1: 2\n",
    ),
    *("a: 1\n".encode("utf-16"), b"%PDF-1.4", b"\x93NUMPY\x01\x00", b"PK\x03\x04", b"\x1f\x8b\x08\x00"),
    *(
        b"user_id:token\titem_id:token\n",
        b"user_id\titem_id\nu\ti\n",
        b"a:token\ta:token\n1\t2\n",
        b"x" * 200_000,
    ),
    b"user_id:token\titem_id:token\trating:float\nu1\ti1\tmany\n",
)

NPY: tuple[tuple[bytes, bytes], ...] = (
    *(
        (b"'<f4'", new)
        for new in (b"'|O'", b"'<i8'", b"'>f4'", b"'<U3'", b"'zzz'", b"'<f2'", b"[('a', '<f4')]")
    ),
    *((b"(2", new) for new in (b"(-2", b"(9" + b"9" * 30, b"(True, 2", b"(2.5, 2", b"('x', 2", b"((2,), 2")),
    *((b"False", new) for new in (b"True ", b"None ", b"3    ", b"[]")),
    *((b"'descr'", new) for new in (b"'decsr'", b"3", b"__import__('os').mkdir('pwned')")),
)

PLACES = ("regular", "gone", "folder", "pipe", "loop", "zero", "nowhere")


@dataclass(frozen=True)
class Edit:
    """One change of one file: its kind, where in the file (0 to 1), and what is put there."""

    file: str
    kind: str
    where: float = 0.0
    what: bytes = b""

    def apply(self, root: Path) -> None:
        """Change the file below ``root``; do nothing if an earlier edit has replaced it by something else."""
        path = root / self.file
        if not path.is_file() or path.is_symlink():
            return
        if self.kind in PLACES:
            path.unlink()
            _place(path, self.kind)
        else:
            path.write_bytes(self._changed(path.read_bytes()))

    def _changed(self, data: bytes) -> bytes:
        at = int(self.where * len(data))
        if self.kind == "flip" and data:
            at = min(at, len(data) - 1)
            return data[:at] + bytes([data[at] ^ (self.what[0] if self.what else 1)]) + data[at + 1 :]
        if self.kind == "cut":
            return data[:at]
        if self.kind == "insert":
            return data[:at] + self.what + data[at:]
        if self.kind == "whole":
            return self.what
        if self.kind == "npy":
            old, _, new = self.what.partition(b"=>")
            return data.replace(old, new, 1)
        return self._lines(data, at)

    def _lines(self, data: bytes, at: int) -> bytes:
        lines = data.splitlines(keepends=True)
        if not lines:
            return data
        row = min(data[:at].count(b"\n"), len(lines) - 1)
        if self.kind == "repeat":
            lines.insert(row, lines[row])
        elif self.kind == "drop":
            del lines[row]
        elif self.kind == "crlf":
            lines = [line.replace(b"\n", b"\r\n") for line in lines]
        elif self.kind == "header":
            lines[0] = self.what + lines[0]
        elif self.kind == "value":  # the value of a YAML or JSON line, or the last cell of a row
            for mark in (b": ", b"\t", b","):
                if mark in lines[row]:
                    lines[row] = lines[row].rpartition(mark)[0] + mark + self.what + b"\n"
                    break
        return b"".join(lines)


def _place(path: Path, kind: str) -> None:
    """Put something at a path that is no regular file, or nothing."""
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "zero":
        path.symlink_to("/dev/zero")
    elif kind == "nowhere":
        path.symlink_to(path.with_name("nowhere"))


def edits(files: Sequence[str], most: int = 3) -> st.SearchStrategy[list[Edit]]:
    """Draw one to ``most`` edits of some of ``files``."""
    where = st.floats(0, 1, width=16)
    inserted = st.sampled_from(INSERTS) | st.binary(min_size=1, max_size=4)

    def of(file: str) -> st.SearchStrategy[Edit]:
        kinds: list[st.SearchStrategy[Edit]] = [
            st.builds(
                Edit, st.just(file), st.sampled_from(["insert", "flip", "value", "header"]), where, inserted
            ),
            st.builds(Edit, st.just(file), st.sampled_from(["cut", "repeat", "drop", "crlf"]), where),
            st.builds(Edit, st.just(file), st.just("whole"), st.just(0.0), st.sampled_from(WHOLES)),
            st.builds(Edit, st.just(file), st.sampled_from(PLACES[1:])),
        ]
        if file.endswith(".npy"):
            changed = st.sampled_from(NPY).map(b"=>".join)
            kinds.append(st.builds(Edit, st.just(file), st.just("npy"), st.just(0.0), changed))
        return st.one_of(kinds)

    return st.lists(st.sampled_from(list(files)).flatmap(of), min_size=1, max_size=most)


ODD_TEXT = (
    *(
        "",
        " ",
        "None",
        "null",
        "~",
        "nan",
        "inf",
        "-inf",
        "-1",
        "0",
        "1",
        "1.5",
        "True",
        "no",
        "abc",
        "[]",
        "{}",
    ),
    *(
        "[a, b]",
        "{a: b}",
        "{a: {b: c}}",
        "[1, [2]]",
        "[",
        "{",
        "'",
        '"',
        "a: b",
        "!!python/name:os.system",
        "&a",
    ),
    *(
        "9" * 400,
        "1e999",
        "1e-3",
        "../x",
        "/",
        "a b",
        "a\nb",
        "\x1b[31mx",
        "=1",
        "[/x]",
        "a[/b]",
        "\u0661",
        "\u202e",
    ),
    *(
        "2024-01-01",
        "2024-99-99",
        "0x1f",
        "0o7",
        "1_000",
        "1:30",
        "!!int x",
        "007",
        "é",
        "|",
        "\\",
        "%s",
        "{}{0}",
    ),
)

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 5),
    st.sampled_from([2**31, 2**63, 10**30, -(10**30)]),
    st.floats(-2, 2, width=16),
    st.sampled_from([float("nan"), float("inf"), 1e300]),
    st.sampled_from(ODD_TEXT),
    st.dates().filter(lambda date: date.year > 999),
)

NESTED = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(ODD_TEXT), inner, max_size=3),
    max_leaves=5,
)

DICTS: dict[str, tuple[Any, ...]] = {
    "eval_args": (
        "split",
        "spilt",
        "group_by",
        "groupby",
        "order",
        "mode",
        "RS",
        "LS",
        "TO",
        "full",
        "labeled",
    ),
    "train_neg_sample_args": ("distribution", "sample_num", "sample_numb", "alpha", "dynamic", "uniform"),
    "load_col": ("inter", "item", "user_id", "item_id", "rating"),
    "cold_start": ("kind", "item", "user", "share", "item_few_shot", "max_train"),
    "features": ("image", "text", "train", "3d", "toy.image.npy"),
}


def nested(key: str) -> st.SearchStrategy[Any]:
    """Draw a value of a key: any kind, or a dict with words that such a dict has, and near misses."""
    words = DICTS.get(key)
    if words is None:
        return NESTED
    word = st.sampled_from(words)
    value = st.one_of(
        word, SCALARS, st.lists(word | SCALARS, max_size=3), st.dictionaries(word, NESTED, max_size=2)
    )
    return st.one_of(NESTED, st.dictionaries(word, value, max_size=3))


def near(default: Any) -> st.SearchStrategy[Any]:
    """Draw a value of the same kind as a default: what a range may or may not contain."""
    if isinstance(default, bool):
        return st.booleans()
    if isinstance(default, int):
        return st.sampled_from([0, 1, 2, 3, 7, -1])
    if isinstance(default, float):
        return st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0, -0.1, 1e-30, 1e30])
    if isinstance(default, list):
        return st.lists(st.sampled_from([*default, 1, 0, -1, 2, "x"]), max_size=3)
    return st.just(default)


def keys(defaults: Mapping[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Draw values of some keys, or of a near miss of a key.

    Args:
        defaults: Known key -> its default, or None.
    """
    name = st.sampled_from([*defaults, *DICTS])

    def pair(key: str) -> st.SearchStrategy[tuple[str, Any]]:
        value = st.one_of(near(defaults.get(key)), near(defaults.get(key)), nested(key))
        return st.tuples(st.sampled_from([key] * 9 + [key[:-1] or "x"]), value)

    return st.lists(name.flatmap(pair), min_size=1, max_size=3).map(dict)


def yaml_text(values: Any) -> str:
    """Return values as YAML, or as JSON where YAML cannot represent one."""
    try:
        return str(yaml.safe_dump(values, allow_unicode=True))
    except (yaml.YAMLError, ValueError):
        return json.dumps(values, default=str)


def odd_words() -> st.SearchStrategy[list[str]]:
    """Draw words that a user could type by mistake."""
    word = st.sampled_from(
        ["--", "--=", "--=x", "-x", "--x", "x=y", "--topk", "--help=3", "\0", "é", "--é=1", "-"]
    )
    return st.lists(word | st.sampled_from(ODD_TEXT), max_size=3)
