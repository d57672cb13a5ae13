"""What the models share: projection of features, gate, perturbation: Eqs. 9 and 12 of SIGER."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from recbole_siger.common.processor import fast_products
from recbole_siger.model.device import choices
from recbole_siger.model.divide import divide_rows

__all__ = [
    "FeatureGate",
    "Projection",
    "UserItem",
    "XavierLinear",
    "dropout",
    "embedding_tables",
    "perturb",
    "project",
    "sign_noise",
    "unit_lengths",
    "unit_rows",
]

SMALLEST_NORM = 1e-12


class UserItem(NamedTuple):
    """Representations of all users and all items."""

    user: Tensor  # (U, d)
    item: Tensor  # (I, d)


def embedding_tables(*shapes: tuple[int, int]) -> list[nn.Embedding]:
    """Make tables of ID embeddings, ``(rows, width)`` each, that start Xavier uniform."""
    tables = [nn.Embedding(*shape) for shape in shapes]
    for table in tables:
        nn.init.xavier_uniform_(table.weight)
    return tables


def dropout(x: Tensor, rate: float, *, generator: torch.Generator | None = None) -> Tensor:
    """Set numbers to zero with a probability, and divide the others by the rest.

    Args:
        x: Any shape.
        rate: Probability, in [0, 1).
        generator: Source of the draw, on the device of ``x``; None for torch's global generator.

    Returns:
        The shape of ``x``.

    Raises:
        ValueError: If ``rate`` is out of range.

    Example:
        >>> dropout(torch.tensor([3.0]), 0.0).item()
        3.0
    """
    if not 0 <= rate < 1:
        raise ValueError(f"rate must be in [0, 1), got {rate}")
    kept = torch.rand(x.shape, generator=generator, device=x.device).ge_(rate)
    return x * kept.to(x.dtype) / (1 - rate)  # a product with a mask of bool is several times slower


class FeatureGate(nn.Module):
    r"""Squeeze raw features into a gate on the ID embeddings.

    .. math::
        f_m(X) = \sigma\bigl(W''_m (W'_m X + b'_m) + b''_m\bigr)

    Source: Eq. 9 of SIGER: two linear maps with no activation between them. Weights start Xavier uniform,
    biases zero. Takes ``(I, F_m)``, gives ``(I, d)`` in (0, 1); an all-zero row gives the same gate for every
    such item.

    Args:
        n_features: Width F_m of the raw features, >= 1.
        embedding_size: Width d of the embeddings, >= 1.
    """

    def __init__(self, n_features: int, embedding_size: int) -> None:
        super().__init__()
        self.inner = nn.Linear(n_features, embedding_size)
        self.outer = nn.Linear(embedding_size, embedding_size)
        for linear in (self.inner, self.outer):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Compute the gate: ``(I, F_m)`` to ``(I, d)``, in (0, 1)."""
        if choices(features).static:  # fewer kernels, and a table of I x d is nothing there
            hidden = project(features, self.inner.weight, self.inner.bias)
            return functional.linear(hidden, self.outer.weight, self.outer.bias).sigmoid_()
        # There is no activation between the two maps: multiplying their weights first saves one table.
        weight = self.outer.weight @ self.inner.weight
        bias = self.outer.weight @ self.inner.bias + self.outer.bias
        return project(features, weight, bias).sigmoid_()


