"""Encode shards one after the other in this process."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from recbole_siger.extract.encoder import Encoder
from recbole_siger.extract.job import Job, encode_shard
from recbole_siger.extract.shards import Shard

__all__ = ["encode_locally"]


def encode_locally(job: Job, encoder: Encoder, todo: Sequence[int]) -> Generator[Shard, None, None]:
    """Yield the shards ``todo``, in order; one shard is in memory at a time."""
    for number in todo:
        yield encode_shard(job, encoder, number)
