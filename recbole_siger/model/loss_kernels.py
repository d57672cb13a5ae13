"""Losses over many pairs that make their gradients in the forward pass, a chunk of rows at a time.

Nothing of the size of all pairs is kept for the backward pass. The public functions are in
:mod:`recbole_siger.model.loss`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recbole_siger.evaluation.ranking import top_k
from recbole_siger.model.device import choices
from recbole_siger.model.rows import sum_rows

__all__ = [
    "BernoulliDivergence",
    "CrossEntropy",
    "NeighborDiscrimination",
    "check_temperature",
    "checked_target",
    "contrast",
    "full_precision",
]

# Cosines over this temperature lie within +-64: their exponentials and sums of them are ordinary float32.
LOWEST_UNSHIFTED = 1 / 64
# Added to the shares of NeighborDiscrimination before their logarithm, as DA-MRS is run.
SMALLEST_SHARE = 1e-9


def check_temperature(temperature: float) -> None:
    """Raise ValueError unless a temperature is finite and above 0."""
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be finite and > 0, got {temperature}")


def check_chunk_size(chunk_size: int | None) -> None:
    """Raise ValueError unless a number of rows at a time is at least 1 or left to the device."""
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")


def checked_target(
    query: Tensor, key: Tensor, temperature: float, target: Tensor | None, chunk_size: int | None
) -> Tensor | None:
    """Refuse what would be broadcast, ignored or NaN; return the positives, ``(B,)`` int64.

    None says on a GPU that the positive of each query is the key of the same row.
    """
    if query.dim() != 2 or key.dim() != 2 or query.shape[1] != key.shape[1] or len(query) == 0:
        shapes = f"{tuple(query.shape)} and {tuple(key.shape)}"
        raise ValueError(f"queries and keys must have shapes (B, d) and (N, d) with B >= 1, got {shapes}")
    check_temperature(temperature)
    check_chunk_size(chunk_size)
    if target is None:
        if len(query) != len(key):
            raise ValueError(f"without target, B and N must be equal, got {len(query)} and {len(key)}")
        return None if choices(query).static else torch.arange(len(query), device=query.device)
    if target.shape != (len(query),) or target.dtype != torch.int64:
        given = f"{target.dtype} of shape {tuple(target.shape)}"
        raise ValueError(f"target must be int64 of shape ({len(query)},), got {given}")
    if choices(
        query
    ).static:  # a look would make every step wait for the device, whose kernels stop at a bad index
        return target
    outside = target[(target < 0) | (target >= len(key))]
    if len(outside):
        raise ValueError(f"target {outside[0].item()} is outside [0, {len(key)})")
    return target


def contrast(
    query: Tensor,
    key: Tensor,
    positive: Tensor | None,
    temperature: float,
    target: Tensor | None,
    chunk_size: int | None,
    *,
    bounded: bool = True,
    weight: Tensor | None = None,
) -> Tensor:
    """Average the cross entropy of inner products; ``positive`` replaces the logit of the target.

    ``bounded`` says that all rows have length 1 at most. ``weight`` replaces the equal weights of the
    average, shape ``(B,)``, without gradients.
    """
    tables = [t if t is None else full_precision(t) for t in (query, key, positive)]
    with torch.autocast(query.device.type, enabled=False):  # exponentials of half precision lose the small
        shift = not bounded or temperature < LOWEST_UNSHIFTED
        size = chunk_size or choices(query).chunk_size(len(key))
        loss: Tensor = CrossEntropy.apply(*tables, temperature, target, size, shift, weight)
    return loss


def full_precision(x: Tensor) -> Tensor:
    """Return float32 in place of half precision, any other tensor as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class CrossEntropy(torch.autograd.Function):
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
        target: Tensor | None,
        chunk_size: int,
        shift: bool,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss and its gradients; with ``weight``, the sum of the weighted losses of the rows."""
        static, query = choices(query).static, query / temperature
        mass, top = torch.empty_like(query[:, 0]), torch.zeros_like(query[:, 0])
        grad_query, grad_key = torch.empty_like(query), torch.zeros_like(key)
        buffer = query.new_empty(min(chunk_size, len(query)), len(key))
        for start in range(0, len(query), chunk_size):
            rows = slice(start, start + chunk_size)
            part = query[rows]
            logits = torch.mm(part, key.T, out=buffer[: len(part)])
            if positive is not None:  # the target's logit is no product of query and key
                if target is None:
                    logits[:, rows].diagonal().fill_(-torch.inf)
                else:
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
            part = part / mass[rows, None]
            grad_key.addmm_(logits.T, part if weight is None else part * weight[rows, None])
        grad_query.div_(mass.unsqueeze(1))
        grad_positive = None
        if positive is None:
            wanted = key if target is None else key.index_select(0, target)
            chosen = torch.linalg.vecdot(query, wanted)
            grad_query -= wanted
            own = query if weight is None else query * weight.unsqueeze(1)
            if target is None:
                grad_key -= own
            elif static:
                grad_key -= sum_rows(own, target, len(key))
            else:
                grad_key.index_add_(0, target, own, alpha=-1)
        else:
            chosen = positive
            grad_positive = (positive - top).exp_().div_(mass).sub_(1)
        grad_query.div_(temperature)
        if weight is not None:
            grad_query *= weight.unsqueeze(1)
            grad_positive = None if grad_positive is None else grad_positive.mul_(weight)
        ctx.save_for_backward(grad_query, grad_key, grad_positive)
        ctx.n = len(query) if weight is None else 1
        gap = mass.log_() + top - chosen
        return gap.mean() if weight is None else gap @ weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients of the forward pass."""
        query, key, positive = ctx.saved_tensors
        scale = grad / ctx.n
        grad_positive = None if positive is None else positive * scale
        return query * scale, key * scale, grad_positive, None, None, None, None, None


