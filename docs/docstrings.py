"""Turn the reStructuredText of our docstrings into Markdown, for the API pages of the site."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?!math)[a-z]+:`~?([^`]+)`")
MATH = re.compile(r":math:`([^`]+)`")
BLOCK = re.compile(r"^( *)\.\. math::(.*)\n((?:\1 +.*\n|[ \t]*\n)*)", flags=re.M)
DOCTEST = re.compile(r"^( *)>>> .*\n(?:\1\S.*\n)*(?:\1 +.*\n)*", flags=re.M)
TABLE = re.compile(r"^( *)(=+(?: +=+)+)\n(.*\n)\1\2\n((?:.*\n)+?)\1\2$", flags=re.M)


class Markdown(griffe.Extension):
    """Rewrite each docstring of the package before it is parsed."""

    def on_object(self, *, obj: griffe.Object, loader: griffe.GriffeLoader, **kwargs: Any) -> None:
        """Rewrite the docstring of one module, class, function or attribute."""
        if obj.docstring:
            obj.docstring.value = to_markdown(obj.docstring.value)


def to_markdown(text: str) -> str:
    """Return a docstring with doctests fenced, and with roles, equations and tables in Markdown."""
    text = TABLE.sub(_table, text)  # first: the rulers mark columns of the original text
    text = DOCTEST.sub(_fence, text.rstrip("\n") + "\n")
    text = BLOCK.sub(_equation, text)
    text = MATH.sub(lambda match: rf"\({match[1]}\)", text)
    return ROLE.sub(r"`\1`", text).rstrip("\n")


def _fence(match: re.Match[str]) -> str:
    return f"{match[1]}```pycon\n{match[0]}{match[1]}```\n"


def _equation(match: re.Match[str]) -> str:
    lines = [match[2].strip(), *(line.strip() for line in match[3].splitlines())]
    body = "\n".join(f"{match[1]}{line}" for line in lines if line)
    return f"\n{match[1]}\\[\n{body}\n{match[1]}\\]\n\n"


def _table(match: re.Match[str]) -> str:
    """Cut the lines of a simple table at the columns that its rulers mark."""
    indent, ruler = match[1], match[2]
    starts = [one.start() for one in re.finditer("=+", ruler)]
    spans = list(zip(starts, [*starts[1:], None], strict=True))

    def row(line: str) -> str:
        line = line.removeprefix(indent)
        return indent + "| " + " | ".join(line[a:b].strip().replace("|", r"\|") for a, b in spans) + " |"

    ruled = f"{indent}|{'---|' * len(spans)}"
    return "\n".join([row(match[3].rstrip()), ruled, *map(row, match[4].splitlines())])
