"""Prompts: a file with a system part and a question, filled for each item or user."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from recbole_siger.common.digests import canonical_digest
from recbole_siger.common.tables import Row, Table
from recbole_siger.common.templates import fill_template, template_fields
from recbole_siger.errors import UserError
from recbole_siger.options.resources import find_resource, regular_file

__all__ = ["Prompt", "PromptFile", "item_prompts", "item_texts", "user_prompts"]

Kind = Literal["item", "user"]

FIELD = {"item": "item", "user": "history"}
"""The field that a prompt of each kind must contain."""

Reviews = Mapping[tuple[str, str], str]


@dataclass(frozen=True)
class Prompt:
    """The prompt for one item or user."""

    token: str
    system: str
    question: str

    def key(self, facts: Mapping[str, Any]) -> str:
        """Return 64 hexadecimal digits for the prompt, the model and the settings of the request."""
        asked = {"system": self.system, "question": self.question, **facts}
        return canonical_digest(asked, digits=64)

    def tokens(self) -> int:
        """Estimate the tokens of the prompt, at four characters each.

        >>> Prompt("i1", "", "What is it?!").tokens()
        3
        """
        return -(-len(self.system + self.question) // 4)


@dataclass(frozen=True)
class PromptFile:
    """A prompt file: the system part, a line ``---``, the question."""

    name: str
    system: str
    question: str

    @classmethod
    def read(cls, kind: Kind, path: Path | None = None) -> PromptFile:
        """Read ``path``, or the shipped prompt of the kind.

        Raises:
            UserError: If the file is missing, is not UTF-8, or its field is not exactly ``{item}`` or
                ``{history}``.
        """
        path = path or find_resource(f"properties/prompts/{kind}.txt")
        if path is None:
            raise UserError(f"properties/prompts/{kind}.txt: is missing; install the package again.")
        regular_file(path, "prompt file", "name a text file with the prompt in --prompt.")
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            line = path.read_bytes()[: error.start].count(b"\n") + 1
            raise UserError(f"{path}: line {line:,} is not UTF-8; save the prompt as UTF-8.") from None
        system, _, question = text.rpartition("\n---\n")
        field = FIELD[kind]
        if template_fields(question) != (field,) or template_fields(system):
            raise UserError(
                f"{path}: a prompt of kind {kind!r} must have {{{field}}} in the last part, and no other "
                "name in braces."
            )
        return cls(path.name, system.strip(), question.strip())

    @property
    def sha256(self) -> str:
        """SHA-256 of both parts."""
        return hashlib.sha256(f"{self.system}\n---\n{self.question}".encode()).hexdigest()

    def fill(self, kind: Kind, token: str, text: str) -> Prompt:
        """Make the prompt for one item or user."""
        return Prompt(token, self.system, fill_template(self.question, {FIELD[kind]: text}))


def item_prompts(file: PromptFile, table: Table, columns: Sequence[str]) -> Iterator[Prompt]:
    """Yield a prompt for each item with at least one non-empty column."""
    for item, row in table.all_rows():
        told = [(column, _one_line(row[column])) for column in columns]
        lines = [f"{column}: {value}" for column, value in told if value]
        if lines:
            yield file.fill("item", item, "\n".join(lines))


def user_prompts(
    file: PromptFile,
    histories: Mapping[str, Sequence[str]],
    texts: Mapping[str, str],
    reviews: Reviews,
    max_history: int,
) -> Iterator[Prompt]:
    """Yield a prompt for each user with at least one item that has a text.

    Args:
        file: The prompt file.
        histories: User -> items of the training rows, oldest first.
        texts: Item -> text shown in the prompt.
        reviews: (User, item) -> review, of training rows only.
        max_history: Number of items that a prompt shows, the most recent ones.
    """
    for user, items in histories.items():
        lines = []
        for item in [item for item in items if item in texts][-max_history:]:
            review = reviews.get((user, item))
            lines.append(f"- {texts[item]}" + (f" | review: {review}" if review else ""))
        if lines:
            yield file.fill("user", user, "\n".join(lines))


def item_texts(table: Table, columns: Sequence[str]) -> dict[str, str]:
    """Map each item to its non-empty columns, on one line."""
    texts = {}
    for item, row in table.all_rows():
        if text := _joined(row, columns):
            texts[item] = text
    return texts


def _joined(row: Row, columns: Sequence[str]) -> str:
    return "; ".join(value for column in columns if (value := _one_line(row[column])))


def _one_line(text: str) -> str:
    return " ".join(text.split())
