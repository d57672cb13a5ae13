r"""SIGER: semantic item graph enhancement for multimodal recommendation.

Reference:
    Xiaoxiong Zhang, Xin Zhou, Zhiwei Zeng, Dusit Niyato, Zhiqi Shen.
    "Semantic Item Graph Enhancement for Multimodal Recommendation." arXiv:2508.06154, 2025.

Reference code:
    None published.

Shapes:
    U users and I items (both with RecBole's padding row 0), N = U + I, B batch, d ``embedding_size``,
    F_m raw width of modality m.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import torch
from recbole.data.interaction import Interaction
from torch import Tensor, nn
from torch.nn import functional

from recbole_siger.config import Config
from recbole_siger.data.dataset import MultimodalDataset
from recbole_siger.graph.co_occurrence import co_occurrence_graph
from recbole_siger.graph.eisg import build_eisg
from recbole_siger.graph.knn import semantic_graph
from recbole_siger.graph.normalize import normalize_adjacency, normalize_bipartite
from recbole_siger.graph.user_item import interaction_matrix, user_item_adjacency
from recbole_siger.model.abstract_recommender import MultimodalRecommender
from recbole_siger.model.layers import FeatureGate, SparseMatrix, UserItem, perturb, propagate_mean
from recbole_siger.model.loss import anchor_info_nce, bpr_loss, info_nce, l2_loss
from recbole_siger.params import bounded

__all__ = ["SIGER", "SIGERParams"]

Semantics = dict[str, UserItem]


@dataclass(frozen=True, kw_only=True)
class SIGERParams:
    """Types and ranges; defaults and meanings stand in ``properties/model/SIGER.yaml``."""

    embedding_size: int = bounded("[1, inf)")
    n_ui_layers: int = bounded("[0, inf)")
    n_semantic_layers: int = bounded("[1, inf)")
    n_semantic_neighbors: int = bounded("[1, inf)")
    n_co_neighbors: int = bounded("[1, inf)")  # K of Eq. 4
    min_co_occurrence: int = bounded("[1, inf)")
    co_tie_break: Literal["cosine", "popularity", "id"]
    co_weight: float = bounded("[0, 1]")  # β of Eq. 7
    noise_eps: float = bounded("[0, inf)")  # ε of Eq. 12
    detach_modulus: bool
    contrast_negatives: Literal["batch", "full"]
    cl_temperature: float = bounded("(0, inf)")  # τ0 of Eq. 13
    anchor_temperature: float = bounded("(0, inf)")  # τ1 of Eq. 14
    align_temperature: float = bounded("(0, inf)")  # τ2 of Eq. 16
    cl_weight: float = bounded("[0, inf)")  # λp of Eq. 19
    align_weight: float = bounded("[0, inf)")  # λa of Eq. 19
    reg_weight: float = bounded("[0, inf)")  # λr of Eq. 19
    train_features: bool
    ablation: Literal["none", "eisg", "mp", "da", "mp_weight", "anchor"]


class SIGER(MultimodalRecommender):
    r"""Item graphs enriched with co-occurrence, made robust by perturbation, aligned with behaviour.

    ===============================  =======================  ====================
    Paper                            Here                     Shape
    ===============================  =======================  ====================
    :math:`\bar S_m`, Eq. 7          ``eisg[m]``              sparse ``(I, I)``
    :math:`\hat E_{id}`, Eq. 2       ``encode_behavior()``    ``(U, d)``, ``(I, d)``
    :math:`\tilde E_m`, Eqs. 8-11    ``encode_semantics()``   ``(U, d)``, ``(I, d)``
    :math:`E_{mf}`, Eq. 15           ``fuse()``               ``(U, d)``, ``(I, d)``
    :math:`E`, Eq. 17                ``forward()``            ``(U, d)``, ``(I, d)``
    ===============================  =======================  ====================

    Departures from the paper, each an option:
        The contrastive losses see the distinct users and positive items of the batch
        (``contrast_negatives: full`` compares them with all users and items, as written).
        Equal co-occurrence counts are ordered by cosine, then by item id (``co_tie_break``).
        The perturbation's weights stop gradients (``detach_modulus``).
        With three modalities or more, Eq. 14 is the mean over their unordered pairs; with one it is absent.
        Its negatives go from the earlier modality to the later, so the order of ``modalities`` counts.
    """

    params_class = SIGERParams
    params: SIGERParams
    scores_cold_items = True

    def __init__(self, config: Config, dataset: MultimodalDataset) -> None:
        super().__init__(config, dataset)
        p, width = self.params, self.params.embedding_size
        self.user_embedding = nn.Embedding(self.n_users, width)
        self.item_embedding = nn.Embedding(self.n_items, width)
        nn.init.xavier_uniform_(self.user_embedding.weight)
        nn.init.xavier_uniform_(self.item_embedding.weight)
        self.features = self.feature_tables(trained=p.train_features)
        self.gates = nn.ModuleDict({m: FeatureGate(x.shape[1], width) for m, x in self.raw_features.items()})

        edges, n_users, n_items = self.train_edges, self.n_users, self.n_items
        adjacency = normalize_adjacency(user_item_adjacency(edges, n_users, n_items))
        self.norm_adj = SparseMatrix(adjacency, symmetric=True)
        self.user_items = SparseMatrix(normalize_bipartite(interaction_matrix(edges, n_users, n_items)))
        self.eisg = nn.ModuleDict({m: SparseMatrix(graph) for m, graph in self.build_item_graphs().items()})

    def build_item_graphs(self) -> dict[str, Tensor]:
        """Build the enhanced item-item graph of each modality, Eqs. 3-7: sparse ``(I, I)``."""
        p = self.params
        co_graph = co_occurrence_graph(
            self.train_edges,
            self.n_users,
            self.n_items,
            p.n_co_neighbors,
            min_count=p.min_co_occurrence,
            tie_break=p.co_tie_break,
        )
        co_weight = 0.0 if p.ablation == "eisg" else p.co_weight
        return {
            m: build_eisg(co_graph, semantic_graph(x, p.n_semantic_neighbors), co_weight)
            for m, x in self.raw_features.items()
        }

    # ---- representations

    def encode_behavior(self) -> UserItem:
        """Propagate the ID embeddings over the user-item graph, Eqs. 1-2: ``(U, d)`` and ``(I, d)``."""
        table = torch.cat([self.user_embedding.weight, self.item_embedding.weight])
        return UserItem(
            *propagate_mean(self.norm_adj, table, self.params.n_ui_layers).split([self.n_users, self.n_items])
        )

    def encode_semantics(self, modality: str, n_views: int = 0) -> tuple[UserItem, list[Tensor]]:
        """Encode one modality, Eqs. 8-11, and ``n_views`` perturbed views of its items, Eq. 12.

        Returns:
            Users ``(U, d)`` and items ``(I, d)``, and each view's items ``(I, d)``.
        """
        graph = self.eisg[modality]
        gate = self.gates[modality](getattr(self.features, modality))
        first = graph(self.item_embedding.weight * gate)
        # Noise acts on a layer's output, so the clean pass and the views share the first product,
        # and go through the others side by side.
        tables = [first, *(self.perturb(first) for _ in range(n_views))]
        for _ in range(self.params.n_semantic_layers - 1):
            item, *views = graph(torch.cat(tables, dim=1)).chunk(len(tables), dim=1)
            tables = [item, *(self.perturb(view) for view in views)]
        item, *views = tables
        return UserItem(self.user_items(item), item), views

    def perturb(self, item: Tensor) -> Tensor:
        """Perturb a layer's output, Eq. 12; the padding row takes no part: ``(I, d)``."""
        p = self.params
        noisy = perturb(
            item[1:],
            p.noise_eps,
            generator=self.generator,
            modulus=p.ablation != "mp_weight",
            detach_modulus=p.detach_modulus,
        )
        return functional.pad(noisy, (0, 0, 1, 0))

    def fuse(self, semantics: Semantics) -> UserItem:
        """Average the modalities, Eq. 15: ``(U, d)`` and ``(I, d)``."""
        user = torch.stack([s.user for s in semantics.values()]).mean(dim=0)
        item = torch.stack([s.item for s in semantics.values()]).mean(dim=0)
        return UserItem(user, item)

    def forward(self) -> UserItem:
        """Add behaviour and fused semantics, Eq. 17."""
        return self.merge(self.encode_behavior(), {m: self.encode_semantics(m)[0] for m in self.modalities})

    def merge(self, behavior: UserItem, semantics: Semantics) -> UserItem:
        """Eq. 17 on encoded parts: ``(U, d)`` and ``(I, d)``."""
        fused = self.fuse(semantics)
        return UserItem(behavior.user + fused.user, behavior.item + fused.item)

    # ---- training

    def loss_terms(self, interaction: Interaction) -> dict[str, Tensor]:
        """Return the terms of Eq. 19, weighted."""
        p = self.params
        user, pos, neg = (interaction[key] for key in (self.USER_ID, self.ITEM_ID, self.NEG_ITEM_ID))
        behavior = self.encode_behavior()
        encoded = {m: self.encode_semantics(m, 0 if p.ablation == "mp" else 2) for m in self.modalities}
        semantics = {m: clean for m, (clean, _) in encoded.items()}
        final = self.merge(behavior, semantics)
        u, i, j = final.user[user], final.item[pos], final.item[neg]

        terms = {"bpr": bpr_loss((u * i).sum(dim=-1), (u * j).sum(dim=-1))}
        users, items = user.unique(), pos.unique()
        if p.ablation != "mp":
            terms["perturbation"] = p.cl_weight * self.perturbation_loss(
                [v for _, v in encoded.values()], items
            )
        if p.ablation != "da":
            if len(self.modalities) > 1:
                terms["modality_alignment"] = p.align_weight * self.modality_loss(
                    behavior, semantics, users, items
                )
            terms["behavior_alignment"] = p.align_weight * self.behavior_loss(
                behavior, semantics, users, items
            )
        return {**terms, "regularization": p.reg_weight * l2_loss(u, i, j)}

    def perturbation_loss(self, views: list[list[Tensor]], items: Tensor) -> Tensor:
        """Contrast two perturbed views of each item, summed over modalities, Eq. 13: ``()``."""
        tau = self.params.cl_temperature
        return torch.stack([self.contrast(info_nce, items, a, b, tau) for a, b in views]).sum()

    def modality_loss(self, behavior: UserItem, semantics: Semantics, users: Tensor, items: Tensor) -> Tensor:
        """Align the modalities with behaviour as the anchor, users plus items, Eq. 14: ``()``."""
        tau, total = self.params.anchor_temperature, []
        for a, b in combinations(semantics.values(), 2):
            for x, y, anchor, rows in (
                (a.user, b.user, behavior.user, users),
                (a.item, b.item, behavior.item, items),
            ):
                if self.params.ablation == "anchor":
                    both = self.contrast(info_nce, rows, x, y, tau) + self.contrast(info_nce, rows, y, x, tau)
                    total.append(both / 2)
                else:
                    total.append(self.contrast(anchor_info_nce, rows, x, y, anchor[rows], tau))
        n_pairs = len(semantics) * (len(semantics) - 1) / 2
        return torch.stack(total).sum() / n_pairs

    def behavior_loss(self, behavior: UserItem, semantics: Semantics, users: Tensor, items: Tensor) -> Tensor:
        """Align fused semantics with behaviour, users plus items, Eq. 16: ``()``."""
        fused, tau = self.fuse(semantics), self.params.align_temperature
        return self.contrast(info_nce, users, fused.user, behavior.user, tau) + self.contrast(
            info_nce, items, fused.item, behavior.item, tau
        )

    def contrast(
        self, loss: Callable[..., Tensor], rows: Tensor, query: Tensor, key: Tensor, *rest: Tensor | float
    ) -> Tensor:
        """Contrast ``rows`` of two tables with the negatives that ``contrast_negatives`` names: ``()``."""
        if self.params.contrast_negatives == "batch":
            return loss(query[rows], key[rows], *rest)
        return loss(query[rows], key[1:], *rest, target=rows - 1)  # without the padding row
