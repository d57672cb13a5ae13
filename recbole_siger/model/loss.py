"""Losses that the models share. Each returns a scalar and knows no weight."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from recbole_siger.model.device import choices
from recbole_siger.model.layers import unit_rows
from recbole_siger.model.loss_kernels import (
    BernoulliDivergence,
    NeighborDiscrimination,
    check_chunk_size,
    check_temperature,
    checked_target,
    contrast,
    full_precision,
)
from recbole_siger.model.rows import Rows

__all__ = [
    "anchor_info_nce",
    "bernoulli_divergence",
    "bpr_loss",
    "cosine_loss",
    "info_nce",
    "l2_loss",
    "neighbor_discrimination",
    "norm_loss",
    "relation_loss",
]


def bpr_loss(pos_score: Tensor, neg_score: Tensor) -> Tensor:
    r"""Push each positive item's score above that of its negative.

    .. math::
        L = -\frac{1}{B} \sum_b \log \sigma(y^+_b - y^-_b)

    Source: the first term of Eq. 19 of SIGER.

    Args:
        pos_score: Scores of positive items, shape ``(B,)``, B >= 1.
        neg_score: Scores of their negatives, shape ``(B,)``.

    Returns:
        Mean over the batch, shape ``()``, >= 0.

    Raises:
        ValueError: If the shapes differ or are not ``(B,)``.

    Example:
        >>> round(bpr_loss(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 0.0])).item(), 4)
        0.41
    """
    if pos_score.dim() != 1 or pos_score.shape != neg_score.shape:
        shapes = f"{tuple(pos_score.shape)} and {tuple(neg_score.shape)}"
        raise ValueError(f"pos_score and neg_score must both have shape (B,), got {shapes}")
    return -functional.logsigmoid(pos_score - neg_score).mean()


def info_nce(
    query: Tensor,
    key: Tensor,
    temperature: float,
    *,
    target: Tensor | None = None,
    cosine: bool = True,
    chunk_size: int | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Pull each query to its own key, away from all other keys.

    .. math::
        L = -\frac{1}{B} \sum_i \log
            \frac{\exp(\cos(q_i, k_{t_i}) / \tau)}{\sum_j \exp(\cos(q_i, k_j) / \tau)}

    Source: Eqs. 13 and 16 of SIGER. One direction. A zero vector has cosine 0 to everything and a zero
    gradient. Inner products have no bound, so each query's largest logit is subtracted before the
    exponential. Peak memory is ``chunk_size * N`` numbers, in the backward pass too.

    Args:
        query: Queries, shape ``(B, d)``, B >= 1, any length.
        key: Candidates, shape ``(N, d)``, any length.
        temperature: τ, > 0.
        target: Index in ``key`` of each query's positive, shape ``(B,)``, int64; default ``0..B-1``, for N =
            B.
        cosine: Compare by the cosine; False compares by the inner product, as FAC of SLMRec does.
        chunk_size: Queries compared at a time, >= 1; changes the memory, not the value. None: as many as suit
            the device.
        weight: Weight of each query, without gradients, shape ``(B,)``, in place of 1 / B.

    Returns:
        Mean over the queries, or the weighted sum, shape ``()``, >= 0.

    Raises:
        ValueError: If the shapes do not fit, a target is out of range, or a number is.

    Example:
        >>> x = torch.tensor([[2.0, 0.0], [0.0, 5.0]])
        >>> round(info_nce(x, x, temperature=1.0).item(), 4)
        0.3133
    """
    target = checked_target(query, key, temperature, target, chunk_size)
    if cosine:
        query, key = unit_rows(query), unit_rows(key)
    return contrast(query, key, None, temperature, target, chunk_size, bounded=cosine, weight=weight)


