"""Make RecBole's graph models multiply by our sparse product: the same numbers, several times faster on CPU.

RecBole keeps its graphs as uncoalesced COO tensors, which torch sorts again in every product and transposes
again in every backward.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from recbole_siger.model.propagation import SparseMatrix

__all__ = ["accelerate"]

# Model and attribute, for graphs that are symmetric, fixed, and used in torch.sparse.mm alone.
_GRAPHS = {"LightGCN": "norm_adj_matrix", "NCL": "norm_adj_mat"}


class _SparseFactor:
    """Replacement of a sparse tensor; ``torch.sparse.mm`` calls it through torch's override protocol."""

    def __init__(self, matrix: Tensor) -> None:
        self.product = SparseMatrix(matrix, symmetric=True)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.sparse.mm and not kwargs and isinstance(args[0], cls):
            return args[0].product(args[1])
        return NotImplemented


def accelerate(model: Any) -> None:
    """Replace the graph of a RecBole model that is known to allow it; leave every other model alone."""
    name = _GRAPHS.get(type(model).__name__)
    if name and type(model).__module__.startswith("recbole."):
        setattr(model, name, _SparseFactor(getattr(model, name)))
