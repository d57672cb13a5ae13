r"""LATTICE: item graphs learned from the modalities, mixed with those of the raw features.

Reference:
    Jinghao Zhang, Yanqiao Zhu, Qiang Liu, Shu Wu, Shuhui Wang, Liang Wang.
    "Mining Latent Structures for Multimedia Recommendation." ACM Multimedia 2021. arXiv:2104.09036.

Reference code:
    https://github.com/CRIPAC-DIG/LATTICE, https://github.com/enoche/MMRec

Shapes:
    U users and I items (both with RecBole's padding row 0), N = U + I, B batch, d ``embedding_size``, F_m raw
    width of modality m, k ``n_semantic_neighbors``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from recbole_siger.data.features import has_feature
from recbole_siger.errors import UserError
from recbole_siger.graph.knn import semantic_graph
from recbole_siger.graph.normalize import normalize_adjacency, normalize_rows, sparse_matrix, weighted_sum
from recbole_siger.graph.user_item import user_item_adjacency
from recbole_siger.model.abstract_recommender import MultimodalRecommender
from recbole_siger.model.inputs import Batch
from recbole_siger.model.layers import UserItem, embedding_tables, unit_rows
from recbole_siger.model.memory import FLOAT, MemoryTerms
from recbole_siger.model.propagation import SparseMatrix, propagate_last, propagate_user_item, sparse_product
from recbole_siger.model.ranking import ranking_losses
from recbole_siger.model.rows import take_triple
from recbole_siger.options.params import ModelParams, bounded

__all__ = ["LATTICE", "LATTICEParams"]


@dataclass(frozen=True, kw_only=True)
class LATTICEParams(ModelParams):
    """Types and ranges; defaults and meanings are in ``properties/model/LATTICE.yaml``."""

    embedding_size: int = bounded("[1, inf)")
    n_ui_layers: int = bounded("[0, inf)")
    n_semantic_layers: int = bounded("[1, inf)")
    n_semantic_neighbors: int = bounded("[1, inf)")
    raw_graph_weight: float = bounded("[0, 1]")  # λ
    reg_weight: float = bounded("[0, inf)")
    lr_decay: float = bounded("(0, 1]")
    lr_decay_epochs: int = bounded("[1, inf)")
    train_features: bool


class LATTICE(MultimodalRecommender):
    r"""Items gather from items that look alike, in their raw features and in what is learned from them.

    .. math::
        S &= (1 - \lambda) \operatorname{norm}\Bigl(\sum_m w_m \operatorname{top}_k \cos(W_m X_m + b_m)\Bigr)
            + \lambda \sum_m w_m \operatorname{norm}(\operatorname{top}_k \cos X_m),
            \qquad w = \operatorname{softmax}(a) \\
        E_u &= \hat E_u, \qquad E_i = \hat E_i + h / \lVert h \rVert, \qquad h = S^L E_{id}

    ==================================  ================================  ======================
    Symbol                              Here                              Shape
    ==================================  ================================  ======================
    norm(top cos :math:`X_m`)           ``raw_graphs[m]``                 sparse ``(I, I)``
    top cos :math:`(W_m X_m + b_m)`     ``build_learned_graph(m)``        sparse ``(I, I)``
    :math:`a`                           ``modality_weights``              ``(M,)``
    :math:`S`                           ``build_item_graph()``            sparse ``(I, I)``
    :math:`\hat E`, LightGCN            ``propagate_user_item``           ``(U, d)``, ``(I, d)``
    :math:`E`                           ``forward()``                     ``(U, d)``, ``(I, d)``
    ==================================  ================================  ======================

    The learned graph is built with gradients for the first batch of an epoch and held fixed for the others.
    What ranks is the graph of the parameters as they are. No matrix of items by items is ever dense.

    Departures from the paper, as in the reference code:
        The learned graphs are mixed before they are normalised, not after.
        The user-item graph has self loops and is normalised by rows.
    Departures from the reference code:
        A negative similarity counts as 0. An item without a feature has no edge in that modality's graphs.
        The penalty is divided by the rows of the batch, where the last batch of an epoch has fewer.
    """

    params_class = LATTICEParams
    params: LATTICEParams
    scores_cold_items = True

    def build(self) -> None:
        """Make the tables, the layers and the graphs."""
        p, width = self.params, self.params.embedding_size
        self.user_embedding, self.item_embedding = embedding_tables(
            (self.n_users, width), (self.n_items, width)
        )
        self.features = self.feature_tables(trained=p.train_features)
        self.projections = self.feature_projections(width)
        self.modality_weights = nn.Parameter(torch.zeros(len(self.modalities)))

        adjacency = user_item_adjacency(self.train_edges, self.n_users, self.n_items, self_loops=True)
        self.norm_adj = SparseMatrix(normalize_rows(adjacency))
        self.raw_graphs = self.knn_graphs(p.n_semantic_neighbors, "cosine")
        self.item_graph: SparseMatrix | None = None  # of this epoch, once its first batch has built it

    def on_epoch_start(self, epoch: int) -> None:
        """Forget the item graph; the first batch builds the next one."""
        self.item_graph = None

    def learning_rate_factor(self, epoch: int) -> float:
        """Multiply the learning rate by ``lr_decay`` in each ``lr_decay_epochs``, smoothly."""
        return self.params.lr_decay ** (epoch / self.params.lr_decay_epochs)

    def memory_terms(self, batch_size: int) -> MemoryTerms:
        """Count an epoch's first batch: the rows at both ends of each edge of the learned graphs dominate."""
        p, n_modalities = self.params, len(self.modalities)
        width = FLOAT * p.embedding_size
        n_edges = min(p.n_semantic_neighbors, self.n_items) * self.n_items
        nodes, ends = (self.n_users + self.n_items) * width, n_edges * width
        numbers = n_modalities * n_edges * 8  # one int64 an edge; sorting and summing the graphs needs many
        # Each modality keeps the rows of both ends of its edges; the backward pass needs two tables more.
        step = (2 * n_modalities + 2) * ends + 32 * numbers + 2 * nodes + 8 * batch_size * width
        return MemoryTerms(step, max(3 * ends + 5 * numbers, 24 * numbers, 3 * nodes))

    # ---- graphs

    def build_learned_graph(self, modality: str) -> Tensor:
        """Connect items by the cosine of their projected features: sparse ``(I, I)`` with gradients.

        The search for neighbours has no gradient and goes in blocks; their cosines have one.
        """
        projected = self.projections[modality](getattr(self.features, modality))
        if not projected.isfinite().all():
            raise UserError(f"LATTICE: learned features of {modality} are not finite; lower learning_rate")
        projected = projected * has_feature(self.raw_features[modality])[:, None]
        tables, arguments = {"features": projected.detach()}, {"k": self.params.n_semantic_neighbors}
        index = self.graph_cache.learned("semantic", semantic_graph, tables, arguments).indices()
        unit = unit_rows(projected)
        cosine = (unit[index[0]] * unit[index[1]]).sum(dim=1)
        return sparse_matrix(index, cosine.clamp_min(0), (self.n_items, self.n_items))

    def build_item_graph(self) -> Tensor:
        """Mix learned and raw graphs, S: sparse ``(I, I)`` with gradients."""
        share, weights = self.params.raw_graph_weight, self.modality_weights.softmax(dim=0)
        learned = weighted_sum([self.build_learned_graph(m) for m in self.modalities], weights)
        raw = weighted_sum([self.raw_graphs[m] for m in self.modalities], weights)
        return weighted_sum([normalize_adjacency(learned), raw], [1 - share, share])

    # ---- representations

    def encode(self, item_graph: Callable[[Tensor], Tensor]) -> UserItem:
        """Add what items gather over the item graph to LightGCN: ``(U, d)`` and ``(I, d)``."""
        p, item = self.params, self.item_embedding.weight
        behavior = propagate_user_item(self.norm_adj, self.user_embedding.weight, item, p.n_ui_layers)
        semantics = propagate_last(item_graph, item, p.n_semantic_layers)
        return UserItem(behavior.user, behavior.item + unit_rows(semantics))

    def forward(self) -> UserItem:
        """Encode over the item graph of the parameters as they are."""
        return self.encode(partial(sparse_product, self.build_item_graph()))

    # ---- training

    def loss_terms(self, interaction: Batch) -> dict[str, Tensor]:
        """Return the ranking loss and the penalty on the batch's embeddings."""
        user, pos, neg = (interaction[key] for key in (self.USER_ID, self.ITEM_ID, self.NEG_ITEM_ID))
        if self.item_graph is None:
            graph = self.build_item_graph()
            final = self.encode(partial(sparse_product, graph))
            self.item_graph = SparseMatrix(graph)  # without gradients
        else:
            final = self.encode(self.item_graph)
        ranked, squares = ranking_losses(*take_triple(final, user, pos, neg))
        return {"bpr": ranked, "regularization": self.params.reg_weight * squares}
