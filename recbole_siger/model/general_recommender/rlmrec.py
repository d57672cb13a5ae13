r"""RLMRec: LightGCN or SGL whose embeddings agree with texts that a language model wrote about each node.

Reference:
    Xubin Ren, Wei Wei, Lianghao Xia, Lixin Su, Suqi Cheng, Junfeng Wang, Dawei Yin, Chao Huang.
    "Representation Learning with Large Language Models for Recommendation." WWW 2024. arXiv:2310.15950.

Reference code:
    https://github.com/HKUDS/RLMRec

Shapes:
    U users and I items (both with RecBole's padding row 0), B batch, M masked nodes, d ``embedding_size``,
    D width of the profiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from recbole_siger.model.backbone import Triples
from recbole_siger.model.batch import contrast_share
from recbole_siger.model.device import choices
from recbole_siger.model.inputs import Batch
from recbole_siger.model.layers import Projection, UserItem
from recbole_siger.model.loss import info_nce
from recbole_siger.model.memory import FLOAT, MemoryTerms
from recbole_siger.model.profiled import ProfiledParams, ProfiledRecommender
from recbole_siger.model.profiles import ProfileRows
from recbole_siger.model.rows import take_rows
from recbole_siger.model.stacked import stacked_contrast
from recbole_siger.options.params import bounded

__all__ = ["RLMRec", "RLMRecParams"]


@dataclass(frozen=True, kw_only=True)
class RLMRecParams(ProfiledParams):
    """Types and ranges; defaults and meanings are in ``properties/model/RLMRec.yaml``."""

    alignment: Literal["con", "gen", "none"]
    align_weight: float = bounded("[0, inf)")  # λ_k
    align_temperature: float = bounded("(0, inf)")  # τ_k
    mask_share: float = bounded("(0, 1]")  # p


class RLMRec(ProfiledRecommender):
    r"""The backbone's loss, plus an alignment of embeddings e with profiles s.

    .. math::
        L &= L_{backbone} + \lambda_k L_{align} \\
        \mathrm{Con}: L_{align} &= \mathrm{NCE}(e_u \to s'_U) + \mathrm{NCE}(e_{i^+} \to s'_{i^+})
            + \mathrm{NCE}(e_{i^-} \to s'_{i^-}), \qquad s' = \mathrm{MLP}(s) \\
        \mathrm{Gen}: L_{align} &= \mathrm{NCE}(\mathrm{MLP}(e_m) \to s_m)

    Con: the keys are the profiles of all users, and of the items of the batch as they come. Gen: each step
    gives a share p of the nodes one learned token in place of the ID embedding, in every view of the
    backbone; queries and keys are these nodes. NCE is the cross entropy of cosines over τ_k. The MLP has one
    hidden layer, of (D + d) / 2 units with leaky ReLU, for users and items. Profiles have no other use: an
    item without training rows is not ranked by its profile. With ``alignment: none`` the model is the
    backbone, the LightGCN or SGL of the paper's tables, and reads no profiles.

    Departures from the paper, as the reference code runs it:
        The backbone: see :class:`~recbole_siger.model.backbone.Backbone`.
    Departures from the reference code:
        A node without a profile is neither query nor key. Without user profiles, the profile of a user is the
        mean of the profiles of the user's training items.
    """

    params_class = RLMRecParams
    params: RLMRecParams

    @classmethod
    def needs_features(cls, params: RLMRecParams) -> bool:
        """Return whether there is an alignment."""
        return params.alignment != "none"

    def build(self) -> None:
        """Make the tables, the backbone and the MLP of an alignment."""
        p, width = self.params, self.params.embedding_size
        self.build_backbone()
        if p.alignment == "none":
            return
        profiles = self.profiles()
        self.user_profile, self.item_profile = map(ProfileRows, profiles)
        n_features = profiles.item.shape[1]
        hidden = (n_features + width) // 2
        ends = (n_features, width) if p.alignment == "con" else (width, n_features)
        self.mlp = nn.Sequential(Projection(ends[0], hidden), nn.LeakyReLU(), Projection(hidden, ends[1]))
        if p.alignment == "gen":
            self.token = nn.Parameter(torch.zeros(width))

    def memory_terms(self, batch_size: int) -> MemoryTerms:
        """Count the backbone's tensors and the tables of the MLP."""
        p, n_users, n_items = self.params, self.n_users, self.n_items
        if p.alignment == "none":
            return self.backbone.memory_terms(batch_size, n_users, n_items)
        width, n_features = p.embedding_size, self.item_profile.rows.shape[1]
        hidden = (n_features + width) // 2
        if p.alignment == "con":
            n_keys, n_needed = len(self.user_profile.rows), min(batch_size, n_items)
            numbers = (n_keys + n_needed) * 2 * (hidden + width) + 8 * batch_size * width
            numbers, n_keys = numbers + n_needed * n_features, max(n_keys, batch_size)
        else:
            n_keys = round(p.mask_share * (n_users + n_items))
            numbers = n_keys * (3 * hidden + 6 * n_features)
        backbone = self.backbone.memory_terms(batch_size, n_users, n_items, n_keys=n_keys)
        return MemoryTerms(backbone.step + FLOAT * numbers, backbone.forward)

    # ---- representations

    def draw_nodes(self) -> UserItem:
        """Draw the users and the items that Gen masks, without padding: ``(M_U,)`` and ``(M_I,)``."""
        n_nodes = self.n_users + self.n_items - 2
        order = torch.randperm(n_nodes, generator=self.generator, device=self.device)
        drawn = order[: int(self.params.mask_share * n_nodes)] + 1  # users 1 .. U-1, then items
        of_users = drawn < self.n_users
        return UserItem(drawn[of_users], drawn[~of_users] - (self.n_users - 1))

    def mask(self, start: UserItem, nodes: UserItem) -> UserItem:
        """Give some nodes the token in place of their ID embeddings: ``(U, d)`` and ``(I, d)``."""
        token = self.token.unsqueeze(0)
        return UserItem(
            *(
                table.index_copy(0, ids, token.expand(len(ids), -1))
                for table, ids in zip(start, nodes, strict=True)
            )
        )

    # ---- training

    def loss_terms(self, interaction: Batch) -> dict[str, Tensor]:
        """Return the backbone's terms and the alignment, weighted."""
        p, start = self.params, self.start()
        triples = self.triples(interaction)
        if p.alignment == "gen":
            nodes = self.draw_nodes()
            start = self.mask(start, nodes)
        final = self.backbone.training_view(start, self.generator)
        terms = self.backbone.loss_terms(start, final, triples, self.parameters(), self.generator, self.share)
        if p.alignment == "none":
            return terms
        aligned = self.contrastive(final, triples) if p.alignment == "con" else self.generative(final, nodes)
        return terms | {"alignment": p.align_weight * aligned}

    def contrastive(self, final: UserItem, triples: Triples) -> Tensor:
        """Pull embeddings to mapped profiles, Con: ``()``."""
        tau, share = self.params.align_temperature, self.share
        known = len(self.user_profile.rows) and len(self.item_profile.rows)
        if choices(final.user).static and share.size == 1 and known:
            return self.static_contrastive(final, triples)
        users = self.user_profile.having(triples.user)
        key, place = self.mlp(self.user_profile.rows), self.user_profile.place[users]
        found = [contrast_share(final.user.index_select(0, users), key, tau, target=place, share=share)]
        for ids in triples[1:]:
            items = self.item_profile.having(ids)
            distinct, place = items.unique(return_inverse=True)
            key = self.mlp(self.item_profile.of(distinct)).index_select(0, place)
            found.append(contrast_share(final.item.index_select(0, items), key, tau, share=share))
        return torch.stack(found).sum()

    def static_contrastive(self, final: UserItem, triples: Triples) -> Tensor:
        """Compute Con for all nodes of the batch; nodes without a profile have the weight 0: ``()``."""
        tau, items = self.params.align_temperature, torch.cat(triples[1:])
        place = self.user_profile.place.index_select(0, triples.user)
        there = (place >= 0).float()
        query, key = take_rows(final.user, triples.user), self.mlp(self.user_profile.rows)
        weight = there / there.sum().clamp_min(1)  # nobody has a profile: the loss is 0
        users = info_nce(query, key, tau, target=place.clamp_min(0), weight=weight)
        n, valid = len(triples.pos), self.item_profile.place.index_select(0, items) >= 0
        valid = valid.float().view(2, n)
        queries = take_rows(final.item, items).split(n)
        keys = self.mlp(self.item_profile.of(items)).split(n)
        size = choices(query).chunk_size(n, 2)
        count = valid.sum(dim=1, keepdim=True)
        nobody = count == 0  # all rows then count nothing
        valid, count = valid.masked_fill(nobody, 1), count.masked_fill(nobody, torch.inf)
        return users + stacked_contrast(queries, keys, (), valid, count, tau, size).sum()

    def generative(self, final: UserItem, nodes: UserItem) -> Tensor:
        """Find the profiles of masked nodes from their embeddings, Gen: ``()``."""
        sides = (self.user_profile, self.item_profile)
        there = [rows.having(ids) for rows, ids in zip(sides, nodes, strict=True)]
        query = torch.cat([table.index_select(0, ids) for table, ids in zip(final, there, strict=True)])
        key = torch.cat([rows.of(ids) for rows, ids in zip(sides, there, strict=True)])
        return contrast_share(self.mlp(query), key, self.params.align_temperature, share=self.share)
