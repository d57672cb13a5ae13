r"""FREEDOM: a frozen item graph, and a user-item graph that loses edges of popular nodes each epoch.

Reference:
    Xin Zhou, Zhiqi Shen.
    "A Tale of Two Graphs: Freezing and Denoising Graph Structures for Multimodal Recommendation."
    ACM Multimedia 2023. arXiv:2211.06924.

Reference code:
    https://github.com/enoche/FREEDOM, https://github.com/enoche/MMRec

Shapes:
    U users and I items (both with RecBole's padding row 0), N = U + I, E distinct training interactions, B
    batch, d ``embedding_size``, F_m raw width of modality m.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recbole_siger.graph.normalize import normalize_bipartite, weighted_sum
from recbole_siger.graph.user_item import interaction_matrix
from recbole_siger.model.abstract_recommender import MultimodalRecommender
from recbole_siger.model.inputs import Batch
from recbole_siger.model.layers import UserItem, embedding_tables
from recbole_siger.model.loss import bpr_loss
from recbole_siger.model.memory import FLOAT, MemoryTerms
from recbole_siger.model.propagation import SparseMatrix, propagate_last, propagate_user_item
from recbole_siger.model.ranking import ranking_loss
from recbole_siger.model.rows import take_rows, take_triple, without_repeats
from recbole_siger.options.params import ModelParams, bounded

__all__ = ["FREEDOM", "FREEDOMParams"]


@dataclass(frozen=True, kw_only=True)
class FREEDOMParams(ModelParams):
    """Types and ranges; defaults and meanings are in ``properties/model/FREEDOM.yaml``."""

    embedding_size: int = bounded("[1, inf)")
    n_ui_layers: int = bounded("[0, inf)")
    n_semantic_layers: int = bounded("[1, inf)")
    n_semantic_neighbors: int = bounded("[1, inf)")
    image_weight: float = bounded("[0, 1]")
    semantic_weights: tuple[float, ...] | None = bounded("[0, inf)")
    edge_dropout: float = bounded("[0, 1)")  # ρ
    feature_weight: float = bounded("[0, inf)")  # λ
    train_features: bool


class FREEDOM(MultimodalRecommender):
    r"""LightGCN on a thinned graph, plus what items gather from items that look alike.

    .. math::
        E_u &= \hat E_u, \qquad E_i = \hat E_i + S^L E_{id}, \qquad
            S = \sum_m a_m \operatorname{norm}(\operatorname{top}_k X_m) \\
        L &= \mathrm{BPR}(E_u, E_i, E_j) + \lambda \sum_m \mathrm{BPR}(E_u, F_{m,i}, F_{m,j}),
            \qquad F_m = W_m X_m + b_m

    ==================================  ===========================  ======================
    Symbol                              Here                         Shape
    ==================================  ===========================  ======================
    :math:`S`                           ``item_graph``               sparse ``(I, I)``
    :math:`a`                           ``graph_weights()``          ``(M,)``
    :math:`\hat E`, LightGCN            ``propagate_user_item``      ``(U, d)``, ``(I, d)``
    its graph in training               ``pruned_adj``               sparse ``(N, N)``
    its graph in evaluation             ``norm_adj``                 sparse ``(N, N)``
    ==================================  ===========================  ======================

    Training sees the thinned graph of its epoch; :meth:`forward`, which ranks, the whole one.

    Departures from the reference code:
        With modalities other than image and text, ``semantic_weights`` or equal shares mix the graphs.
        An item without a feature has no edge in that modality's graph.
    """

    params_class = FREEDOMParams
    params: FREEDOMParams
    scores_cold_items = True

    def build(self) -> None:
        """Make the tables, the layers and the graphs."""
        p, width = self.params, self.params.embedding_size
        self.user_embedding, self.item_embedding = embedding_tables(
            (self.n_users, width), (self.n_items, width)
        )
        self.features = self.feature_tables(trained=p.train_features)
        self.projections = self.feature_projections(width)

        graphs = self.knn_graphs(p.n_semantic_neighbors, "one").values()
        self.item_graph = SparseMatrix(weighted_sum([*graphs], self.graph_weights()))
        bipartite = normalize_bipartite(interaction_matrix(self.train_edges, self.n_users, self.n_items))
        self.edges, self.edge_weights = bipartite.indices(), bipartite.values()  # 1 / sqrt(d_u d_i)
        self.norm_adj = self.pruned_adj = self.build_norm_adj(self.edges)

    def graph_weights(self) -> list[float]:
        """Return the share of each modality's item graph, in the order of ``modalities``."""
        return self.graph_shares(self.params.image_weight, self.params.semantic_weights)

    def memory_terms(self, batch_size: int) -> MemoryTerms:
        """Count the tables of nodes, the batch's rows, and the features of its distinct items."""
        width, n_modalities = FLOAT * self.params.embedding_size, len(self.modalities)
        nodes, n_distinct = (self.n_users + self.n_items) * width, min(2 * batch_size, self.n_items)
        features = n_distinct * FLOAT * sum(x.shape[1] for x in self.raw_features.values())
        step = 2 * nodes + (5 + 4 * n_modalities) * batch_size * width + features
        return MemoryTerms(step, 3 * nodes)

    # ---- graphs

    def on_epoch_start(self, epoch: int) -> None:
        r"""Keep a share 1 - ρ of the interactions, drawn by weight :math:`1 / \sqrt{d_u d_i}`, none twice."""
        self.pruned_adj = self.draw_norm_adj(self.edges, self.edge_weights, self.params.edge_dropout)

    # ---- representations

    def encode(self, norm_adj: SparseMatrix) -> UserItem:
        """Propagate over both graphs and add: ``(U, d)`` and ``(I, d)``."""
        p, item = self.params, self.item_embedding.weight
        behavior = propagate_user_item(norm_adj, self.user_embedding.weight, item, p.n_ui_layers)
        return UserItem(
            behavior.user, behavior.item + propagate_last(self.item_graph, item, p.n_semantic_layers)
        )

    def forward(self) -> UserItem:
        """Encode over the whole user-item graph."""
        return self.encode(self.norm_adj)

    # ---- training

    def loss_terms(self, interaction: Batch) -> dict[str, Tensor]:
        """Return the terms of the loss, weighted."""
        user, pos, neg = (interaction[key] for key in (self.USER_ID, self.ITEM_ID, self.NEG_ITEM_ID))
        final = self.encode(self.pruned_adj)
        u, i, j = take_triple(final, user, pos, neg)
        terms = {"bpr": ranking_loss(u, i, j)}
        items, place = without_repeats(torch.cat([pos, neg]))  # each is projected once
        for m in self.modalities:
            content = self.projections[m](take_rows(getattr(self.features, m), items))[place]
            liked, other = (u.repeat(2, 1) * content).sum(dim=-1).split(len(pos))
            terms[f"bpr_{m}"] = self.params.feature_weight * bpr_loss(liked, other)
        return terms
