r"""DA-MRS: item graphs on which the modalities agree, a BPR that weighs feedback, and two alignments.

Reference:
    Guipeng Xv, Xinyu Li, Ruobing Xie, Chen Lin, Chong Liu, Feng Xia, Zhanhui Kang, Leyu Lin.
    "Improving Multi-modal Recommender Systems by Denoising and Aligning Multi-modal Content and User
    Feedback." KDD 2024. arXiv:2406.12501.

Reference code:
    https://github.com/XMUDM/DA-MRS, https://github.com/enoche/MMRec

Shapes:
    U users and I items (both with RecBole's padding row 0), N = U + I, B batch, d ``embedding_size``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbole_siger.errors import UserError
from recbole_siger.graph.co_occurrence import co_occurrence_graph
from recbole_siger.graph.knn import consistent_graphs
from recbole_siger.graph.normalize import normalize_adjacency, sparse_matrix
from recbole_siger.model.abstract_recommender import MultimodalRecommender
from recbole_siger.model.device import choices
from recbole_siger.model.inputs import Batch
from recbole_siger.model.layers import UserItem, embedding_tables, unit_rows
from recbole_siger.model.loss import bernoulli_divergence, neighbor_discrimination
from recbole_siger.model.memory import FLOAT, MemoryTerms, contrast_chunk, distinct_rows
from recbole_siger.model.propagation import SparseMatrix, propagate_last, propagate_user_item
from recbole_siger.model.rows import Distinct, take_rows, take_triple
from recbole_siger.options.params import ModelParams, bounded

__all__ = ["DAMRS", "DAMRSParams"]

SESSION = "session"


@dataclass(frozen=True, kw_only=True)
class DAMRSParams(ModelParams):
    """Types and ranges; defaults and meanings are in ``properties/model/DAMRS.yaml``."""

    embedding_size: int = bounded("[1, inf)")
    n_ui_layers: int = bounded("[0, inf)")
    n_semantic_layers: int = bounded("[1, inf)")
    n_semantic_neighbors: int = bounded("[1, inf)")  # k
    n_session_neighbors: int = bounded("[1, inf)")
    min_co_occurrence: int = bounded("[1, inf)")
    co_tie_break: Literal["cosine", "popularity", "id"]
    divergence_weight: float = bounded("[0, inf)")  # of AU
    neighbor_weight: float = bounded("[0, inf)")  # of AI
    neighbor_temperature: float = bounded("(0, inf)")
    n_discriminated: int = bounded("[1, inf)")


class DAMRS(MultimodalRecommender):
    r"""LightGCN, plus the mean of what items gather in each modality's graph and in the session graph.

    .. math::
        h_g &= S_g E_i, \quad g \in \{\text{modalities}, \text{session}\}, \qquad
            \bar h = \operatorname{mean}_g h_g, \qquad E = [\hat E_u; \hat E_i + \bar h] \\
        v_g(i) &= \sigma(\hat E_u \cdot \operatorname{unit}(h_g(i))), \qquad
            w^+ = \operatorname{mean}_g v_g(i^+) \cdot e^{-2 \operatorname{var}_g v_g(i^+)}, \qquad
            t = \operatorname{mean}_{g, b} v_g(i^-) \\
        w^- &= \max(\max_g v_g(i^+) - t, 0) \text{ if } \operatorname{mean}_g v_g(i^+) < t,
            \text{ else } 0 \\
        L &= -\operatorname{mean}_b \bigl(w^+ \log \sigma(y^+ - y^-) + w^- \log \sigma(y^- - y^+)\bigr)
            + \lambda_u \mathrm{AU} + \lambda_i \mathrm{AI}

    AU is :func:`~recbole_siger.model.loss.bernoulli_divergence` of the batch's users, with the unit rows of
    :math:`\hat E_i` and of :math:`\bar h`. AI is :func:`~recbole_siger.model.loss.neighbor_discrimination` of
    the views. Both see the distinct users, and the distinct positive and negative items. The weights have no
    gradient. The session graph joins an item with itself and with the items that share most users with it.

    Departures from the paper, as in the reference code:
        AI compares with softmax at temperature 1 and contrasts at ``neighbor_temperature``.
    Departures from the reference code:
        An item without a feature has no edge in that modality's graph, its pairs are judged by the other
        modalities, and the thresholds are means over items with a feature. There its cosines are NaN.
        Equal numbers of common users are ordered by ``co_tie_break``.
        AU has no logarithm of 1 - p. The padding item is no neighbour in AI.
    """

    params_class = DAMRSParams
    params: DAMRSParams
    scores_cold_items = True  # by the edges of its features
    shares_batches = True
    untrained_bpr = MultimodalRecommender.untrained_bpr / 2  # the weight of a pair starts at one half

    def build(self) -> None:
        """Make the tables and the graphs.

        Raises:
            UserError: If there are not enough items for two sets of ``n_discriminated`` neighbours.
        """
        p, width = self.params, self.params.embedding_size
        if 2 * p.n_discriminated > self.n_items - 1:
            raise UserError(
                f"DAMRS: n_discriminated={p.n_discriminated}: the dataset has {self.n_items - 1} items; set "
                f"n_discriminated to {(self.n_items - 1) // 2} or less"
            )
        if SESSION in self.modalities:
            raise UserError(f"DAMRS: a modality is named {SESSION!r}, as the view by users is; rename it")
        self.user_embedding, self.item_embedding = embedding_tables(
            (self.n_users, width), (self.n_items, width)
        )
        self.norm_adj = self.build_norm_adj(self.train_edges)
        graphs = {**self.build_consistent_graphs(), SESSION: self.build_session_graph()}
        self.item_graphs = nn.ModuleDict(
            {name: SparseMatrix(normalize_adjacency(graph)) for name, graph in graphs.items()}
        )

    def memory_terms(self, batch_size: int) -> MemoryTerms:
        """Count tables of nodes and views, the batch's rows, and the chunks of both alignments."""
        p, width, n_views = self.params, FLOAT * self.params.embedding_size, len(self.modalities) + 1
        nodes, items = (self.n_users + self.n_items) * width, self.n_items * width
        n_keys = distinct_rows(self.device, 2 * batch_size, self.n_items)
        pairs = contrast_chunk(self.device, n_keys, batch_size)
        chunk = max((2 * n_views + 5) * contrast_chunk(self.device, self.n_items, 2 * batch_size), 6 * pairs)
        tables = 3 * nodes + (3 + 3 * n_views * (p.neighbor_weight > 0)) * items
        return MemoryTerms(tables + 5 * batch_size * width + chunk, 2 * nodes + (n_views + 2) * items)

    # ---- graphs

    def build_consistent_graphs(self) -> dict[str, Tensor]:
        """Build each modality's graph of the pairs that are similar in every modality: sparse ``(I, I)``."""
        built: dict[str, Tensor] = {}

        def build(k: int, modality: str, **tables: Tensor) -> Tensor:
            if not built:  # one comparison of all pairs gives all graphs
                features = {name.removeprefix("features."): x for name, x in tables.items()}
                built.update(consistent_graphs(features, k))
            return built[modality]

        tables = {f"features.{m}": x for m, x in self.raw_features.items()}
        k = self.params.n_semantic_neighbors
        return {
            m: self.graph_cache.cached("consistent", build, tables, {"k": k, "modality": m})
            for m in self.modalities
        }

    def build_session_graph(self) -> Tensor:
        """Join each item with itself and with its neighbours by common users: sparse ``(I, I)``."""
        p = self.params
        arguments: dict[str, Any] = {
            "n_users": self.n_users,
            "n_items": self.n_items,
            "k": p.n_session_neighbors,
            "min_count": p.min_co_occurrence,
            "tie_break": p.co_tie_break,
        }
        together = self.graph_cache.cached(
            "co_occurrence", co_occurrence_graph, {"edges": self.train_edges}, arguments
        )
        loops = torch.arange(1, self.n_items, device=together.device).expand(2, -1)
        index = torch.cat([together.indices(), loops], dim=1)
        ones = torch.ones(index.shape[1], device=index.device)
        return sparse_matrix(index, ones, (self.n_items, self.n_items))

    # ---- representations

    def encode(self) -> tuple[UserItem, list[Tensor]]:
        """Return behaviour, ``(U, d)`` and ``(I, d)``, and the views of the items, ``(I, d)`` each."""
        user, item = self.user_embedding.weight, self.item_embedding.weight
        behavior = propagate_user_item(self.norm_adj, user, item, self.params.n_ui_layers)
        n_layers = self.params.n_semantic_layers
        return behavior, [propagate_last(graph, item, n_layers) for graph in self.item_graphs.values()]

    def forward(self) -> UserItem:
        """Add the mean of the views to the items: ``(U, d)`` and ``(I, d)``."""
        behavior, views = self.encode()
        return UserItem(behavior.user, behavior.item + torch.stack(views).mean(dim=0))

    # ---- training

    def loss_terms(self, interaction: Batch) -> dict[str, Tensor]:
        """Return the terms of the loss, weighted."""
        p, share = self.params, self.share
        user, pos, neg = (interaction[key] for key in (self.USER_ID, self.ITEM_ID, self.NEG_ITEM_ID))
        behavior, views = self.encode()
        mean_view = torch.stack(views).mean(dim=0)
        liked, weak = self.weights(behavior.user, views, user, pos, neg)
        u, i, j = take_triple(UserItem(behavior.user, behavior.item + mean_view), user, pos, neg)
        gap = share.of((u * (i - j)).sum(dim=-1))
        denoised = share.of(liked) * functional.logsigmoid(gap) + share.of(weak) * functional.logsigmoid(-gap)
        static = choices(user).static and share.size == 1
        items = Distinct(torch.cat([pos, neg]), self.n_items, static=static)
        users = Distinct(user, self.n_users, static=static)
        divergence = self.divergence(behavior, mean_view, users, items)
        return {
            "bpr": -share.weight(len(user)) * denoised.mean(),
            "divergence": p.divergence_weight * divergence,
            "neighbors": p.neighbor_weight * self.discrimination(views, items),
        }

    def divergence(self, behavior: UserItem, mean_view: Tensor, users: Distinct, items: Distinct) -> Tensor:
        """Align what behaviour and views say about users and items, AU: ``()``."""
        tables = [unit_rows(items.of(table)) for table in (behavior.item, mean_view)]
        if users.count is not None and items.count is not None:
            # A row of zeros has no divergence, so padding changes only the number of pairs in the mean.
            tables = [table * items.valid().unsqueeze(1) for table in tables]
            user = users.of(behavior.user) * users.valid().unsqueeze(1)
            share = len(users.ids) * len(items.ids) / (users.count * items.count)
            return (share * bernoulli_divergence(user, *tables)).squeeze(0)
        own = self.share.of(users.ids)
        if len(own) == 0:  # fewer users than processes
            return mean_view.sum() * 0
        weight = self.share.weight(len(users.ids))
        return weight * bernoulli_divergence(take_rows(behavior.user, own), *tables)

    def discrimination(self, views: list[Tensor], items: Distinct) -> Tensor:
        """Align the views of items with their neighbours among all items, AI: ``()``."""
        p, own, weight = self.params, self.share.of(items.ids) - 1, None
        if len(own) == 0:
            return views[0].sum() * 0
        if items.count is not None:
            own, weight = own.clamp_min(0), items.valid() / items.count
        every = [view[1:] for view in views]  # without padding
        loss = neighbor_discrimination(every, own, p.n_discriminated, p.neighbor_temperature, weight=weight)
        return self.share.weight(len(items.ids)) * loss

    @torch.no_grad()
    def weights(
        self, users: Tensor, views: list[Tensor], user: Tensor, pos: Tensor, neg: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Weigh the feedback of a batch by the views: how far to trust it, and how far to reverse it.

        Args:
            users: Behaviour of all users, shape ``(U, d)``.
            views: Views of all items, shape ``(I, d)`` each.
            user: Users of the batch, shape ``(B,)``.
            pos: Their positive items, shape ``(B,)``.
            neg: Their negative items, shape ``(B,)``.

        Returns:
            Weights of both orders, shape ``(B,)`` each, in [0, 1], without gradients.
        """
        rows = users[user]

        def beliefs(item: Tensor) -> Tensor:
            return torch.stack([(rows * unit_rows(view[item])).sum(dim=-1).sigmoid() for view in views])

        of_pos, threshold = beliefs(pos), beliefs(neg).mean()
        mean, best = of_pos.mean(dim=0), of_pos.amax(dim=0)
        doubtful = (best - threshold).clamp(0, 1) * (mean < threshold)
        return mean * torch.exp(-2 * of_pos.var(dim=0)), doubtful
