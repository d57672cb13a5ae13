from __future__ import annotations

import pytest
import torch
from torch import nn

from recbole_siger.model.perceptron import _PReLU


@pytest.mark.parametrize("slope", [0.25, 0.0, -0.5, 2.0])
def test_gradients_are_those_of_torch(slope: float) -> None:
    generator = torch.Generator().manual_seed(0)
    start, grad = (torch.randn(40, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    start[0, 0] = 0.0
    found, expected = [], []
    for kind, made in ((_PReLU(), found), (nn.PReLU(), expected)):
        layer, x = kind.double(), start.clone().requires_grad_()
        nn.init.constant_(layer.weight, slope)
        result = layer(x)
        result.backward(grad)
        made += [result.detach(), x.grad, layer.weight.grad]
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-12, atol=0)
