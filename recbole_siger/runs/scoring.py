"""What a finished run folder holds to recommend without its dataset: tensors, tables and text; no pickle.

::

    embeddings.safetensors   what scores are made of; the key "kind" of the metadata names the rule
    seen.safetensors         training and validation items of each user
    features.safetensors     raw features, for models that score new items by content
    graphs.safetensors       item graphs of the model
    items.tsv                texts of the items

====================  ==========================================================================
Kind                  Score of user u and item i
====================  ==========================================================================
``embeddings``        inner product of row u of ``user`` and row i of ``item``
``item_item``         sum of ``matrix[j, i]`` over the training items j of the user
``item_score``        ``score[i]``, the same for every user
====================  ==========================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from recbole_siger.errors import UserError
from recbole_siger.evaluation.ranking import ItemLists
from recbole_siger.runs.folder import RunFolder

__all__ = [
    "EMBEDDINGS_FILE",
    "FEATURES_FILE",
    "GRAPHS_FILE",
    "ITEMS_FILE",
    "SEEN_FILE",
    "Kind",
    "Scoring",
    "check_csr",
    "open_scoring",
    "open_seen",
    "pack_lists",
    "padded_columns",
    "read_ids",
]

EMBEDDINGS_FILE = "embeddings.safetensors"
SEEN_FILE = "seen.safetensors"
FEATURES_FILE = "features.safetensors"
GRAPHS_FILE = "graphs.safetensors"
ITEMS_FILE = "items.tsv"

Kind = Literal["embeddings", "item_item", "item_score"]

_ALIGNED = 64
BLOCK_BYTES = 32 * 2**20
"""Scores that are held at a time."""


@dataclass(frozen=True)
class Scoring:
    """What the scores of a run are made of.

    Attributes:
        kind: The rule, see the table at the top of the module.
        model: Name of the model.
        tensors: The tensors of the rule; of a sparse matrix
            ``indptr``, ``columns`` and ``values``, row after row.
        n_users: U, the padding user 0 included.
        n_items: I, the padding item 0 included.
    """

    kind: Kind
    model: str
    tensors: Mapping[str, Tensor]
    n_users: int
    n_items: int

    def write(self, run: RunFolder) -> None:
        """Write ``embeddings.safetensors``."""
        facts = {"kind": self.kind, "model": self.model, "n_users": self.n_users, "n_items": self.n_items}
        run.write_tensors(EMBEDDINGS_FILE, self.tensors, **facts)

    @property
    def is_finite(self) -> bool:
        """Whether all numbers are finite, those of the padding item left out; one pass over the tensors."""
        parts = dict(self.tensors)
        if self.kind == "item_score":
            parts["score"] = parts["score"][1:]
        elif "matrix" in parts:
            parts["matrix"] = parts["matrix"][1:, 1:]
        floats = (x for x in parts.values() if x.is_floating_point() and x.numel())
        # NaN is the least and the greatest of numbers with NaN, and no table of booleans is needed.
        return all(torch.stack(tuple(x.aminmax())).isfinite().all() for x in floats)

    def scores(self, users: Tensor, history: ItemLists) -> Tensor:
        """Score all items for some users.

        Args:
            users: User ids, int64 ``(B,)``, in ``[0, n_users)``.
            history: The training items of each user; the kind ``item_item`` reads them.

        Returns:
            shape ``(B, n_items)``, float32; the column of the padding item has no meaning.
        """
        if self.kind == "embeddings":
            return self.scores_of_vectors(self.tensors["user"][users])
        if self.kind == "item_score":
            return self.tensors["score"].expand(len(users), -1).clone()
        return self.scores_of_lists(*history.of(users.numpy()), len(users))

    def scores_of_vectors(self, vectors: Tensor) -> Tensor:
        """Score all items for user vectors ``(B, d)``, kind ``embeddings``: ``(B, n_items)``."""
        return (vectors @ self._item_columns)[:, : self.n_items]

    def scores_of_lists(self, rows: NDArray[np.int64], items: NDArray[np.int64], n_rows: int) -> Tensor:
        """Score all items for lists of items, kind ``item_item``: ``(n_rows, n_items)``.

        Args:
            rows: List of each entry, ascending, shape ``(E,)``, in ``[0, n_rows)``.
            items: Item of each entry, shape ``(E,)``.
            n_rows: Number of lists B.
        """
        indptr = np.searchsorted(rows, np.arange(n_rows + 1))
        ones = np.ones(len(items), dtype=np.float32)
        lists = sp.csr_matrix((ones, items, indptr), shape=(n_rows, self.n_items))
        product = lists @ self.matrix
        return torch.from_numpy(np.asarray(product.todense() if sp.issparse(product) else product))

    def pair_scores(self, users: Tensor, items: Tensor, history: ItemLists) -> Tensor:
        """Score pairs of users and items, int64 ``(P,)`` each: ``(P,)``, float32."""
        if self.kind == "embeddings":
            return (self.tensors["user"][users] * self.tensors["item"][items]).sum(dim=1)
        if self.kind == "item_score":
            return self.tensors["score"][items]
        distinct, place = users.unique(return_inverse=True)
        result = torch.empty(len(users))
        for some in torch.arange(len(distinct)).split(max(1, BLOCK_BYTES // (4 * self.n_items))):
            mine = ((place >= some[0]) & (place <= some[-1])).nonzero().squeeze(1)
            result[mine] = self.scores(distinct[some], history)[place[mine] - some[0], items[mine]]
        return result

    @cached_property
    def matrix(self) -> Any:
        """The item-item matrix, a SciPy matrix by rows or an array, ``(n_items, n_items)``."""
        if "matrix" in self.tensors:
            return self.tensors["matrix"].numpy()
        parts = (self.tensors[name].numpy() for name in ("values", "columns", "indptr"))
        return sp.csr_matrix(tuple(parts), shape=(self.n_items, self.n_items))

    @cached_property
    def _item_columns(self) -> Tensor:
        return padded_columns(self.tensors["item"])


def padded_columns(table: Tensor) -> Tensor:
    """Return the transpose of a table ``(n, d)`` for fast products: ``(d, m)``, contiguous, m >= n.

    m is the next multiple of 64 and the added columns are zero. Rows of such a length are aligned in memory;
    with 20,001 columns of 64 numbers, MKL multiplies twice as fast (one thread, AVX-512).
    """
    n, width = table.shape
    columns = torch.zeros(width, -(-n // _ALIGNED) * _ALIGNED, dtype=table.dtype)
    columns[:, :n] = table.T
    return columns


def open_scoring(run: RunFolder) -> Scoring:
    """Map ``embeddings.safetensors`` of a run folder into memory and check types, shapes and numbers.

    Raises:
        UserError: If the file is damaged, has a number that is not finite, or was not written by this
            package. A missing file is the caller's to explain.
    """
    state, facts = run.read_tensors(EMBEDDINGS_FILE)
    file = run.file(EMBEDDINGS_FILE)
    kind, sizes = facts.get("kind"), (facts.get("n_users"), facts.get("n_items"))
    if kind not in get_args(Kind) or not all(type(size) is int and size >= 2 for size in sizes):
        raise _damaged(file, "the metadata name no known kind or no sizes")
    n_users, n_items = sizes
    scoring = Scoring(kind, str(facts.get("model")), state, n_users, n_items)  # type: ignore[arg-type]  # checked
    _check_scoring(file, scoring)
    return scoring


def _check_scoring(file: Path, scoring: Scoring) -> None:
    state, n_users, n_items = scoring.tensors, scoring.n_users, scoring.n_items
    expected: dict[str, tuple[int | None, ...]] = {"score": (n_items,)}
    if scoring.kind == "embeddings":
        width = max(state["user"].shape[1:2].numel(), 1) if "user" in state else 1
        expected = {"user": (n_users, width), "item": (n_items, width)}
    elif scoring.kind == "item_item":
        expected = {"matrix": (n_items, n_items)}
        if "indptr" in state:
            check_csr(file, state, ("indptr", "columns"), n_items, n_items)
            expected = {"values": tuple(state["columns"].shape)}
    for name, shape in expected.items():
        if name not in state or tuple(state[name].shape) != shape or state[name].dtype != torch.float32:
            raise _damaged(file, f"{name!r} is not float32 of shape {shape}")
    if not scoring.is_finite:
        raise _damaged(file, "a number is NaN or infinite")


def check_csr(
    file: Path, state: Mapping[str, Tensor], names: tuple[str, str], n_rows: int, n_columns: int
) -> None:
    """Check the rows and columns of a sparse matrix that was read from a file.

    Args:
        file: The file, for messages.
        state: Tensors by name.
        names: Names of the pointers ``(n_rows + 1,)`` and of the columns ``(nnz,)``.
        n_rows: Number of rows.
        n_columns: Number of columns.

    Raises:
        UserError: If a tensor is missing or a number is out of range.
    """
    indptr, columns = (state.get(name) for name in names)
    if indptr is None or columns is None or any(x.is_floating_point() for x in (indptr, columns)):
        raise _damaged(file, f"{names[0]} or {names[1]} is missing or no table of integers")
    if indptr.shape != (n_rows + 1,) or columns.dim() != 1:
        raise _damaged(file, f"{names[0]} has the shape {tuple(indptr.shape)}, expected ({n_rows + 1},)")
    steps = indptr[1:] - indptr[:-1]
    if int(indptr[0]) != 0 or int(indptr[-1]) != len(columns) or bool((steps < 0).any()):
        raise _damaged(file, f"{names[0]} does not ascend from 0 to {len(columns)}")
    if len(columns) and not (int(columns.min()) >= 0 and int(columns.max()) < n_columns):
        raise _damaged(file, f"{names[1]} has a number outside [0, {n_columns})")


def pack_lists(name: str, lists: ItemLists) -> dict[str, Tensor]:
    """Return the items of each user as two tensors: ``<name>.indptr`` and ``<name>.items``, int32."""
    small = np.int32 if len(lists.items) < 2**31 else np.int64
    return {
        f"{name}.indptr": torch.from_numpy(lists.indptr.astype(small)),
        f"{name}.items": torch.from_numpy(lists.items.astype(np.int32)),
    }


def open_seen(run: RunFolder, n_users: int, n_items: int) -> dict[str, ItemLists]:
    """Return the training items and the validation items of each user, ``train`` and ``valid``.

    Raises:
        UserError: If the file is missing, damaged, or of other sizes.
    """
    state, _ = run.read_tensors(SEEN_FILE)
    found = {}
    for name in ("train", "valid"):
        parts = f"{name}.indptr", f"{name}.items"
        check_csr(run.file(SEEN_FILE), state, parts, n_users, n_items)
        indptr, items = (_int64(state[part]) for part in parts)
        found[name] = ItemLists(indptr, items)
    return found


def _int64(x: Tensor) -> NDArray[np.int64]:
    return x.numpy().astype(np.int64)


def read_ids(run: RunFolder, name: str, n_rows: int) -> list[str]:
    """Return the raw tokens of ``ids/<name>.txt``, padding first.

    Raises:
        UserError: As :meth:`~recbole_siger.runs.folder.RunFolder.read_ids`, or if the file has another number
            of lines than ``n_rows``.
    """
    file, tokens = run.file(f"ids/{name}.txt"), run.read_ids(name)
    if len(tokens) != n_rows:
        raise UserError(
            f"{file}: has {len(tokens):,} lines, {EMBEDDINGS_FILE} has {n_rows:,} rows; "
            "copy the whole run folder, or train again"
        )
    return tokens


def _damaged(file: Path, reason: str) -> UserError:
    return UserError(f"{file}: damaged: {reason}; copy the run folder again, or train again")
