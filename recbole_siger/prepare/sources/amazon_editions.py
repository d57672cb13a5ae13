"""Differences of the three editions of the Amazon reviews: categories, files, fields, addresses.

2014: https://jmcauley.ucsd.edu/data/amazon/ (He and McAuley, WWW 2016).
2018: https://nijianmo.github.io/amazon/ (Ni, Li and McAuley, EMNLP 2019).
2023: https://amazon-reviews-2023.github.io/ (Hou et al., arXiv 2403.03952).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from recbole_siger.prepare.download import Download

__all__ = ["EDITIONS", "Edition"]


MAX_FILE = 2**36
"""Bytes of a file. Image features have 16,394 bytes for each item; a category has some million items."""


@dataclass(frozen=True)
class Edition:
    """One edition. ``{}`` in names and addresses is replaced by the category."""

    categories: tuple[str, ...]
    reviews: tuple[str, ...]
    """Files of interactions in order of preference; a file that ends in ``.csv`` has ratings only."""
    meta: str
    image_features: str | None
    user: str
    item: str
    rating: str
    time: str
    csv_columns: tuple[str, str, str, str]
    """Order of user, item, rating and time in a csv file without a header."""
    texts: Mapping[str, str]
    """Column of the item table -> field of the metadata."""
    literals: bool
    """Whether lines may be Python dict literals."""
    time_unit: str
    urls: tuple[str, ...]

    def downloads(self, category: str) -> list[Download]:
        """List the files of a category; the publisher gives no checksums."""
        addresses = [url.format(category) for url in self.urls]
        return [Download(url, url.rpartition("/")[2], MAX_FILE) for url in addresses]


_SHARED = (
    *("Automotive", "Books", "CDs_and_Vinyl", "Cell_Phones_and_Accessories", "Clothing_Shoes_and_Jewelry"),
    *("Digital_Music", "Electronics", "Grocery_and_Gourmet_Food", "Home_and_Kitchen", "Kindle_Store"),
    *("Movies_and_TV", "Musical_Instruments", "Office_Products", "Patio_Lawn_and_Garden", "Pet_Supplies"),
    *("Sports_and_Outdoors", "Tools_and_Home_Improvement", "Toys_and_Games", "Video_Games"),
)
_LATER = (
    *("All_Beauty", "Appliances", "Arts_Crafts_and_Sewing", "Gift_Cards", "Industrial_and_Scientific"),
    *("Magazine_Subscriptions", "Software"),
)
_STANFORD = "http://snap.stanford.edu/data/amazon/productGraph"
_UCSD = "https://mcauleylab.ucsd.edu/public_datasets/data"

EDITIONS = {
    "2014": Edition(
        categories=(
            *_SHARED,
            *("Amazon_Instant_Video", "Apps_for_Android", "Baby", "Beauty", "Health_and_Personal_Care"),
        ),
        reviews=("reviews_{}_5.json", "reviews_{}.json", "ratings_{}.csv"),
        meta="meta_{}.json",
        image_features="image_features_{}.b",
        user="reviewerID",
        item="asin",
        rating="overall",
        time="unixReviewTime",
        csv_columns=("user", "item", "rating", "time"),
        texts={
            "title": "title",
            "brand": "brand",
            "categories": "categories",
            "description": "description",
            "image_url": "imUrl",
        },
        literals=True,
        time_unit="seconds since 1970",
        urls=(
            f"{_STANFORD}/categoryFiles/reviews_{{}}_5.json.gz",
            f"{_STANFORD}/categoryFiles/meta_{{}}.json.gz",
            f"{_STANFORD}/image_features/categoryFiles/image_features_{{}}.b",
        ),
    ),
    "2018": Edition(
        categories=(*_SHARED, *_LATER, "AMAZON_FASHION", "Luxury_Beauty", "Prime_Pantry"),
        reviews=("{}_5.json", "{}.json", "{}.csv"),
        meta="meta_{}.json",
        image_features=None,
        user="reviewerID",
        item="asin",
        rating="overall",
        time="unixReviewTime",
        csv_columns=("item", "user", "rating", "time"),
        texts={
            "title": "title",
            "brand": "brand",
            "categories": "category",
            "description": "description",
            "features": "feature",
            "image_url": "imageURLHighRes",
        },
        literals=False,
        time_unit="seconds since 1970",
        urls=(
            f"{_UCSD}/amazon_v2/categoryFilesSmall/{{}}_5.json.gz",
            f"{_UCSD}/amazon_v2/metaFiles2/meta_{{}}.json.gz",
        ),
    ),
    "2023": Edition(
        categories=(
            *_SHARED,
            *_LATER,
            *("Amazon_Fashion", "Baby_Products", "Beauty_and_Personal_Care", "Handmade_Products"),
            *("Health_and_Household", "Health_and_Personal_Care", "Subscription_Boxes", "Unknown"),
        ),
        reviews=("{}.csv", "{}.jsonl"),
        meta="meta_{}.jsonl",
        image_features=None,
        user="user_id",
        item="parent_asin",
        rating="rating",
        time="timestamp",
        csv_columns=("user", "item", "rating", "time"),
        texts={
            "title": "title",
            "brand": "store",
            "categories": "categories",
            "description": "description",
            "features": "features",
            "image_url": "images",
        },
        literals=False,
        time_unit="milliseconds since 1970",
        urls=(
            f"{_UCSD}/amazon_2023/benchmark/5core/rating_only/{{}}.csv.gz",
            f"{_UCSD}/amazon_2023/raw/meta_categories/meta_{{}}.jsonl.gz",
        ),
    ),
}
