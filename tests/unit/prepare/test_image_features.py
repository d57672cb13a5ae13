"""The ``.b`` reader: known answers, broken records, bounded memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from recbole_siger.data.features import load_features
from recbole_siger.errors import UserError
from recbole_siger.prepare import image_features
from recbole_siger.prepare.feature_writer import feature_facts, write_features
from recbole_siger.prepare.image_features import DIM, read_image_features
from recbole_siger.prepare.records import Rejected


def record(asin: bytes, values: np.ndarray) -> bytes:
    return asin.ljust(10) + values.astype("<f4").tobytes()


def write_b(path: Path, n_records: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(n_records, DIM)).astype(np.float32)
    path.write_bytes(b"".join(record(f"B{n:09d}".encode(), row) for n, row in enumerate(rows)))
    return rows


def test_wanted_rows_in_the_order_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_features, "BLOCK_RECORDS", 3)
    rows = write_b(tmp_path / "image_features_Baby.b", 11)
    wanted = ["B000000010", "B000000000", "B000000004", "nowhere"]
    blocks = list(read_image_features(tmp_path / "image_features_Baby.b", wanted, Rejected()))
    assert [tokens for tokens, _ in blocks] == [["B000000000"], ["B000000004"], ["B000000010"]]
    written = write_features(tmp_path / "toy", "image", blocks, DIM)
    assert written == 3
    loaded = load_features(tmp_path / "toy.image.npy", ["[PAD]", "B000000004", "nowhere", "B000000010"])
    assert np.array_equal(loaded[[1, 3]].numpy(), rows[[4, 10]])
    assert not loaded[2].any()
    assert feature_facts(wanted, written, DIM, "e") == {
        "rows": 3, "dim": DIM, "dtype": "float32", "missing": 1, "encoder": "e"
    }  # fmt: skip


def test_broken_records_are_left_out_and_listed(tmp_path: Path) -> None:
    one, zero, bad = np.ones(DIM), np.zeros(DIM), np.ones(DIM)
    bad[7] = np.nan
    path = tmp_path / "image_features_Baby.b"
    entries = [
        (b"a", one),
        (b"\xff", one),
        (b"b", zero),
        (b"c", bad),
        (b"a", one * 2),
        (b"other", bad),
        (b"d", one),
    ]
    path.write_bytes(b"".join(record(asin, values) for asin, values in entries))
    rejected = Rejected()
    ((tokens, rows),) = read_image_features(path, list("abcd"), rejected)
    assert tokens == ["a", "d"]
    assert np.array_equal(rows, np.ones((2, DIM), dtype=np.float32))
    assert rejected.rows == [
        (path.name, 2, "ASIN is not ASCII"),
        (path.name, 3, "item b: features are all zero"),
        (path.name, 4, "item c: features are not finite"),
        (path.name, 5, "item a: is repeated; its first record is used"),
    ]


@pytest.mark.parametrize("missing", [1, 10, 4 * DIM])
def test_a_file_that_ends_within_a_record(tmp_path: Path, missing: int) -> None:
    path = tmp_path / "image_features_Baby.b"
    write_b(path, 2)
    path.write_bytes(path.read_bytes()[:-missing])
    with pytest.raises(UserError, match=r"Baby\.b: is truncated: its .* bytes are not a multiple of 16,394"):
        next(read_image_features(path, ["B000000000"], Rejected()))


def test_without_a_wanted_item_no_file_is_left(tmp_path: Path) -> None:
    write_b(tmp_path / "f.b", 2)
    blocks = read_image_features(tmp_path / "f.b", ["x"], Rejected())
    assert write_features(tmp_path / "toy", "image", blocks, DIM) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["f.b"]


def test_the_header_holds_any_number_of_rows(tmp_path: Path) -> None:
    """The header is written before the number is known, and again when it is; rows stay where they are."""
    blocks = [([str(n)], np.full((1, 2), n, dtype=np.float32)) for n in range(12_345)]
    assert write_features(tmp_path / "toy", "x", blocks, 2) == 12_345
    array = np.load(tmp_path / "toy.x.npy")
    assert array.shape == (12_345, 2)
    assert np.array_equal(array[:, 0], np.arange(12_345))


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """Two thousand records are 31 MiB; what is held are blocks of 256, 4 MiB each."""
    n_records = 2_000
    write_b(tmp_path / "f.b", n_records)
    wanted = [f"B{n:09d}" for n in range(n_records)]
    tracemalloc.start()
    blocks = read_image_features(tmp_path / "f.b", wanted, Rejected())
    assert write_features(tmp_path / "toy", "image", blocks, DIM) == n_records
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 18 * 2**20
