r"""LightGCN and SGL as RLMRec's authors run them: the collaborative part of models that add texts.

Sources: LightGCN (arXiv 2002.02126), SGL (arXiv 2010.10783), and the code of RLMRec (arXiv 2310.15950), which
sums layers, thins the graph anew in each step and penalises all parameters.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from recbole_siger.model.batch import contrast_share
from recbole_siger.model.diffusion import drop_entries
from recbole_siger.model.layers import UserItem
from recbole_siger.model.memory import FLOAT, MemoryTerms, contrast_chunk
from recbole_siger.model.propagation import SparseMatrix, ValuedMatrix, propagate_mean
from recbole_siger.model.ranking import ranking_loss
from recbole_siger.model.rows import Rows, take_triple
from recbole_siger.options.params import ModelParams, bounded
from recbole_siger.parallel.shares import Share

__all__ = ["Backbone", "BackboneParams", "Triples"]


@dataclass(frozen=True, kw_only=True)
class BackboneParams(ModelParams):
    """Types and ranges of what every model on a backbone has."""

    embedding_size: int = bounded("[1, inf)")  # d
    backbone: Literal["lightgcn", "sgl"]
    n_ui_layers: int = bounded("[0, inf)")  # L
    layer_sum: Literal["sum", "mean"]
    keep_rate: float = bounded("(0, 1]")
    contrast_weight: float = bounded("[0, inf)")  # λ_c
    contrast_temperature: float = bounded("(0, inf)")  # τ_c
    reg_weight: float = bounded("[0, inf)")  # λ_r


class Triples(NamedTuple):
    """Users, positive items and negative items of a batch, ``(B,)`` each, of all processes."""

    user: Tensor
    pos: Tensor
    neg: Tensor


class Backbone(nn.Module):
    r"""Propagation over the user-item graph, with the losses of LightGCN or SGL.

    .. math::
        E = \sum_{l=0}^{L} A^l E^0, \qquad
        L = \mathrm{BPR} + \lambda_c \sum_{k \in \{u, i^+, i^-\}} \mathrm{NCE}(E^1_k \to E^2_k)
            + \lambda_r \sum_\theta \lVert \theta \rVert^2

    A thinned graph keeps each stored entry of A with the probability ``keep_rate``: the two directions of an
    interaction independently, without rescaling, and without a new normalisation. LightGCN trains on one
    thinned graph a step and has no contrast. SGL trains on the whole graph and contrasts two thinned views:
    rows of the batch with all rows of the second view, repeated rows counted as often as they occur.
    Evaluation uses the whole graph. ``layer_sum: mean`` divides E by L + 1, as LightGCN's paper does.

    Args:
        norm_adj: Normalised adjacency A, shape ``(N, N)`` with N = U + I, users first, padding rows empty.
        params: Parameters of the model.
    """

    def __init__(self, norm_adj: SparseMatrix, params: BackboneParams) -> None:
        super().__init__()
        self.norm_adj = norm_adj
        self.params = params

    def propagate(self, start: UserItem, graph: SparseMatrix | ValuedMatrix) -> UserItem:
        """Sum or average the layers over a graph: ``(U, d)`` and ``(I, d)`` to the same shapes."""
        p = self.params
        nodes = propagate_mean(graph, torch.cat(start), p.n_ui_layers)
        if p.layer_sum == "sum":
            nodes = nodes * (p.n_ui_layers + 1)
        return UserItem(*nodes.split([len(start.user), len(start.item)]))

    def forward(self, start: UserItem) -> UserItem:
        """Propagate over the whole graph: ``(U, d)`` and ``(I, d)``."""
        return self.propagate(start, self.norm_adj)

    def thin(self, generator: torch.Generator) -> SparseMatrix | ValuedMatrix:
        """Draw a thinned graph."""
        return drop_entries(self.norm_adj, self.params.keep_rate, rescale=False, generator=generator)

    def training_view(self, start: UserItem, generator: torch.Generator) -> UserItem:
        """Propagate over the graph that a training step ranks on: ``(U, d)`` and ``(I, d)``."""
        graph = self.norm_adj if self.params.backbone == "sgl" else self.thin(generator)
        return self.propagate(start, graph)

    def loss_terms(
        self,
        start: UserItem,
        final: UserItem,
        triples: Triples,
        parameters: Iterable[Tensor],
        generator: torch.Generator,
        share: Share,
    ) -> dict[str, Tensor]:
        """Return the backbone's own terms, weighted.

        Args:
            start: Embeddings of layer 0.
            final: Result of :meth:`training_view`.
            triples: The batch.
            parameters: What the penalty counts.
            generator: Source of the thinned views.
            share: This process's part of the batch.
        """
        p = self.params
        user, pos, neg = map(share.of, triples)
        ranked = ranking_loss(*take_triple(final, user, pos, neg))
        terms = {"bpr": share.weight(len(triples.user)) * ranked}
        if p.backbone == "sgl":
            terms["contrast"] = p.contrast_weight * self.contrast(start, triples, generator, share)
        squares = torch.stack([parameter.square().sum() for parameter in parameters])
        terms["regularization"] = p.reg_weight * squares.sum()
        return terms

    def contrast(self, start: UserItem, triples: Triples, generator: torch.Generator, share: Share) -> Tensor:
        """Contrast two thinned views of users, positive items and negative items: ``()``."""
        one, other = (self.propagate(start, self.thin(generator)) for _ in range(2))
        (user, *items) = triples
        rows = [(one.user, other.user, user), *((one.item, other.item, ids) for ids in items)]
        tau = self.params.contrast_temperature
        found = [
            contrast_share(Rows(ids, len(query)).of(query), key[1:], tau, target=ids - 1, share=share)
            for query, key, ids in rows  # row 0 is padding and no key
        ]
        return torch.stack(found).sum()

    def memory_terms(
        self, batch_size: int, n_users: int, n_items: int, *, n_keys: int = 0, width: int | None = None
    ) -> MemoryTerms:
        """Count the tables of nodes, the thinned graphs, the rows of the batch and one block of logits.

        Args:
            batch_size: Rows of a training batch.
            n_users: U.
            n_items: I.
            n_keys: Keys of the model's other contrasts; one contrast is computed at a time.
            width: Width of the propagated embeddings; by default that of the ID embeddings.
        """
        p, width = self.params, FLOAT * (width or self.params.embedding_size)
        nodes, rows = (n_users + n_items) * width, batch_size * width
        thinned = FLOAT * len(self.norm_adj.val)
        step = 5 * nodes // 2 + 3 * thinned + 5 * rows
        if p.backbone == "sgl":
            step += 5 * nodes // 2 + 3 * thinned // 2 + 5 * rows
            n_keys = max(n_keys, n_users, n_items)
        return MemoryTerms(step + contrast_chunk(self.norm_adj.val.device, n_keys, batch_size), 3 * nodes)
