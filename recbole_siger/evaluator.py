"""RecBole's collector and evaluator, with every top-k metric computed for all users at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from recbole.evaluator import Collector, Evaluator
from recbole.evaluator.metrics import MAP, MRR, NDCG
from torch import Tensor

from recbole_siger.config import Config
from recbole_siger.evaluation.ranking import (
    Ids,
    average_precision_at_k,
    hits_at_k,
    ndcg_at_k,
    reciprocal_rank_at_k,
    top_k,
)

__all__ = ["RankingCollector", "RankingEvaluator"]

Hits = NDArray[np.bool_]


class RankingCollector(Collector):
    """RecBole's collector; for top-k metrics without its dense matrix of users by items.

    What a batch leaves stays on its device until all of it is asked for.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._collected: dict[str, list[Tensor]] = {}

    def eval_batch_collect(
        self, scores: Tensor, interaction: Any, positive_u: Tensor, positive_i: Tensor
    ) -> None:
        """Collect one batch: ``scores`` is ``(B, n_items)``, the pairs to find are ``(P,)`` each."""
        if any(self.register.need(name) for name in ("rec.meanrank", "rec.score", "data.label")):
            super().eval_batch_collect(scores, interaction, positive_u, positive_i)
            return
        top = top_k(scores, max(self.topk))
        if self.register.need("rec.items"):
            self._collected.setdefault("rec.items", []).append(top)
        if self.register.need("rec.topk"):
            hits = hits_at_k(top, positive_u, positive_i, scores.shape[1])
            counts = torch.bincount(positive_u, minlength=len(scores)).unsqueeze(1).to(hits.device)
            self._collected.setdefault("rec.topk", []).append(torch.cat([hits.int(), counts.int()], dim=1))

    def get_data_struct(self) -> Any:
        """Return what was collected since the last call."""
        for name, parts in self._collected.items():
            self.data_struct.set(name, torch.cat(parts).cpu())
        self._collected = {}
        return super().get_data_struct()


class _NDCG(NDCG):
    def metric_info(self, pos_index: Hits, pos_len: Ids) -> NDArray[np.float64]:
        return ndcg_at_k(pos_index, pos_len)


class _MRR(MRR):
    def metric_info(self, pos_index: Hits) -> NDArray[np.float64]:
        return reciprocal_rank_at_k(pos_index)


class _MAP(MAP):
    def metric_info(self, pos_index: Hits, pos_len: Ids) -> NDArray[np.float64]:
        return average_precision_at_k(pos_index, pos_len)


class RankingEvaluator(Evaluator):
    """RecBole's evaluator; the metrics that loop over users are replaced, to the same last bit."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        for name, replacement in {"ndcg": _NDCG, "mrr": _MRR, "map": _MAP}.items():
            if name in self.metric_class:
                self.metric_class[name] = replacement(config)
