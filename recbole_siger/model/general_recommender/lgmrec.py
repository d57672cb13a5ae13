r"""LGMRec: local propagation of IDs and features, and global propagation over learned hyperedges.

Reference:
    Zhiqiang Guo, Jianjun Li, Guohui Li, Chaoyang Wang, Si Shi, Bin Ruan.
    "LGMRec: Local and Global Graph Learning for Multimodal Recommendation." AAAI 2024. arXiv:2312.16400.

Reference code:
    https://github.com/georgeguo-cn/LGMRec, https://github.com/enoche/MMRec

Shapes:
    U users and I items (both with RecBole's padding row 0), N = U + I, B batch, d ``embedding_size``, F_m raw
    width of modality m, M modalities, K ``n_hyperedges``.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbole_siger.graph.normalize import normalize_rows
from recbole_siger.graph.user_item import interaction_matrix
from recbole_siger.model.abstract_recommender import MultimodalRecommender
from recbole_siger.model.hypergraph import directions, hypergraph
from recbole_siger.model.inputs import Batch
from recbole_siger.model.layers import Projection, UserItem, embedding_tables, unit_rows
from recbole_siger.model.loss import info_nce, norm_loss
from recbole_siger.model.memory import FLOAT, MemoryTerms, contrast_chunk
from recbole_siger.model.propagation import SparseMatrix, propagate_last, propagate_user_item
from recbole_siger.model.ranking import ranking_loss
from recbole_siger.model.rows import take_rows, take_triple
from recbole_siger.options.params import ModelParams, bounded

__all__ = ["LGMRec", "LGMRecParams"]


@dataclass(frozen=True, kw_only=True)
class LGMRecParams(ModelParams):
    """Types and ranges; defaults and meanings are in ``properties/model/LGMRec.yaml``."""

    embedding_size: int = bounded("[1, inf)")
    n_ui_layers: int = bounded("[0, inf)")
    n_semantic_layers: int = bounded("[1, inf)")
    n_hyper_layers: int = bounded("[1, inf)")
    n_hyperedges: int = bounded("[1, inf)")  # K
    hyper_keep: float = bounded("(0, 1]")
    hyper_temperature: float = bounded("(0, inf)")
    hyper_noise: Literal["train", "always", "none"]
    hyper_weight: float = bounded("[0, inf)")  # α
    cl_weight: float = bounded("[0, inf)")  # λ_h
    cl_temperature: float = bounded("(0, inf)")  # τ
    reg_weight: float = bounded("[0, inf)")  # λ_r


class LGMRec(MultimodalRecommender):
    r"""LightGCN, plus features propagated to users, plus the direction of what hyperedges gather.

    .. math::
        M_m &= A^2 [D_u^{-1} R X_m W_m; X_m W_m], \qquad
            H_m^i = g(X_m V_m), \quad H_m^u = g(R X_m V_m) \\
        g(z) &= \operatorname{dropout}(\operatorname{softmax}((z + \mathrm{Gumbel}) / 0.2)), \qquad
            B_0 = \hat E_i, \quad C_l = H_m^{i\top} B_{l-1}, \quad B_l = H_m^i C_l \\
        E &= \hat E + \sum_m \operatorname{unit}(M_m)
            + \alpha \operatorname{unit}\Bigl(\sum_m [H_m^u C_L; B_L]\Bigr) \\
        L &= \mathrm{BPR}
            + \lambda_h \sum_b \bigl(\mathrm{InfoNCE}(u_a, u_b) + \mathrm{InfoNCE}(i_a, i_b)\bigr)
            + \lambda_r \frac{1}{B} \sum \lVert E_b \rVert

    The contrast goes from the earlier to the later modality, over the outputs of the hyperedges, for each row
    of the batch; its keys are all users and all items. It is a sum over the batch, BPR is a mean.

    ==================================  ===========================  ======================
    Symbol                              Here                         Shape
    ==================================  ===========================  ======================
    :math:`\hat E`, LightGCN            ``encode_behavior()``        ``(U, d)``, ``(I, d)``
    :math:`M_m`                         ``encode_content(m)``        ``(U, d)``, ``(I, d)``
    :math:`H_m`                         ``hyperedges(m)``            ``(U, K)``, ``(I, K)``
    :math:`H_m^u C_L, B_L`              ``encode_globally(m)``       ``(U, d)``, ``(I, d)``
    ==================================  ===========================  ======================

    Departures from the reference code:
        The ranking has no Gumbel noise (``hyper_noise: always`` draws noise in evaluations too).
        The padding item is in no hyperedge, and the padding rows are no keys.
        With three modalities or more, the contrast is the mean over unordered pairs; with one it is absent.
    """

    params_class = LGMRecParams
    params: LGMRecParams
    scores_cold_items = True  # by the hyperedges
    shares_batches = True

    def build(self) -> None:
        """Make the tables, the layers and the graphs."""
        p, width = self.params, self.params.embedding_size
        self.user_embedding, self.item_embedding = embedding_tables(
            (self.n_users, width), (self.n_items, width)
        )
        self.features = self.feature_tables(trained=False)
        widths = {m: x.shape[1] for m, x in self.raw_features.items()}
        self.projections = nn.ModuleDict({m: Projection(n, width, bias=False) for m, n in widths.items()})
        self.hyper_maps = nn.ModuleDict(
            {m: Projection(n, p.n_hyperedges, bias=False) for m, n in widths.items()}
        )
        interactions = interaction_matrix(self.train_edges, self.n_users, self.n_items)
        self.interactions = SparseMatrix(interactions)
        self.mean_of_items = SparseMatrix(normalize_rows(interactions))
        self.norm_adj = self.build_norm_adj(self.train_edges)

    def memory_terms(self, batch_size: int) -> MemoryTerms:
        """Count tables of nodes and of memberships, the batch's rows, and the logits of the contrast."""
        p, n_modalities, nodes = self.params, len(self.modalities), self.n_users + self.n_items
        edges = 4 * n_modalities * nodes * p.n_hyperedges
        tables = (3 + 4 * n_modalities) * nodes * p.embedding_size
        pairs = comb(n_modalities, 2)
        rows = (8 + 4 * pairs) * batch_size * p.embedding_size
        chunk = contrast_chunk(self.device, max(self.n_users, self.n_items), batch_size) if pairs else 0
        forward = (3 + 2 * n_modalities) * nodes * p.embedding_size + 3 * nodes * p.n_hyperedges
        return MemoryTerms(FLOAT * (tables + edges + rows) + chunk, FLOAT * forward)

    # ---- representations

    def encode_behavior(self) -> UserItem:
        """Propagate the ID embeddings over the user-item graph: ``(U, d)`` and ``(I, d)``."""
        user, item = self.user_embedding.weight, self.item_embedding.weight
        return propagate_user_item(self.norm_adj, user, item, self.params.n_ui_layers)

    def encode_content(self, modality: str) -> UserItem:
        """Propagate projected features, last layer only: ``(U, d)`` and ``(I, d)``."""
        item = self.projections[modality](getattr(self.features, modality))
        nodes = torch.cat([self.mean_of_items(item), item])
        last = propagate_last(self.norm_adj, nodes, self.params.n_semantic_layers)
        return UserItem(*last.split([self.n_users, self.n_items]))

    def hyperedges(self, modality: str) -> UserItem:
        """Share users, by the sum of their items, and items among hyperedges: ``(U, K)``, ``(I, K)``."""
        item = self.hyper_maps[modality](getattr(self.features, modality))
        return UserItem(self.share_out(self.interactions(item)), self.share_out(item))

    def share_out(self, logit: Tensor) -> Tensor:
        """Turn logits into shares of hyperedges, none for the padding row 0: ``(n, K)`` to ``(n, K)``."""
        p = self.params
        if p.hyper_noise == "always" or (p.hyper_noise == "train" and self.training):
            clock = torch.empty_like(logit).exponential_(generator=self.generator)
            logit = logit - clock.clamp_min_(torch.finfo(clock.dtype).tiny).log_()  # minus: Gumbel noise
        share = (logit[1:] / p.hyper_temperature).softmax(dim=1)
        if self.training and p.hyper_keep < 1:
            kept = torch.rand(share.shape, generator=self.generator, device=share.device) < p.hyper_keep
            share = share * kept / p.hyper_keep
        return functional.pad(share, (0, 0, 1, 0))

    def encode_globally(self, modality: str, item: Tensor) -> UserItem:
        """Propagate the items of :meth:`encode_behavior` over hyperedges: ``(U, d)`` and ``(I, d)``."""
        user_edges, item_edges = self.hyperedges(modality)
        n_layers, n_sources = self.params.n_hyper_layers, self.n_source_items
        return hypergraph(item_edges, user_edges, item, n_layers, n_sources=n_sources)

    def encode(self) -> tuple[UserItem, dict[str, UserItem]]:
        """Return the final embeddings, and the outputs of the hyperedges by modality."""
        behavior = self.encode_behavior()
        content = [self.encode_content(m) for m in self.modalities]
        gathered = {m: self.encode_globally(m, behavior.item) for m in self.modalities}
        final = (
            ids + sum(map(unit_rows, local)) + self.params.hyper_weight * directions(sum(of_edges))
            for ids, local, of_edges in zip(
                behavior, zip(*content, strict=True), zip(*gathered.values(), strict=True), strict=True
            )
        )
        return UserItem(*final), gathered

    def forward(self) -> UserItem:
        """Add behaviour, content and hyperedges: ``(U, d)`` and ``(I, d)``."""
        return self.encode()[0]

    # ---- training

    def loss_terms(self, interaction: Batch) -> dict[str, Tensor]:
        """Return the terms of the loss, weighted."""
        p, share = self.params, self.share
        user, pos, neg = (interaction[key] for key in (self.USER_ID, self.ITEM_ID, self.NEG_ITEM_ID))
        final, gathered = self.encode()
        u, i, j = take_triple(final, user, pos, neg)
        terms = {
            "bpr": share.weight(len(user)) * ranking_loss(*map(share.of, (u, i, j))),
            "regularization": p.reg_weight * norm_loss(u, i, j),
        }
        if len(gathered) > 1:
            terms["contrast"] = p.cl_weight * self.contrast(gathered, UserItem(user, pos))
        return terms

    def contrast(self, gathered: dict[str, UserItem], ids: UserItem) -> Tensor:
        """Contrast the modalities for the rows of the batch, ``(B,)`` each, as a sum over rows: ``()``."""
        total, tau = [], self.params.cl_temperature
        views = [UserItem(*map(directions, tables)) for tables in gathered.values()]
        for earlier, later in combinations(views, 2):
            for queries, keys, rows in zip(earlier, later, map(self.share.of, ids), strict=True):
                query = take_rows(queries, rows)
                total.append(info_nce(query, keys[1:], tau, target=rows - 1, cosine=False))
        n_rows = len(ids.user) * self.share.weight(len(ids.user))
        return n_rows * torch.stack(total).sum() / comb(len(gathered), 2)
