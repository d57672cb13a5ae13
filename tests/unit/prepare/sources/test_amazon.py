"""The three editions of the Amazon reviews, each from a few lines in its own form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_siger.data.features import load_features
from recbole_siger.prepare.sources.amazon_editions import EDITIONS
from tests.unit.prepare.conftest import Preparer, inter, manifest, write_lines
from tests.unit.prepare.test_image_features import record

USERS, ITEMS = ("u1", "u2", "u3"), ("i1", "i2", "i3")
HEADER = "user_id:token\titem_id:token\trating:float\ttimestamp:float"


def rows(time: int = 1) -> list[tuple[str, str, float, int]]:
    """Three users by three items."""
    return [
        (user, item, float(1 + a + b), (100 * a + b) * time)
        for a, user in enumerate(USERS)
        for b, item in enumerate(ITEMS)
    ]


EXPECTED = [f"{user}\t{item}\t{rating}\t{time}" for user, item, rating, time in rows()]


def reviews(**more: Any) -> list[Any]:
    return [
        {"reviewerID": user, "asin": item, "overall": rating, "unixReviewTime": time, **more}
        for user, item, rating, time in rows()
    ]


def test_2014(run: Preparer, tmp_path: Path) -> None:
    source = tmp_path / "raw"
    broken = ['{"reviewerID": "u1"', {"reviewerID": "", "asin": "i1", "overall": 1, "unixReviewTime": 1}]
    write_lines(source / "reviews_Baby_5.json.gz", [*reviews(helpful=[1, 2]), *broken])
    meta = [
        {"asin": "other", "title": "Unseen"},
        {
            "asin": "i2",
            "title": "Soft\tToy",
            "brand": "It's",
            "categories": [["Baby", "Toys"], ["Baby"]],
            "imUrl": "http://x/2.jpg",
            "related": {"also_bought": ["i1"]},
        },
        "{'asin': 'i3', 'title': ",
        "{'title': 'nobody'}",
        {"asin": "i2", "title": "again"},
        {"asin": "i1", "description": "Long\ntext"},
    ]
    write_lines(source / "meta_Baby.json.gz", meta, dump=repr)
    entries = [record(b"i3", np.full(4096, 3.0)), record(b"zz", np.ones(4096)), record(b"i1", np.ones(4096))]
    (source / "image_features_Baby.b").write_bytes(b"".join(entries))

    folder = run("amazon", category="Baby", source=source)
    assert inter(folder) == EXPECTED
    assert (folder / "toy.test.inter").read_text().splitlines()[0] == HEADER
    assert (folder / "items.tsv").read_text().splitlines() == [
        "item_id\ttitle\tbrand\tcategories\tdescription\timage_url",
        "i1\t\t\t\tLong text\t",
        "i2\tSoft Toy\tIt's\tBaby Toys\t\thttp://x/2.jpg",
        "i3\t\t\t\t\t",
    ]
    assert (folder / "toy.image.ids").read_text() == "i3\ni1\n"
    features = load_features(folder / "toy.image.npy", ["[PAD]", *ITEMS])
    assert features[:, 0].tolist() == [0.0, 1.0, 0.0, 3.0]
    assert (folder / "rejected.csv").read_text().splitlines() == [
        "file,line,reason",
        "reviews_Baby_5.json.gz,10,neither JSON nor a Python literal",
        "reviews_Baby_5.json.gz,11,reviewerID is missing",
        "meta_Baby.json.gz,3,neither JSON nor a Python literal",
        "meta_Baby.json.gz,4,asin is missing",
        "meta_Baby.json.gz,5,item i2 is repeated; its first record is used",
    ]
    told = manifest(folder)
    assert told["source"] == {
        "kind": "amazon", "edition": "2014", "category": "Baby", "timestamp": "seconds since 1970"
    }  # fmt: skip
    assert list(told["inputs"]) == ["reviews_Baby_5.json.gz", "meta_Baby.json.gz", "image_features_Baby.b"]
    assert told["rejected"] == 5
    assert told["items"]["with_record"] == 2
    assert (told["features"]["image"]["rows"], told["features"]["image"]["missing"]) == (2, 1)
    assert "image: 2 of 3 items (1 missing), 4096-d" in run.lines
    assert run.lines[-1].startswith("next: recbole-siger run --model=SIGER --dataset=toy")


def test_2018(run: Preparer, tmp_path: Path) -> None:
    source = tmp_path / "raw"
    again = {"reviewerID": "u1", "asin": "i1", "overall": 5.0, "unixReviewTime": 9_999}
    write_lines(source / "Video_Games_5.json.gz", [again, *reviews(verified=True, style={"Format:": " x"})])
    meta = [
        {
            "asin": "i1",
            "title": "One",
            "category": ["Video Games", "PC"],
            "description": ["First.", "", "Second."],
            "feature": ["Fast"],
            "brand": "Acme",
            "imageURL": ["http://small"],
            "imageURLHighRes": ["http://large", "http://other"],
        },
        {"asin": "i2", "imageURL": ["http://small"], "imageURLHighRes": []},
        "{'asin': 'i3'}",
    ]
    write_lines(source / "meta_Video_Games.json.gz", meta)
    folder = run("amazon", category="Video_Games", edition="2018", source=source)
    assert inter(folder) == EXPECTED  # of the repeated pair the earliest
    assert "note: 1 rows repeat a user-item pair; the earliest row of a pair is kept" in run.lines
    assert manifest(folder)["filters"] == {"repeated_pairs": 1, "k_core": 0}
    assert (folder / "items.tsv").read_text().splitlines()[1:] == [
        "i1\tOne\tAcme\tVideo Games PC\tFirst. Second.\tFast\thttp://large",
        "i2\t\t\t\t\t\thttp://small",
        "i3\t\t\t\t\t\t",
    ]
    assert "meta_Video_Games.json.gz,3,not JSON" in (folder / "rejected.csv").read_text()


@pytest.mark.parametrize("with_header", [True, False])
def test_2023_ratings(run: Preparer, tmp_path: Path, with_header: bool) -> None:
    lines = [f"{user},{item},{rating},{time}" for user, item, rating, time in rows(time=1000)]
    header = ["user_id,parent_asin,rating,timestamp"] if with_header else []
    write_lines(tmp_path / "raw" / "Baby_Products.csv.gz", [*header, *lines])
    folder = run("amazon", category="Baby_Products", edition="2023", source=tmp_path / "raw")
    assert inter(folder) == [line + "000" if not line.endswith("\t0") else line for line in EXPECTED]
    assert manifest(folder)["source"]["timestamp"] == "milliseconds since 1970"


def test_2023_reviews(run: Preparer, tmp_path: Path) -> None:
    source = tmp_path / "raw"
    records = [
        {"user_id": user, "parent_asin": item, "asin": "variant", "rating": rating, "timestamp": time}
        for user, item, rating, time in rows()
    ]
    write_lines(source / "Baby_Products.jsonl.gz", records)
    images = [{"thumb": "http://t", "large": "http://l", "hi_res": None}]
    meta = {"parent_asin": "i3", "title": "T", "store": "S", "features": ["f"], "images": images}
    write_lines(source / "meta_Baby_Products.jsonl", [meta, {"parent_asin": "i1", "images": []}])
    folder = run("amazon", category="Baby_Products", edition="2023", source=source)
    assert inter(folder) == EXPECTED
    assert (folder / "items.tsv").read_text().splitlines()[3] == "i3\tT\tS\t\t\tf\thttp://l"


@pytest.mark.parametrize(
    ("edition", "name", "order"),
    [("2014", "ratings_Books.csv", "{0},{1},{2},{3}"), ("2018", "Books.csv", "{1},{0},{2},{3}")],
)
def test_ratings_without_a_header(run: Preparer, tmp_path: Path, edition: str, name: str, order: str) -> None:
    """The edition of 2018 names the item first."""
    write_lines(tmp_path / "raw" / name, [*(order.format(*row) for row in rows()), "u1,i1,five,1", "u1,i1"])
    folder = run("amazon", category="Books", edition=edition, source=tmp_path / "raw")
    assert inter(folder) == EXPECTED
    assert manifest(folder)["rejected"] == 2
    assert manifest(folder)["items"] is None
    assert not (folder / "items.tsv").exists()


def test_reviews_are_preferred_to_ratings(run: Preparer, tmp_path: Path) -> None:
    write_lines(tmp_path / "raw" / "ratings_Baby.csv", ["x,y,1,1"])
    write_lines(tmp_path / "raw" / "reviews_Baby_5.json", reviews())
    assert inter(run("amazon", category="Baby", source=tmp_path / "raw")) == EXPECTED


def test_published_counts_are_those_of_the_5_core_of_2014(run: Preparer, tmp_path: Path) -> None:
    source = tmp_path / "raw"
    five = [
        {"reviewerID": f"u{a}", "asin": f"i{b}", "overall": 5.0, "unixReviewTime": b}
        for a in range(5)
        for b in range(5)
    ]
    write_lines(source / "reviews_Baby_5.json.gz", five)
    folder = run("amazon", category="Baby", source=source, k_core=5)
    assert manifest(folder)["published"]["users"] == {"published": 19_445, "status": "DIFF"}
    assert "published baby: users 19,445 DIFF, items 7,050 DIFF, interactions 160,792 DIFF" in run.lines
    folder = run("amazon", category="Baby", source=source, k_core=4, name="four")
    assert manifest(folder)["published"] is None


def test_editions_have_their_number_of_categories() -> None:
    assert {year: len(set(edition.categories)) for year, edition in EDITIONS.items()} == {
        "2014": 24, "2018": 29, "2023": 34
    }  # fmt: skip


def test_refusals(run: Preparer, tmp_path: Path) -> None:
    source = tmp_path / "raw"
    source.mkdir()
    say = lambda **values: run.refusal("amazon", **({"category": "Baby", "source": source} | values))  # noqa: E731
    assert "category='Bbay': the edition of 2014 has no such category; did you mean `Baby`? (it has" in say(
        category="Bbay"
    )
    assert "category='Baby': the edition of 2018 has no such category" in say(edition="2018")
    assert "edition='2015': expected one of 2014, 2018, 2023" in say(edition="2015")
    message = say()
    assert f"{source}: has none of reviews_Baby_5.json, reviews_Baby.json, ratings_Baby.csv" in message
    assert message.endswith("add --download.")
    path = write_lines(source / "reviews_Baby_5.json.gz", ["no", "records"])
    assert "has no usable interaction (line 1: neither JSON nor a Python literal)" in say()
    write_lines(path, reviews())
    path.write_bytes(path.read_bytes()[:-9])
    assert f"{path}: is damaged or truncated" in say()
    write_lines(path, reviews())
    (source / "image_features_Baby.b").write_bytes(b"short")
    assert "image_features_Baby.b: is truncated" in say()
    assert not (tmp_path / "dataset").exists() or not list((tmp_path / "dataset").iterdir())
