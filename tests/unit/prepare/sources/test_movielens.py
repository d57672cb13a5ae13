"""MovieLens in its three layouts; ml-100k's from RecBole's own copy of it."""

from __future__ import annotations

import random
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from recbole_siger.errors import UserError
from recbole_siger.prepare.sources.ml_100k import embedded_dir
from recbole_siger.prepare.sources.movielens import unpack
from tests.unit.prepare.conftest import Preparer, inter, manifest

RATINGS = [(user, item, 1 + (user + item) % 5, 100 * user + item) for user in (1, 2, 3) for item in (1, 2, 3)]
EXPECTED = [f"{user}\t{item}\t{rating}.0\t{time}" for user, item, rating, time in RATINGS]


def write(path: Path, text: str, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))


def ratings(sep: str) -> str:
    return "".join(sep.join(map(str, row)) + "\n" for row in RATINGS)


def test_ml_100k_layout(run: Preparer, tmp_path: Path) -> None:
    source = tmp_path / "ml-100k"
    write(source / "u.data", ratings("\t"))
    flags = {1: [3, 5], 3: [8]}
    lines = [
        "|".join(
            [
                str(item),
                title,
                "01-Jan-1995",
                "",
                "http://x",
                *(str(int(n in flags[item])) for n in range(19)),
            ]
        )
        for item, title in ((1, "Am\xe9lie (2001)"), (3, 'unknown "x"'))
    ]
    write(source / "u.item", "\n".join(lines), "latin-1")
    folder = run("movielens", source=source)
    assert inter(folder) == EXPECTED
    assert (folder / "items.tsv").read_text(encoding="utf-8").splitlines() == [
        "item_id\ttitle\trelease_year\tgenres",
        "1\tAm\xe9lie\t2001\tAnimation Comedy",
        "2\t\t\t",
        '3\tunknown "x"\t\tDrama',
    ]
    assert manifest(folder)["source"]["edition"] == "ml-100k"
    assert manifest(folder)["published"]["interactions"] == {"published": 100_000, "status": "DIFF"}


def test_ml_1m_layout(run: Preparer, tmp_path: Path) -> None:
    source = tmp_path / "ml-1m"
    write(source / "ratings.dat", ratings("::") + "1::2\n")
    write(source / "movies.dat", "2::Heat: \xc9t\xe9 (1995)::Action|Sci-Fi\n2::x::y\n5\n", "latin-1")
    folder = run("movielens", source=source, edition="ml-1m")
    assert inter(folder) == EXPECTED
    assert (folder / "items.tsv").read_text(encoding="utf-8").splitlines()[
        2
    ] == "2\tHeat: \xc9t\xe9\t1995\tAction Sci-Fi"
    assert (folder / "rejected.csv").read_text().splitlines()[1:] == [
        'ratings.dat,10,"2 cells, 4 expected"',
        "movies.dat,2,item 2 is repeated; its first record is used",
        'movies.dat,3,"1 cells, 3 expected"',
    ]
    assert manifest(folder)["published"]["dataset"] == "ml-1m"
    assert manifest(run("movielens", source=source, name="any"))["published"] is None


def test_ml_10m_is_utf_8(run: Preparer, tmp_path: Path) -> None:
    write(tmp_path / "ratings.dat", ratings("::"))
    write(tmp_path / "movies.dat", "2::Am\xe9lie (2001)::Comedy\n")
    folder = run("movielens", source=tmp_path, edition="ml-10m")
    assert "2\tAm\xe9lie\t2001\tComedy" in (folder / "items.tsv").read_text(encoding="utf-8").splitlines()


def test_later_csv_layout(run: Preparer, tmp_path: Path) -> None:
    write(tmp_path / "ratings.csv", "userId,movieId,rating,timestamp\r\n" + ratings(","))
    movies = 'movieId,title,genres\r\n1,"American President, The (1995)",Comedy|Romance\r\n'
    movies += "3,X,(no genres listed)\r\n"
    write(tmp_path / "movies.csv", movies)
    folder = run("movielens", source=tmp_path)
    assert inter(folder) == EXPECTED
    assert (folder / "items.tsv").read_text().splitlines()[1:] == [
        "1\tAmerican President, The\t1995\tComedy Romance",
        "2\t\t\t",
        "3\tX\t\t",
    ]


