"""What an evaluation collects: RecBole's tables of hits, and the ranking itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from recbole.evaluator import Collector, DataStruct, Evaluator
from torch import Tensor

from recbole_siger.config import Config
from recbole_siger.errors import UserError
from recbole_siger.evaluation.metrics import USER_METRICS, Ranking
from recbole_siger.evaluation.ranking import hits_at_k

__all__ = ["RankingCollector", "count_hits"]


class RankingCollector(Collector):
    """RecBole's collector; for top-k metrics without its dense matrix of users by items."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._ranked: list[tuple[Tensor, ...]] = []

    def eval_batch_collect(
        self, scores: Tensor, interaction: Any, positive_u: Tensor, positive_i: Tensor
    ) -> None:
        """Collect one batch: ``scores`` is ``(B, n_items)``, the pairs to find are ``(P,)`` each."""
        if positive_u is None or scores.dim() != 2:  # nothing is ranked
            super().eval_batch_collect(scores, interaction, positive_u, positive_i)
            return
        value, top = scores.topk(max(self.topk), dim=-1)
        if value.isnan().any():  # torch ranks NaN above every number
            raise UserError(
                f"model {self.config['model']!r}: some scores are NaN, so its ranking means nothing; "
                "look for items without a training row or a feature"
            )
        users = interaction[self.config["USER_ID_FIELD"]]
        if len(users) != len(scores):  # sampled candidates, user after user
            users = users.unique_consecutive()
        batch = users, top.masked_fill(value == -torch.inf, 0), positive_u, positive_i
        self._ranked.append(tuple(part.cpu() for part in batch))
        if any(self.register.need(name) for name in ("rec.meanrank", "rec.score", "data.label")):
            super().eval_batch_collect(scores, interaction, positive_u, positive_i)
            return
        if self.register.need("rec.items"):
            self.data_struct.update_tensor("rec.items", top)
        if self.register.need("rec.topk"):
            hits = hits_at_k(top, positive_u, positive_i, scores.shape[1])
            counts = torch.bincount(positive_u, minlength=len(scores)).unsqueeze(1)
            self.data_struct.update_tensor("rec.topk", torch.cat([hits.cpu().int(), counts.int()], dim=1))

    def take_ranking(self) -> Ranking | None:
        """Return what was collected since the last call, users ascending; None if nothing was ranked."""
        batches, self._ranked = self._ranked, []
        if not batches:
            return None
        first = np.cumsum([0] + [len(batch[0]) for batch in batches[:-1]])
        users, top, row, item = (torch.cat(parts).numpy() for parts in zip(*batches, strict=True))
        row = row + np.repeat(first, [len(batch[2]) for batch in batches])
        order = np.argsort(users, kind="stable")
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        pairs = np.unique(np.stack((place[row], item)), axis=1)
        return Ranking(users[order], top[order], *pairs)


def count_hits(evaluator: Evaluator, ranking: Ranking) -> dict[str, float]:
    """Let RecBole compute the metrics of users for a part of a ranking."""
    table = np.column_stack((ranking.hits, ranking.n_relevant)).astype(np.int32)
    struct = DataStruct()
    struct.set("rec.topk", torch.from_numpy(table))
    found: dict[str, float] = {}
    for name in evaluator.metrics:
        if name in USER_METRICS:
            values = evaluator.metric_class[name].calculate_metric(struct)
            found |= {key: float(value) for key, value in values.items()}
    return found
