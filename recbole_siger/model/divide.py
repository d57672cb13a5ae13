"""Rows divided by their lengths, with one gradient for every kind of length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["divide_rows"]


def divide_rows(x: Tensor, lengths: Callable[[Tensor], Tensor], *, shortest: float = 0.0) -> Tensor:
    """Divide rows by their lengths, or by what stands for them.

    Args:
        x: Shape ``(n, d)``.
        lengths: Maps x to the length of each row, ``(n, 1)``, or to more; it gets no gradient.
        shortest: Lower bound of these numbers; a row divided by it has the gradient of a product.

    Returns:
        Shape ``(n, d)``.

    Example:
        >>> divide_rows(torch.tensor([[3.0, 4.0]]), lambda x: x.norm(dim=1, keepdim=True))
        tensor([[0.6000, 0.8000]])
    """
    divided: Tensor = _DividedRows.apply(x, lengths, shortest)
    return divided


class _DividedRows(torch.autograd.Function):
    """x / length; the gradient is the part across x, over the length, and all of it at the shortest."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, lengths: Callable[[Tensor], Tensor], shortest: float) -> Tensor:
        length = lengths(x)
        divided = x / length
        ctx.save_for_backward(divided, length)
        ctx.shortest = shortest
        return divided

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        divided, length = ctx.saved_tensors
        along = torch.linalg.vecdot(divided, grad).unsqueeze(-1)
        if ctx.shortest:
            along.mul_(length > ctx.shortest)
        return torch.addcmul(grad, divided, along, value=-1).div_(length), None, None
