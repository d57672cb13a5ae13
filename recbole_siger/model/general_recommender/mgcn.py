r"""MGCN: features purified by behaviour, and fused by what users and items prefer.

Reference:
    Penghang Yu, Zhiyi Tan, Guanming Lu, Bing-Kun Bao.
    "Multi-View Graph Convolutional Network for Multimedia Recommendation." ACM Multimedia 2023.
    arXiv:2308.03588.

Reference code:
    https://github.com/demonph10/MGCN, https://github.com/enoche/MMRec

Shapes:
    U users and I items (both with RecBole's padding row 0), N = U + I, B batch, d ``embedding_size``, F_m raw
    width of modality m.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recbole_siger.graph.normalize import normalize_bipartite
from recbole_siger.graph.user_item import interaction_matrix
from recbole_siger.model.abstract_recommender import MultimodalRecommender
from recbole_siger.model.batch import batch_rows, contrast_share
from recbole_siger.model.inputs import Batch
from recbole_siger.model.layers import UserItem, embedding_tables
from recbole_siger.model.memory import FLOAT, MemoryTerms, contrast_chunk
from recbole_siger.model.propagation import SparseMatrix, propagate_last, propagate_user_item
from recbole_siger.model.ranking import ranking_losses
from recbole_siger.model.rows import take_rows, take_triple
from recbole_siger.options.params import ModelParams, bounded

__all__ = ["MGCN", "MGCNParams"]


@dataclass(frozen=True, kw_only=True)
class MGCNParams(ModelParams):
    """Types and ranges; defaults and meanings are in ``properties/model/MGCN.yaml``."""

    embedding_size: int = bounded("[1, inf)")
    n_ui_layers: int = bounded("[0, inf)")
    n_semantic_layers: int = bounded("[1, inf)")
    n_semantic_neighbors: int = bounded("[1, inf)")
    cl_weight: float = bounded("[0, inf)")  # λ_c
    cl_temperature: float = bounded("(0, inf)")  # τ
    contrast_dedup: bool
    reg_weight: float = bounded("[0, inf)")  # λ_r
    lr_decay: float = bounded("(0, 1]")
    lr_decay_epochs: int = bounded("[1, inf)")
    train_features: bool


class MGCN(MultimodalRecommender):
    r"""LightGCN, plus what modalities share and, as far as behaviour asks for it, what each has of its own.

    .. math::
        e_m &= E_{id} \odot \sigma(V_m (W_m X_m + b_m) + c_m), \qquad
            v_m = (\bar R S_m e_m, \; S_m e_m) \\
        c &= \sum_m \alpha_m v_m, \qquad \alpha = \operatorname{softmax}_m q^\top \tanh(W v_m + b) \\
        s &= \frac{1}{M + 1} \Bigl(c + \sum_m \sigma(U_m \hat E + d_m) \odot (v_m - c)\Bigr),
            \qquad E = \hat E + s \\
        L &= \mathrm{BPR} + \lambda_r L_2 + \lambda_c \bigl(\mathrm{InfoNCE}(s_i, \hat E_i)
            + \mathrm{InfoNCE}(s_u, \hat E_u)\bigr)

    ==================================  ===========================  ======================
    Symbol                              Here                         Shape
    ==================================  ===========================  ======================
    :math:`S_m`                         ``item_graphs[m]``           sparse ``(I, I)``
    :math:`\bar R`                      ``user_items``               sparse ``(U, I)``
    :math:`e_m`                         ``purify(m)``                ``(I, d)``
    :math:`v_m`                         ``encode_semantics(m)``      ``(U, d)``, ``(I, d)``
    :math:`\hat E`, LightGCN            ``encode_behavior()``        ``(U, d)``, ``(I, d)``
    :math:`s`                           ``fuse()``                   ``(n, d)``
    ==================================  ===========================  ======================

    Departures from the paper, as in the reference code:
        With M modalities the fused vector is the mean of M private parts and the common one.
        A batch contrasts its rows as they come; ``contrast_dedup`` contrasts distinct ids.
    Departures from the reference code:
        A negative similarity counts as 0. An item without a feature has no edge in that modality's graph, so
        its view there is zero, where the reference divides by zero.
        The penalty is divided by the rows of the batch, where the last batch of an epoch has fewer.
    """

    params_class = MGCNParams
    params: MGCNParams
    scores_cold_items = True
    shares_batches = True

    def build(self) -> None:
        """Make the tables, the layers and the graphs."""
        p, width = self.params, self.params.embedding_size
        self.user_embedding, self.item_embedding = embedding_tables(
            (self.n_users, width), (self.n_items, width)
        )
        self.features = self.feature_tables(trained=p.train_features)
        self.projections = self.feature_projections(width)
        self.purifiers = nn.ModuleDict({m: nn.Linear(width, width) for m in self.modalities})
        self.attention = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1, bias=False))
        self.preferences = nn.ModuleDict({m: nn.Linear(width, width) for m in self.modalities})

        edges, n_users, n_items = self.train_edges, self.n_users, self.n_items
        self.norm_adj = self.build_norm_adj(edges)
        self.user_items = SparseMatrix(normalize_bipartite(interaction_matrix(edges, n_users, n_items)))
        graphs = self.knn_graphs(p.n_semantic_neighbors, "cosine")
        self.item_graphs = nn.ModuleDict({m: SparseMatrix(graph) for m, graph in graphs.items()})

    def learning_rate_factor(self, epoch: int) -> float:
        """Multiply the learning rate by ``lr_decay`` in each ``lr_decay_epochs``, smoothly."""
        return self.params.lr_decay ** (epoch / self.params.lr_decay_epochs)

    def memory_terms(self, batch_size: int) -> MemoryTerms:
        """Count the tables of nodes, most of them in :meth:`fuse`, and the rows of the two contrasts."""
        width, n_modalities = FLOAT * self.params.embedding_size, len(self.modalities)
        nodes, rows = (self.n_users + self.n_items) * width, batch_size * width
        fused = max(self.n_users, self.n_items) * width * (4 * n_modalities + 1)
        chunk = contrast_chunk(self.device, batch_size, batch_size)
        step = (6 * n_modalities + 3) * nodes + 13 * rows + 2 * chunk
        return MemoryTerms(step, (n_modalities + 1) * nodes + fused)

    # ---- representations

    def encode_behavior(self) -> UserItem:
        """Propagate the ID embeddings over the user-item graph: ``(U, d)`` and ``(I, d)``."""
        user, item = self.user_embedding.weight, self.item_embedding.weight
        return propagate_user_item(self.norm_adj, user, item, self.params.n_ui_layers)

    def purify(self, modality: str) -> Tensor:
        """Gate the ID embeddings by the projected features: ``(I, d)``."""
        projected = self.projections[modality](getattr(self.features, modality))
        return self.item_embedding.weight * torch.sigmoid(self.purifiers[modality](projected))

    def encode_semantics(self, modality: str) -> UserItem:
        """Gather from similar items, and from them into users: ``(U, d)`` and ``(I, d)``."""
        graph = self.item_graphs[modality]
        item = propagate_last(graph, self.purify(modality), self.params.n_semantic_layers)
        return UserItem(self.user_items(item), item)

    def fuse(self, behavior: Tensor, views: list[Tensor]) -> Tensor:
        """Average the common part and the preferred private parts: ``(n, d)`` each."""
        stacked = torch.stack(views)
        common = (self.attention(stacked).softmax(dim=0) * stacked).sum(dim=0)
        private = [
            torch.sigmoid(self.preferences[m](behavior)) * (view - common)
            for m, view in zip(self.modalities, views, strict=True)
        ]
        return torch.stack([*private, common]).mean(dim=0)

    def encode(self) -> tuple[UserItem, UserItem]:
        """Return behaviour and fused semantics, ``(U, d)`` and ``(I, d)`` each."""
        behavior, semantics = self.encode_behavior(), [self.encode_semantics(m) for m in self.modalities]
        user = self.fuse(behavior.user, [s.user for s in semantics])
        item = self.fuse(behavior.item, [s.item for s in semantics])
        return behavior, UserItem(user, item)

    def forward(self) -> UserItem:
        """Add behaviour and fused semantics: ``(U, d)`` and ``(I, d)``."""
        behavior, side = self.encode()
        return UserItem(behavior.user + side.user, behavior.item + side.item)

    # ---- training

    def loss_terms(self, interaction: Batch) -> dict[str, Tensor]:
        """Return the terms of the loss, weighted."""
        p = self.params
        user, pos, neg = (interaction[key] for key in (self.USER_ID, self.ITEM_ID, self.NEG_ITEM_ID))
        behavior, side = self.encode()
        final = UserItem(behavior.user + side.user, behavior.item + side.item)
        own = self.share.weight(len(user))
        ranked, squares = ranking_losses(*take_triple(final, *map(self.share.of, (user, pos, neg))))
        contrast = self.contrast(side.item, behavior.item, pos) + self.contrast(
            side.user, behavior.user, user
        )
        return {
            "bpr": own * ranked,
            "contrast": p.cl_weight * contrast,
            "regularization": own * p.reg_weight * squares,
        }

    def contrast(self, query: Tensor, key: Tensor, ids: Tensor) -> Tensor:
        """Contrast the rows ``ids`` of two tables, of the queries this process's share: ``()``."""
        tau = self.params.cl_temperature
        if self.params.contrast_dedup:
            rows = batch_rows(ids, n_rows=len(key), negatives="batch", share=self.share)
            return rows.contrast(rows.keys_of(query), rows.keys_of(key), tau)
        return contrast_share(take_rows(query, ids), take_rows(key, ids), tau, share=self.share)
