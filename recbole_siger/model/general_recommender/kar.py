r"""KAR: LightGCN or SGL that start from ID embeddings beside adapted texts of a language model.

Reference:
    Yunjia Xi, Weiwen Liu, Jianghao Lin, Xiaoling Cai, Hong Zhu, Jieming Zhu, Bo Chen, Ruiming Tang,
    Weinan Zhang, Yong Yu. "Towards Open-World Recommendation with Knowledge Augmentation from Large
    Language Models." RecSys 2024. arXiv:2306.10933.

Reference code:
    https://github.com/YunjiaXi/Open-World-Knowledge-Augmented-Recommendation, for click-through rates. The
    form for collaborative filtering is that of RLMRec's authors, who describe it in an issue of their
    repository; its code is not public.

Shapes:
    U users and I items (both with RecBole's padding row 0), d ``embedding_size``, D width of the profiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from recbole_siger.data.features import fill_missing
from recbole_siger.model.inputs import Batch
from recbole_siger.model.layers import Projection, UserItem
from recbole_siger.model.memory import FLOAT, MemoryTerms
from recbole_siger.model.profiled import ProfiledParams, ProfiledRecommender
from recbole_siger.options.params import bounded

__all__ = ["KAR", "KARParams"]


@dataclass(frozen=True, kw_only=True)
class KARParams(ProfiledParams):
    """Types and ranges; defaults and meanings are in ``properties/model/KAR.yaml``."""

    n_shared_experts: int = bounded("[0, 64]")  # n_s
    n_own_experts: int = bounded("[1, 64]")  # n_p
    expert_size: int = bounded("[1, inf)")
    fusion: Literal["concat", "project"]


class KAR(ProfiledRecommender):
    r"""The backbone on ID embeddings e that are joined with adapted profiles a.

    .. math::
        a_v &= \sum_e \mathrm{softmax}(G_v s_v + g_v)_e \, h_e(s_v), \qquad v \in \{user, item\} \\
        E^0_v &= [e_v ; a_v] \quad\text{or}\quad E^0_v = W_v [e_v ; a_v]

    The sum of side v runs over the experts that both sides share and over those of side v alone. An expert is
    linear D to ``expert_size``, ReLU, linear to d, ReLU. The loss is the backbone's, and nothing else.

    Departures from the paper, as RLMRec's authors describe their form of it:
        The downstream model is a backbone of :class:`~recbole_siger.model.backbone.Backbone`. A user and an
        item have one text each, where the paper has two kinds of knowledge.
    Choices, where the description is silent:
        Experts end in d. ``fusion: concat`` propagates embeddings of width 2d, ``project`` maps them to d.
        Without user profiles, the profile of a user is the mean of the profiles of the user's training items.
        A node without a profile has a profile of zeros, or the mean with ``missing_modality: mean``.
    """

    params_class = KARParams
    params: KARParams
    scores_cold_items = True

    def build(self) -> None:
        """Make the tables, the backbone and the experts."""
        p, width = self.params, self.params.embedding_size
        self.build_backbone()
        user, item = self.profiles()
        self.features = self.feature_tables(trained=False)
        self.register_buffer("user_profile", fill_missing(user, self._missing_modality), persistent=False)

        n_features, n_experts = item.shape[1], p.n_shared_experts + p.n_own_experts
        counts = {"shared": p.n_shared_experts, "user": p.n_own_experts, "item": p.n_own_experts}
        self.experts = nn.ModuleDict(
            {
                name: nn.ModuleList(_expert(n_features, p.expert_size, width) for _ in range(count))
                for name, count in counts.items()
            }
        )
        self.gates = nn.ModuleDict({side: _linear(n_features, n_experts) for side in ("user", "item")})
        if p.fusion == "project":
            self.fusions = nn.ModuleDict(
                {side: _linear(2 * width, width, bias=False) for side in ("user", "item")}
            )

    def memory_terms(self, batch_size: int) -> MemoryTerms:
        """Count the backbone's tensors and the tables of the experts."""
        p, n_users, n_items = self.params, self.n_users, self.n_items
        width = p.embedding_size * (2 if p.fusion == "concat" else 1)
        backbone = self.backbone.memory_terms(batch_size, n_users, n_items, width=width)
        n_experts = p.n_shared_experts + p.n_own_experts
        nodes = (n_users + n_items) * FLOAT
        experts = n_experts * (p.expert_size + 2 * p.embedding_size) + 4 * p.embedding_size
        adapted = max(n_users, n_items) * FLOAT * (2 * p.expert_size + 2 * p.embedding_size)
        return MemoryTerms(backbone.step + nodes * experts, backbone.forward + adapted)

    # ---- representations

    def adapt(self, side: str, profile: Tensor) -> Tensor:
        """Mix the experts of a side by its gate: ``(n, D)`` to ``(n, d)``."""
        experts = [*self.experts["shared"], *self.experts[side]]  # type: ignore[misc]  # lists of modules
        weight = self.gates[side](profile).softmax(dim=1)
        return torch.stack([weight[:, e, None] * expert(profile) for e, expert in enumerate(experts)]).sum(
            dim=0
        )

    def start(self) -> UserItem:
        """Join ID embeddings and adapted profiles: ``(U, d')`` and ``(I, d')``, d' = 2d; d if projected."""
        tables = {
            "user": (self.user_embedding.weight, self.user_profile),
            "item": (self.item_embedding.weight, getattr(self.features, self.modalities[0])),
        }
        joined = {side: torch.cat((ids, self.adapt(side, s)), dim=1) for side, (ids, s) in tables.items()}
        if self.params.fusion == "project":
            joined = {side: self.fusions[side](x) for side, x in joined.items()}
        return UserItem(**joined)

    # ---- training

    def loss_terms(self, interaction: Batch) -> dict[str, Tensor]:
        """Return the backbone's terms, weighted."""
        start = self.start()
        triples = self.triples(interaction)
        final = self.backbone.training_view(start, self.generator)
        return self.backbone.loss_terms(start, final, triples, self.parameters(), self.generator, self.share)


def _linear(n_in: int, n_out: int, *, bias: bool = True) -> Projection:
    """Make a linear layer whose weights start Xavier normal, biases zero."""
    layer = Projection(n_in, n_out, bias=bias)
    nn.init.xavier_normal_(layer.weight)
    return layer


def _expert(n_features: int, hidden: int, width: int) -> nn.Sequential:
    return nn.Sequential(_linear(n_features, hidden), nn.ReLU(), _linear(hidden, width), nn.ReLU())
