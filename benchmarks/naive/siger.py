"""SIGER as its equations are usually implemented: the baseline of ``benchmarks/step.py``.

Nothing is optimized: graphs are COO tensors in autograd, layers are stacked and averaged, each view runs its
own products, cosines are exponentiated as whole matrices, and Adam is torch's default. The model shares
parameters and graphs with a :class:`~recbole_siger.model.general_recommender.siger.SIGER`, and must give
equal losses.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbole_siger.model.general_recommender.siger import SIGER

__all__ = ["NaiveSIGER"]


class NaiveSIGER(nn.Module):
    """Eqs. 1-19 with ``ablation: none`` and ``contrast_negatives: batch``, for two or more modalities.

    Args:
        model: Model whose weights, graphs and settings are copied.
        train_features: Whether the raw features are parameters, as in most public code.
    """

    def __init__(self, model: SIGER, *, train_features: bool) -> None:
        super().__init__()
        self.params, self.modalities = model.params, model.modalities
        self.n_users, self.n_items = model.n_users, model.n_items
        self.user_embedding = copy.deepcopy(model.user_embedding)
        self.item_embedding = copy.deepcopy(model.item_embedding)
        self.gates = copy.deepcopy(model.gates)
        self.features = nn.ParameterDict(
            {
                m: nn.Parameter(model.raw_features[m].clone(), requires_grad=train_features)
                for m in self.modalities
            }
        )
        adjacency, user_items = model.build_user_item_graphs()
        self.norm_adj, self.user_items, self.eisg = adjacency, user_items, model.build_item_graphs()
        self.generator = torch.Generator(adjacency.device)

    def behavior(self) -> tuple[Tensor, Tensor]:
        table = torch.cat([self.user_embedding.weight, self.item_embedding.weight])
        layers = [table]
        for _ in range(self.params.n_ui_layers):
            layers.append(torch.sparse.mm(self.norm_adj, layers[-1]))
        user, item = torch.stack(layers, dim=1).mean(dim=1).split([self.n_users, self.n_items])
        return user, item

    def gated(self, m: str) -> Tensor:
        return self.item_embedding.weight * torch.sigmoid(
            self.gates[m].outer(self.gates[m].inner(self.features[m]))
        )

    def semantics(self, m: str) -> tuple[Tensor, Tensor]:
        item = self.gated(m)
        for _ in range(self.params.n_semantic_layers):
            item = torch.sparse.mm(self.eisg[m], item)
        return torch.sparse.mm(self.user_items, item), item

    def views(self, m: str) -> list[Tensor]:
        views = [self.gated(m), self.gated(m)]
        for _ in range(self.params.n_semantic_layers):
            views = [self.perturb(torch.sparse.mm(self.eisg[m], view)) for view in views]
        return views

    def perturb(self, table: Tensor) -> Tensor:
        x, eps = table[1:], self.params.noise_eps
        norm = x.norm(dim=1, keepdim=True).detach()
        weight = norm / norm.max()
        noise = torch.rand(x.shape, generator=self.generator, device=x.device)
        noisy = x + eps * weight * torch.sign(x) * functional.normalize(noise, dim=1)
        order = torch.randperm(len(x), generator=self.generator, device=x.device)
        return torch.cat([table[:1], x + eps * weight * functional.normalize(noisy, dim=1)[order]])

    def info_nce(self, query: Tensor, key: Tensor, tau: float) -> Tensor:
        query, key = functional.normalize(query, dim=1), functional.normalize(key, dim=1)
        positive = torch.exp((query * key).sum(dim=1) / tau)
        return -torch.log(positive / torch.exp(query @ key.T / tau).sum(dim=1)).mean()

    def anchor_info_nce(self, a: Tensor, b: Tensor, anchor: Tensor, tau: float) -> Tensor:
        a, b, anchor = (functional.normalize(x, dim=1) for x in (a, b, anchor))
        positive = torch.exp(((a * anchor).sum(dim=1) + (b * anchor).sum(dim=1)) / (2 * tau))
        every = torch.exp(a @ b.T / tau)
        negative = every.sum(dim=1) - every.diagonal()
        return -torch.log(positive / (positive + negative)).mean()

    def calculate_loss(self, interaction: Any) -> tuple[Tensor, ...]:
        p = self.params
        user, pos, neg = (interaction[key] for key in ("user_id", "item_id", "neg_item_id"))
        user_id, item_id = self.behavior()
        semantics = [self.semantics(m) for m in self.modalities]
        fused_user = torch.stack([u for u, _ in semantics]).mean(dim=0)
        fused_item = torch.stack([i for _, i in semantics]).mean(dim=0)
        final_user, final_item = user_id + fused_user, item_id + fused_item
        u, i, j = final_user[user], final_item[pos], final_item[neg]
        users, items = torch.unique(user), torch.unique(pos)

        bpr = -torch.log(torch.sigmoid((u * i).sum(dim=1) - (u * j).sum(dim=1))).mean()
        perturbation = sum(
            self.info_nce(a[items], b[items], p.cl_temperature) for a, b in map(self.views, self.modalities)
        )
        modality, n_pairs = 0.0, len(semantics) * (len(semantics) - 1) / 2
        for k, (user_a, item_a) in enumerate(semantics):
            for user_b, item_b in semantics[k + 1 :]:
                modality += self.anchor_info_nce(
                    user_a[users], user_b[users], user_id[users], p.anchor_temperature
                )
                modality += self.anchor_info_nce(
                    item_a[items], item_b[items], item_id[items], p.anchor_temperature
                )
        behavior = self.info_nce(fused_user[users], user_id[users], p.align_temperature)
        behavior = behavior + self.info_nce(fused_item[items], item_id[items], p.align_temperature)
        l2 = (u.square().sum() + i.square().sum() + j.square().sum()) / (2 * len(u))
        return (
            bpr,
            p.cl_weight * perturbation,
            p.align_weight * modality / n_pairs,
            p.align_weight * behavior,
            p.reg_weight * l2,
        )