class BernoulliDivergence(torch.autograd.Function):
    """Mean of (p - q)(a - b) over users and items, with logits a, b and their sigmoids p, q."""

    @staticmethod
    def forward(ctx: Any, user: Tensor, item: Tensor, other: Tensor, chunk_size: int) -> Tensor:
        """Compute the loss and its gradients."""
        total, grad_user = user.new_zeros(()), torch.empty_like(user)
        grad_item, grad_other = torch.zeros_like(item), torch.zeros_like(other)
        for start in range(0, len(user), chunk_size):
            rows = slice(start, start + chunk_size)
            part = user[rows]
            first, second = part @ item.T, part @ other.T
            gap = first - second
            p, q = first.sigmoid_(), second.sigmoid_()
            difference = p - q
            total += torch.sum(difference * gap)
            by_first = torch.addcmul(difference, p * (1 - p), gap)
            by_second = torch.addcmul(difference, q * (1 - q), gap).neg_()
            grad_user[rows] = by_first @ item + by_second @ other
            grad_item.addmm_(by_first.T, part)
            grad_other.addmm_(by_second.T, part)
        n_pairs = len(user) * len(item)
        ctx.save_for_backward(*(grad.div_(n_pairs) for grad in (grad_user, grad_item, grad_other)))
        return total / n_pairs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients of the forward pass."""
        user, item, other = ctx.saved_tensors
        return user * grad, item * grad, other * grad, None


class NeighborDiscrimination(torch.autograd.Function):
    """Mean of -log(e(T) / e(all)) - log(e(O) / (e(all) - e(T))) over items and views of unit rows."""

    @staticmethod
    def forward(
        ctx: Any,
        items: Tensor,
        k: int,
        temperature: float,
        chunk_size: int,
        weight: Tensor | None,
        *views: Tensor,
    ) -> Tensor:
        """Compute the loss and its gradients; with ``weight``, the weighted sum over items."""
        static, n_views = choices(items).static, len(views)
        best = _topk if static else top_k
        total, grads = views[0].new_zeros(()), [torch.zeros_like(view) for view in views]
        # Allocated once: the pages of a new table of this size cost more than its sums.
        buffer = views[0].new_empty(2 * n_views + 2, min(chunk_size, len(items)), len(views[0]))
        for start in range(0, len(items), chunk_size):
            some = items[start : start + chunk_size]
            tables = buffer[:, : len(some)]
            cosines, chances, (together, work) = tables.split([n_views, n_views, 2])
            queries = [view.index_select(0, some) for view in views]
            for query, view, cosine in zip(queries, views, cosines, strict=True):
                torch.mm(query, view.T, out=cosine)
            torch.softmax(cosines, dim=2, out=chances)
            torch.sum(chances, dim=0, out=together)
            for view, query, cosine, chance, grad in zip(
                views, queries, cosines, chances, grads, strict=True
            ):
                common = best(torch.add(together, chance, out=work), k)
                single = best(chance.scatter_(1, common, -1.0), k)
                # The shift changes no share and keeps exponentials at 1 or below.
                power = cosine.sub_(1).div_(temperature).exp_()
                losses, by_cosine = _discriminate(power, common, single, work)
                by_cosine /= temperature
                if weight is not None:
                    own = weight[start : start + chunk_size, None]
                    losses, by_cosine = losses * own, by_cosine.mul_(own)
                total += losses.sum()
                grad.addmm_(by_cosine.T, query)
                if static:
                    grad += sum_rows(by_cosine @ view, some, len(view))
                else:
                    grad.index_add_(0, some, by_cosine @ view)
        n_terms = len(views) * (len(items) if weight is None else 1)
        ctx.save_for_backward(*(grad.div_(n_terms) for grad in grads))
        return total / n_terms

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients of the forward pass."""
        return None, None, None, None, None, *(saved * grad for saved in ctx.saved_tensors)


