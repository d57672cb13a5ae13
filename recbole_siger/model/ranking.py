"""The ranking loss and the penalty of a batch, in one pass where each launch of a kernel costs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from recbole_siger.model.device import choices
from recbole_siger.model.loss import bpr_loss, l2_loss
from recbole_siger.model.loss_kernels import full_precision

__all__ = ["ranking_loss", "ranking_losses"]


def ranking_losses(user: Tensor, pos: Tensor, neg: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return the BPR loss of inner products, and half the mean squared length of the rows.

    .. math::
        L_1 = -\frac{1}{B} \sum_b \log \sigma(u_b \cdot i_b - u_b \cdot j_b), \qquad
        L_2 = \frac{1}{2B} \sum_b \lVert u_b \rVert^2 + \lVert i_b \rVert^2 + \lVert j_b \rVert^2

    Source: the first and the last term of Eq. 19 of SIGER, :func:`~recbole_siger.model.loss.bpr_loss` and
    :func:`~recbole_siger.model.loss.l2_loss`.

    Args:
        user: Rows u, shape ``(B, d)``, B >= 1.
        pos: Rows i of positive items, shape ``(B, d)``.
        neg: Rows j of negative items, shape ``(B, d)``.

    Returns:
        Two losses, ``()`` each, >= 0.

    Example:
        >>> u, i, j = torch.tensor([[[2.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]]])
        >>> [round(loss.item(), 4) for loss in ranking_losses(u, i, j)]
        [0.1269, 3.0]
    """
    if choices(user).static:
        return _static(user, pos, neg, penalized=True)
    gap = (user * pos).sum(dim=-1), (user * neg).sum(dim=-1)
    return bpr_loss(*gap), l2_loss(user, pos, neg)


def ranking_loss(user: Tensor, pos: Tensor, neg: Tensor) -> Tensor:
    """Return the first loss of :func:`ranking_losses` alone."""
    if choices(user).static:
        return _static(user, pos, neg, penalized=False)[0]
    return bpr_loss((user * pos).sum(dim=-1), (user * neg).sum(dim=-1))


def _static(user: Tensor, pos: Tensor, neg: Tensor, *, penalized: bool) -> tuple[Tensor, Tensor]:
    with torch.autocast(user.device.type, enabled=False):
        rows = [full_precision(x) for x in (user, pos, neg)]
        loss, squares = _RankingLosses.apply(*rows, penalized)
    return loss, squares


class _RankingLosses(torch.autograd.Function):
    """Both losses, with the gradient of the first made in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any, user: Tensor, pos: Tensor, neg: Tensor, penalized: bool
    ) -> tuple[Tensor, Tensor | None]:
        ctx.set_materialize_grads(False)
        wrong = neg - pos
        gap = torch.linalg.vecdot(user, wrong)  # of the negative item to the positive item
        slope = torch.sigmoid(gap).div_(len(gap)).unsqueeze_(1)
        grad = user.new_empty((3, *user.shape))
        torch.mul(wrong, slope, out=grad[0])
        torch.mul(user, slope, out=grad[2])
        torch.neg(grad[2], out=grad[1])
        loss = functional.softplus(gap).mean()
        if not penalized:
            ctx.save_for_backward(grad)
            return loss, None
        rows = torch.stack((user, pos, neg))
        ctx.save_for_backward(grad, rows)
        return loss, rows.norm().square_().div_(2 * len(gap))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_loss: Tensor | None, by_squares: Tensor | None) -> tuple[Tensor | None, ...]:
        grad, *rows = ctx.saved_tensors
        total = torch.zeros_like(grad) if by_loss is None else grad * by_loss
        if by_squares is not None:
            total.addcmul_(rows[0], by_squares / grad.shape[1])
        return *total.unbind(), None
