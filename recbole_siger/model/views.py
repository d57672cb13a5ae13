"""Items propagated over the graph of each modality, beside perturbed views: Eqs. 10 and 12 of SIGER."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recbole_siger.model.csr import Csr
from recbole_siger.model.device import choices
from recbole_siger.model.layers import SMALLEST_NORM, perturb, unit_lengths
from recbole_siger.model.propagation import SparseMatrix, ValuedMatrix

__all__ = ["ItemViews", "Noise"]

RANDOM_BITS = 34
"""Random bits of the keys whose order is a permutation; above them is the table, below them the item."""


class Noise(NamedTuple):
    """How :func:`~recbole_siger.model.layers.perturb` disturbs a table; row 0 is padding."""

    eps: float
    modulus: bool = True
    detach_modulus: bool = True


class ItemViews:
    """Propagation over several graphs of the same items, of a clean table and of perturbed views.

    A GPU stacks the tables of all graphs and views: a product with one block-diagonal matrix, and one
    perturbation, take the place of a product and a perturbation for each table. The stack draws other numbers
    from the generator than the tables one by one.

    Args:
        graphs: Normalised graphs, shape ``(I, I)`` each.
    """

    def __init__(self, graphs: Sequence[SparseMatrix]) -> None:
        self.graphs = graphs
        self._blocks: dict[tuple[int, torch.device], ValuedMatrix] = {}
        self._places: dict[tuple[tuple[int, ...], torch.device], _Places] = {}

    def __call__(
        self, items: Sequence[Tensor], n_layers: int, n_views: int, noise: Noise, generator: torch.Generator
    ) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Propagate, and perturb the views after each product.

        Args:
            items: A table for each graph, ``(I, d)`` each.
            n_layers: Number of products, >= 1.
            n_views: Perturbed views of each table, >= 0.
            noise: The perturbation.
            generator: Source of the noise.

        Returns:
            The clean table of each graph, ``(I, d)``, and its views, ``(I, d)`` each.
        """
        if choices(items[0]).static and noise.detach_modulus:
            return self._together(items, n_layers, n_views, noise, generator)
        clean, views = [], []
        for graph, table in zip(self.graphs, items, strict=True):
            item = graph(table)
            # Noise acts on a layer's output, so the clean pass and the views share the first product.
            own = [self._perturb(item, noise, generator) for _ in range(n_views)]
            for _ in range(n_layers - 1):
                item, own = graph(item), [self._perturb(graph(view), noise, generator) for view in own]
            clean.append(item)
            views.append(own)
        return clean, views

    @staticmethod
    def _perturb(item: Tensor, noise: Noise, generator: torch.Generator) -> Tensor:
        eps, modulus, detached = noise
        return perturb(item, eps, generator=generator, modulus=modulus, detach_modulus=detached, n_fixed=1)

    def _together(
        self, items: Sequence[Tensor], n_layers: int, n_views: int, noise: Noise, generator: torch.Generator
    ) -> tuple[list[Tensor], list[list[Tensor]]]:
        n, (n_items, width) = len(items), items[0].shape
        shape = (n_layers, n, n_views, n_items, width)
        stack, draws = torch.stack(list(items)).unsqueeze(1), []
        if n_views:
            key = shape, stack.device
            if key not in self._places:
                self._places[key] = _Places.of(shape, stack.device)
            draws = draw_noise(shape, generator, stack, self._places[key])
        for layer in range(n_layers):
            product = self._matrix(stack.shape[1], stack.device)(stack.flatten(0, 2))
            stack = product.view_as(stack)
            if n_views:
                stack = _StackedPerturbation.apply(stack, noise, *draws[layer])
        tables, step = stack.flatten(0, 1).unbind(), 1 + n_views
        return [*tables[::step]], [[*tables[k * step + 1 : (k + 1) * step]] for k in range(n)]

    def _matrix(self, n_copies: int, device: torch.device) -> ValuedMatrix:
        """Return the block-diagonal matrix in which each graph occurs ``n_copies`` times in a row."""
        key = n_copies, device
        if key not in self._blocks:
            pairs = [graph.pair() for graph in self.graphs for _ in range(n_copies)]
            matrix, transpose = (_block_diagonal([pair[side] for pair in pairs]) for side in (0, 1))
            self._blocks[key] = ValuedMatrix(matrix, transpose)
        return self._blocks[key]


