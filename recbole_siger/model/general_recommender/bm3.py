r"""BM3: users and items that predict each other's disturbed copies, without negative items.

Reference:
    Xin Zhou, Hongyu Zhou, Yong Liu, Zhiwei Zeng, Chunyan Miao, Pengwei Wang, Yuan You, Feijun Jiang.
    "Bootstrap Latent Representations for Multi-modal Recommendation." WWW 2023. arXiv:2207.05969.

Reference code:
    https://github.com/enoche/BM3, https://github.com/enoche/MMRec

Shapes:
    U users and I items (both with RecBole's padding row 0), N = U + I, B batch, d ``embedding_size``, F_m raw
    width of modality m.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recbole_siger.model.abstract_recommender import MultimodalRecommender
from recbole_siger.model.device import choices
from recbole_siger.model.inputs import Batch
from recbole_siger.model.layers import UserItem, dropout, embedding_tables
from recbole_siger.model.loss import cosine_loss, norm_loss
from recbole_siger.model.memory import FLOAT, MemoryTerms
from recbole_siger.model.propagation import propagate_user_item
from recbole_siger.model.rows import Distinct, take_rows
from recbole_siger.options.params import ModelParams, bounded

__all__ = ["BM3", "BM3Params"]


@dataclass(frozen=True, kw_only=True)
class BM3Params(ModelParams):
    """Types and ranges; defaults and meanings are in ``properties/model/BM3.yaml``."""

    embedding_size: int = bounded("[1, inf)")
    n_ui_layers: int = bounded("[0, inf)")
    dropout: float = bounded("[0, 1)")  # p
    cl_weight: float = bounded("[0, inf)")  # μ
    reg_weight: float = bounded("[0, inf)")  # λ
    train_features: bool


class BM3(MultimodalRecommender):
    r"""A prediction of each embedding is turned towards the fixed, disturbed embedding of its partner.

    .. math::
        L &= D(P u, i') + D(P i, u') + \mu \sum_m \bigl[D(P F_m, i') + D(P F_m, F_m')\bigr]
            + \lambda \, \frac{\lVert u \rVert + \lVert i \rVert}{I} \\
        u &= \hat E_u, \qquad i = \hat E_i + E_{id}, \qquad F_m = W_m X_m + b_m,
            \qquad D(a, b) = 1 - \cos(a, b)

    ==================================  ===================================  ======================
    Symbol                              Here                                 Shape
    ==================================  ===================================  ======================
    :math:`u, i`                        ``encode()``                         ``(U, d)``, ``(I, d)``
    :math:`x'`, dropped out, fixed      ``disturb(x)``                       as ``x``
    :math:`P`                           ``predictor``                        ``(n, d)`` to ``(n, d)``
    :math:`D`                           ``cosine_loss``                      ``()``
    :math:`P u, P i`                    ``forward()``                        ``(U, d)``, ``(I, d)``
    ==================================  ===================================  ======================

    The loss uses features, the ranking does not: only the penalty moves an item without a training row.

    Departures from the paper, as in the reference code:
        The penalty is the length, not squared, of the embeddings of all users and items, over I.
    Departures from the reference code:
        The padding rows have no part in that penalty. Features are projected for the batch's items only.
        With several modalities their losses are summed, as for two.
    """

    params_class = BM3Params
    params: BM3Params
    samples_negatives = False

    def build(self) -> None:
        """Make the tables, the layers and the graphs."""
        p, width = self.params, self.params.embedding_size
        self.user_embedding, self.item_embedding = embedding_tables(
            (self.n_users, width), (self.n_items, width)
        )
        self.features = self.feature_tables(trained=p.train_features)
        self.projections = self.feature_projections(width)
        self.predictor = nn.Linear(width, width)
        nn.init.xavier_normal_(self.predictor.weight)

        self.norm_adj = self.build_norm_adj(self.train_edges)

    def memory_terms(self, batch_size: int) -> MemoryTerms:
        """Count the tables of nodes, the batch's rows in each cosine, and the features of its items."""
        width, n_modalities = FLOAT * self.params.embedding_size, len(self.modalities)
        nodes, n_distinct = (self.n_users + self.n_items) * width, min(batch_size, self.n_items)
        features = n_distinct * FLOAT * sum(x.shape[1] for x in self.raw_features.values())
        step = 3 * nodes + (8 + 6 * n_modalities) * batch_size * width + features
        return MemoryTerms(step, 2 * nodes + self.n_items * width)

    # ---- representations

    def encode(self) -> UserItem:
        """Propagate the ID embeddings and add those of the items once more: ``(U, d)`` and ``(I, d)``."""
        user, item = self.user_embedding.weight, self.item_embedding.weight
        behavior = propagate_user_item(self.norm_adj, user, item, self.params.n_ui_layers)
        return UserItem(behavior.user, behavior.item + item)

    def forward(self) -> UserItem:
        """Predict from both sides: ``(U, d)`` and ``(I, d)``."""
        user, item = self.encode()
        return UserItem(self.predictor(user), self.predictor(item))

    def disturb(self, x: Tensor) -> Tensor:
        """Drop entries and stop gradients: ``(n, d)`` to ``(n, d)``."""
        return dropout(x.detach(), self.params.dropout, generator=self.generator)

    # ---- training

    def loss_terms(self, interaction: Batch) -> dict[str, Tensor]:
        """Return the terms of the loss, weighted."""
        p, encoded = self.params, self.encode()
        # An entity is disturbed once a batch, however often it occurs.
        users, items = (
            Distinct(ids, n, static=choices(ids).static)
            for ids, n in (
                (interaction[self.USER_ID], self.n_users),
                (interaction[self.ITEM_ID], self.n_items),
            )
        )
        u, i = users.of(encoded.user), items.of(encoded.item)
        user_target, item_target = self.disturb(u)[users.place], self.disturb(i)[items.place]
        predicted_user = take_rows(self.predictor(u), users.place)
        predicted_item = take_rows(self.predictor(i), items.place)
        reconstruction = cosine_loss(predicted_user, item_target) + cosine_loss(predicted_item, user_target)
        modality = torch.stack([self.modality_loss(m, items, item_target) for m in self.modalities])
        return {
            "reconstruction": reconstruction,
            "modality": p.cl_weight * modality.sum(),
            "regularization": p.reg_weight * norm_loss(encoded.user[1:], encoded.item[1:]),
        }

    def modality_loss(self, modality: str, items: Distinct, target: Tensor) -> Tensor:
        """Pull a modality's prediction to the item and to the modality itself: ``()``.

        Args:
            modality: Its name.
            items: The distinct items of the batch.
            target: The disturbed items of the batch, shape ``(B, d)``.
        """
        content = self.projections[modality](items.of(getattr(self.features, modality)))
        predicted = take_rows(self.predictor(content), items.place)
        disturbed = self.disturb(content)[items.place]
        return cosine_loss(predicted, target) + cosine_loss(predicted, disturbed)
