"""A comparison as LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence

from recbole_siger.common.terminal import plain
from recbole_siger.report.cells import (
    Style,
    body_rows,
    header_cells,
    notes_of,
    paired_header,
    paired_rows,
)
from recbole_siger.report.comparison import Comparison

__all__ = ["latex", "latex_table", "latex_text"]


def latex(comparisons: Sequence[Comparison]) -> str:
    r"""Write ``table`` environments; they need the package booktabs."""
    style = Style(
        bold=lambda text: f"\\textbf{{{text}}}",
        underline=lambda text: f"\\underline{{{text}}}",
        escape=latex_text,
        plus_minus="$\\pm$",
        dash="--",
        percent="\\%",
    )
    parts = ["% Needs \\usepackage{booktabs}."]
    for comparison in comparisons:
        parts.append(latex_table(header_cells(comparison), body_rows(comparison, style), comparison.title))
        if tests := paired_rows(comparison, style):
            rows = [[label, *map(_latex_math, numbers)] for label, *numbers in tests]
            title = f"{comparison.title}: {comparison.rows[0].label} against the others"
            parts.append(latex_table(paired_header(comparison), rows, title))
        parts += ["% " + note for note in notes_of(comparison)]
    return "\n\n".join(parts) + "\n"


def latex_table(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """Write one ``table`` environment.

    Args:
        header: Names of the columns, not escaped.
        rows: Cells of each row, escaped.
        caption: Caption, not escaped.
    """
    lines = [" & ".join(line) + r" \\" for line in rows]
    head = " & ".join(map(latex_text, header)) + r" \\"
    columns = "l" + "r" * (len(header) - 1)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{latex_text(caption)}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            head,
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


_LATEX = {
    "\\": r"\textbackslash{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "±": r"$\pm$",
    "→": r"$\rightarrow$",
    # The end of a row, `\\\\`, reads a bracket after it as its argument.
    "[": "{[}",
    "]": "{]}",
}


def latex_text(text: str) -> str:
    r"""Escape what LaTeX would read as a command.

    >>> print(latex_text("ablation=mp_weight & 5 %"))
    ablation=mp\_weight \& 5 \%
    """
    return "".join(_LATEX.get(letter, letter) for letter in plain(text))


def _latex_math(cell: str) -> str:
    """Write a signed number, or a bound of a number, in math mode; in text mode a minus is a hyphen."""
    return f"${cell}$" if re.match(r"[-+<\[]", cell) else cell
