r"""SCALE: a semantic graph of users and items by subspaces, aligned with behaviour.

Reference:
    Haodong Li, Lianyong Qi, Weiming Liu, Fan Wang, Chong Li, Shengye Pang, Wenwen Gong, Yanwei Xu,
    Xiaoxiao Chi, Yang Zhang, Xiaokang Zhou.
    "Subspace-Aware Graph Construction and Contrastive Alignment for Multimodal Recommendation with Large
    Language Models." AAAI 2026.

Shapes:
    U users and I items (both with RecBole's padding row 0), N = U + I, E distinct training interactions, B
    batch, P pairs, V ``n_relation_negatives``, d ``embedding_size``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from recbole_siger.errors import UserError
from recbole_siger.graph.blocks import combine_graphs, edge_facts, join_blocks
from recbole_siger.graph.knn import similarity_graph
from recbole_siger.graph.normalize import normalize_adjacency, normalize_bipartite
from recbole_siger.graph.omp import subspace_graph
from recbole_siger.graph.user_item import interaction_matrix
from recbole_siger.model.abstract_recommender import MultimodalRecommender
from recbole_siger.model.batch import Contrast, batch_rows, contrast_all
from recbole_siger.model.inputs import Batch
from recbole_siger.model.layers import UserItem, embedding_tables
from recbole_siger.model.loss import relation_loss
from recbole_siger.model.memory import FLOAT, MemoryTerms, contrast_chunk, distinct_rows
from recbole_siger.model.profiles import item_profile, read_profiles, user_profile_names, with_one_text
from recbole_siger.model.propagation import SparseMatrix, propagate_last, propagate_user_item
from recbole_siger.model.ranking import ranking_loss
from recbole_siger.model.relations import Relations
from recbole_siger.model.rows import take_rows, take_triple
from recbole_siger.options.params import ModelParams, bounded

__all__ = ["SCALE", "SCALEParams"]

_log = logging.getLogger(__name__)

Blocks = dict[str, Tensor]
"""Sparse 0/1 graphs by what they join: ``uu``, ``ui``, ``ii``."""

BLOCKS = ("uu", "ui", "ii")


@dataclass(frozen=True, kw_only=True)
class SCALEParams(ModelParams):
    """Types and ranges; defaults and meanings are in ``properties/model/SCALE.yaml``."""

    embedding_size: int = bounded("[1, inf)")
    n_ui_layers: int = bounded("[0, inf)")  # L_I
    n_semantic_layers: int = bounded("[1, inf)")  # L_S
    edge_dropout: float = bounded("[0, 1)")  # ρ
    item_profile: str | None
    user_profile: str | None
    n_candidates: int = bounded("[1, inf)")  # k_s
    user_sparsity: int = bounded("[1, inf)")  # k_o of C^U
    item_sparsity: int = bounded("[1, inf)")  # k_o of C^I
    user_item_sparsity: int = bounded("[1, inf)")  # k_o of C^UI
    n_semantic_neighbors: int = bounded("[1, inf)")  # k_f
    combine: Literal["union", "intersection"]
    semantic_weight: float = bounded("[0, inf)")  # λ_s
    semantic_temperature: float = bounded("(0, inf)")  # τ_s
    relation_weight: float = bounded("[0, inf)")  # λ_r
    relation_temperature: float = bounded("(0, inf)")  # τ_r
    n_relation_negatives: int = bounded("[1, inf)")  # |V|
    relation_batch: int = bounded("[0, inf)")
    ablation: Literal["none", "llm", "semantic", "relation", "sag", "fsg", "inter", "intra"]


class SCALE(MultimodalRecommender):
    r"""LightGCN on a pruned graph, plus propagation over a semantic graph of all users and items.

    ===============================  ===========================  ======================
    Paper                            Here                         Shape
    ===============================  ===========================  ======================
    :math:`C^U, C^{UI}, C^I`, Eq. 3  ``subspace_graphs()``        sparse 0/1
    :math:`G_U, G_{UI}, G_I`, Eq. 5  ``similarity_graphs()``      sparse 0/1
    :math:`\hat G`, Eq. 6            ``semantic_graph``           sparse ``(N, N)``
    :math:`\tilde H`, Eq. 7          ``encode_behavior()``        ``(U, d)``, ``(I, d)``
    :math:`\hat H`                   ``encode_semantics()``       ``(U, d)``, ``(I, d)``
    :math:`H = \tilde H + \hat H`    ``forward()``                ``(U, d)``, ``(I, d)``
    ===============================  ===========================  ======================

    Departures from the paper, each an option where it changes numbers:
        ``combine: union`` keeps the edges of either graph; the paper defines the intersection and describes a
        combination, and most items have no edge in the intersection. The losses are means; Eqs. 8 and 9 see
        the distinct users and positive items of the batch, Eq. 10 sees ``relation_batch`` pairs of each
        block, drawn uniformly. A row is no neighbour of its own. Without the subspace graphs (``ablation:
        sag``) Eq. 10 takes the pairs of the similarity graphs. Without user features, a user is the mean of
        the texts of the user's training items. Of profiles and raw texts (``text``) of the items, one is
        read: the raw texts with ``ablation: llm``, else the profiles.
    """

    params_class = SCALEParams
    params: SCALEParams
    scores_cold_items = True
    shares_batches = True
    content_graphs = ("semantic_graph",)

    @classmethod
    def modality_names(cls, params: SCALEParams, listed: Sequence[str]) -> tuple[str, ...]:
        """Return all modalities, but only one of the profiles and the raw texts of the items."""
        return with_one_text(params.item_profile, listed, raw=params.ablation == "llm")

    @classmethod
    def user_feature_names(cls, params: SCALEParams, listed: Sequence[str]) -> tuple[str, ...]:
        """Return the user profile, if the dataset or ``user_profile`` names one."""
        return () if params.ablation == "llm" else user_profile_names(params.user_profile, listed)

    def build(self) -> None:
        """Make the tables and the graphs."""
        p, width = self.params, self.params.embedding_size
        shapes = (self.n_users, width), (self.n_items, width)
        self.user_embedding, self.item_embedding = embedding_tables(*shapes)
        bipartite = normalize_bipartite(interaction_matrix(self.train_edges, self.n_users, self.n_items))
        self.edges, self.edge_weights = bipartite.indices(), bipartite.values()  # 1 / sqrt(d_u d_i)
        self.norm_adj = self.pruned_adj = self.build_norm_adj(self.edges)

        text = item_profile("text" if p.ablation == "llm" else p.item_profile, self.raw_features)
        given = self.raw_user_features
        user = read_profiles("SCALE", text, self.raw_features, given, self.train_edges, self.n_users).user
        for key in ("user_sparsity", "item_sparsity", "user_item_sparsity"):
            if (k := getattr(p, key)) > p.n_candidates:
                raise UserError(f"SCALE: {key}={k} is more than n_candidates={p.n_candidates}; lower {key}")
        joined: tuple[str, ...] = {"inter": ("uu", "ii"), "intra": ("ui",)}.get(p.ablation, BLOCKS)
        relates = p.relation_weight > 0 and p.ablation != "relation"
        subspace = Blocks()  # a variant builds only the graphs that it uses
        if p.ablation != "sag":
            subspace = self.subspace_graphs(user, self.raw_features[text], BLOCKS if relates else joined)
        similar = Blocks() if p.ablation == "fsg" else self.similarity_graphs(user, text, joined)
        self.semantic_graph = SparseMatrix(normalize_adjacency(self.join(subspace, similar, joined)))
        pairs = (subspace or similar) if relates else {}
        self.relations = {name: Relations(graph, same=name != "ui") for name, graph in pairs.items()}

    def memory_terms(self, batch_size: int) -> MemoryTerms:
        """Count the tables of nodes, the batch's rows, and the related pairs with their negatives."""
        p, nodes = self.params, self.n_users + self.n_items
        n_pairs = max((p.relation_batch or len(pairs) for pairs in self.relations.values()), default=0)
        n_pairs *= 4 + 3 * p.n_relation_negatives
        step = (5 * nodes + 6 * batch_size + 1.3 * n_pairs) * FLOAT * p.embedding_size
        n_keys = distinct_rows(self.device, batch_size, max(self.n_users, self.n_items))
        step += contrast_chunk(self.device, n_keys, batch_size, 2)
        return MemoryTerms(round(step), 5 * nodes * FLOAT * p.embedding_size)

    # ---- graphs

    def subspace_graphs(self, user: Tensor, item: Tensor, names: Sequence[str]) -> Blocks:
        """Build subspace graphs, Eq. 3, from the features of users ``(U, F)`` and items ``(I, F)``."""
        p = self.params
        plans = {
            "uu": (user, user, p.user_sparsity),
            "ui": (user, item, p.user_item_sparsity),
            "ii": (item, item, p.item_sparsity),
        }
        graphs = {}
        for name in names:
            a, b, k = plans[name]
            tables = {"queries": a, "atoms": b}
            arguments = {"n_candidates": p.n_candidates, "sparsity": k, "same": a is b}
            graphs[name] = self.graph_cache.cached("subspace", subspace_graph, tables, arguments)
        return graphs

    def similarity_graphs(self, user: Tensor, text: str, names: Sequence[str]) -> Blocks:
        """Build feature similarity graphs, Eqs. 4-5; the graph of items combines all modalities."""
        k, item = self.params.n_semantic_neighbors, self.raw_features[text]

        def nearest(a: Tensor, b: Tensor) -> Tensor:
            tables, arguments = {"queries": a, "atoms": b}, {"k": k, "same": a is b}
            return self.graph_cache.cached("similarity", similarity_graph, tables, arguments)

        def build(name: str) -> Tensor:
            if name != "ii":
                return nearest(user, user if name == "uu" else item)
            return combine_graphs([nearest(x, x) for x in self.raw_features.values()], self.params.combine)

        return {name: build(name) for name in names}

    def join(self, subspace: Blocks, similar: Blocks, names: Sequence[str]) -> Tensor:
        """Combine both kinds of graphs and put the blocks together, Eq. 6: sparse 0/1 ``(N, N)``."""
        parts = [part for part in (subspace, similar) if part]
        blocks = {name: combine_graphs([part[name] for part in parts], self.params.combine) for name in names}
        for name, graph in blocks.items():
            _log.info("semantic graph, %s: %s", name, edge_facts(graph))
        users, between, items = map(blocks.get, BLOCKS)
        return join_blocks(users, between, items, (self.n_users, self.n_items))

    def on_epoch_start(self, epoch: int) -> None:
        r"""Keep a share 1 - ρ of the interactions, drawn by weight :math:`1 / \sqrt{d_u d_i}`, none twice."""
        self.pruned_adj = self.draw_norm_adj(self.edges, self.edge_weights, self.params.edge_dropout)

    # ---- representations

    def encode_behavior(self, norm_adj: SparseMatrix) -> UserItem:
        """Average the layers over a user-item graph, Eq. 7: ``(U, d)`` and ``(I, d)``."""
        user, item = self.user_embedding.weight, self.item_embedding.weight
        return propagate_user_item(norm_adj, user, item, self.params.n_ui_layers)

    def encode_semantics(self) -> UserItem:
        """Take the last layer over the semantic graph: ``(U, d)`` and ``(I, d)``."""
        nodes = torch.cat((self.user_embedding.weight, self.item_embedding.weight))
        last = propagate_last(self.semantic_graph, nodes, self.params.n_semantic_layers)
        return UserItem(*last.split((self.n_users, self.n_items)))

    def forward(self) -> UserItem:
        """Add both representations, over the whole user-item graph."""
        return self.merge(self.encode_behavior(self.norm_adj), self.encode_semantics())

    def merge(self, behavior: UserItem, semantics: UserItem) -> UserItem:
        """Add two representations: ``(U, d)`` and ``(I, d)``."""
        return UserItem(behavior.user + semantics.user, behavior.item + semantics.item)

    # ---- training

    def loss_terms(self, interaction: Batch) -> dict[str, Tensor]:
        """Return the terms of Eq. 13, weighted."""
        p, share = self.params, self.share
        user, pos, neg = (interaction[key] for key in (self.USER_ID, self.ITEM_ID, self.NEG_ITEM_ID))
        behavior, semantics = self.encode_behavior(self.pruned_adj), self.encode_semantics()
        final = self.merge(behavior, semantics)
        triple = map(share.of, take_triple(final, user, pos, neg))
        terms = {"bpr": share.weight(len(user)) * ranking_loss(*triple)}
        if p.ablation != "semantic":
            users = batch_rows(user, n_rows=self.n_users, negatives="batch", share=share)
            items = batch_rows(pos, n_rows=self.n_items, negatives="batch", share=share)
            tau, pairs = p.semantic_temperature, zip((users, items), behavior, semantics, strict=True)
            aligned = contrast_all([Contrast(r, r.keys_of(a), r.keys_of(b), tau) for r, a, b in pairs])
            terms["semantic_alignment"] = p.semantic_weight * torch.stack(aligned).sum()
        if self.relations:
            terms["relation_alignment"] = p.relation_weight * self.relation_loss(final)
        return terms

    def relation_loss(self, final: UserItem) -> Tensor:
        """Pull the ends of edges together, away from others, Eqs. 10-11: ``()``."""
        p, tables = self.params, {"u": final.user, "i": final.item}
        total = final.user.new_zeros(())
        for name, relations in self.relations.items():
            if len(relations):
                left, right = tables[name[0]], tables[name[1]]
                row, column, others = relations.draw(p.relation_batch, p.n_relation_negatives, self.generator)
                ends = take_rows(left, row), take_rows(right, column)
                total = total + relation_loss(*ends, take_rows(right, others), p.relation_temperature)
        return total
