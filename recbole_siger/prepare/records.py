"""Records of raw files, one at a time; broken records are counted and stored for ``rejected.csv``."""

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
from recbole_siger.options.resources import regular_file

__all__ = ["Rejected", "find_file", "open_raw", "read_json_lines", "read_rows"]

LITERAL_ERRORS = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)
"""Exceptions of ``ast.literal_eval`` for text that is not a literal."""

MAX_LINE = 2**26
"""Bytes of a line: a record with a long text has some thousands."""

MAX_RATIO = 250
"""Bytes that one byte of a gzip file may become: text becomes 3 to 20 times as long, zeros 1,030 times."""

UNDECODED = re.compile("[\udc80-\udcff]")
"""Characters by which the error handler ``surrogateescape`` represents bytes that are not text."""


class Rejected:
    """Unusable records: file, line (or record of a binary file) and reason."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, int, str]] = []

    def add(self, path: Path, line: int, reason: str) -> None:
        """Store the place of a record and the reason."""
        self.rows.append((path.name, line, reason))

    def write(self, path: Path) -> None:
        """Write ``file,line,reason``, in the order of rejection."""
        with path.open("w", encoding="utf-8", newline="") as handle:
            writer = csv.writer(handle, lineterminator="\n")
            writer.writerows([("file", "line", "reason"), *self.rows])

    def first(self, path: Path) -> str:
        """Return the place and reason of the first rejected record of a file, for an error message."""
        found = next(
            (f"line {line:,}: {reason}" for name, line, reason in self.rows if name == path.name), ""
        )
        return found or "the file is empty"


def find_file(folder: Path, names: Sequence[str]) -> Path | None:
    """Return the first of ``names`` that exists in ``folder``, compressed by gzip or not; None without any.

    Args:
        folder: Folder to search.
        names: Names without ``.gz``, in order of preference.
    """
    candidates = (folder / f"{name}{suffix}" for name in names for suffix in (".gz", ""))
    return next((path for path in candidates if path.is_file()), None)


@contextmanager
def open_raw(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading bytes; decompress a name that ends in ``.gz``.

    Raises:
        UserError: If the file is missing, or the gzip data are damaged or truncated.
    """
    regular_file(path, "file", "correct the path.")
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as handle:
            yield handle  # type: ignore[misc]  # a gzip file reads bytes, too
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: is damaged or truncated ({error}); download it again.") from error


def _lines(path: Path, handle: IO[bytes]) -> Iterator[bytes]:
    """Yield the lines of an open raw file, none of which may fill the memory.

    Raises:
        UserError: If a line is longer than ``MAX_LINE``, or compressed data grow beyond ``MAX_RATIO``.
    """
    limit = max(MAX_RATIO * path.stat().st_size, MAX_LINE) if path.suffix == ".gz" else None
    number = n_bytes = 0
    while line := handle.readline(MAX_LINE + 1):
        number, n_bytes = number + 1, n_bytes + len(line)
        if len(line) > MAX_LINE:
            raise UserError(
                f"{path}: line {number:,} has more than {MAX_LINE:,} bytes; write one record a line."
            )
        if limit is not None and n_bytes > limit:
            raise UserError(
                f"{path}: line {number:,}: its {path.stat().st_size:,} bytes unpack to more than {limit:,}, "
                "which no text does; download the file again, or unpack it yourself."
            )
        yield line


def read_json_lines(
    path: Path, rejected: Rejected, *, literals: bool = False
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line number and record of a file with one JSON object a line; blank lines are skipped.

    Args:
        path: The file, compressed if its name ends in ``.gz``.
        rejected: Collects the lines without an object.
        literals: Whether a line may also be a Python dict literal, as in Amazon's files of 2014. Literals are
            parsed, never executed.

    Raises:
        UserError: If the file is missing, or the gzip data are damaged or truncated.
    """
    with open_raw(path) as handle:
        for number, line in enumerate(_lines(path, handle), start=1):
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
    """Yield line number and cells of a table, including the header; blank lines are skipped.

    A row is rejected if its number of cells differs from the first row's.

    Args:
        path: The file, compressed if its name ends in ``.gz``.
        rejected: Collects the broken lines.
        sep: Separator of cells, one or more characters.
        encoding: Encoding of the text; a row with bytes outside the encoding is rejected.
        quoted: Whether ``"`` may enclose a cell; not with a separator of several characters.

    Raises:
        UserError: If the file is missing, or the gzip data are damaged or truncated.
    """
    width = None
    with open_raw(path) as handle:
        lines = (line.decode(encoding, errors="surrogateescape") for line in _lines(path, handle))
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