def anchor_info_nce(
    view_a: Tensor,
    view_b: Tensor,
    anchor: Tensor,
    temperature: float,
    *,
    target: Tensor | None = None,
    chunk_size: int | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Pull both views of an entity to its anchor, away from the other entities' views.

    .. math::
        A_i = \exp\frac{\cos(a_i, c_i) + \cos(b_{t_i}, c_i)}{2 \tau}, \qquad
        L = -\frac{1}{B} \sum_i \log \frac{A_i}{A_i + \sum_{j \ne t_i} \exp(\cos(a_i, b_j) / \tau)}

    Source: Eq. 14 of SIGER, with the behaviour vector c as the anchor. Negatives go from the first view to
    the second. A zero vector has cosine 0 to everything and a zero gradient. Peak memory is ``chunk_size *
    N`` numbers.

    Args:
        view_a: First view of the queries, shape ``(B, d)``, B >= 1, any length.
        view_b: Second view of all candidates, shape ``(N, d)``, any length.
        anchor: Anchors of the queries, shape ``(B, d)``, any length.
        temperature: τ, > 0.
        target: Index in ``view_b`` of each query, shape ``(B,)``, int64; default ``0..B-1``, for N = B.
        chunk_size: Queries compared at a time, >= 1; changes the memory, not the value. None: as many as suit
            the device.
        weight: Weight of each query, without gradients, shape ``(B,)``, in place of 1 / B.

    Returns:
        Mean over the queries, or the weighted sum, shape ``()``, >= 0.

    Raises:
        ValueError: If the shapes do not fit, a target is out of range, or a number is.

    Example:
        >>> a = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> round(anchor_info_nce(a, a, a.flip(0), temperature=1.0).item(), 4)
        0.6931
    """
    if anchor.shape != view_a.shape:
        shapes = f"{tuple(view_a.shape)} and {tuple(anchor.shape)}"
        raise ValueError(f"view_a and anchor must have the same shape, got {shapes}")
    target = checked_target(view_a, view_b, temperature, target, chunk_size)
    a, b, c = unit_rows(view_a), unit_rows(view_b), unit_rows(anchor)
    positive = torch.linalg.vecdot(a + (b if target is None else Rows(target, len(b)).of(b)), c) / (
        2 * temperature
    )
    return contrast(a, b, positive, temperature, target, chunk_size, weight=weight)


def l2_loss(*embeddings: Tensor) -> Tensor:
    r"""Half the squared length of the embeddings of a batch.

    .. math::
        L = \frac{1}{2B} \sum_k \lVert E_k \rVert^2

    Source: the last term of Eq. 19 of SIGER, in the usual squared form.

    Args:
        embeddings: One or more tables, shape ``(B, d)`` each; B is taken from the first.

    Returns:
        Sum over tables, mean over the batch, shape ``()``, >= 0.

    Raises:
        ValueError: If no table is given or the first has no rows.

    Example:
        >>> l2_loss(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[1.0, 1.0], [1.0, 0.0]])).item()
        7.0
    """
    if not embeddings or len(embeddings[0]) == 0:
        raise ValueError(
            f"l2_loss needs embeddings of at least one row, got {[tuple(e.shape) for e in embeddings]}"
        )
    squares = torch.stack([e.square().sum() for e in embeddings])
    return squares.sum() / (2 * len(embeddings[0]))


def cosine_loss(query: Tensor, target: Tensor) -> Tensor:
    r"""Turn each query towards its target.

    .. math::
        L = \frac{1}{B} \sum_b 1 - \cos(q_b, t_b)

    Source: BM3 (arXiv 2207.05969), whose loss is made of it. A zero vector has cosine 0 and a zero gradient.

    Args:
        query: Queries, shape ``(B, d)``, B >= 1, any length.
        target: Targets, shape ``(B, d)``, any length; give it without gradients to hold it fixed.

    Returns:
        Mean over the batch, shape ``()``, in [0, 2].

    Raises:
        ValueError: If the shapes differ or are not ``(B, d)``.

    Example:
        >>> cosine_loss(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[5.0, 0.0], [3.0, 0.0]])).item()
        0.5
    """
    if query.dim() != 2 or query.shape != target.shape:
        shapes = f"{tuple(query.shape)} and {tuple(target.shape)}"
        raise ValueError(f"query and target must both have shape (B, d), got {shapes}")
    return 1 - (unit_rows(query) * unit_rows(target)).sum(dim=1).mean()


def norm_loss(*embeddings: Tensor) -> Tensor:
    r"""Length of whole tables, not squared, over their number of rows.

    .. math::
        L = \frac{1}{n} \sum_k \lVert E_k \rVert_F

    Source: the ``EmbLoss`` of RecBole and MMRec, which VBPR and BM3 are run with. The gradient of a table of
    zeros is zero.

    Args:
        embeddings: One or more tables, shape ``(n_k, d)``; n is that of the last.

    Returns:
        The sum of lengths over n, shape ``()``, >= 0.

    Raises:
        ValueError: If no table is given or the last has no rows.

    Example:
        >>> norm_loss(torch.tensor([[3.0, 4.0]]), torch.tensor([[6.0, 0.0], [0.0, 8.0]])).item()
        7.5
    """
    if not embeddings or len(embeddings[-1]) == 0:
        raise ValueError(
            f"norm_loss needs embeddings of at least one row, got {[tuple(e.shape) for e in embeddings]}"
        )
    return torch.stack([e.norm() for e in embeddings]).sum() / len(embeddings[-1])


def relation_loss(anchor: Tensor, positive: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    r"""Pull each anchor to its positive, away from negatives of its own.

    .. math::
        L = -\frac{1}{P} \sum_p \log \frac{\exp(\cos(a_p, b_p) / \tau)}
            {\exp(\cos(a_p, b_p) / \tau) + \sum_v \exp(\cos(a_p, n_{pv}) / \tau)}

    Source: Eq. 10 of SCALE (AAAI 2026), as a mean. A zero vector has cosine 0 to everything and a zero
    gradient.

    Args:
        anchor: Shape ``(P, d)``, P >= 1, any length.
        positive: Shape ``(P, d)``.
        negatives: Shape ``(P, V, d)``, V >= 1.
        temperature: τ, > 0.

    Returns:
        Mean over the pairs, shape ``()``, >= 0.

    Raises:
        ValueError: If the shapes do not fit or the temperature is not a finite number above 0.

    Example:
        >>> a, b = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]])
        >>> round(relation_loss(a, a, b[None], temperature=1.0).item(), 4)
        0.3133
    """
    fits = anchor.dim() == 2 and len(anchor) > 0 and anchor.shape == positive.shape
    if not fits or negatives.dim() != 3 or negatives.shape[::2] != anchor.shape or negatives.shape[1] == 0:
        shapes = ", ".join(str(tuple(x.shape)) for x in (anchor, positive, negatives))
        raise ValueError(f"expected shapes (P, d), (P, d) and (P, V, d) with P and V >= 1, got {shapes}")
    check_temperature(temperature)
    unit = unit_rows(anchor)
    others = torch.cat((positive.unsqueeze(1), negatives), dim=1)
    unit_others = unit_rows(others.flatten(0, 1)).view_as(others)
    logit = torch.linalg.vecdot(unit.unsqueeze(1), unit_others) / temperature  # faster than einsum's bmm
    return (logit.logsumexp(dim=1) - logit[:, 0]).mean()


def bernoulli_divergence(
    user: Tensor, item: Tensor, other: Tensor, *, chunk_size: int | None = None
) -> Tensor:
    r"""Pull the probabilities that two tables of items give to each user and item towards each other.

    .. math::
        p = \sigma(u \cdot i), \quad q = \sigma(u \cdot o), \qquad
        L = \operatorname{mean}_{u, i} \mathrm{KL}(p \Vert q) + \mathrm{KL}(q \Vert p)
          = \operatorname{mean}_{u, i} (p - q)(u \cdot i - u \cdot o)

    Source: the alignment of users of DA-MRS (KDD 2024). The last form has no logarithm of 1 - p, which is NaN
    for large logits. Peak memory is ``6 * chunk_size * n`` numbers, in the backward pass too.

    Args:
        user: Shape ``(B, d)``, B >= 1.
        item: First table, shape ``(n, d)``, n >= 1.
        other: Second table of the same items, shape ``(n, d)``.
        chunk_size: Users at a time, >= 1; changes the memory, not the value. None: as many as suit the
            device.

    Returns:
        Mean over users and items, shape ``()``, >= 0.

    Raises:
        ValueError: If the shapes do not fit or ``chunk_size`` is below 1.

    Example:
        >>> user, zeros = torch.tensor([[2.0]]), torch.zeros(1, 1)
        >>> round(bernoulli_divergence(user, torch.tensor([[0.5]]), zeros).item(), 4)
        0.2311
    """
    fits = user.dim() == item.dim() == 2 and item.shape == other.shape and user.shape[1] == item.shape[1]
    if not fits or not len(user) or not len(item):
        shapes = ", ".join(str(tuple(x.shape)) for x in (user, item, other))
        raise ValueError(f"expected shapes (B, d), (n, d) and (n, d) with B and n >= 1, got {shapes}")
    check_chunk_size(chunk_size)
    size = chunk_size or choices(user).chunk_size(len(item), 6)
    with torch.autocast(user.device.type, enabled=False):
        loss: Tensor = BernoulliDivergence.apply(*map(full_precision, (user, item, other)), size)
    return loss


def neighbor_discrimination(
    views: Sequence[Tensor],
    items: Tensor,
    k: int,
    temperature: float,
    *,
    chunk_size: int | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Pull each item to its neighbours in all views, and to other neighbours in one view.

    .. math::
        \pi_g &= \operatorname{softmax}_j \cos(h_{g,i}, h_{g,j}), \qquad
            T_g = \operatorname{top}_k \Bigl(\pi_g + \sum_{g'} \pi_{g'}\Bigr), \qquad
            O_g = \operatorname{top}_k \pi_g \text{ outside } T_g \\
        L &= \operatorname{mean}_{g, i} -\log \Bigl(\frac{e(T_g)}{e(\text{all})} + 10^{-9}\Bigr)
            - \log \Bigl(\frac{e(O_g)}{e(\text{all}) - e(T_g)} + 10^{-9}\Bigr), \qquad
            e(S) = \sum_{j \in S} \exp \frac{\cos(h_{g,i}, h_{g,j})}{\tau}

    Source: the alignment of items of DA-MRS (KDD 2024). The item itself can be in T. The choice of T and O
    has no gradient. Peak memory is about ``(2 * len(views) + 6) * chunk_size * N`` numbers, in the backward
    pass too.

    Args:
        views: Tables of all items, at least one, shape ``(N, d)`` each, any length.
        items: Rows that are pulled, shape ``(n,)``, n >= 1, int64, in ``[0, N)``, distinct.
        k: Size of T and of O, in ``[1, N / 2]``.
        temperature: τ, > 0.
        chunk_size: Items at a time, >= 1; changes the memory, not the value. None: as many as suit the
            device.
        weight: Weight of each item, without gradients, shape ``(n,)``, in place of 1 / n.

    Returns:
        Mean over items and views, shape ``()``, >= 0.

    Raises:
        ValueError: If the shapes do not fit or a number is out of range.

    Example:
        >>> view = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
        >>> loss = neighbor_discrimination([view], torch.tensor([0]), k=1, temperature=1.0)
        >>> round(loss.item(), 4)  # log((2 e + 2) / e) + log((e + 2) / e)
        1.5579
    """
    if not views or views[0].dim() != 2 or len({view.shape for view in views}) != 1 or not len(items):
        shapes = [tuple(view.shape) for view in views]
        raise ValueError(f"expected views of one shape (N, d) and at least one item, got {shapes}")
    n_items = len(views[0])
    if not 1 <= k <= n_items // 2:
        raise ValueError(f"k must be in [1, {n_items // 2}], half of the {n_items} items, got {k}")
    check_chunk_size(chunk_size)
    check_temperature(temperature)
    size = chunk_size or choices(items).chunk_size(n_items, 2 * len(views) + 6)
    with torch.autocast(items.device.type, enabled=False):
        units = [unit_rows(full_precision(view)) for view in views]
        loss: Tensor = NeighborDiscrimination.apply(items, k, temperature, size, weight, *units)
    return loss
