"""Text for a terminal is harmless, and a table shows every character at every width."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from recbole_siger.common.terminal import PIPE_WIDTH, build_table, open_console, plain

HEADER = ["Model", "Seeds", "Recall@20", "NDCG@20", "a very long name of a column", "MiB"]
ROWS = [
    [
        "SIGER (n_semantic_neighbors=10)",
        "3",
        "0.1234 ± 0.0012",
        "0.0567 ± 0.0003",
        "some words here",
        "1,234",
    ],
    ["a[/x]b [bold]c", "11", "0.1200 ± 0.0100", "", "x" * 61, "17"],
]


def shown(width: int, title: str = "Title [/y] of the table") -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True, color_system=None)
    console.print(build_table(console, title, HEADER, ROWS, numbers=True))
    return out.getvalue()


def column_text(text: str) -> str:
    """Return all letters and digits of a rendering, without the frame."""
    return re.sub(r"\s|[^\x00-\xff…±]", "", text)


@pytest.mark.parametrize("width", [23, 40, 60, 80, 120, 200])
def test_nothing_is_cut_at_any_width(width: int) -> None:
    text = shown(width)
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in text.splitlines()]
    assert max(map(len, lines)) <= width
    assert "…" not in text
    cells = [re.split(r"[│┃]", line)[1:-1] for line in lines if line.startswith(("│", "┃"))]
    letters = sorted("".join(cell for row in cells for cell in row).replace(" ", ""))
    n_tables = sum(line.startswith("┏") for line in lines)
    first = "".join([HEADER[0], *(row[0] for row in ROWS)])
    whole = "".join(HEADER) + "".join("".join(row) for row in ROWS) + first * (n_tables - 1)
    assert letters == sorted(whole.replace(" ", ""))
    assert "Title[/y]ofthetable" in column_text(text)


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_a_number_is_never_broken(width: int) -> None:
    text = shown(width)
    for number in ("0.1234", "0.0012", "0.0567", "0.0100", "1,234"):
        assert number in text


def test_a_wide_console_needs_one_table_and_one_line_a_row() -> None:
    text = shown(200)
    assert text.count("┏") == 1
    assert "0.1234 ± 0.0012" in text
    assert "a[/x]b [bold]c" in text
    assert "SIGER (n_semantic_neighbors=10)" in text


def test_styles_are_kept_and_markup_is_text() -> None:
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True, color_system="standard", no_color=True)
    console.print(build_table(console, "", ["a"], [[Text("0.5", style="bold")], ["[bold]x[/bold]"]]))
    assert "\x1b[1m0.5" in out.getvalue()
    assert "[bold]x[/bold]" in out.getvalue()


def test_a_table_of_one_column_and_no_rows() -> None:
    console = Console(file=io.StringIO(), width=20)
    console.print(build_table(console, "", ["name"], []))
    assert "name" in console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO


def test_a_pipe_is_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    console = open_console(io.StringIO())
    assert (console.is_terminal, console.width) == (False, PIPE_WIDTH)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "71")
    assert open_console(io.StringIO()).width == PIPE_WIDTH


def test_a_terminal_has_its_own_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "71")
    monkeypatch.setenv("TERM", "xterm")
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True, raising=False)
    assert open_console(screen).width == 71


@given(st.text())
def test_plain_text_is_printable_and_text_that_was_stays(text: str) -> None:
    assert plain(text).isprintable()
    assert text.isprintable() <= (plain(text) == text)


def test_plain_text_cannot_move_the_cursor_or_forge_a_line() -> None:
    assert plain("a\x1b[2Jb\r\n\tc\u202e\x9b") == r"a\x1b[2Jb\r\n\tc\u202e\x9b"
    assert plain(0.5) == "0.5"
