"""Elements of an offline HTML page. Every text is escaped, so a run folder adds no tag to a page."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from recbole_siger.common.terminal import plain
from recbole_siger.report.figures import svg_bytes

__all__ = ["Cell", "details", "element", "page", "picture", "table"]

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --paper: #fff; --ink: #222; --quiet: #595959; --line: #d5d5d5;
  --block: #f4f4f4; --best: #0b5c3b; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --paper: #16181c; --ink: #e4e4e4; --quiet: #a8adb5; --line: #3a3f47; --block: #21252b;
    --best: #7fd6ab; }}
}}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 sans-serif;
  overflow-wrap: anywhere; }}
main {{ max-width: 76em; margin: 0 auto; padding: 1em; }}
h2 {{ margin-top: 2em; border-bottom: 2px solid var(--line); }}
.quiet, caption {{ color: var(--quiet); }}
.wide {{ overflow-x: auto; max-width: 100%; margin: 1em 0; }}
.wide:focus-visible, summary:focus-visible {{ outline: 2px solid currentColor; }}
table {{ border-collapse: collapse; }}
caption {{ text-align: left; padding-bottom: .3em; }}
caption > span {{ position: sticky; left: 0; display: inline-block; max-width: min(90vw, 60em); }}
th, td {{ padding: .25em .7em; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap;
  vertical-align: top; }}
th:first-child {{ text-align: left; position: sticky; left: 0; background: var(--paper);
  white-space: normal; overflow-wrap: break-word; max-width: min(45vw, 24em); }}
.words td, .words th {{ text-align: left; white-space: normal; overflow-wrap: break-word; max-width: 24em; }}
.words td {{ min-width: 9em; }}
strong {{ color: var(--best); }}
figure {{ margin: 1em 0; }}
img {{ max-width: 100%; height: auto; background: #fff; border-radius: 4px; }}
figcaption {{ color: var(--quiet); }}
details {{ margin: .5em 0; }}
summary {{ cursor: pointer; }}
pre {{ background: var(--block); padding: 1em; overflow-x: auto; overflow-wrap: normal; }}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""


@dataclass(frozen=True)
class Cell:
    """A cell of a table; the best value of a column is bold."""

    text: str
    best: bool = False


def page(title: str, parts: Sequence[str]) -> str:
    """Return a page of parts that are HTML already."""
    return _PAGE.format(title=_text(title), body="\n".join(parts))


def element(tag: str, text: str, css: str = "") -> str:
    """Return one element with a text.

    >>> element("p", "a < b")
    '<p>a &lt; b</p>'
    """
    return f"<{tag}{_css(css)}>{_text(text)}</{tag}>"


def details(summary: str, content: str) -> str:
    """Return a part that opens on a click; ``content`` is HTML already."""
    return f"<details><summary>{_text(summary)}</summary>{content}</details>"


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str | Cell]], css: str = "") -> str:
    """Return a table in a box that scrolls sideways.

    Args:
        caption: What the table shows.
        head: Names of the columns.
        rows: Cells; the first cell of each row names the row.
        css: Class of the table.
    """
    top = "".join(f'<th scope="col">{_text(name)}</th>' for name in head)
    body = "".join(f"<tr>{''.join(map(_cell, row, range(len(row))))}</tr>\n" for row in rows)
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{_text(caption)}">'
        f"<table{_css(css)}><caption><span>{_text(caption)}</span></caption>\n"
        f"<thead><tr>{top}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def picture(figure: Any, text: str) -> str:
    """Return a figure inside the page, with a text for readers who do not see the figure."""
    data = base64.b64encode(svg_bytes(figure)).decode("ascii")
    size = figure.get_size_inches()
    width, height = (round(float(inches) * 150) for inches in size)
    return (
        f'<figure><img alt="{_text(text)}" width="{width}" height="{height}" '
        f'src="data:image/svg+xml;base64,{data}"><figcaption>{_text(text)}</figcaption></figure>'
    )


def _cell(cell: str | Cell, place: int) -> str:
    text = _text(cell.text if isinstance(cell, Cell) else cell)
    if isinstance(cell, Cell) and cell.best:
        text = f"<strong>{text}</strong>"
    return f'<th scope="row">{text}</th>' if place == 0 else f"<td>{text}</td>"


def _css(name: str) -> str:
    return f' class="{name}"' if name else ""


def _text(text: str) -> str:
    return html.escape(plain(text))
