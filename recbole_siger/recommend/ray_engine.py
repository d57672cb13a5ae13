"""Rank items on Ray Data: a pool of actors, each with the run folder opened once.

Only the numbers of shards enter Ray. An actor opens the run folder itself, so every node needs the same path.
Finished shards stream back and are written here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load, save

from recbole_siger.errors import UserError
from recbole_siger.parallel.ray import actor_rows, address_of_environment, check_room, connected, failure_line
from recbole_siger.recommend.ranking import Ranked, join
from recbole_siger.recommend.recommender import Recommender, SeenChoice

__all__ = ["Request", "rank_on_ray"]

Ids = NDArray[np.int64]

CPUS = 1
"""CPUs of an actor, and threads of torch in it."""


@dataclass(frozen=True)
class Request:
    """What is ranked for each shard of users.

    Attributes:
        run: The run folder.
        parts: Internal user ids of each shard.
        k: Items a user at most.
        exclude_seen: As for :meth:`~recbole_siger.recommend.recommender.Recommender.recommend`.
        candidates: Internal ids of the items that can be recommended, ascending; None: all items.
    """

    run: Path
    parts: Sequence[Ids]
    k: int
    exclude_seen: SeenChoice
    candidates: Ids | None

    def ranked(self, recommender: Recommender, number: int) -> Ranked:
        """Rank items for the users of one shard."""
        return join(recommender.rank(self.parts[number], self.k, self.exclude_seen, self.candidates))


def rank_on_ray(request: Request, todo: Sequence[int], workers: int) -> Iterator[tuple[int, Ranked]]:
    """Yield number and recommendations of the shards ``todo``, in the order in which they are finished.

    Args:
        request: What is ranked.
        todo: Numbers of shards, at least one.
        workers: Actors, each with one CPU.

    Raises:
        UserError: If Ray is not installed, cannot be reached or has too few CPUs, or a worker fails.
    """
    # Without an address Ray would join a cluster that another user has started on this machine.
    with connected(address_of_environment(), "recommend", option="RAY_ADDRESS", library="data"):
        from ray.exceptions import RayError

        workers, needs = min(workers, len(todo)), {"CPU": CPUS}
        check_room(workers, needs, f"--workers={workers}", "lower --workers")
        try:
            for row in actor_rows(_Worker, (request,), todo, workers, needs):
                yield int(row["number"]), _unpacked(row["ranked"])
        except RayError as error:  # its text is the worker's traceback
            reason = failure_line(str(error))
            raise UserError(f"--engine=ray: a worker failed: {reason}; finished shards are kept") from error


class _Worker:
    """An actor: the request, and the run folder opened."""

    def __init__(self, request: Request) -> None:
        torch.set_num_threads(CPUS)
        self.request, self.recommender = request, Recommender.load(request.run)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        packed = [_packed(self.request.ranked(self.recommender, int(number))) for number in batch["number"]]
        return {"number": batch["number"], "ranked": np.array(packed, dtype=object)}


def _packed(ranked: Ranked) -> bytes:
    return save(dict(zip(("rows", "items", "scores"), map(np.ascontiguousarray, ranked), strict=True)))


def _unpacked(data: bytes) -> Ranked:
    state = load(data)
    return state["rows"], state["items"], state["scores"]
