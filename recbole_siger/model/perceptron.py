"""A perceptron of item features with batch normalisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from recbole_siger.model.device import choices
from recbole_siger.model.layers import Projection

__all__ = ["Perceptron"]


class Perceptron(nn.Module):
    r"""Two linear maps, each with batch normalisation and PReLU.

    .. math::
        f(X) = \operatorname{PReLU}(\operatorname{BN}(W_2 \, \operatorname{drop}(
            \operatorname{PReLU}(\operatorname{BN}(W_1 X)))))

    Source: MIG-GT (AAAI 2025). The maps have no bias, because the normalisation subtracts it. Weights start
    Xavier uniform. Training normalises by the rows of the call, evaluation by the running means.

    Args:
        n_features: Width F of the features, >= 1.
        hidden_size: Width of the hidden layer, >= 1.
        embedding_size: Width d of the result, >= 1.
    """

    def __init__(self, n_features: int, hidden_size: int, embedding_size: int) -> None:
        super().__init__()
        self.inner = Projection(n_features, hidden_size, bias=False)
        self.inner_rest = nn.Sequential(nn.BatchNorm1d(hidden_size), _PReLU())
        self.outer = Projection(hidden_size, embedding_size, bias=False)
        self.outer_rest = nn.Sequential(nn.BatchNorm1d(embedding_size), _PReLU())

    def forward(self, features: Tensor, between: Callable[[Tensor], Tensor]) -> Tensor:
        """Map ``(n, F)`` to ``(n, d)``; ``between`` is the dropout of the hidden layer."""
        hidden = between(self.inner_rest(self.inner(features)))
        result: Tensor = self.outer_rest(self.outer(hidden))
        return result


class _PReLU(nn.PReLU):
    """torch's PReLU with one slope; on a CPU its backward pass takes an eighth of the time."""

    def forward(self, x: Tensor) -> Tensor:
        if choices(x).static:  # a GPU would wait for the value of the slope
            return super().forward(x)
        result: Tensor = _OneSlope.apply(x, self.weight)
        return result


class _OneSlope(torch.autograd.Function):
    """x where x > 0, otherwise slope * x; torch's own gradients are made number by number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(x, slope)
        return functional.prelu(x, slope)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, slope = ctx.saved_tensors
        by_x = torch.ops.aten.leaky_relu_backward(grad, x, slope.item(), False)
        return by_x, (x.clamp_max(0) * grad).sum().view_as(slope)
