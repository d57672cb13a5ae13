"""RecBole's collector and evaluator: metrics of all users at once, and the ranking itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from recbole.evaluator import Collector, DataStruct, Evaluator
from recbole.evaluator.metrics import MAP, MRR, NDCG
from torch import Tensor

from recbole_siger.config import Config
from recbole_siger.errors import UserError
from recbole_siger.evaluation.metrics import USER_METRICS, Ranking, average_precision, mrr, ndcg
from recbole_siger.evaluation.ranking import Ids, hits_at_k, top_k
from recbole_siger.parallel.shares import current_share, gather_rows

__all__ = ["RankingCollector", "RankingEvaluator", "count_hits"]

Hits = NDArray[np.bool_]


class RankingCollector(Collector):
    """RecBole's collector; top-k metrics do not use its dense matrix of users by items.

    The results of a batch stay on its device until the results of all batches are requested.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._collected: dict[str, list[Tensor]] = {}
        self._ranked: list[tuple[Tensor, ...]] = []

    def forget(self) -> None:
        """Remove the collected values."""
        self._collected, self._ranked = {}, []

    def eval_batch_collect(
        self, scores: Tensor, interaction: Any, positive_u: Tensor, positive_i: Tensor
    ) -> None:
        """Collect one batch: ``scores`` is ``(B, n_items)``, the relevant pairs are ``(P,)`` each."""
        if positive_u is None or scores.dim() != 2:  # no ranking
            super().eval_batch_collect(scores, interaction, positive_u, positive_i)
            return
        top = top_k(scores, max(self.topk))
        users = interaction[self.config["USER_ID_FIELD"]]
        if len(users) != len(scores):  # sampled candidates, user by user; a repeated row is one pair
            users = users.unique_consecutive()
            positive_u, positive_i = torch.stack((positive_u, positive_i)).unique(dim=1)
        self._ranked.append((users, top, scores.gather(1, top), positive_u, positive_i))
        if any(self.register.need(name) for name in ("rec.meanrank", "rec.score", "data.label")):
            super().eval_batch_collect(scores, interaction, positive_u, positive_i)
            return
        if self.register.need("rec.items"):
            self._collected.setdefault("rec.items", []).append(top)
        if self.register.need("rec.topk"):
            hits = hits_at_k(top, positive_u, positive_i, scores.shape[1])
            counts = _count_rows(positive_u, len(scores)).to(hits.device)
            table = torch.cat([hits.int(), counts.int().unsqueeze(1)], dim=1)
            self._collected.setdefault("rec.topk", []).append(table)

    def get_data_struct(self) -> Any:
        """Return the values collected since the last call.

        Raises:
            UserError: If a score among the best is NaN; torch ranks NaN above every number.
        """
        if self._ranked and torch.stack([best.isnan().any() for _, _, best, *_ in self._ranked]).any():
            raise UserError(
                f"model {self.config['model']!r}: some scores are NaN, so the ranking has no meaning; "
                "lower learning_rate, or look for items without a training row or a feature"
            )
        if current_share().size > 1:
            self._gather()
        for name, parts in self._collected.items():
            self.data_struct.set(name, torch.cat(parts).cpu())
        self._collected = {}
        return super().get_data_struct()

    def _gather(self) -> None:
        """Collect the users of all processes, in the order in which a single process ranks them."""
        if not self._ranked:
            raise UserError("nproc: fewer users to rank than processes; lower nproc")
        users, top, best, row, item = (torch.cat(column) for column in zip(*self._ranked, strict=True))
        self._collected |= {  # by RecBole, for GAUC
            name: [self.data_struct.get(name).to(users.device)]
            for name in ("rec.items", "rec.topk", "rec.meanrank")
            if name in self.data_struct
        }
        first = torch.tensor([len(batch[0]) for batch in self._ranked]).cumsum(0)
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), first[:-1]])
        lengths = torch.tensor([len(batch[3]) for batch in self._ranked])
        row = row + starts.repeat_interleave(lengths).to(row.device)
        users_of_pairs = gather_rows(users[row])
        users, top, best, item = (gather_rows(column) for column in (users, top, best, item))
        users, order = users.sort()
        row = torch.searchsorted(users, users_of_pairs)
        row, pairs = row.sort(stable=True)
        self._ranked = [(users, top[order], best[order], row, item[pairs])]
        self._collected = {
            name: [gather_rows(torch.cat(parts))[order]] for name, parts in self._collected.items()
        }

    def take_ranking(self) -> Ranking | None:
        """Return the ranking since the last call, users ascending; None if nothing was ranked."""
        batches, self._ranked = self._ranked, []
        if not batches:
            return None
        first = np.cumsum([0] + [len(batch[0]) for batch in batches[:-1]])
        parts = (torch.cat(column).cpu().numpy() for column in zip(*batches, strict=True))
        users, top, best, row, item = parts
        top[best == -np.inf] = 0
        row = row + np.repeat(first, [len(batch[3]) for batch in batches])
        order = np.argsort(users, kind="stable")
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        pairs = np.unique(np.stack((place[row], item)), axis=1)
        return Ranking(users[order], top[order], *pairs)


def _count_rows(row: Tensor, n_rows: int) -> Tensor:
    """Count the pairs of each row: ``(P,)`` to ``(n_rows,)``."""
    if row.device.type == "cpu":
        return torch.bincount(row, minlength=n_rows)
    counts = torch.zeros(n_rows, dtype=torch.int64, device=row.device)  # bincount waits for the device
    return counts.index_put_((row,), torch.ones_like(row), accumulate=True)


class _NDCG(NDCG):
    def metric_info(self, pos_index: Hits, pos_len: Ids) -> NDArray[np.float64]:
        return ndcg(pos_index, pos_len)


class _MRR(MRR):
    def metric_info(self, pos_index: Hits) -> NDArray[np.float64]:
        return mrr(pos_index, np.zeros(len(pos_index), dtype=np.int64))


class _MAP(MAP):
    def metric_info(self, pos_index: Hits, pos_len: Ids) -> NDArray[np.float64]:
        return average_precision(pos_index, pos_len)


class RankingEvaluator(Evaluator):
    """RecBole's evaluator; faster metrics replace those that loop over users, with the same bits."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        for name, replacement in {"ndcg": _NDCG, "mrr": _MRR, "map": _MAP}.items():
            if name in self.metric_class:
                self.metric_class[name] = replacement(config)


def count_hits(evaluator: Evaluator, ranking: Ranking) -> dict[str, float]:
    """Compute the metrics of users for a part of a ranking with RecBole's metrics."""
    table = np.column_stack((ranking.hits, ranking.n_relevant)).astype(np.int32)
    struct = DataStruct()
    struct.set("rec.topk", torch.from_numpy(table))
    found: dict[str, float] = {}
    for name in evaluator.metrics:
        if name in USER_METRICS:
            values = evaluator.metric_class[name].calculate_metric(struct)
            found |= {key: float(value) for key, value in values.items()}
    return found
