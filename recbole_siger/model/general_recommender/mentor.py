r"""MENTOR: one propagation for each modality, aligned by moments, with two noisy views.

Reference:
    Jinfeng Xu, Zheyu Chen, Shuo Yang, Jinze Li, Hewei Wang, Edith C. H. Ngai.
    "MENTOR: Multi-level Self-supervised Learning for Multimodal Recommendation." AAAI 2025. arXiv:2402.19407.

Reference code:
    https://github.com/Jinfeng-Xu/MENTOR

Shapes:
    U users and I items (both with RecBole's padding row 0), N = U + I, M modalities, B batch, d
    ``embedding_size``, F_m raw width of modality m.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbole_siger.graph.normalize import weighted_sum
from recbole_siger.model.abstract_recommender import MultimodalRecommender
from recbole_siger.model.inputs import Batch
from recbole_siger.model.layers import UserItem, project, sign_noise, unit_rows
from recbole_siger.model.loss import info_nce
from recbole_siger.model.memory import FLOAT, MemoryTerms, contrast_chunk
from recbole_siger.model.moments import moment_gap
from recbole_siger.model.propagation import SparseMatrix, propagate_last, propagate_mean
from recbole_siger.model.ranking import ranking_loss
from recbole_siger.model.rows import take_rows, take_triple
from recbole_siger.options.params import ModelParams, bounded

__all__ = ["MENTOR", "Encoder", "MENTORParams"]


@dataclass(frozen=True, kw_only=True)
class MENTORParams(ModelParams):
    """Types and ranges; defaults and meanings are in ``properties/model/MENTOR.yaml``."""

    embedding_size: int = bounded("[1, inf)")
    hidden_size: int = bounded("[1, inf)")
    n_ui_layers: int = bounded("[0, inf)")
    n_semantic_layers: int = bounded("[1, inf)")
    n_semantic_neighbors: int = bounded("[1, inf)")
    image_weight: float = bounded("[0, 1]")
    semantic_weights: tuple[float, ...] | None = bounded("[0, inf)")
    align_weight: float = bounded("[0, inf)")  # λ_a
    noise_eps: float = bounded("[0, inf)")  # ε
    noise_shared: bool
    noise_rows: Literal["batch", "all"]
    cl_weight: float = bounded("[0, inf)")  # λ_g
    cl_temperature: float = bounded("(0, inf)")  # τ
    reg_weight: float = bounded("[0, inf)")  # λ_r


class Encoder(nn.Module):
    r"""The embeddings of layer 0: a table of users P, and a perceptron f of item features.

    Args:
        n_users: U, >= 1.
        n_features: Width F of the features, >= 1.
        hidden_size: Width between the two linear maps, >= 1.
        embedding_size: d, >= 1.
    """

    def __init__(self, n_users: int, n_features: int, hidden_size: int, embedding_size: int) -> None:
        super().__init__()
        self.preference = nn.Parameter(nn.init.xavier_normal_(torch.empty(n_users, embedding_size)))
        self.inner, self.outer = nn.Linear(n_features, hidden_size), nn.Linear(hidden_size, embedding_size)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(I, F)`` to unit rows of users, then of items, ``(N, d)``."""
        hidden = functional.leaky_relu(project(features, self.inner.weight, self.inner.bias))
        return unit_rows(torch.cat((self.preference, self.outer(hidden))))


