"""Losses that the models share. Each returns a scalar and knows no weight."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from recbole_siger.model.layers import unit_rows

__all__ = [
    "anchor_info_nce",
    "bpr_loss",
    "cosine_loss",
    "info_nce",
    "l2_loss",
    "norm_loss",
    "relation_loss",
]

# Cosines over this temperature lie within +-64: their exponentials and sums of them are ordinary float32.
LOWEST_UNSHIFTED = 1 / 64
# Queries whose logits exist at a time.
CHUNK_SIZE = 128


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
    chunk_size: int = CHUNK_SIZE,
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
        chunk_size: Queries compared at a time, >= 1; changes the memory, not the value.

    Returns:
        Mean over the queries, shape ``()``, >= 0.

    Raises:
        ValueError: If the shapes do not fit, a target is out of range, or a number is.

    Example:
        >>> x = torch.tensor([[2.0, 0.0], [0.0, 5.0]])
        >>> round(info_nce(x, x, temperature=1.0).item(), 4)
        0.3133
    """
    target = _checked_target(query, key, temperature, target, chunk_size)
    if cosine:
        query, key = unit_rows(query), unit_rows(key)
    return _contrast(query, key, None, temperature, target, chunk_size, bounded=cosine)


def anchor_info_nce(
    view_a: Tensor,
    view_b: Tensor,
    anchor: Tensor,
    temperature: float,
    *,
    target: Tensor | None = None,
    chunk_size: int = CHUNK_SIZE,
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
        chunk_size: Queries compared at a time, >= 1; changes the memory, not the value.

    Returns:
        Mean over the queries, shape ``()``, >= 0.

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
    target = _checked_target(view_a, view_b, temperature, target, chunk_size)
    a, b, c = unit_rows(view_a), unit_rows(view_b), unit_rows(anchor)
    positive = torch.linalg.vecdot(a + b.index_select(0, target), c) / (2 * temperature)
    return _contrast(a, b, positive, temperature, target, chunk_size)


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
    _check_temperature(temperature)
    unit = unit_rows(anchor)
    others = torch.cat((positive.unsqueeze(1), negatives), dim=1)
    cosine = torch.einsum("pd,pvd->pv", unit, unit_rows(others.flatten(0, 1)).view_as(others))
    logit = cosine / temperature
    return (logit.logsumexp(dim=1) - logit[:, 0]).mean()


def _check_temperature(temperature: float) -> None:
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be finite and > 0, got {temperature}")


def _checked_target(
    query: Tensor, key: Tensor, temperature: float, target: Tensor | None, chunk_size: int
) -> Tensor:
    """Refuse what would be broadcast, ignored or NaN; return the positives, ``(B,)`` int64."""
    if query.dim() != 2 or key.dim() != 2 or query.shape[1] != key.shape[1] or len(query) == 0:
        shapes = f"{tuple(query.shape)} and {tuple(key.shape)}"
        raise ValueError(f"queries and keys must have shapes (B, d) and (N, d) with B >= 1, got {shapes}")
    _check_temperature(temperature)
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    if target is None:
        if len(query) != len(key):
            raise ValueError(f"without target, B and N must be equal, got {len(query)} and {len(key)}")
        return torch.arange(len(query), device=query.device)
    if target.shape != (len(query),) or target.dtype != torch.int64:
        given = f"{target.dtype} of shape {tuple(target.shape)}"
        raise ValueError(f"target must be int64 of shape ({len(query)},), got {given}")
    if target.is_cuda:  # a look would make every step wait for the device, whose kernels stop at a bad index
        return target
    outside = target[(target < 0) | (target >= len(key))]
    if len(outside):
        raise ValueError(f"target {outside[0].item()} is outside [0, {len(key)})")
    return target


def _contrast(
    query: Tensor,
    key: Tensor,
    positive: Tensor | None,
    temperature: float,
    target: Tensor,
    chunk_size: int,
    *,
    bounded: bool = True,
) -> Tensor:
    """Average the cross entropy of inner products; ``positive`` replaces the logit of the target.

    ``bounded`` says that all rows have length 1 at most.
    """
    half = (torch.float16, torch.bfloat16)
    tables = [t.float() if t is not None and t.dtype in half else t for t in (query, key, positive)]
    with torch.autocast(query.device.type, enabled=False):  # exponentials of half precision lose the small
        shift = not bounded or temperature < LOWEST_UNSHIFTED
        loss: Tensor = _CrossEntropy.apply(*tables, temperature, target, chunk_size, shift)
    return loss


class _CrossEntropy(torch.autograd.Function):
    """Softmax cross entropy that makes its gradients in the forward pass, a chunk of queries at a time.

    A chunk's logits stay in the processor's cache and become their exponentials in place; nothing of size
    B x N is kept for the backward pass. What can be done to the d-wide factors is not done to the logits.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        positive: Tensor | None,
        temperature: float,
        target: Tensor,
        chunk_size: int,
        shift: bool,
    ) -> Tensor:
        query = query / temperature
        mass, top = torch.empty_like(query[:, 0]), torch.zeros_like(query[:, 0])
        grad_query, grad_key = torch.empty_like(query), torch.zeros_like(key)
        buffer = query.new_empty(min(chunk_size, len(query)), len(key))
        for start in range(0, len(query), chunk_size):
            rows = slice(start, start + chunk_size)
            part = query[rows]
            logits = torch.mm(part, key.T, out=buffer[: len(part)])
            if positive is not None:  # the target's logit is no product of query and key
                logits.scatter_(1, target[rows, None], -torch.inf)
            if shift:
                torch.amax(logits, dim=1, out=top[rows])
                if positive is not None:
                    torch.maximum(top[rows], positive[rows], out=top[rows])
                logits -= top[rows, None]
            torch.sum(logits.exp_(), dim=1, out=mass[rows])
            if positive is not None:
                mass[rows] += (positive[rows] - top[rows]).exp()
            torch.mm(logits, key, out=grad_query[rows])
            grad_key.addmm_(logits.T, part / mass[rows, None])
        grad_query.div_(mass.unsqueeze(1))
        grad_positive = None
        if positive is None:
            wanted = key.index_select(0, target)
            chosen = torch.linalg.vecdot(query, wanted)
            grad_query -= wanted
            grad_key.index_add_(0, target, query, alpha=-1)
        else:
            chosen = positive
            grad_positive = (positive - top).exp_().div_(mass).sub_(1)
        ctx.save_for_backward(grad_query.div_(temperature), grad_key, grad_positive)
        return (mass.log_() + top - chosen).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, positive = ctx.saved_tensors
        scale = grad / len(query)
        grad_positive = None if positive is None else positive * scale
        return query * scale, key * scale, grad_positive, None, None, None, None
