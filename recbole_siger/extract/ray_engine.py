"""Encode shards on Ray Data: a pool of actors, each with the encoder loaded once.

Only the numbers of shards enter Ray. An actor reads its slice of the table itself, so every node needs the
same paths. Finished shards stream back and are written here. Ray Data pauses the actors when finished shards
wait for this process, so neither inputs nor rows accumulate.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np

from recbole_siger.errors import UserError
from recbole_siger.extract.encoder import Encoder
from recbole_siger.extract.job import Job, encode_shard, load_encoder
from recbole_siger.extract.shards import Shard
from recbole_siger.parallel.ray import actor_rows, address_of_environment, check_room, connected, failure_line

__all__ = ["encode_on_ray"]


def encode_on_ray(
    job: Job, encoder: Encoder, todo: Sequence[int], workers: int
) -> Generator[Shard, None, None]:
    """Yield the shards ``todo`` in the order in which they are finished.

    Args:
        job: What to encode.
        encoder: A fitted encoder is sent to the actors; the actors load any other encoder themselves.
        todo: Numbers of shards, at least one.
        workers: Actors, each with ``job.threads`` (or 1) CPUs, and a GPU if the job is on one.

    Raises:
        UserError: If Ray cannot be reached or has too few CPUs or GPUs, or a worker fails.
    """
    # Without an address Ray would join a cluster that another user has started on this machine.
    with connected(address_of_environment(), "extract", option="RAY_ADDRESS", library="data"):
        from ray.exceptions import RayError

        workers = min(workers, len(todo))
        needs = {"CPU": job.threads or 1} | ({"GPU": 1} if job.spec.device == "cuda" else {})
        check_room(workers, needs, f"--workers={workers}", "lower --workers or --threads")
        try:
            arguments = (job, encoder if encoder.fitted else None)
            for row in actor_rows(_Worker, arguments, todo, workers, needs):
                yield Shard.from_bytes(row["shard"])
        except RayError as error:  # its text is the worker's traceback
            reason = failure_line(str(error))
            raise UserError(f"--engine=ray: a worker failed: {reason}; finished shards are kept") from error


class _Worker:
    """An actor: the job, and the encoder loaded."""

    def __init__(self, job: Job, encoder: Encoder | None) -> None:
        self.job = job
        self.encoder = encoder or load_encoder(job)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        shards = [encode_shard(self.job, self.encoder, int(number)).to_bytes() for number in batch["number"]]
        return {"shard": np.array(shards, dtype=object)}
