"""Random raw files in the layouts of the public sets, of any size."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["SPORTS", "WRITERS", "Shape", "write_amazon", "write_csv", "write_microlens", "write_movielens"]

WORDS = (
    "soft",
    "bottle",
    "travel",
    "cotton",
    "safe",
    "steel",
    "light",
    "kit",
    "classic",
    "grip",
    "warm",
    "set",
)
START = 1_350_000_000
"""Seconds since 1970 of the earliest interaction."""


@dataclass(frozen=True)
class Shape:
    """Users, items, interactions; each user and each item gets at least five, if there are enough."""

    users: int
    items: int
    interactions: int

    def part(self, divisor: int) -> Shape:
        """Return the shape with about ``1 / divisor`` of the interactions."""
        return Shape(self.users // divisor, self.items // divisor, self.interactions // divisor)


SPORTS = Shape(35_598, 18_357, 296_337)


def pairs(shape: Shape, seed: int = 11) -> Iterator[tuple[int, int, int, int]]:
    """Yield user, item, rating and seconds; distinct pairs, popular items more often, users in order."""
    rng = np.random.default_rng(seed)
    base, extra = divmod(shape.interactions, shape.users)
    floor = rng.permutation(np.arange(shape.users * min(5, base)) % shape.items).reshape(shape.users, -1)
    for user in range(shape.users):
        size = min(base + (user < extra), shape.items)
        drawn = np.minimum((shape.items * rng.random(4 * size + 8) ** 2).astype(int), shape.items - 1)
        rest = rng.permutation(shape.items) if shape.items < 1000 else np.arange(shape.items)
        chosen = list(dict.fromkeys([*floor[user].tolist(), *drawn.tolist(), *rest.tolist()]))[:size]
        for item in chosen:
            yield user, item, int(rng.integers(1, 6)), START + int(rng.integers(0, 60_000_000))


def _asin(item: int) -> str:
    return f"B{item:09d}"


def _user(user: int) -> str:
    return f"A{user:012d}"


def _text(rng: np.random.Generator, size: int) -> str:
    return " ".join(WORDS[place] for place in rng.integers(0, len(WORDS), size))


def write_amazon(folder: Path, shape: Shape, edition: str = "2014", category: str = "Baby") -> None:
    """Write reviews and metadata of an edition, and the image features of 2014."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(13)
    reviews = {"2014": f"reviews_{category}_5.json.gz", "2018": f"{category}_5.json.gz"}
    with gzip.open(folder / reviews.get(edition, f"{category}.jsonl.gz"), "wt", compresslevel=1) as handle:
        for user, item, rating, seconds in pairs(shape):
            handle.write(json.dumps(_review(edition, user, item, rating, seconds, _text(rng, 60))) + "\n")
    meta = f"meta_{category}.json{'l' if edition == '2023' else ''}.gz"
    with gzip.open(folder / meta, "wt", compresslevel=1) as handle:
        for item in range(shape.items):
            record = _metadata(edition, item, _text(rng, 8), _text(rng, 60))
            handle.write((repr(record) if edition == "2014" else json.dumps(record)) + "\n")
    if edition == "2014":
        with (folder / f"image_features_{category}.b").open("wb") as raw:
            for item in range(shape.items):
                raw.write(_asin(item).encode() + rng.random(4096, dtype=np.float32).tobytes())


def _review(edition: str, user: int, item: int, rating: int, seconds: int, text: str) -> dict[str, Any]:
    if edition == "2023":
        ids = {"user_id": _user(user), "asin": _asin(item), "parent_asin": _asin(item)}
        return {"rating": float(rating), "text": text, **ids, "timestamp": seconds * 1000}
    ids = {"reviewerID": _user(user), "asin": _asin(item)}
    return {**ids, "reviewText": text, "overall": float(rating), "unixReviewTime": seconds}


def _metadata(edition: str, item: int, title: str, text: str) -> dict[str, Any]:
    url = f"http://images.example/{_asin(item)}.jpg"
    if edition == "2014":
        groups = [["Baby", "Gifts"], ["Baby", "Travel"]]
        return {"asin": _asin(item), "title": title, "imUrl": url, "categories": groups, "description": text}
    if edition == "2018":
        lists = {"category": ["Baby", "Gifts"], "description": [text], "imageURLHighRes": [url]}
        return {"asin": _asin(item), "title": title, "brand": "Acme", **lists}
    lists = {"categories": ["Baby", "Gifts"], "description": [text], "images": [{"large": url}]}
    return {"parent_asin": _asin(item), "title": title, "store": "Acme", **lists}


def write_microlens(folder: Path, shape: Shape) -> None:
    """Write pairs, titles and image features of the edition 100k."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(17)
    rows = ((user + 1, item + 1, seconds * 1000) for user, item, _, seconds in pairs(shape))
    _write_csv(folder / "MicroLens-100k_pairs.csv", ["user", "item", "timestamp"], rows)
    titles = ((item + 1, _text(rng, 8)) for item in range(shape.items))
    _write_csv(folder / "MicroLens-100k_title_en.csv", ["item", "title"], titles)
    image = rng.random((shape.items, 1024), dtype=np.float32)
    np.save(folder / "MicroLens-100k_image_features_CLIPRN50.npy", image)


def write_movielens(folder: Path, shape: Shape) -> None:
    """Write ratings and movies in the layout of ml-1m."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(19)
    with (folder / "ratings.dat").open("w", encoding="latin-1") as handle:
        for user, item, rating, seconds in pairs(shape):
            handle.write(f"{user + 1}::{item + 1}::{rating}::{seconds}\n")
    with (folder / "movies.dat").open("w", encoding="latin-1") as handle:
        for item in range(shape.items):
            handle.write(f"{item + 1}::{_text(rng, 3)} (1995)::Drama|Comedy\n")


def write_csv(folder: Path, shape: Shape) -> None:
    """Write ``my.csv`` and ``items.csv``, with dates instead of seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(23)
    rows = (
        (f"u{user}", f"i{item}", rating, datetime.fromtimestamp(seconds, UTC).isoformat())
        for user, item, rating, seconds in pairs(shape)
    )
    _write_csv(folder / "my.csv", ["user_id", "item_id", "rating", "timestamp"], rows)
    items = ((f"i{item}", _text(rng, 5), _text(rng, 40)) for item in range(shape.items))
    _write_csv(folder / "items.csv", ["item_id", "title", "description"], items)


def _write_csv(path: Path, header: list[str], rows: Any) -> None:
    with path.open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle).writerows([header])
        csv.writer(handle).writerows(rows)


WRITERS = {
    "amazon 2014": lambda folder, shape: write_amazon(folder, shape, "2014", "Sports_and_Outdoors"),
    "amazon 2018": lambda folder, shape: write_amazon(folder, shape, "2018", "Sports_and_Outdoors"),
    "amazon 2023": lambda folder, shape: write_amazon(folder, shape, "2023", "Sports_and_Outdoors"),
    "microlens": write_microlens,
    "movielens": write_movielens,
    "csv": write_csv,
}
"""Format -> function that writes it into a folder."""
