"""A perceptron of item features with batch normalisation."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

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
        self.inner_rest = nn.Sequential(nn.BatchNorm1d(hidden_size), nn.PReLU())
        self.outer = Projection(hidden_size, embedding_size, bias=False)
        self.outer_rest = nn.Sequential(nn.BatchNorm1d(embedding_size), nn.PReLU())

    def forward(self, features: Tensor, between: Callable[[Tensor], Tensor]) -> Tensor:
        """Map ``(n, F)`` to ``(n, d)``; ``between`` is the dropout of the hidden layer."""
        hidden = between(self.inner_rest(self.inner(features)))
        result: Tensor = self.outer_rest(self.outer(hidden))
        return result
