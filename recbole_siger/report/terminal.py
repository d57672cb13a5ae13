"""A comparison as tables on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from recbole_siger.common.terminal import build_table
from recbole_siger.report.cells import Style, body_rows, header_cells, notes_of, paired_header, paired_rows
from recbole_siger.report.comparison import Comparison

__all__ = ["show_tables"]

_STYLE = Style(
    bold=lambda text: Text.assemble((text, "bold")),
    underline=lambda text: Text.assemble((text, "underline")),
    escape=str,  # `build_table` prints text literally
)


def show_tables(comparisons: Sequence[Comparison], console: Console) -> None:
    """Print tables with their notes in the width of a console; nothing is cut."""
    for number, comparison in enumerate(comparisons):
        if number:
            console.print()
        body = body_rows(comparison, _STYLE)
        console.print(build_table(console, comparison.title, header_cells(comparison), body, numbers=True))
        if tests := paired_rows(comparison, _STYLE):
            console.print(build_table(console, "", paired_header(comparison), tests, numbers=True))
        for note in notes_of(comparison):
            console.print(Text(note, overflow="fold"))