@pytest.mark.parametrize("header", ["movieId,userId,rating,timestamp\n", "user_id,book_id,rating,date\n", ""])
def test_a_csv_file_of_other_columns_is_refused(run: Preparer, tmp_path: Path, header: str) -> None:
    """Columns are read by position: users and items would be exchanged, or the first row would be lost."""
    write(tmp_path / "ratings.csv", header + ratings(","))
    message = run.refusal("movielens", source=tmp_path)
    assert "expected 'userId,movieId,rating,timestamp'; write this header" in message
    write(tmp_path / "ratings.csv", "userId,movieId,rating,timestamp\n" + ratings(","))
    write(tmp_path / "movies.csv", "title,movieId,genres\nHeat,2,Action\n")
    assert "movies.csv: the first line is 'title,movieId,genres'" in run.refusal("movielens", source=tmp_path)


def test_the_embedded_ml_100k_has_the_published_counts(run: Preparer, tmp_path: Path) -> None:
    atomic = pd.read_csv(embedded_dir("ml-100k") / "ml-100k.inter", sep="\t", dtype=str)
    (tmp_path / "raw").mkdir()
    atomic.to_csv(tmp_path / "raw" / "u.data", sep="\t", index=False, header=False)
    folder = run("movielens", source=tmp_path / "raw", split="temporal")
    assert "published ml-100k: users 943 PASS, items 1,682 PASS, interactions 100,000 PASS" in run.lines
    assert len(set(inter(folder))) == 100_000
    last = pd.read_csv(folder / "toy.test.inter", sep="\t")
    first = pd.read_csv(folder / "toy.train.inter", sep="\t")
    assert first["timestamp:float"].max() < last["timestamp:float"].min()
    assert abs(len(last) - 10_000) < 100


def test_refusals(run: Preparer, tmp_path: Path) -> None:
    assert "expected one of u.data, ratings.dat, ratings.csv, found 0" in run.refusal(
        "movielens", source=tmp_path
    )
    write(tmp_path / "u.data", ratings("\t"))
    write(tmp_path / "ratings.dat", ratings("::"))
    assert "found 2; name the folder of one edition" in run.refusal("movielens", source=tmp_path)
    message = run.refusal("movielens", source=tmp_path, mirror="http://localhost")
    assert "--mirror=http://localhost has no effect with --download=False; remove it" in message
    for values in ({}, {"download": True}):
        message = run.refusal("movielens", source=tmp_path, edition="ml-2m", **values)
        assert "edition='ml-2m': expected one of ml-100k, ml-1m" in message


def test_a_damaged_archive_is_one_line(tmp_path: Path) -> None:
    archive = tmp_path / "ml-1m.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as content:
        content.writestr("ml-1m/ratings.dat", "".join(f"{n}::{n * 7 % 99}::3::{n}\n" for n in range(3_000)))
    whole = archive.read_bytes()
    entry = whole.rindex(b"PK\1\2")  # of the directory: flags at 8, method of compression at 10
    for place, data in [(50, b"\xff" * 2_000), (entry + 10, b"\x63"), (entry + 8, b"\1")]:
        damaged = bytearray(whole)
        damaged[place : place + len(data)] = data
        archive.write_bytes(damaged)
        with pytest.raises(UserError, match=r"ml-1m\.zip: is damaged .*; delete it and download it again"):
            unpack(archive)
        assert [path.name for path in tmp_path.iterdir()] == ["ml-1m.zip"]


@pytest.mark.parametrize("limit", ["MAX_RATIO", "MAX_UNPACKED"])
def test_an_archive_that_grows_too_much_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    if limit == "MAX_UNPACKED":
        monkeypatch.setattr("recbole_siger.prepare.sources.movielens.MAX_UNPACKED", 999_999)
    archive = tmp_path / "ml-1m.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as content:
        data = bytes(1_000_000) if limit == "MAX_RATIO" else random.Random(3).randbytes(1_000_000)
        content.writestr("ml-1m/ratings.dat", data)
    with pytest.raises(
        UserError, match=r"'ml-1m/ratings\.dat' would unpack .* bytes to 1,000,000, more than"
    ):
        unpack(archive)
    assert [path.name for path in tmp_path.iterdir()] == ["ml-1m.zip"]


def test_unpack_takes_the_known_files_alone(tmp_path: Path) -> None:
    archive = tmp_path / "raw" / "ml-1m.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as content:
        for name in ("ml-1m/ratings.dat", "../movies.dat", "ml-1m/users.dat"):
            content.writestr(name, name)
    unpack(archive)
    assert sorted(path.name for path in archive.parent.iterdir()) == [
        "ml-1m.zip",
        "movies.dat",
        "ratings.dat",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]
    archive.write_bytes(archive.read_bytes()[:40])
    with pytest.raises(UserError, match=r"ml-1m\.zip: is damaged .*; delete it and download it again"):
        unpack(archive)
    with zipfile.ZipFile(archive, "w") as content:
        content.writestr("x", "y")
    with pytest.raises(UserError, match=r"has none of movies\.csv"):
        unpack(archive)