class MENTOR(MultimodalRecommender):
    r"""Sums of layers by modality, side by side; users weigh modalities, items gather from similar items.

    .. math::
        H_m &= \operatorname{norm}[P_m; f_m(X_m)], \qquad \hat H_m = \sum_{l=0}^{L} A^l H_m \\
        E_u &= [w_{u1} \hat H_1; \dots; w_{uM} \hat H_M]_u, \qquad
            E_i = Y + S Y, \quad Y = [\hat H_1; \dots; \hat H_M]_i \\
        L &= -\frac{1}{B} \sum_b \log_2 \sigma(y^+_b - y^-_b) + \lambda_a L_a + \lambda_g L_g
            + \lambda_r \Bigl(\sum_m \overline{P_{m,b}^2} + \overline{w^2}\Bigr)

    ==================================  ===========================  ======================
    Symbol                              Here                         Shape
    ==================================  ===========================  ======================
    :math:`H_m`                         ``encoders[m]``              ``(N, d)``
    :math:`\hat H`, all of them         ``propagate()``              ``(N, M + 1, d)``
    :math:`w`                           ``user_weight``              ``(U, M)``
    :math:`S`                           ``item_graph``               sparse ``(I, I)``
    :math:`E`                           ``fuse()``                   ``(U, M d)``, ``(I, M d)``
    :math:`L_a`                         ``alignment_loss()``         ``()``
    :math:`L_g`                         ``noise_loss()``             ``()``
    ==================================  ===========================  ======================

    L_a compares mean and variance of E, of the same encoding of an ID table, and of each modality. L_g
    contrasts two views with noise after each layer. With one modality, E is that modality's view, times a
    weight for users.

    Departures from the paper, as in the reference code:
        The views with noise have encoders of their own, so that L_g changes the scores through w alone
        (``noise_shared`` uses the encoders that rank). The ranking loss has the logarithm to base 2. The loss
        of masked features is computed without gradients there and trains nothing; it is left out here.
    Departures from the reference code:
        An item without a feature has no edge in that modality's graph. Padding has no part in a mean. With
        modalities other than image and text, ``semantic_weights`` or equal shares mix the graphs.
    """

    params_class = MENTORParams
    params: MENTORParams
    scores_cold_items = True

    def build(self) -> None:
        """Make the tables, the encoders and the graphs."""
        p, width = self.params, self.params.embedding_size
        self.features = self.feature_tables(trained=False)
        self.encoders = self.make_encoders()
        self.item_embedding = nn.Embedding(self.n_items, width)
        nn.init.xavier_normal_(self.item_embedding.weight)
        self.id_encoder = Encoder(self.n_users, width, p.hidden_size, width)
        self.noise_encoders = nn.ModuleList(self.make_encoders() for _ in range(0 if p.noise_shared else 2))
        start = nn.init.xavier_normal_(torch.empty(self.n_users, len(self.modalities)))
        self.user_weight = nn.Parameter(start.softmax(dim=1))

        graphs = self.knn_graphs(p.n_semantic_neighbors, "one").values()
        shares = self.graph_shares(p.image_weight, p.semantic_weights)
        self.item_graph = SparseMatrix(weighted_sum([*graphs], shares))
        self.norm_adj = self.build_norm_adj(self.train_edges)

    def make_encoders(self) -> nn.ModuleDict:
        """Make an encoder for each modality."""
        sizes = self.params.hidden_size, self.params.embedding_size
        return nn.ModuleDict(
            {m: Encoder(self.n_users, x.shape[1], *sizes) for m, x in self.raw_features.items()}
        )

    def memory_terms(self, batch_size: int) -> MemoryTerms:
        """Count the tables of nodes of each encoder and view, the hidden layers, and the contrasted rows."""
        p, n_modalities, rows = self.params, len(self.modalities), self.params.noise_rows == "batch"
        width, n_nodes = FLOAT * p.embedding_size, self.n_users + self.n_items
        hidden = 2 * self.n_items * FLOAT * p.hidden_size
        n_encoders = n_modalities + 1 + 2 * n_modalities * (not p.noise_shared)
        contrasted = 2 * batch_size if rows else n_nodes
        step = (n_encoders + 7 * n_modalities + 7) * n_nodes * width + n_encoders * hidden
        step += 6 * n_modalities * (contrasted + batch_size) * width
        n_keys = max(self.n_users, self.n_items)
        step += contrast_chunk(self.device, n_keys, batch_size if rows else n_keys)
        return MemoryTerms(step, 4 * n_modalities * n_nodes * width)

    # ---- representations

    def encode(self, encoders: nn.Module) -> list[Tensor]:
        """Return the embeddings of layer 0 of each modality, ``(N, d)`` each."""
        return [getattr(encoders, m)(getattr(self.features, m)) for m in self.modalities]

    def propagate(self, layers: list[Tensor]) -> Tensor:
        """Sum the layers over the user-item graph, for V tables at once: ``(N, V, d)``."""
        n_layers, first = self.params.n_ui_layers, torch.stack(layers, dim=1)
        mean = propagate_mean(self.norm_adj, first.flatten(1), n_layers)
        return (n_layers + 1) * mean.view_as(first)

    def gather(self, table: Tensor) -> UserItem:
        """Add to items what they gather from similar ones: ``(N, V, d)`` to ``(U, V, d)``, ``(I, V, d)``."""
        user, item = table.split([self.n_users, self.n_items])
        near = propagate_last(self.item_graph, item.flatten(1), self.params.n_semantic_layers)
        return UserItem(user, item + near.view_as(item))

    def fuse(self, gathered: UserItem) -> UserItem:
        """Put the modalities side by side, weighted for users: ``(U, M d)`` and ``(I, M d)``."""
        user = self.user_weight.unsqueeze(2) * gathered.user
        return UserItem(user.flatten(1), gathered.item.flatten(1))

    def forward(self) -> UserItem:
        """Encode, propagate and fuse the modalities."""
        return self.fuse(self.gather(self.propagate(self.encode(self.encoders))))

    def noisy_view(self, layers: list[Tensor]) -> UserItem:
        """Encode with noise after each product: ``(U, M d)`` and ``(I, M d)``."""
        total = layer = torch.stack(layers, dim=1)
        for _ in range(self.params.n_ui_layers):
            product = self.norm_adj(layer.flatten(1)).view_as(layer)
            layer = sign_noise(product, self.params.noise_eps, generator=self.generator)
            total = total + layer
        return self.fuse(self.gather(total))

    # ---- training

    def loss_terms(self, interaction: Batch) -> dict[str, Tensor]:
        """Return the terms of the loss, weighted."""
        p, n_modalities = self.params, len(self.modalities)
        user, pos, neg = (interaction[key] for key in (self.USER_ID, self.ITEM_ID, self.NEG_ITEM_ID))
        layers = self.encode(self.encoders)
        every = self.gather(self.propagate([*layers, self.id_encoder(self.item_embedding.weight)]))
        final = self.fuse(UserItem(*(table[:, :n_modalities] for table in every)))
        penalty = [
            take_rows(self.encoders.get_parameter(f"{m}.preference"), user).square().mean()
            for m in self.modalities
        ]
        penalty.append(self.user_weight[1:].square().mean())
        return {
            "bpr": ranking_loss(*take_triple(final, user, pos, neg)) / log(2),
            "alignment": p.align_weight * self.alignment_loss(final, every),
            "contrast": p.cl_weight * self.noise_loss(layers, user, pos),
            "regularization": p.reg_weight * torch.stack(penalty).sum(),
        }

    def alignment_loss(self, final: UserItem, every: UserItem) -> Tensor:
        """Align the moments of all views, of one modality those of E and of the IDs: ``()``."""
        n_views, n_modalities = every.user.shape[1], len(self.modalities)
        views = range(n_views) if n_modalities > 1 else [n_modalities]
        tables = [torch.cat((every.user[1:, v], every.item[1:, v])) for v in views]
        return moment_gap(torch.cat((final.user[1:], final.item[1:])), *tables)

    def noise_loss(self, layers: list[Tensor], user: Tensor, pos: Tensor) -> Tensor:
        """Contrast two noisy views with all users and all items as keys: ``()``."""
        starts = [layers, layers] if self.params.noise_shared else map(self.encode, self.noise_encoders)
        first, second = (self.noisy_view(start) for start in starts)
        total = []
        for query, key, ids in zip(first, second, (user, pos), strict=True):
            rows = ids if self.params.noise_rows == "batch" else torch.arange(1, len(key), device=key.device)
            total.append(
                info_nce(take_rows(query, rows), key[1:], self.params.cl_temperature, target=rows - 1)
            )
        return torch.stack(total).sum()
