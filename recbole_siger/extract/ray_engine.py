"""Encode shards on Ray Data: a pool of actors, each with the encoder loaded once.

Only the numbers of shards enter Ray; an actor reads its slice of the table itself, so every node needs the
same paths. Finished shards stream back and are written here. Ray Data holds back the actors when finished
shards wait for this process, so neither inputs nor rows pile up.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from recbole_siger.errors import UserError
from recbole_siger.extract.encoder import Encoder
from recbole_siger.extract.job import Job, encode_shard, load_encoder
from recbole_siger.extract.shards import Shard

__all__ = ["encode_on_ray"]

IN_FLIGHT = 2
"""Shards that an actor is given at a time: one to work on, one waiting."""


def encode_on_ray(
    job: Job, encoder: Encoder, todo: Sequence[int], workers: int
) -> Generator[Shard, None, None]:
    """Yield the shards ``todo`` in the order in which they are finished.

    Args:
        job: What to encode.
        encoder: Sent to the actors if it was fitted; any other they load themselves.
        todo: Numbers of shards, at least one.
        workers: Actors, each with ``job.threads`` (or 1) CPUs, and a GPU if the job is on one.

    Raises:
        UserError: If the cluster has too few CPUs or GPUs, or a worker fails.
    """
    import ray.data
    from ray.exceptions import RayError

    with _cluster():
        needs = {"CPU": job.threads or 1} | ({"GPU": 1} if job.spec.device == "cuda" else {})
        workers = min(workers, len(todo))
        _check_fits(needs, workers)
        numbers = ray.data.from_items([{"number": number} for number in todo], override_num_blocks=len(todo))
        encoded = numbers.map_batches(
            _Worker,
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=IN_FLIGHT),
            fn_constructor_args=(job, encoder if encoder.fitted else None),
            num_cpus=needs["CPU"],
            num_gpus=needs.get("GPU"),
        )
        try:
            for row in encoded.iter_rows():
                yield Shard.from_bytes(row["shard"])
        except RayError as error:  # its text is the worker's traceback
            last = str(error).strip().splitlines()[-1]
            raise UserError(f"engine=ray: a worker failed: {last}; finished shards are kept.") from error


class _Worker:
    """An actor: the job, and the encoder loaded."""

    def __init__(self, job: Job, encoder: Encoder | None) -> None:
        self.job = job
        self.encoder = encoder or load_encoder(job)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        shards = [encode_shard(self.job, self.encoder, int(number)).to_bytes() for number in batch["number"]]
        return {"shard": np.array(shards, dtype=object)}


@contextmanager
def _cluster() -> Iterator[None]:
    """Use the cluster that this process or RAY_ADDRESS names, else start a local one for the while."""
    import ray

    if ray.is_initialized():
        yield
        return
    # Without an address Ray would join a cluster that somebody else has started on this machine.
    local = {"address": "local", "include_dashboard": False}
    options: dict[str, Any] = {} if "RAY_ADDRESS" in os.environ else local
    ray.init(logging_level=logging.WARNING, log_to_driver=False, **options)
    ray.data.DataContext.get_current().enable_progress_bars = False  # `extract` tells how far it is
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    try:
        yield
    finally:
        ray.shutdown()


def _check_fits(needs: dict[str, int], workers: int) -> None:
    import ray

    there = ray.cluster_resources()
    for kind, amount in needs.items():
        if amount * workers > there.get(kind, 0):
            raise UserError(
                f"workers={workers}: {workers} x {amount} {kind} are needed and {there.get(kind, 0):g} are "
                "there; lower --workers or --threads."
            )