def _topk(x: Tensor, k: int) -> Tensor:
    return x.topk(k, dim=1).indices  # without a look at values


def _discriminate(power: Tensor, common: Tensor, single: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Return losses of rows, ``(n, 1)``, and the gradient of their sum by the logarithms of ``power``.

    Args:
        power: Exponentials e, shape ``(n, N)``; overwritten.
        common: Columns of T, shape ``(n, k)``.
        single: Columns of O, shape ``(n, k)``.
        gradient: Where the gradient is written, shape ``(n, N)``.
    """
    of_common, of_single = power.gather(1, common), power.gather(1, single)
    in_common, in_single = of_common.sum(dim=1, keepdim=True), of_single.sum(dim=1, keepdim=True)
    outside = power.scatter_(1, common, 0.0).sum(dim=1, keepdim=True)
    outside.clamp_min_(torch.finfo(outside.dtype).tiny)  # at a low temperature all of it can be 0
    everything = outside + in_common
    first, second = in_common / everything, in_single / outside
    losses = -((first + SMALLEST_SHARE).log() + (second + SMALLEST_SHARE).log())
    # By a power outside T and O; a power in O or in T adds its own part. Each factor is a share of 1.
    first_slope, second_slope = 1 / (first + SMALLEST_SHARE), 1 / (second + SMALLEST_SHARE)
    by_common = of_common / everything * (first - 1) * first_slope
    by_single = of_single / outside * (second - 1) * second_slope
    by_single += of_single / everything * first * first_slope
    torch.div(power, outside, out=gradient).mul_(second * second_slope)
    gradient.addcmul_(power.div_(everything), first * first_slope)
    # One index: in two dimensions some versions of torch make a table of strides, for which a GPU waits.
    first_place = torch.arange(0, gradient.numel(), gradient.shape[1], device=gradient.device).unsqueeze(1)
    for columns, values in ((single, by_single), (common, by_common)):
        gradient.view(-1).scatter_(0, (columns + first_place).flatten(), values.flatten())
    return losses, gradient
