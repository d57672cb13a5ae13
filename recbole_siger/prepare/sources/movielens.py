"""MovieLens (Harper and Konstan, TiiS 2015) in three layouts: ml-100k, ml-1m, and the later csv files."""

from __future__ import annotations

import re
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from recbole_siger.common.files import atomic_path
from recbole_siger.errors import UserError
from recbole_siger.prepare.download import Download
from recbole_siger.prepare.interactions import Interactions, Row, collect, number, read_token
from recbole_siger.prepare.item_table import ItemTable
from recbole_siger.prepare.manifest import PUBLISHED
from recbole_siger.prepare.pipeline import Source
from recbole_siger.prepare.records import Rejected, read_rows

__all__ = ["EDITIONS", "MovieLens", "unpack"]

URL = "https://files.grouplens.org/datasets/movielens/{}.zip"
EDITIONS = {
    "ml-100k": "md5:0e33842e24a9c977be4e0107933c0723",
    "ml-1m": "md5:c4d9eecfca2ab87c1945afe126590906",
    "ml-10m": None,
    "ml-20m": None,
    "ml-25m": None,
    "ml-32m": None,
    "ml-latest-small": None,
}
"""Edition -> the checksum that GroupLens prints, for the editions that never change."""

MAX_ARCHIVE = 2**30
"""Bytes: the largest archive, that of ml-25m, has 262 million."""

MAX_UNPACKED, MAX_RATIO = 2**33, 100
"""Bytes of a file in an archive, and how many of them one byte of the archive may become.

The largest, ratings.csv of ml-32m, has 877 million; text becomes 3 to 10 times as long."""

GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"),
    *("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery"),
    *("Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
"""The last columns of ``u.item``, in the order of ``u.genre``."""


@dataclass(frozen=True)
class _Layout:
    ratings: str
    movies: str
    sep: str
    movie_sep: str
    encoding: str
    header: bool
    genres: Callable[[list[str]], str]


def _flags(cells: list[str]) -> str:
    return " ".join(genre for genre, flag in zip(GENRES, cells[5:], strict=False) if flag == "1")


def _bars(cells: list[str]) -> str:
    return "" if cells[2] == "(no genres listed)" else cells[2].replace("|", " ")


LAYOUTS = (
    _Layout("u.data", "u.item", "\t", "|", "latin-1", False, _flags),
    _Layout("ratings.dat", "movies.dat", "::", "::", "latin-1", False, _bars),
    _Layout("ratings.csv", "movies.csv", ",", ",", "utf-8-sig", True, _bars),
)
HEADERS = {
    "ratings.csv": ["userId", "movieId", "rating", "timestamp"],
    "movies.csv": ["movieId", "title", "genres"],
}
"""First lines of the csv files, which are read by position."""


class MovieLens(Source):
    """A folder with ``u.data``, ``ratings.dat`` or ``ratings.csv``, and optionally the file of movies.

    The file names decide the layout. The edition, if it is given, is stored in the manifest and selects the
    published counts. Only ml-100k has ``u.data``.
    """

    def __init__(self, folder: Path, edition: str | None = None) -> None:
        if edition is not None:
            _check_edition(edition)
        found = [layout for layout in LAYOUTS if (folder / layout.ratings).is_file()]
        if len(found) != 1:
            names = ", ".join(layout.ratings for layout in LAYOUTS)
            raise UserError(
                f"{folder}: expected one of {names}, found {len(found)}; name the folder of one edition, or "
                "add --download --edition=ml-100k."
            )
        self._folder, self._layout = folder, found[0]
        self._edition = edition or ("ml-100k" if self._layout.ratings == "u.data" else "unknown")
        self._ratings = folder / self._layout.ratings
        self._movies = folder / self._layout.movies

    @staticmethod
    def downloads(edition: str) -> list[Download]:
        """List the archive of an edition.

        Raises:
            UserError: If the edition is unknown.
        """
        _check_edition(edition)
        return [Download(URL.format(edition), f"{edition}.zip", MAX_ARCHIVE, EDITIONS[edition])]

    def folder(self) -> Path:
        """See ``Source``."""
        return self._folder

    def facts(self) -> dict[str, str]:
        """See ``Source``."""
        return {"kind": "movielens", "edition": self._edition, "timestamp": "seconds since 1970"}

    def inputs(self) -> list[Path]:
        """See ``Source``."""
        return [self._ratings, self._movies] if self._movies.is_file() else [self._ratings]

    def _read(self, path: Path, sep: str, rejected: Rejected) -> Iterator[tuple[int, list[str]]]:
        encoding = _encoding(path) if path == self._movies else self._layout.encoding
        rows = read_rows(path, rejected, sep=sep, encoding=encoding, quoted=self._layout.header)
        if self._layout.header:
            names = HEADERS[path.name]
            _, first = next(rows, (0, names))
            if first != names:
                raise UserError(
                    f"{path}: the first line is {','.join(first)!r}, expected {','.join(names)!r}; write "
                    "this header, or read the table with `recbole-siger prepare csv`."
                )
        return rows

    def interactions(self, rejected: Rejected) -> Interactions:
        """See ``Source``."""
        return collect(self._ratings, self._read(self._ratings, self._layout.sep, rejected), _row, rejected)

    def items(self, kept: set[str], rejected: Rejected) -> ItemTable | None:
        """See ``Source``."""
        if not self._movies.is_file():
            return None
        table = ItemTable({"title": "token_seq", "release_year": "token", "genres": "token_seq"})
        for line, cells in self._read(self._movies, self._layout.movie_sep, rejected):
            if len(cells) < 3:
                rejected.add(self._movies, line, f"{len(cells)} cells, expected 3 or more")
            elif cells[0] in table.rows:
                rejected.add(self._movies, line, f"item {cells[0]} is repeated; its first record is used")
            elif cells[0] in kept:
                title, year = _title_and_year(cells[1])
                genres = self._layout.genres(cells)
                table.add(cells[0], {"title": title, "release_year": year, "genres": genres})
        return table

    def published(self, k: int) -> str | None:
        """See ``Source``; the published counts are counts before any filter."""
        return self._edition if self._edition in PUBLISHED and k <= 1 else None


def _check_edition(edition: str) -> None:
    if edition not in EDITIONS:
        raise UserError(f"edition={edition!r}: expected one of {', '.join(EDITIONS)}")


def _encoding(movies: Path) -> str:
    """Return the encoding of a file of movies: UTF-8 from ml-10m on, Latin-1 in earlier editions."""
    if movies.suffix == ".csv":
        return "utf-8-sig"
    try:
        movies.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"


def _row(cells: list[str]) -> Row:
    if len(cells) < 4:
        raise ValueError(f"{len(cells)} cells, 4 expected")
    user, item, rating, time = cells[:4]
    return (
        read_token("user", user),
        read_token("item", item),
        number("rating", rating),
        number("timestamp", time),
    )


def _title_and_year(title: str) -> tuple[str, str]:
    """Split ``Toy Story (1995)`` into title and year.

    >>> _title_and_year("Toy Story (1995)")
    ('Toy Story', '1995')
    """
    match = re.fullmatch(r"(.*?)\s*\((\d{4})\)\s*", title)
    return (match[1], match[2]) if match else (title, "")


def unpack(archive: Path) -> None:
    """Extract the files of ratings and movies from GroupLens's archive into the archive's folder.

    Raises:
        UserError: If the archive is damaged or has no ratings.
    """
    wanted = {name for layout in LAYOUTS for name in (layout.ratings, layout.movies)}
    try:
        with zipfile.ZipFile(archive) as content:
            members = [one for one in content.infolist() if Path(one.filename).name in wanted]
            for member in members:
                if member.file_size > min(MAX_UNPACKED, MAX_RATIO * max(member.compress_size, 1_000)):
                    raise UserError(
                        f"{archive}: {member.filename!r} would unpack {member.compress_size:,} bytes to "
                        f"{member.file_size:,}, more than ratings need; use GroupLens's own archive."
                    )
                path = archive.with_name(Path(member.filename).name)
                with content.open(member) as packed, atomic_path(path) as part, part.open("wb") as handle:
                    shutil.copyfileobj(packed, handle)
    except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{archive}: is damaged ({error}); delete it and download it again.") from error
    if not members:
        raise UserError(f"{archive}: has none of {', '.join(sorted(wanted))}; use GroupLens's own archive.")
