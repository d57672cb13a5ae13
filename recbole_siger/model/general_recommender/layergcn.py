r"""LayerGCN: propagation that weighs each layer by its likeness to the ID embedding, on a pruned graph.

Reference:
    Xin Zhou, Donghui Lin, Yong Liu, Chunyan Miao.
    "Layer-refined Graph Convolutional Networks for Recommendation." ICDE 2023. arXiv:2207.11088.

Reference code:
    https://github.com/enoche/MMRec

Shapes:
    U users and I items (both with RecBole's padding row 0), N = U + I, E distinct training interactions, B
    batch, d ``embedding_size``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recbole_siger.graph.normalize import normalize_bipartite
from recbole_siger.graph.user_item import interaction_matrix
from recbole_siger.model.abstract_recommender import MultimodalRecommender
from recbole_siger.model.inputs import Batch
from recbole_siger.model.layers import UserItem, embedding_tables
from recbole_siger.model.loss import l2_loss
from recbole_siger.model.memory import FLOAT, MemoryTerms
from recbole_siger.model.propagation import SparseMatrix, propagate_refined
from recbole_siger.model.ranking import ranking_loss
from recbole_siger.model.rows import take_triple
from recbole_siger.options.params import ModelParams, bounded

__all__ = ["LayerGCN", "LayerGCNParams"]


@dataclass(frozen=True, kw_only=True)
class LayerGCNParams(ModelParams):
    """Types and ranges; defaults and meanings are in ``properties/model/LayerGCN.yaml``."""

    embedding_size: int = bounded("[1, inf)")
    n_ui_layers: int = bounded("[1, inf)")
    edge_dropout: float = bounded("[0, 1)")  # ρ
    uniform_every: int = bounded("[0, inf)")
    reg_weight: float = bounded("[0, inf)")  # λ


class LayerGCN(MultimodalRecommender):
    r"""The sum of refined layers, without the layer of the IDs.

    .. math::
        P_l &= A H_{l-1}, \qquad H_l = \cos(P_l, E) \odot P_l, \qquad H_0 = E \\
        E_{final} &= \sum_{l=1}^{L} H_l, \qquad
        L = \sum_b -\log \sigma(y^+_b - y^-_b) + \frac{\lambda}{2} \sum_b \lVert E_b \rVert^2

    The cosine is by row, against the ID table, and carries gradients. The penalty sees the ID rows of the
    batch. Both terms are sums over the batch. Training sees the pruned graph of its epoch; :meth:`forward`,
    which ranks, the whole graph. The model reads no features.

    Departures from the paper, as the reference code runs it:
        Every second epoch draws its interactions uniformly (``uniform_every``); the paper draws by degree in
        each epoch.
    """

    params_class = LayerGCNParams
    params: LayerGCNParams
    uses_features = False
    shares_batches = True

    def build(self) -> None:
        """Make the tables and the graphs."""
        width = self.params.embedding_size
        self.user_embedding, self.item_embedding = embedding_tables(
            (self.n_users, width), (self.n_items, width)
        )
        bipartite = normalize_bipartite(interaction_matrix(self.train_edges, self.n_users, self.n_items))
        self.edges, self.edge_weights = bipartite.indices(), bipartite.values()  # 1 / sqrt(d_u d_i)
        self.norm_adj = self.pruned_adj = self.build_norm_adj(self.edges)

    def memory_terms(self, batch_size: int) -> MemoryTerms:
        """Count four tables of nodes a layer, which the backward pass needs, and the rows of the batch."""
        nodes = (self.n_users + self.n_items) * FLOAT * self.params.embedding_size
        step = (
            4 * self.params.n_ui_layers + 4
        ) * nodes + 12 * batch_size * FLOAT * self.params.embedding_size
        return MemoryTerms(step, 6 * nodes)

    def on_epoch_start(self, epoch: int) -> None:
        r"""Keep a share 1 - ρ of the interactions, by weight :math:`1 / \sqrt{d_u d_i}` or uniformly."""
        every, weights = self.params.uniform_every, self.edge_weights
        if every and (epoch + 1) % every == 0:
            weights = torch.ones_like(weights)
        self.pruned_adj = self.draw_norm_adj(self.edges, weights, self.params.edge_dropout)

    def encode(self, norm_adj: SparseMatrix) -> UserItem:
        """Propagate over a graph: ``(U, d)`` and ``(I, d)``."""
        nodes = torch.cat([self.user_embedding.weight, self.item_embedding.weight])
        refined = propagate_refined(norm_adj, nodes, self.params.n_ui_layers)
        return UserItem(*refined.split([self.n_users, self.n_items]))

    def forward(self) -> UserItem:
        """Encode over the whole user-item graph."""
        return self.encode(self.norm_adj)

    def loss_terms(self, interaction: Batch) -> dict[str, Tensor]:
        """Return the terms of the loss, weighted; both are sums over the batch."""
        ids = (interaction[key] for key in (self.USER_ID, self.ITEM_ID, self.NEG_ITEM_ID))
        user, pos, neg = map(self.share.of, ids)
        final = self.encode(self.pruned_adj)
        table = UserItem(self.user_embedding.weight, self.item_embedding.weight)
        n = self.share.size * len(user)  # processes average their sums
        penalty = l2_loss(*take_triple(table, user, pos, neg))
        return {
            "bpr": n * ranking_loss(*take_triple(final, user, pos, neg)),
            "regularization": n * self.params.reg_weight * penalty,
        }
