"""MicroLens: pairs or sequences, titles with commas, features by video number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recbole_siger.data.features import load_features
from recbole_siger.prepare.sources.microlens import MicroLens
from tests.unit.prepare.conftest import Preparer, inter, manifest, write_lines

PAIRS = [
    "user,item,timestamp",
    *(f"{u},{i},{1_600_000_000_000 + 10 * u + i}" for u in (1, 2, 3) for i in (2, 3, 5)),
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    write_lines(folder / "MicroLens-100k_pairs.csv", PAIRS)
    return folder


def test_pairs_titles_and_features(run: Preparer, source: Path) -> None:
    write_lines(
        source / "MicroLens-100k_title_en.csv", ['5,"Cats, and more"', "2,Dogs, plain", "2,Dogs", "2,Cats"]
    )
    image = np.arange(10, dtype=np.float64).reshape(5, 2)
    image[1] = 0
    np.save(source / "MicroLens-100k_image_features_CLIPRN50.npy", image)
    np.save(source / "MicroLens-100k_video_features_VideoMAE.npy", np.ones((5, 3), dtype=np.float32))
    folder = run("microlens", source=source)
    assert inter(folder)[0] == "1\t2\t1600000000012"
    assert (folder / "toy.train.inter").read_text().splitlines()[0] == (
        "user_id:token\titem_id:token\ttimestamp:float"
    )
    assert (folder / "items.tsv").read_text().splitlines() == [
        "item_id\ttitle",
        "2\tDogs",
        "3\t",
        "5\tCats, and more",
    ]
    assert [row.split(",")[1] for row in (folder / "rejected.csv").read_text().splitlines()[1:]] == ["2", "4"]
    features = load_features(folder / "toy.image.npy", ["[PAD]", "2", "3", "5"])
    assert features.tolist() == [[0, 0], [0, 0], [4, 5], [8, 9]]  # row i belongs to video i + 1
    told = manifest(folder)
    assert told["source"]["edition"] == "100k"
    assert told["features"]["image"] | {"dim": 0} == {
        "rows": 2, "dim": 0, "dtype": "float32", "missing": 1, "encoder": "CLIPRN50, as published"
    }  # fmt: skip
    assert list(told["features"]) == ["image", "video"]


def test_titles_with_a_header(run: Preparer, source: Path) -> None:
    write_lines(source / "MicroLens-100k_titles.csv", ["item,title", "2,Dogs"])
    assert "2\tDogs" in (run("microlens", source=source) / "items.tsv").read_text()


def test_sequences(run: Preparer, tmp_path: Path) -> None:
    write_lines(tmp_path / "MicroLens-50k_pairs.tsv", ["1\t7 8 9", "2\t9 8 7", "3", "4\t7 8 NA"])
    folder = run("microlens", source=tmp_path, split="leave_one_out")
    assert (folder / "toy.test.inter").read_text().splitlines()[1:] == ["1\t9\t2", "2\t7\t2"]
    assert (folder / "toy.valid.inter").read_text().splitlines()[1:] == ["1\t8\t1", "2\t8\t1"]
    assert manifest(folder)["source"] == {
        "kind": "microlens", "edition": "50k", "timestamp": "place in the user's sequence"
    }  # fmt: skip
    assert manifest(folder)["rejected"] == 2


def test_refusals(run: Preparer, source: Path, tmp_path: Path) -> None:
    assert "found none; name it with --edition" in run.refusal("microlens", source=tmp_path)
    np.save(source / "MicroLens-100k_image_features_CLIPRN50.npy", np.ones((4, 2)))
    assert "4 rows, but the pairs name video 5" in run.refusal("microlens", source=source)
    second = source / "MicroLens-100k_image_features_ResNet.npy"
    np.save(second, np.ones((5, 2)))
    message = run.refusal("microlens", source=source)
    assert (
        "ResNet.npy: MicroLens-100k_image_features_CLIPRN50.npy has image features too; keep one" in message
    )
    second.unlink()
    (source / "MicroLens-100k_image_features_CLIPRN50.npy").unlink()
    other = write_lines(source / "MicroLens-50k_pairs.csv", PAIRS)
    assert "of one edition, found 100k, 50k; name it with --edition" in run.refusal(
        "microlens", source=source
    )
    assert manifest(run("microlens", source=source, edition="50k"))["source"]["edition"] == "50k"
    write_lines(other, [line.replace(",", "\t") for line in PAIRS])
    message = run.refusal("microlens", source=source, edition="50k", overwrite=True)
    assert "expected user,item,timestamp; add the header, or separate by commas" in message


def test_downloads_name_the_files_that_are_read() -> None:
    names = [one.name for one in MicroLens.downloads("100k")]
    assert "MicroLens-100k_pairs.csv" in names
    assert all("/" not in name for name in names)
