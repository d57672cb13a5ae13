"""Text and tables for a terminal: nothing is cut off, and no text can change the terminal's state."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import IO

from rich.cells import cell_len
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

__all__ = ["build_table", "open_console", "plain", "print_line"]

PIPE_WIDTH = 180  # columns of a table that is written to a pipe or a file

_FRAME = 3  # a column's two spaces and one line; the table has one line more

Cell = str | Text


def plain(text: object) -> str:
    r"""Return text on one line, with each character that cannot be printed as its escape sequence.

    Control characters could move the cursor or recolour a terminal, and a line end could forge a line of
    output.

    >>> plain("a\nb\x1b[31mc é 日本")
    'a\\nb\\x1b[31mc é 日本'
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in str(text)
    )


def print_line(text: object, file: IO[str] | None = None) -> None:
    """Print text as one line that :func:`plain` has made safe.

    Args:
        text: The line.
        file: Where to print; by default standard output.
    """
    print(plain(text), file=file, flush=True)


def open_console(file: IO[str] | None = None) -> Console:
    """Return a console of the terminal's width; in a pipe or a file, of 180 columns.

    Args:
        file: Where to print; by default standard output.
    """
    # Not `Console.is_terminal`: the variable FORCE_COLOR makes that true in a pipe.
    on_terminal = (file or sys.stdout).isatty()
    return Console(file=file) if on_terminal else Console(file=file, width=PIPE_WIDTH)


def build_table(
    console: Console,
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    numbers: bool = False,
) -> Group:
    """Lay out a table in the width of a console, so that every character of every cell is shown.

    A cell that is too long is folded. If the columns with their longest words do not fit side by side, the
    table continues below with the first column repeated.

    Args:
        console: The console for which the table is laid out.
        title: Title above the table; no title for an empty text.
        header: Names of the columns, one or more.
        rows: Cells of each row, as many as ``header``. Text is printed literally, including rich's markup.
        numbers: Align all columns but the first to the right.

    Returns:
        One rich table or several.
    """
    cells = [[_text(cell) for cell in row] for row in [list(header), *rows]]
    columns = [list(column) for column in zip(*cells, strict=True)]
    tables = []
    for number, block in enumerate(_blocks(columns, console.width)):
        table = Table(
            title=Text(plain(title)) if title and not number else None,
            title_justify="left",
        )
        widths = _widths([columns[i] for i in block], console.width)
        for i, width in zip(block, widths, strict=True):
            table.add_column(
                columns[i][0], width=width, overflow="fold", justify="right" if numbers and i else "left"
            )
        for row in cells[1:]:
            table.add_row(*(row[i] for i in block))
        tables.append(table)
    return Group(*tables)


def _text(cell: Cell) -> Text:
    return cell if isinstance(cell, Text) else Text(plain(cell))


def _needed(column: Sequence[Text], width: int) -> int:
    """Return the width that breaks no word of a column, at most a third of the console's width."""
    words = [word for cell in column for word in cell.plain.split()]
    return max(1, min(max(map(cell_len, words), default=1), (width - 1) // 3 - _FRAME))


def _blocks(columns: Sequence[Sequence[Text]], width: int) -> list[list[int]]:
    """Divide the columns into tables that fit; each begins with the first column."""
    needed = [_needed(column, width) + _FRAME for column in columns]
    blocks = [[0]]
    for i in range(1, len(columns)):
        if 1 + needed[i] + sum(needed[j] for j in blocks[-1]) > width and len(blocks[-1]) > 1:
            blocks.append([0])
        blocks[-1].append(i)
    return blocks


def _widths(columns: Sequence[Sequence[Text]], width: int) -> list[int]:
    """Give each column the width of its words, then divide the rest among the columns with longer cells."""
    wanted = [max(1, *(cell_len(cell.plain) for cell in column)) for column in columns]
    widths = [_needed(column, width) for column in columns]
    rest = width - 1 - sum(widths) - _FRAME * len(widths)
    while rest > 0 and (short := [i for i, want in enumerate(wanted) if widths[i] < want]):
        least = min(short, key=lambda i: widths[i])
        widths[least] += 1
        rest -= 1
    return widths