class Projection(nn.Linear):
    """A linear map of raw features, :func:`project`; weights start Xavier uniform, biases zero."""

    def reset_parameters(self) -> None:
        """Draw the weights."""
        nn.init.xavier_uniform_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(I, F)`` to ``(I, d)``."""
        return project(features, self.weight, self.bias)


class XavierLinear(nn.Linear):
    """A linear map of embeddings; weights start Xavier uniform, biases as torch draws them."""

    def reset_parameters(self) -> None:
        """Draw weights and biases."""
        super().reset_parameters()
        nn.init.xavier_uniform_(self.weight)


def project(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    r"""Map raw features to embeddings, :math:`X W^\top + b`, as ``torch.nn.functional.linear`` does.

    Made for a wide, tall X: rows are multiplied in blocks that stay in the cache, and nothing is computed for
    features that are not trained. Features may be bfloat16 beside float32 weights; then the weights, and in
    the backward pass the gradient, are rounded to 8 significant bits, and products are summed in float32.

    Args:
        features: Raw features X, shape ``(I, F)``.
        weight: W, shape ``(d, F)``.
        bias: b, shape ``(d,)``; none by default.

    Returns:
        Embeddings in the type of ``weight``, shape ``(I, d)``.

    Raises:
        ValueError: If the widths differ.

    Example:
        >>> project(torch.tensor([[1.0, 2.0], [0.0, 3.0]]), torch.tensor([[10.0, 1.0]])).tolist()
        [[12.0], [3.0]]
    """
    if features.dim() != 2 or weight.dim() != 2 or features.shape[1] != weight.shape[1]:
        shapes = f"{tuple(features.shape)} and {tuple(weight.shape)}"
        raise ValueError(f"features and weight must have shapes (I, F) and (d, F), got {shapes}")
    product: Tensor = _Projection.apply(features, weight, bias)
    return product


class _Projection(torch.autograd.Function):
    """X W^T + b: on a processor in blocks of rows, by its fastest float32 products."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.static = choices(features).static
        if ctx.static:
            if features.dtype == weight.dtype and bias is not None:
                return torch.addmm(bias, features, weight.T)
            whole = (features @ weight.T.to(features.dtype)).to(weight.dtype)
            return whole if bias is None else whole.add_(bias)
        product = weight.new_empty(len(features), len(weight))
        factor = weight.T.to(features.dtype).contiguous()
        same_type = features.dtype == weight.dtype
        with fast_products() as fast:
            for block, rows in _row_blocks(features, fast):
                if same_type and bias is not None:
                    torch.addmm(bias, block, factor, out=product[rows])
                elif same_type:
                    torch.mm(block, factor, out=product[rows])
                else:
                    product[rows] = block @ factor
        return product if same_type or bias is None else product.add_(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        features, weight = ctx.saved_tensors
        if ctx.static:
            grad_weight = (grad.T.to(features.dtype) @ features).to(weight.dtype)
        else:
            grad_weight = torch.zeros_like(weight)
            with fast_products() as fast:
                for block, rows in _row_blocks(features, fast):
                    if features.dtype == weight.dtype:
                        grad_weight.addmm_(grad[rows].T, block)
                    else:
                        grad_weight += grad[rows].to(features.dtype).T @ block
        grad_features = (grad @ weight).to(features.dtype) if ctx.needs_input_grad[0] else None
        return grad_features, grad_weight, grad.sum(dim=0) if ctx.needs_input_grad[2] else None


def _row_blocks(features: Tensor, fast: bool) -> Iterator[tuple[Tensor, slice]]:
    """Cut features into the blocks of rows that a processor multiplies fastest.

    MKL is a third faster if a block fits into the processor's cache. oneDNN divides a product itself.
    """
    size = 128 if features.dtype == torch.float32 and not fast else 2048
    for start in range(0, len(features), size):
        rows = slice(start, start + size)
        yield features[rows], rows


def unit_rows(x: Tensor) -> Tensor:
    """Scale each row to length 1.

    Rows shorter than 1e-12 become zero and get a zero gradient: they have no direction.

    Args:
        x: Any rows, shape ``(n, d)``.

    Returns:
        Rows of length 1 or 0, shape ``(n, d)``.

    Example:
        >>> unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    return divide_rows(x, unit_lengths)


def unit_lengths(x: Tensor) -> Tensor:
    """Return what divides each row to length 1 or 0, as :func:`unit_rows` does: its length, or infinity.

    Args:
        x: Any rows, shape ``(n, d)``.

    Returns:
        Shape ``(n, 1)``, > 0.

    Example:
        >>> unit_lengths(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
        [[5.0], [inf]]
    """
    return functional.threshold(x.norm(dim=-1, keepdim=True), SMALLEST_NORM, torch.inf)


def perturb(
    x: Tensor,
    eps: float,
    *,
    generator: torch.Generator | None = None,
    modulus: bool = True,
    detach_modulus: bool = True,
    n_fixed: int = 0,
) -> Tensor:
    r"""Disturb embeddings first by noise, then by a piece of another row.

    .. math::
        W_p &= \lVert E \rVert_{row} / \max \lVert E \rVert_{row} \\
        \dot E &= E + \epsilon \, W_p \cdot \operatorname{sign}(E) \odot \operatorname{norm}(\Delta),
        \quad \Delta \sim U(0, 1) \\
        E' &= E + \epsilon \, W_p \cdot \operatorname{shuffle}(\operatorname{norm}(\dot E))

    Source: Eq. 12 of SIGER. A zero row stays zero (with ``modulus``); an all-zero ``x`` stays as it is. Signs
    and noise carry no gradient.

    Args:
        x: Embeddings, shape ``(I, d)``.
        eps: Length of the disturbance of the longest row, >= 0.
        generator: Source of the noise, drawn first, and of the permutation; on the device of ``x``. None:
            torch's.
        modulus: Weight rows by their length; False gives every row the weight 1 (the ablation -MP*).
        detach_modulus: Let no gradient through the weights.
        n_fixed: Leading rows that take no part, such as RecBole's padding; in [0, I].

    Returns:
        Disturbed embeddings, shape ``(I, d)``; each row within ``eps`` of its own.

    Raises:
        ValueError: If ``x`` is not a matrix, ``eps`` is negative or ``n_fixed`` out of range.

    Example:
        >>> perturb(torch.tensor([[3.0, 0.0], [0.0, 0.0]]), eps=0.0).tolist()
        [[3.0, 0.0], [0.0, 0.0]]
    """
    if x.dim() != 2:
        raise ValueError(f"x must have shape (I, d), got {tuple(x.shape)}")
    if not eps >= 0:
        raise ValueError(f"eps must be at least 0, got {eps}")
    if not 0 <= n_fixed <= len(x):
        raise ValueError(f"n_fixed must be in [0, {len(x)}], got {n_fixed}")
    n_rows = len(x) - n_fixed
    noise = torch.rand((n_rows, x.shape[1]), generator=generator, dtype=x.dtype, device=x.device)
    order = torch.randperm(n_rows, generator=generator, device=x.device)
    weight = _relative_length(x[n_fixed:], eps, modulus=modulus)
    if detach_modulus:
        weight = weight.detach()
    noisy: Tensor = _Perturbation.apply(x, weight, noise, order)
    return noisy


def sign_noise(x: Tensor, eps: float, *, generator: torch.Generator | None = None) -> Tensor:
    r"""Move rows by noise of a fixed length, each number away from zero.

    .. math::
        E' = E + \epsilon \, \operatorname{sign}(E) \odot \operatorname{norm}(\Delta),
            \qquad \Delta \sim U(0, 1)

    Source: SimGCL (SIGIR 2022), as MENTOR (AAAI 2025) is run with it. Each row of the noise has length 1. A
    number that is zero stays zero. Signs and noise carry no gradient.

    Args:
        x: Embeddings, shape ``(..., d)``.
        eps: ε, the length of the noise of a row, >= 0; 0 still draws.
        generator: Source of the noise, on the device of ``x``; None for torch's global generator.

    Returns:
        Embeddings with noise, the shape of ``x``.

    Raises:
        ValueError: If ``eps`` is negative.

    Example:
        >>> moved = sign_noise(torch.tensor([[-3.0], [0.0]]), eps=0.5)
        >>> moved.tolist()
        [[-3.5], [0.0]]
    """
    if not eps >= 0:
        raise ValueError(f"eps must be at least 0, got {eps}")
    noise = torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    return torch.add(x, unit_rows(noise) * x.detach().sign(), alpha=eps)


def _relative_length(x: Tensor, eps: float, *, modulus: bool) -> Tensor:
    """Return how far each row may move, ``(n, 1)``: ``eps`` for the longest row, or for every row."""
    if not modulus or not len(x):
        return x.new_full((len(x), 1), eps)
    length = x.norm(dim=1, keepdim=True)
    return length * (eps / length.max().clamp_min(SMALLEST_NORM))


class _Perturbation(torch.autograd.Function):
    """The last two lines of Eq. 12 for the last rows of a table, in few passes over it.

    ``noisy`` is kept as it is; what scales its rows, to unit length and by the radius, is one number a row.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, radius: Tensor, noise: Tensor, order: Tensor) -> Tensor:
        n_fixed, out = len(x) - len(order), torch.empty_like(x)
        out[:n_fixed] = x[:n_fixed]
        noise_length = unit_lengths(noise)
        noise = noise.mul_(x[n_fixed:].sign())
        noisy = torch.addcmul(x[n_fixed:], noise, radius / noise_length)
        length = unit_lengths(noisy)
        # index_select is three times as fast as indexing.
        pulled = noisy.index_select(0, order)
        torch.addcmul(x[n_fixed:], pulled, radius / length[order], out=out[n_fixed:])
        needed = (noise, noise_length) if ctx.needs_input_grad[1] else (None, None)
        ctx.save_for_backward(radius, noisy, length, order, *needed)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        radius, noisy, length, order, noise, noise_length = ctx.saved_tensors
        n_fixed, grad_radius = len(grad) - len(order), None
        moved = grad[n_fixed:]
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=order.device)
        pull = moved.index_select(0, back)  # on each unit row of noisy, but for its radius
        along = torch.linalg.vecdot(pull, noisy).unsqueeze(1) / length.square()
        pull.addcmul_(noisy, along, value=-1).mul_(radius[back] / length)
        if noise is not None:
            change = torch.linalg.vecdot(moved, noisy[order]).unsqueeze(1) / length[order]
            grad_radius = change + torch.linalg.vecdot(pull, noise).unsqueeze(1) / noise_length
        grad_x = torch.empty_like(grad)
        grad_x[:n_fixed] = grad[:n_fixed]
        torch.add(moved, pull, out=grad_x[n_fixed:])
        return grad_x, grad_radius, None, None
