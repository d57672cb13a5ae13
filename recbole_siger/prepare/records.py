"""Records of raw files, one at a time; what is broken is counted and kept for ``rejected.csv``."""

from __future__ import annotations

import ast
import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

from recbole_siger.common.records import read_records
from recbole_siger.errors import UserError

__all__ = ["Rejected", "find_file", "open_raw", "read_json_lines", "read_rows"]

LITERAL_ERRORS = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)
"""What ``ast.literal_eval`` raises for text that is no literal."""

UNDECODED = re.compile("[\udc80-\udcff]")
"""What the error handler ``surrogateescape`` leaves of bytes that are no text."""


class Rejected:
    """Records that could not be used: file, line (or record of a binary file) and reason."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, int, str]] = []

    def add(self, path: Path, line: int, reason: str) -> None:
        """Keep one record's place and reason."""
        self.rows.append((path.name, line, reason))

    def write(self, path: Path) -> None:
        """Write ``file,line,reason``, in the order in which they were met."""
        with path.open("w", encoding="utf-8", newline="") as handle:
            writer = csv.writer(handle, lineterminator="\n")
            writer.writerows([("file", "line", "reason"), *self.rows])

    def first(self, path: Path) -> str:
        """Tell the first rejected record of a file, for an error."""
        found = next(
            (f"line {line:,}: {reason}" for name, line, reason in self.rows if name == path.name), ""
        )
        return found or "the file is empty"


def find_file(folder: Path, names: Sequence[str]) -> Path | None:
    """Return the first of ``names`` that lies in ``folder``, compressed by gzip or not; None without any.

    Args:
        folder: Where to look.
        names: In the order of preference, without ``.gz``.
    """
    candidates = (folder / f"{name}{suffix}" for name in names for suffix in (".gz", ""))
    return next((path for path in candidates if path.is_file()), None)


@contextmanager
def open_raw(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading bytes, through gzip where its name ends in ``.gz``.

    Raises:
        UserError: If the file is missing, or the gzip data are damaged or cut short.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as handle:
            yield handle  # type: ignore[misc]  # a gzip file reads bytes, too
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; correct the path.") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: is damaged or cut short ({error}); download it again.") from error


def read_json_lines(
    path: Path, rejected: Rejected, *, literals: bool = False
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line number and record of a file with one JSON object a line; blank lines are skipped.

    Args:
        path: The file, compressed if its name ends in ``.gz``.
        rejected: Gets the lines that hold no object.
        literals: Whether a line may also be a Python dict literal, as in Amazon's files of 2014. It is
            parsed, never run.

    Raises:
        UserError: If the file is missing, or the gzip data are damaged or cut short.
    """
    with open_raw(path) as handle:
        for number, line in enumerate(handle, start=1):
            if not line.strip():
                continue
            try:
                record = _parse(line.decode("utf-8"), literals)
            except UnicodeDecodeError:
                rejected.add(path, number, "not UTF-8")
            except LITERAL_ERRORS:
                rejected.add(path, number, "neither JSON nor a Python literal" if literals else "not JSON")
            else:
                if isinstance(record, dict):
                    yield number, record
                else:
                    rejected.add(path, number, "not an object")


def _parse(text: str, literals: bool) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        if not literals:
            raise
        return ast.literal_eval(text.strip())


def read_rows(
    path: Path, rejected: Rejected, *, sep: str = ",", encoding: str = "utf-8-sig", quoted: bool = True
) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and cells of a table, a header among them; blank lines are skipped.

    A row with another number of cells than the first is rejected.

    Args:
        path: The file, compressed if its name ends in ``.gz``.
        rejected: Gets the lines that are broken.
        sep: What separates cells, one character or more.
        encoding: Of the text; a character that is none rejects its row.
        quoted: Whether ``"`` may enclose a cell; never with a separator of several characters.

    Raises:
        UserError: If the file is missing, or the gzip data are damaged or cut short.
    """
    width = None
    with open_raw(path) as handle:
        lines = (line.decode(encoding, errors="surrogateescape") for line in handle)
        refuse = partial(rejected.add, path)
        quotes = quoted and len(sep) == 1
        for number, n_lines, cells in read_records(lines, sep, refuse, quoted=quotes):
            width = width or len(cells)
            if any(map(UNDECODED.search, cells)):
                rejected.add(path, number, f"not {encoding.removesuffix('-sig').upper()}")
            elif len(cells) != width:
                span = f" in lines {number - n_lines + 1:,} to {number:,}" if n_lines > 1 else ""
                rejected.add(path, number, f"{len(cells)} cells{span}, {width} expected")
            else:
                yield number, cells
