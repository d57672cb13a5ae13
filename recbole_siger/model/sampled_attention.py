"""Attention of nodes to items that are drawn from the whole catalogue."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbole_siger.model.device import choices
from recbole_siger.model.rows import take_rows

__all__ = ["SampledAttention"]


class SampledAttention(nn.Module):
    r"""Mix a node with itself and with the items that were drawn for it.

    .. math::
        Z = (1 - c) t + c \operatorname{softmax}\Bigl(\frac{(W_q t + b)(W_k t)^\top}{\sqrt a}\Bigr) t,
            \qquad t = [h; h_{i_1}; \dots; h_{i_S}]

    Source: the sampling-based global transformer of MIG-GT (AAAI 2025). The keys have no bias, because it
    adds the same number to all logits of a row. An item 0, RecBole's padding, counts as not drawn. Weights
    start Xavier uniform.

    Args:
        embedding_size: Width d of nodes and items, >= 1.
        attention_size: Width a of queries and keys, >= 1.
        weight: c, in [0, 1].
    """

    def __init__(self, embedding_size: int, attention_size: int, weight: float) -> None:
        super().__init__()
        self.weight = weight
        self.query = nn.Linear(embedding_size, attention_size)
        self.key = nn.Linear(embedding_size, attention_size, bias=False)
        for linear in (self.query, self.key):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, nodes: Tensor, items: Tensor, drawn: Tensor) -> Tensor:
        """Return the first row of each node's Z. Of the drawn items, only the keys are made a row each.

        Args:
            nodes: Shape ``(n, d)``.
            items: Shape ``(I, d)``.
            drawn: Items of each node, shape ``(n, S)``, int64, in ``[0, I)``; S may be 0.

        Returns:
            Shape ``(n, d)``.
        """
        query = self.query(nodes) / self.key.out_features**0.5
        logits = torch.einsum("na,nsa->ns", query, take_rows(self.key(items), drawn))
        logits = torch.cat(
            (torch.linalg.vecdot(query, self.key(nodes)).unsqueeze(1), _without_padding(logits, drawn)), dim=1
        )
        own, others = logits.softmax(dim=1).split((1, drawn.shape[1]), dim=1)
        mixed = own * nodes
        if choices(items).static:
            mixed = mixed + torch.einsum("ns,nsd->nd", others, take_rows(items, drawn))
        elif drawn.shape[1]:
            mixed = mixed + functional.embedding_bag(
                drawn, items, mode="sum", per_sample_weights=others.contiguous()
            )
        return torch.lerp(nodes, mixed, self.weight)

    def scores(self, user: Tensor, nodes: Tensor, items: Tensor, drawn: Tensor) -> Tensor:
        """Return the inner products of users with all rows of Z.

        Args:
            user: Embeddings of users, shape ``(B, d)``.
            nodes: One node for each user, shape ``(B, d)``.
            items: Shape ``(I, d)``.
            drawn: Items of each node, shape ``(B, S)``, int64, in ``[0, I)``.

        Returns:
            Shape ``(B, S + 1)``; the first column is that of the node's own row.
        """
        rows = torch.cat((nodes.unsqueeze(1), take_rows(items, drawn)), dim=1)
        logits = self.query(rows) @ self.key(rows).transpose(1, 2) / self.key.out_features**0.5
        present = functional.pad(drawn, (1, 0), value=1)
        attention = _without_padding(logits, present.unsqueeze(1)).softmax(dim=2)
        score = torch.einsum("bd,bsd->bs", user, rows)
        return torch.lerp(score, (attention @ score.unsqueeze(2)).squeeze(2), self.weight)


def _without_padding(logits: Tensor, drawn: Tensor) -> Tensor:
    """Let nobody attend to the padding item 0."""
    return logits.masked_fill(drawn == 0, -torch.inf)
