r"""SLMRec: modalities propagated beside the IDs, and aligned with them by self-supervision.

Reference:
    Zhulin Tao, Xiaohao Liu, Yewei Xia, Xiang Wang, Lifang Yang, Xianglin Huang, Tat-Seng Chua.
    "Self-Supervised Learning for Multimedia Recommendation." IEEE Transactions on Multimedia, 2022.

Reference code:
    https://github.com/zltao/SLMRec, https://github.com/enoche/MMRec

Shapes:
    U users and I items (both with RecBole's padding row 0), N = U + I, B batch, d ``embedding_size``, F_m raw
    width of modality m, M modalities.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from recbole_siger.model.abstract_recommender import MultimodalRecommender
from recbole_siger.model.inputs import Batch
from recbole_siger.model.layers import UserItem, XavierLinear, embedding_tables, project, unit_lengths
from recbole_siger.model.loss import info_nce
from recbole_siger.model.memory import FLOAT, MemoryTerms, contrast_chunk
from recbole_siger.model.propagation import propagate_user_item
from recbole_siger.model.rows import Rows
from recbole_siger.options.params import ModelParams, bounded

__all__ = ["SLMRec", "SLMRecParams"]

ALIGNED_FIRST = ("image", "audio", "text")
"""The order in which FAC aligns modalities; other modalities follow in the order of the dataset."""


@dataclass(frozen=True, kw_only=True)
class SLMRecParams(ModelParams):
    """Types and ranges; defaults and meanings are in ``properties/model/SLMRec.yaml``."""

    embedding_size: int = bounded("[1, inf)")
    n_ui_layers: int = bounded("[0, inf)")
    temperature: float = bounded("(0, inf)")  # τ
    contrast_dedup: bool
    align_weight: float = bounded("[0, inf)")  # α
    align_temperature: float = bounded("(0, inf)")  # τ_s
    reg_weight: float = bounded("[0, inf)")  # λ


class SLMRec(MultimodalRecommender):
    r"""LightGCN once for the IDs and once for each modality, fused by a linear map.

    .. math::
        F_m &= W_m \frac{x_m}{\lVert x_m \rVert} + b_m, \qquad Z_0 = \mathrm{LGN}([E_u; E_i]), \qquad
            Z_m = \mathrm{LGN}([E_u; F_m]) \\
        E &= W [Z_0; Z_1; \dots; Z_M] + b, \text{ one map for users and one for items} \\
        a_0 &= Z_0, \qquad a_k = G_k a_{k-1}, \qquad c_k = C_k Z_{m_k} \\
        L &= \mathrm{InfoNCE}(E_u, E_i; \tau) + \alpha \sum_k \mathrm{InfoNCE}(a_k, c_k; \tau_s)
            + \frac{\lambda}{2} \sum_\theta \lVert \theta \rVert^2

    The first contrast goes from the users of the batch to their items, by cosine; no negatives are sampled.
    The second (FAC, fine and coarse spaces) goes over the positive items, by inner product, in the order
    image, audio, text. Its last pair is d/2 wide if there are several modalities. The penalty is on all
    parameters; its gradient is the gradient of Adam's weight decay.

    ==================================  ===========================  ======================
    Symbol                              Here                         Shape
    ==================================  ===========================  ======================
    :math:`F_m`                         ``content(m)``               ``(I, d)``
    :math:`Z`                           ``encode()``                 ``(U, (M+1)d)``, ``(I, (M+1)d)``
    :math:`E`                           ``forward()``                ``(U, d)``, ``(I, d)``
    :math:`G_k, C_k`                    ``chain``, ``heads``         ``(d, d)``
    ==================================  ===========================  ======================

    Departures from the paper, as in the reference code:
        With two modalities the chain keeps the third map in the middle: d to d to d to d/2, two terms.
        A batch contrasts its rows as they come; ``contrast_dedup`` compares with distinct items.
    Departures from the reference code:
        Scores are inner products. The sigmoid of the reference code makes large scores equal.
        Epochs are evaluated with the parameters after their last step.
    """

    params_class = SLMRecParams
    params: SLMRecParams
    scores_cold_items = True  # by F_m of layer 0
    shares_batches = True
    samples_negatives = False

    def build(self) -> None:
        """Make the tables, the layers and the graph."""
        width, n_parts = self.params.embedding_size, len(self.modalities) + 1
        self.user_embedding, self.item_embedding = embedding_tables(
            (self.n_users, width), (self.n_items, width)
        )
        self.features = self.feature_tables(trained=False)
        self.projections = nn.ModuleDict(
            {m: XavierLinear(x.shape[1], width) for m, x in self.raw_features.items()}
        )
        self.user_fusion = XavierLinear(n_parts * width, width)
        self.item_fusion = XavierLinear(n_parts * width, width)

        # The modality that each link of the chain is compared with; None for the link in the middle.
        known = [m for m in ALIGNED_FIRST if m in self.modalities]
        order: list[str | None] = [*known, *(m for m in self.modalities if m not in known)]
        self.aligned = [order[0], None, order[1]] if len(order) == 2 else order
        widths = [width] * len(self.aligned) + [width if len(order) == 1 else max(1, width // 2)]
        self.chain = nn.ModuleList(XavierLinear(n, m) for n, m in pairwise(widths))
        self.heads = nn.ModuleDict(
            {m: XavierLinear(width, n) for m, n in zip(self.aligned, widths[1:], strict=True) if m}
        )
        self.norm_adj = self.build_norm_adj(self.train_edges)

    def memory_terms(self, batch_size: int) -> MemoryTerms:
        """Count the wide tables of nodes of :meth:`encode`, or the rows of the batch and its logits."""
        width, n_parts = FLOAT * self.params.embedding_size, len(self.modalities) + 1
        nodes, rows = (self.n_users + self.n_items) * width, batch_size * width
        encoding = round(4.4 * n_parts * nodes)
        chunk = contrast_chunk(self.device, batch_size, batch_size)
        contrasts = 2 * n_parts * nodes + (5 * n_parts + 4) * rows + chunk
        return MemoryTerms(max(encoding, contrasts), encoding)

    # ---- representations

    def content(self, modality: str) -> Tensor:
        """Project features of length 1; an item without a feature gets the bias: ``(I, d)``."""
        features: Tensor = getattr(self.features, modality)
        projection: Any = self.projections[modality]
        return project(features, projection.weight) / unit_lengths(features) + projection.bias

    def encode(self) -> UserItem:
        """Propagate IDs and modalities side by side: ``(U, (M+1)d)`` and ``(I, (M+1)d)``."""
        items = [self.item_embedding.weight, *(self.content(m) for m in self.modalities)]
        user = self.user_embedding.weight.repeat(1, len(items))
        return propagate_user_item(self.norm_adj, user, torch.cat(items, dim=1), self.params.n_ui_layers)

    def forward(self) -> UserItem:
        """Fuse the parts: ``(U, d)`` and ``(I, d)``."""
        user, item = self.encode()
        return UserItem(self.user_fusion(user), self.item_fusion(item))

    # ---- training

    def loss_terms(self, interaction: Batch) -> dict[str, Tensor]:
        """Return the terms of the loss, weighted."""
        p, user, pos = self.params, interaction[self.USER_ID], interaction[self.ITEM_ID]
        items, place = pos, self.places(pos)
        if p.contrast_dedup:
            items, place = pos.unique(return_inverse=True)
        encoded, users = self.encode(), self.share.of(user)
        own = None if place is None else self.share.of(place)
        item_rows = Rows(items, self.n_items).of(encoded.item)
        u, i = self.user_fusion(Rows(users, self.n_users).of(encoded.user)), self.item_fusion(item_rows)
        main = info_nce(u, i, p.temperature, target=own)
        squares = torch.stack([parameter.square().sum() for parameter in self.parameters()])
        return {
            "contrast": self.share.weight(len(user)) * main,
            "alignment": p.align_weight * self.alignment_loss(item_rows),
            "regularization": p.reg_weight / 2 * squares.sum(),
        }

    def places(self, rows: Tensor) -> Tensor | None:
        """Return the number of each row, ``(n,)``; None: a process that is alone compares row with row."""
        return None if self.share.size == 1 else torch.arange(len(rows), device=rows.device)

    def alignment_loss(self, rows: Tensor) -> Tensor:
        """Compare the chain of maps of the IDs with each modality, FAC, for rows ``(n, (M+1)d)``: ``()``."""
        place = self.places(rows)
        own = None if place is None else self.share.of(place)
        if own is not None and len(own) == 0:
            return rows.sum() * 0
        parts = rows.split(self.params.embedding_size, dim=1)
        views = dict(zip(self.modalities, parts[1:], strict=True))
        query, total = self.share.of(parts[0]).contiguous(), rows.new_zeros(())
        for link, modality in zip(self.chain, self.aligned, strict=True):
            query = link(query)
            if modality is not None:
                key, tau = self.heads[modality](views[modality]), self.params.align_temperature
                total = total + info_nce(query, key, tau, target=own, cosine=False)
        return self.share.weight(len(rows)) * total