def _block_diagonal(blocks: Sequence[Csr]) -> Csr:
    """Put matrices on a diagonal."""
    crow, col, n_entries, n_columns = [blocks[0].crow[:1]], [], 0, 0
    for block in blocks:
        crow.append(block.crow[1:] + n_entries)
        col.append(block.col + n_columns)
        n_entries, n_columns = n_entries + len(block.col), n_columns + block.n_columns
    return Csr(torch.cat(crow), torch.cat(col), torch.cat([block.val for block in blocks]), n_columns, {})


class _Places(NamedTuple):
    """Numbers that do not change from step to step, for :func:`draw_noise`."""

    base: Tensor  # (tables, I) x int64, what is added to the keys: all keys of a table lie above those before
    first: Tensor  # (layers, 1) x int64, the first row of each layer among the rows of all layers
    shift: int  # bits below the random bits

    @classmethod
    def of(cls, shape: tuple[int, ...], device: torch.device) -> _Places:
        """Compute the numbers for a shape ``(layers, graphs, views, items, width)``."""
        n_layers, n, n_views, n_items = shape[:4]
        shift = n_items.bit_length()
        table = torch.arange(n_layers * n * n_views, device=device).unsqueeze(1)
        base = (table << (shift + RANDOM_BITS)) + torch.arange(n_items, device=device)
        first = torch.arange(n_layers, device=device).unsqueeze(1) * (n * n_views * n_items)
        return cls(base, first, shift)


def draw_noise(
    shape: tuple[int, int, int, int, int], generator: torch.Generator, like: Tensor, places: _Places
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Draw noise and permutations for all layers; one sort of distinct keys gives all permutations.

    Args:
        shape: Layers, graphs, views, items I, width d.
        generator: Source of the draws.
        like: A tensor of the device and the type.
        places: The numbers for this shape.

    Returns:
        For each layer: noise with rows of length 1, ``(n, V, I, d)``; for each row of the flat views,
        ``(n * V * I,)``, the row that pulls it, of the padding row 0 itself; and the row that it pulls.
    """
    draws: dict[str, Any] = {"generator": generator, "device": like.device}
    noise = torch.rand(shape, dtype=like.dtype, **draws)
    noise.div_(unit_lengths(noise))
    key = torch.randint(1, 2**RANDOM_BITS, places.base.shape, **draws)
    key[:, 0].zero_()
    key = key.bitwise_left_shift_(places.shift).add_(places.base).flatten()
    ordered, order = key.sort()
    order, back = (
        place.view(shape[0], -1) - places.first for place in (order, torch.searchsorted(ordered, key))
    )
    return [*zip(noise.unbind(), order.unbind(), back.unbind(), strict=True)]


class _StackedPerturbation(torch.autograd.Function):
    """The last two lines of Eq. 12 for all views of all graphs, ``(n, 1 + V, I, d)``; the first is clean."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, noise: Noise, drawn: Tensor, order: Tensor, back: Tensor) -> Tensor:
        n, n_views, n_items, width = drawn.shape
        out = x.new_empty((n, 1 + n_views, n_items, width))
        views = x[:, 1:] if x.shape[1] > 1 else x
        radius = views.norm(dim=3, keepdim=True) if noise.modulus else torch.ones_like(views[..., :1])
        if noise.modulus:  # of the padding row the length is zero, because no graph has an edge there
            radius /= radius.amax(dim=2, keepdim=True).clamp_min_(SMALLEST_NORM)
        else:
            radius[:, :, 0].zero_()
        noisy = torch.addcmul(views, drawn * views.sign(), radius, value=noise.eps)
        length = unit_lengths(noisy)
        unit = noisy.div_(length)
        pulled = unit.view(-1, width).index_select(0, order).view_as(unit)
        out[:, 0] = x[:, 0]
        torch.addcmul(views, pulled, radius, value=noise.eps, out=out[:, 1:])
        ctx.save_for_backward(radius, unit, length, back)
        ctx.shared, ctx.eps = x.shape[1] == 1, noise.eps
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        radius, unit, length, back = ctx.saved_tensors
        # On each unit row of noisy; the radius is that of the row that is pulled.
        pull = (grad[:, 1:] * radius).view(-1, unit.shape[3]).index_select(0, back).view_as(unit)
        along = torch.linalg.vecdot(unit, pull).unsqueeze(3)
        pull.addcmul_(unit, along, value=-1).div_(length)
        if ctx.shared:
            total = grad.sum(dim=1, keepdim=True).add_(pull.sum(dim=1, keepdim=True), alpha=ctx.eps)
        else:
            total = grad.clone()
            total[:, 1:].add_(pull, alpha=ctx.eps)
        return total, None, None, None, None
