"""Several contrasts of the rows of a batch in one pass, for devices where each launch of a kernel costs."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from recbole_siger.model.layers import SMALLEST_NORM
from recbole_siger.model.loss_kernels import LOWEST_UNSHIFTED, full_precision

__all__ = ["StackedContrast", "stacked_contrast"]


class _Plan(NamedTuple):
    """What the contrasts of a stack have in common."""

    temperature: float
    n_anchors: int
    chunk_size: int
    shift: bool


def stacked_contrast(
    queries: Sequence[Tensor],
    keys: Sequence[Tensor],
    anchors: Sequence[Tensor],
    valid: Tensor,
    count: Tensor,
    temperature: float,
    chunk_size: int,
) -> Tensor:
    """Contrast each query with the key of its own row, by cosine, for G pairs of tables.

    This is :func:`~recbole_siger.model.loss.info_nce` for the first contrasts and
    :func:`~recbole_siger.model.loss.anchor_info_nce` for the last ones, which have an anchor. Rows that are
    not valid are neither queries nor keys.

    Args:
        queries: G tables, ``(B, d)`` each, or longer: B rows count, and the others get a gradient of zeros.
        keys: G tables, as ``queries``.
        anchors: At most G tables, as ``queries``, of the last contrasts.
        valid: 1 for a row that counts, else 0, shape ``(G, B)``; at least one of each contrast is 1.
        count: Number of rows that count, shape ``(G, 1)``; the losses are divided by it.
        temperature: τ, > 0.
        chunk_size: Queries of each contrast at a time.

    Returns:
        The losses, shape ``(G,)``.
    """
    plan = _Plan(temperature, len(anchors), chunk_size, temperature < LOWEST_UNSHIFTED)
    tables = map(full_precision, (*queries, *keys, *anchors))
    with torch.autocast(valid.device.type, enabled=False):  # exponentials of half precision lose the small
        losses: Tensor = StackedContrast.apply(valid, count, plan, *tables)
    return losses


class StackedContrast(torch.autograd.Function):
    """Cross entropies of cosines whose gradients are made in the forward pass, for G contrasts at once.

    The rows that do not count become zero. The product with ``valid`` sums the exponentials of the other
    keys. A contrast with an anchor has its own logit in place of the target's, which is set to zero.
    """

    @staticmethod
    def forward(ctx: Any, valid: Tensor, count: Tensor, plan: _Plan, *tables: Tensor) -> Tensor:
        """Compute the losses and their gradients."""
        n, n_natural = len(valid), len(valid) - plan.n_anchors
        anchored = slice(n_natural, None)
        size = valid.shape[1]
        stack = torch.stack([table[:size] for table in tables])
        length = stack.norm(dim=2).mul_(torch.cat((valid, valid, valid[anchored])))
        # Rows of the length 1 / sqrt(temperature): their inner products are the logits.
        length = functional.threshold(length, SMALLEST_NORM, torch.inf).mul_(sqrt(plan.temperature))
        unit = stack.div_(length.unsqueeze_(2))
        query, key, anchor = unit[:n], unit[n : 2 * n], unit[2 * n :]
        positive = query * key
        if plan.n_anchors:
            middle = (query[anchored] + key[anchored]) / 2
            torch.mul(middle, anchor, out=positive[anchored])
        positive = positive.sum(dim=2)
        whole = unit.new_empty((len(unit), max(map(len, tables)), unit.shape[2]))
        whole[:, size:].zero_()
        weight, grad = valid / count, whole[:, :size]
        mass, top = _fill(grad, plan, (query, key, positive, weight, valid))
        slope = -weight  # by the positive; without anchors the target is among the exponentials
        if plan.n_anchors:
            power = (positive if top is None else positive - top).exp()
            slope.addcmul_(weight / mass, power)
        slope.unsqueeze_(2)
        for own, of in ((grad[:n], key), (grad[n : 2 * n], query)):
            own[:n_natural].addcmul_(slope[:n_natural], of[:n_natural])
            if plan.n_anchors:
                own[anchored].addcmul_(slope[anchored], anchor, value=0.5)
        if plan.n_anchors:
            torch.mul(slope[anchored], middle, out=grad[2 * n :])
        along = torch.linalg.vecdot(unit, grad).unsqueeze_(2)
        grad.addcmul_(unit, along, value=-plan.temperature).div_(length)
        ctx.save_for_backward(whole)
        ctx.n_natural, ctx.lengths = n_natural, [len(table) for table in tables]
        gap = mass.log_().sub_(positive)
        return torch.linalg.vecdot(gap if top is None else gap + top, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients of the forward pass."""
        (saved,) = ctx.saved_tensors
        factor = torch.cat((grad, grad, grad[ctx.n_natural :]))
        grads = (saved * factor[:, None, None]).unbind()
        return None, None, None, *(x[:n] for x, n in zip(grads, ctx.lengths, strict=True))


def _fill(grad: Tensor, plan: _Plan, given: tuple[Tensor, ...]) -> tuple[Tensor, Tensor | None]:
    """Write what the exponentials of the logits give to the gradients of queries and keys.

    Returns:
        The sums of the exponentials, ``(G, B)``, and what was subtracted from the logits; None: nothing.
    """
    query, key, positive, weight, valid = given
    n, mass, top = len(query), [], torch.empty_like(positive) if plan.shift else None
    for start in range(0, query.shape[1], plan.chunk_size):
        rows = slice(start, start + plan.chunk_size)
        logits, place = torch.bmm(query[:, rows], key.mT), positive[:, rows]
        if top is not None:
            logits.masked_fill_(valid.unsqueeze(1) == 0, -torch.inf)
            top[:, rows] = torch.maximum(logits.amax(dim=2), place)
            logits -= top[:, rows, None]
            place = place - top[:, rows]
        logits.exp_()
        if plan.n_anchors:
            logits[:, :, rows].diagonal(dim1=1, dim2=2).zero_()
        mass.append(torch.bmm(logits, valid.unsqueeze(2)).squeeze(2))
        if plan.n_anchors:
            mass[-1] += place.exp()
        share = (weight[:, rows] / mass[-1]).unsqueeze_(2)
        torch.bmm(logits, key, out=grad[:n, rows]).mul_(share)
        into, own = grad[n : 2 * n], query[:, rows] * share
        if start:
            into.baddbmm_(logits.mT, own)
        else:
            torch.bmm(logits.mT, own, out=into)
    return mass[0] if len(mass) == 1 else torch.cat(mass, dim=1), top
