r"""VBPR: matrix factorisation in which half of an item's vector is made from its features.

Reference:
    Ruining He, Julian McAuley.
    "VBPR: Visual Bayesian Personalized Ranking from Implicit Feedback." AAAI 2016. arXiv:1510.01784.

Reference code:
    https://github.com/enoche/MMRec

Shapes:
    U users and I items (both with RecBole's padding row 0), B batch, d ``embedding_size``, F_m raw width of
    modality m.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recbole_siger.model.abstract_recommender import MultimodalRecommender
from recbole_siger.model.device import choices
from recbole_siger.model.inputs import Batch
from recbole_siger.model.layers import UserItem, embedding_tables, project
from recbole_siger.model.loss import norm_loss
from recbole_siger.model.memory import FLOAT, MemoryTerms
from recbole_siger.model.ranking import ranking_loss
from recbole_siger.model.rows import take_rows, without_repeats
from recbole_siger.options.params import ModelParams, bounded

__all__ = ["VBPR", "VBPRParams"]


@dataclass(frozen=True, kw_only=True)
class VBPRParams(ModelParams):
    """Types and ranges; defaults and meanings are in ``properties/model/VBPR.yaml``."""

    embedding_size: int = bounded("[1, inf)")
    reg_weight: float = bounded("[0, inf)")
    train_features: bool


class VBPR(MultimodalRecommender):
    r"""Half of an item's vector is its own, half is made from its features.

    .. math::
        y_{ui} &= \gamma_u \cdot \gamma_i + \theta_u \cdot (W f_i + b),
            \qquad f_i = [x_{i1} ; \dots ; x_{iM}] \\
        L &= \mathrm{BPR} + \lambda \, \frac{\lVert e_u \rVert + \lVert e_i \rVert + \lVert e_j \rVert}{B}

    ======================================  =================================  ============
    Symbol                                  Here                               Shape
    ======================================  =================================  ============
    :math:`[\gamma_u ; \theta_u]`           ``user_embedding``                 ``(U, 2d)``
    :math:`\gamma_i`                        ``item_embedding``                 ``(I, d)``
    :math:`W, b`                            ``projection``                     ``(d, F)``, ``(d,)``
    :math:`y`                               inner products of ``forward()``    ``(U, I)``
    ======================================  =================================  ============

    In the penalty, :math:`e` are the batch's embeddings, tables ``(B, 2d)``.

    Departures from the paper, as in the reference code:
        No item has a bias and no feature a global weight; the projection has a bias instead.
        The penalty is the length of the batch's embeddings, not squared, and none on the projection.
        With several modalities their features are concatenated.
    """

    params_class = VBPRParams
    params: VBPRParams
    scores_cold_items = True

    def build(self) -> None:
        """Make the tables, the layers and the graphs."""
        p, width = self.params, self.params.embedding_size
        self.user_embedding, self.item_embedding = embedding_tables(
            (self.n_users, 2 * width), (self.n_items, width)
        )
        self.features = self.feature_tables(trained=p.train_features)
        self.widths = [x.shape[1] for x in self.raw_features.values()]
        self.projection = nn.Linear(sum(self.widths), width)
        nn.init.xavier_normal_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)

    def memory_terms(self, batch_size: int) -> MemoryTerms:
        """Count the batch's rows with their gradients, and the features of its distinct items."""
        width, n_distinct = FLOAT * self.params.embedding_size, min(2 * batch_size, self.n_items)
        step = 8 * batch_size * 2 * width + n_distinct * (3 * width + FLOAT * sum(self.widths))
        return MemoryTerms(step, 4 * self.n_items * width)

    # ---- representations

    def encode_items(self, items: Tensor | slice) -> Tensor:
        """Concatenate ID embeddings and projected features: ``(n, 2d)`` for n items."""
        static = choices(self.projection.bias).static and isinstance(items, Tensor)
        content = self.projection.bias if static else self.projection.bias.expand(self.n_items, -1)[items]
        # One weight for the joined features, but the joined features themselves would be a second copy.
        for m, weight in zip(self.modalities, self.projection.weight.split(self.widths, dim=1), strict=True):
            content = content + project(_pick(getattr(self.features, m), items), weight)
        return torch.cat([_pick(self.item_embedding.weight, items), content], dim=1)

    def forward(self) -> UserItem:
        """Return users and items, ``(U, 2d)`` and ``(I, 2d)``."""
        return UserItem(self.user_embedding.weight, self.encode_items(slice(None)))

    # ---- training

    def loss_terms(self, interaction: Batch) -> dict[str, Tensor]:
        """Return the ranking loss and the penalty on the batch's embeddings."""
        user, pos, neg = (interaction[key] for key in (self.USER_ID, self.ITEM_ID, self.NEG_ITEM_ID))
        u = take_rows(self.user_embedding.weight, user)
        items, place = without_repeats(torch.cat([pos, neg]))  # each is projected once
        i, j = self.encode_items(items)[place].split(len(pos))
        return {
            "bpr": ranking_loss(u, i, j),
            "regularization": self.params.reg_weight * norm_loss(u, i, j),
        }


def _pick(table: Tensor, items: Tensor | slice) -> Tensor:
    return table[items] if isinstance(items, slice) else take_rows(table, items)
