"""Rows of tables by ids that can repeat, with gradients that do not depend on the order of threads."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from recbole_siger.model.device import choices
from recbole_siger.model.layers import UserItem

__all__ = ["Distinct", "Rows", "sum_rows", "take_rows", "take_triple", "without_repeats"]


class Rows:
    """Ids by which rows of several tables are taken.

    PyTorch sums the gradients of a repeated row by atomic operations on a GPU, in the order in which threads
    arrive. Here the ids are sorted once, and one thread sums the gradients of one row.

    Args:
        ids: Rows, any shape, int64, in ``[0, n_rows)``.
        n_rows: Rows of each table.
        order: Positions in ``ids``, flat, ascending by id; None: ids are sorted when a gradient needs it.
        first: Position in ``order`` of the first id >= r, for each row r, with ``order``; one position more,
            of what belongs to no row.
    """

    def __init__(
        self, ids: Tensor, n_rows: int, order: Tensor | None = None, first: Tensor | None = None
    ) -> None:
        self.ids, self.n_rows, self._order, self._first = ids, n_rows, order, first

    def of(self, table: Tensor) -> Tensor:
        """Take rows of a table: ``(n_rows, ...)`` to ``(*ids.shape, ...)``."""
        if choices(table).static:
            taken: Tensor = _TakeRows.apply(table, self)
            return taken
        return table.index_select(0, self.ids) if self.ids.dim() == 1 else table[self.ids]

    def sum(self, grad: Tensor) -> Tensor:
        """Sum the rows of each id: ``(*ids.shape, ...)`` to ``(n_rows, ...)``; no id, a row of zeros."""
        if self._order is None or self._first is None:
            ordered, self._order = self.ids.flatten().sort(stable=True)
            self._first = torch.searchsorted(ordered, torch.arange(self.n_rows, device=ordered.device))
        shape = grad.shape[self.ids.dim() :]
        flat = grad.reshape(len(self._order), prod(shape))
        total = functional.embedding_bag(self._order, flat, self._first, mode="sum")
        return total[: self.n_rows].view(self.n_rows, *shape)


class _TakeRows(torch.autograd.Function):
    """table[ids]; its gradient is the sum of the rows of each id."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Rows) -> Tensor:
        ctx.rows = rows
        taken = table.index_select(0, rows.ids.flatten())
        return taken.view(*rows.ids.shape, *table.shape[1:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.rows.sum(grad), None


def take_rows(table: Tensor, ids: Tensor) -> Tensor:
    """Take rows of a table by ids that can repeat.

    Args:
        table: Shape ``(n, ...)``.
        ids: Any shape, int64, in ``[0, n)``.

    Returns:
        Shape ``(*ids.shape, ...)``.

    Example:
        >>> take_rows(torch.tensor([[1.0], [2.0]]), torch.tensor([1, 1, 0])).tolist()
        [[2.0], [2.0], [1.0]]
    """
    return Rows(ids, len(table)).of(table) if choices(table).static else table[ids]


def sum_rows(rows: Tensor, ids: Tensor, n_rows: int) -> Tensor:
    """Sum the rows of each id, in the order of ``ids``.

    Args:
        rows: Shape ``(B, ...)``.
        ids: Shape ``(B,)``, int64, in ``[0, n_rows)``.
        n_rows: Rows of the result.

    Returns:
        Shape ``(n_rows, ...)``; zero where no row has the id.

    Example:
        >>> sum_rows(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([2, 0, 2]), 3).tolist()
        [[2.0], [0.0], [5.0]]
    """
    return Rows(ids, n_rows).sum(rows)


def take_triple(tables: UserItem, user: Tensor, pos: Tensor, neg: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Take the users, the positive items and the negative items of a batch.

    Args:
        tables: Users and items, shapes ``(U, d)`` and ``(I, d)``.
        user: Shape ``(B,)``, int64.
        pos: Shape ``(B,)``, int64.
        neg: Shape ``(B,)``, int64.

    Returns:
        Three tables, ``(B, d)`` each.
    """
    if not choices(tables.item).static:
        return tables.user[user], tables.item[pos], tables.item[neg]
    items = take_rows(tables.item, torch.cat((pos, neg)))  # one sort for both
    return take_rows(tables.user, user), *items.split(len(pos))


def without_repeats(ids: Tensor) -> tuple[Tensor, Tensor | slice]:
    """Return each id once, if that saves time, and the place of each id: ``(n,)`` and ``(B,)``.

    A GPU would wait for the number of distinct ids; there the ids stay as they are.

    Example:
        >>> without_repeats(torch.tensor([5, 2, 5]))
        (tensor([2, 5]), tensor([1, 0, 1]))
    """
    if choices(ids).static:
        return ids, slice(None)
    found: tuple[Tensor, Tensor] = ids.unique(return_inverse=True)
    return found


class Distinct:
    """The distinct ids of a batch, ascending.

    Args:
        ids: Shape ``(B,)``, int64, in ``[1, n_rows)``.
        n_rows: Rows of the whole table, padding row 0 included.
        static: Let no shape depend on the ids: pad the distinct ids with 0 to B.

    Attributes:
        ids: The distinct ids, shape ``(n,)``, or ``(B,)`` if ``static``.
        place: Position in ``ids`` of each id of the batch, shape ``(B,)``.
        count: Number of distinct ids, int64, shape ``(1,)``; None: there is no padding.

    Example:
        >>> found = Distinct(torch.tensor([5, 2, 5]), 7, static=True)
        >>> found.ids.tolist(), found.place.tolist(), found.valid().tolist(), found.count.tolist()
        ([2, 5, 0], [1, 0, 1], [1.0, 1.0, 0.0], [2])
    """

    count: Tensor | None = None

    def __init__(self, ids: Tensor, n_rows: int, *, static: bool) -> None:
        self.n_rows = n_rows
        if not static:
            self.ids, self.place = ids.unique(return_inverse=True)
            return
        # Numbers of marked rows before each row: no sort, and no shape depends on the ids.
        self._first = ids.new_zeros(n_rows + 1).index_fill_(0, ids + 1, 1).cumsum(0)
        self._every = torch.arange(len(ids), device=ids.device)
        self.place, self.count = self._first.index_select(0, ids), self._first[-1:]
        found = torch.searchsorted(self._first[1:], self._every, right=True)
        self.ids = found.remainder_(n_rows)  # after the last id n_rows was found, which becomes 0

    def valid(self) -> Tensor:
        """Return 1 for an id and 0 for padding, shape of ``ids``, float32."""
        return (self.ids > 0).float()

    def of(self, table: Tensor) -> Tensor:
        """Take the rows of the distinct ids: ``(n_rows, ...)`` to ``(n, ...)``."""
        return table[self.ids] if self.count is None else self.rows().of(table)

    def rows(self) -> Rows:
        """Return what takes the rows of the distinct ids; the gradients of padding go nowhere."""
        if self.count is None:
            return Rows(self.ids, self.n_rows)
        return Rows(self.ids, self.n_rows, self._every, self._first)
