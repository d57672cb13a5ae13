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

from dataclasses import dataclass
from functools import reduce
from itertools import combinations
from math import comb
from typing import Any, Literal

import torch
from torch import Tensor, nn

from recbole_siger.graph.eisg import item_graphs
from recbole_siger.graph.normalize import normalize_adjacency, normalize_bipartite
from recbole_siger.graph.user_item import interaction_matrix, user_item_adjacency
from recbole_siger.model.abstract_recommender import MultimodalRecommender
from recbole_siger.model.batch import BatchRows, Contrast, batch_rows, contrast_all
from recbole_siger.model.inputs import Batch
from recbole_siger.model.layers import FeatureGate, UserItem, embedding_tables
from recbole_siger.model.memory import FLOAT, MemoryTerms, contrast_chunk, distinct_rows
from recbole_siger.model.propagation import SparseMatrix, propagate_user_item
from recbole_siger.model.ranking import ranking_losses
from recbole_siger.model.views import ItemViews, Noise
from recbole_siger.options.params import ModelParams, bounded

__all__ = ["SIGER", "SIGERParams"]

Semantics = dict[str, UserItem]


@dataclass(frozen=True, kw_only=True)
class SIGERParams(ModelParams):
    """Types and ranges; defaults and meanings are in ``properties/model/SIGER.yaml``."""

    embedding_size: int = bounded("[1, inf)")
    n_ui_layers: int = bounded("[0, inf)")
    n_semantic_layers: int = bounded("[1, inf)")
    n_semantic_neighbors: int = bounded("[1, inf)")
    knn_method: Literal["exact", "ann"]
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
    feature_dtype: Literal["float32", "bfloat16"]
    ablation: Literal["none", "eisg", "mp", "da", "mp_weight", "anchor"]

    def item_graph_arguments(self, n_users: int, n_items: int) -> dict[str, Any]:
        """Return the keyword arguments of :func:`item_graphs`."""
        sizes = {"n_users": n_users, "n_items": n_items}
        count = {"k": self.n_co_neighbors, "min_count": self.min_co_occurrence}
        return {
            "co_occurrence": {**sizes, **count, "tie_break": self.co_tie_break},
            "semantic": {"k": self.n_semantic_neighbors, "method": self.knn_method},
            "co_weight": 0.0 if self.ablation == "eisg" else self.co_weight,
        }


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
    scores_cold_items = True  # by the semantic edges of Eq. 7
    shares_batches = True

    def build(self) -> None:
        """Make the tables, the layers and the graphs."""
        p, width = self.params, self.params.embedding_size
        shapes = (self.n_users, width), (self.n_items, width)
        self.user_embedding, self.item_embedding = embedding_tables(*shapes)
        self.features = self.feature_tables(trained=p.train_features)
        self.gates = nn.ModuleDict({m: FeatureGate(x.shape[1], width) for m, x in self.raw_features.items()})

        adjacency, user_items = self.build_user_item_graphs()
        self.norm_adj, self.user_items = SparseMatrix(adjacency, symmetric=True), SparseMatrix(user_items)
        graphs = {m: SparseMatrix(graph) for m, graph in self.build_item_graphs().items()}
        self.eisg, self.item_views = nn.ModuleDict(graphs), ItemViews([graphs[m] for m in self.modalities])

    def build_user_item_graphs(self) -> tuple[Tensor, Tensor]:
        """Build the normalised graphs of Eqs. 1 and 11: sparse ``(N, N)`` and ``(U, I)``."""
        sizes = self.train_edges, self.n_users, self.n_items
        adjacency = normalize_adjacency(user_item_adjacency(*sizes))
        return adjacency, normalize_bipartite(interaction_matrix(*sizes))

    def build_item_graphs(self) -> dict[str, Tensor]:
        """Build the enhanced item-item graph of each modality, Eqs. 3-7: sparse ``(I, I)``."""
        arguments = self.params.item_graph_arguments(self.n_users, self.n_items)
        graphs = item_graphs(self.train_edges, self.raw_features, self.graph_cache, **arguments)
        return {m: graphs[m].eisg for m in graphs}

    def memory_terms(self, batch_size: int) -> MemoryTerms:
        """Count the tables of nodes that the backward pass needs, and the rows of the contrasts."""
        p, n_modalities, n_users, n_items = self.params, len(self.modalities), self.n_users, self.n_items
        views, aligned = 2 * (p.ablation != "mp"), (comb(n_modalities, 2) + 1) * (p.ablation != "da")
        # Of each modality: the gate, then for each layer the clean table and two for each view.
        items = n_modalities * n_items * (3 + p.n_semantic_layers * (1 + 2 * views))
        whole, sizes = p.contrast_negatives == "full", (n_users, n_items)
        user_keys, item_keys = (n if whole else distinct_rows(self.device, batch_size, n) for n in sizes)
        contrasts = aligned * (user_keys + item_keys) + n_modalities * views // 2 * item_keys
        width, nodes, rows = FLOAT * p.embedding_size, n_users + n_items, (n_modalities + 6) * batch_size
        step = (4 * nodes + items + n_modalities * n_users + rows + 3 * contrasts) * width
        n_contrasts = 2 * aligned + n_modalities * views // 2
        step += contrast_chunk(self.device, max(user_keys, item_keys), batch_size, n_contrasts)
        return MemoryTerms(step, (n_modalities + 3) * nodes * width)

    # ---- representations

    def encode_behavior(self) -> UserItem:
        """Propagate the ID embeddings over the user-item graph, Eqs. 1-2: ``(U, d)`` and ``(I, d)``."""
        user, item = self.user_embedding.weight, self.item_embedding.weight
        return propagate_user_item(self.norm_adj, user, item, self.params.n_ui_layers)

    def encode_semantics(self, n_views: int = 0) -> tuple[Semantics, list[list[Tensor]]]:
        """Encode the modalities, Eqs. 8-11, and ``n_views`` perturbed views of their items, Eq. 12.

        Returns:
            Users ``(U, d)`` and items ``(I, d)`` of each modality, and each modality's views ``(I, d)``.
        """
        p, ids = self.params, self.item_embedding.weight
        gated = [ids * self.gates[m](getattr(self.features, m)) for m in self.modalities]
        noise = Noise(p.noise_eps, p.ablation != "mp_weight", p.detach_modulus)
        items, views = self.item_views(gated, p.n_semantic_layers, n_views, noise, self.generator)
        users = (self.user_items(item) for item in items)
        return dict(zip(self.modalities, map(UserItem, users, items), strict=True)), views

    def fuse(self, semantics: Semantics) -> UserItem:
        """Average the modalities, Eq. 15: ``(U, d)`` and ``(I, d)``."""
        tables = zip(*semantics.values(), strict=True)
        return UserItem(*(reduce(torch.add, table) / len(semantics) for table in tables))

    def forward(self) -> UserItem:
        """Add behaviour and fused semantics, Eq. 17."""
        return self.merge(self.encode_behavior(), self.fuse(self.encode_semantics()[0]))

    def merge(self, behavior: UserItem, fused: UserItem) -> UserItem:
        """Eq. 17 on encoded parts: ``(U, d)`` and ``(I, d)``."""
        return UserItem(behavior.user + fused.user, behavior.item + fused.item)

    # ---- training

    def loss_terms(self, interaction: Batch) -> dict[str, Tensor]:
        """Return the terms of Eq. 19, weighted."""
        p = self.params
        user, pos, neg = (interaction[key] for key in (self.USER_ID, self.ITEM_ID, self.NEG_ITEM_ID))
        negatives, share = p.contrast_negatives, self.share
        users = batch_rows(user, n_rows=self.n_users, negatives=negatives, share=share)
        items = batch_rows(pos, neg, n_rows=self.n_items, negatives=negatives, share=share)

        def of_batch(table: UserItem) -> UserItem:
            return UserItem(users.of(table.user), items.of(table.item))

        behavior = of_batch(self.encode_behavior())
        encoded, views = self.encode_semantics(0 if p.ablation == "mp" else 2)
        semantics = {m: of_batch(table) for m, table in encoded.items()}
        del encoded  # the tables of all users and items, before the contrasts need memory
        fused = self.fuse(semantics)
        final = self.merge(behavior, fused)
        ranked, squares = ranking_losses(*users.take(final.user), *items.take(final.item))

        rows, contrasts = (users, items), {}
        if p.ablation != "mp":
            contrasts["perturbation"] = self.perturbation_contrasts(views, items)
        del views
        if p.ablation != "da":
            contrasts["modality_alignment"] = self.modality_contrasts(behavior, semantics, rows)
            tables = zip(rows, fused, behavior, strict=True)
            contrasts["behavior_alignment"] = [Contrast(*one, p.align_temperature) for one in tables]
        own = share.weight(len(user))
        return {
            "bpr": own * ranked,
            **self.contrast_terms(contrasts),
            "regularization": own * p.reg_weight * squares,
        }

    def perturbation_contrasts(self, views: list[list[Tensor]], items: BatchRows) -> list[Contrast]:
        """Contrast two perturbed views of each item in each modality, Eq. 13."""
        tau = self.params.cl_temperature
        return [Contrast(items, items.keys_of(a), items.keys_of(b), tau) for a, b in views]

    def modality_contrasts(
        self, behavior: UserItem, semantics: Semantics, rows: tuple[BatchRows, BatchRows]
    ) -> list[Contrast]:
        """Align the modalities with behaviour as the anchor, users and items, Eq. 14."""
        tau, found = self.params.anchor_temperature, []
        for a, b in combinations(semantics.values(), 2):
            for own, x, y, anchor in zip(rows, a, b, behavior, strict=True):
                if self.params.ablation == "anchor":
                    found += [Contrast(own, x, y, tau), Contrast(own, y, x, tau)]
                else:
                    found.append(Contrast(own, x, y, tau, anchor))
        return found

    def contrast_terms(self, contrasts: dict[str, list[Contrast]]) -> dict[str, Tensor]:
        """Sum the contrasts of each term of Eq. 19, weighted; Eq. 14 is a mean over pairs of modalities."""
        p, n_pairs = self.params, comb(len(self.modalities), 2) * (1 + (self.params.ablation == "anchor"))
        found = iter(contrast_all([one for term in contrasts.values() for one in term]))
        sums = {
            name: reduce(torch.add, [next(found) for _ in term]) for name, term in contrasts.items() if term
        }
        weights = {"perturbation": p.cl_weight, "modality_alignment": p.align_weight / max(n_pairs, 1)}
        return {name: weights.get(name, p.align_weight) * total for name, total in sums.items()}
