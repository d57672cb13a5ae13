"""A shard on disk is the shard; what is not whole does not count."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recbole_siger.errors import UserError
from recbole_siger.extract.shards import Shard, ShardStore


def shard(number: int, n_rows: int = 2) -> Shard:
    rows = np.arange(n_rows * 3, dtype=np.float32).reshape(n_rows, 3) + number
    return Shard(number, [f"i{number}_{i}" for i in range(n_rows)], rows, [("ü\n", "no image")], "ab" * 32)


@pytest.mark.parametrize("n_rows", [0, 1, 2])
def test_bytes_are_the_shard(n_rows: int) -> None:
    one = shard(7, n_rows)
    two = Shard.from_bytes(one.to_bytes())
    assert (two.number, two.ids, two.missing, two.digest) == (one.number, one.ids, one.missing, one.digest)
    np.testing.assert_array_equal(two.rows, one.rows)
    assert two.rows.dtype == np.float32
    assert two.to_bytes() == one.to_bytes()


def test_todo_shrinks_in_any_order(tmp_path: Path) -> None:
    store = ShardStore(tmp_path / "shards", 3)
    assert store.todo() == [0, 1, 2]
    store.put(shard(2))
    store.put(shard(0))
    (tmp_path / "shards" / ".000001.tmp.safetensors").write_bytes(b"a killed write")
    assert store.todo() == [1]
    store.put(shard(1))
    assert [one.number for one in store] == [0, 1, 2]
    store.discard()
    assert not (tmp_path / "shards").exists()


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    store = ShardStore(tmp_path, 1)
    store.put(shard(0))
    file = tmp_path / "000000.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"000000\.safetensors: is damaged"):
        list(store)
