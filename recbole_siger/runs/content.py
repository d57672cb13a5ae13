"""Item content in a run folder: raw features in ``features.safetensors``, graphs in ``graphs.safetensors``.

Features are stored as bfloat16 if the model has them in this type, as float16 where every number is one, else
as float32, so that nothing is lost.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recbole_siger.common.files import atomic_path
from recbole_siger.errors import UserError
from recbole_siger.runs.folder import RunFolder
from recbole_siger.runs.scoring import FEATURES_FILE, GRAPHS_FILE, check_csr

__all__ = ["Features", "StoredGraph", "open_graphs", "write_graphs"]

MAX_COMPARED = 5
"""Files of other runs that are compared with the features of a run, the newest first."""


@dataclass(frozen=True)
class StoredGraph:
    """A graph that a model asked its cache for.

    Attributes:
        kind: What was asked for, such as ``semantic``.
        label: The modality of the features that it is made of; "" if it is made of other tensors.
        graph: Coalesced sparse COO tensor.
    """

    kind: str
    label: str
    graph: Tensor


@dataclass(frozen=True)
class Features:
    """The raw features that a model of a run was built from.

    Attributes:
        items: ``{modality: (n_items, F_m)}``, float32, float16 or bfloat16, row 0 zero.
        users: ``{name: (n_users, F)}``.
    """

    items: Mapping[str, Tensor]
    users: Mapping[str, Tensor]

    def write(self, run: RunFolder) -> None:
        """Write ``features.safetensors``, or link the equal file of another run in the same folder."""
        state = {f"items.{name}": _narrow(x) for name, x in self.items.items()}
        state |= {f"users.{name}": _narrow(x) for name, x in self.users.items()}
        if not _link_equal(run, state):
            run.write_tensors(FEATURES_FILE, state, items=list(self.items), users=list(self.users))

    @classmethod
    def open(cls, run: RunFolder, n_users: int, n_items: int) -> Features:
        """Map ``features.safetensors`` into memory and check types and shapes.

        Raises:
            UserError: If the file is missing or damaged.
        """
        file = run.file(FEATURES_FILE)
        state, facts = run.read_tensors(FEATURES_FILE)
        found = {}
        for kind, n_rows in (("items", n_items), ("users", n_users)):
            names = facts.get(kind)
            if not isinstance(names, list) or not all(f"{kind}.{name}" in state for name in names):
                raise UserError(
                    f"{file}: damaged: the names of features are missing; copy the run folder again"
                )
            found[kind] = {str(name): state[f"{kind}.{name}"] for name in names}
            for name, table in found[kind].items():
                if table.dim() != 2 or len(table) != n_rows or not table.is_floating_point():
                    raise UserError(f"{file}: damaged: {name!r} is not a float table of {n_rows:,} rows")
        return cls(**found)


def _link_equal(run: RunFolder, state: Mapping[str, Tensor]) -> bool:
    """Give the run a hard link to an equal file of another run in the same folder; say whether there is one.

    Runs of one dataset have equal features, which are the largest file of a run. The files are never changed
    in place, so a link is as good as a copy.
    """
    found = run.path.parent.glob(f"*/{FEATURES_FILE}")
    others = [file for file in found if file.parent != run.path and not file.is_symlink()]
    for file in sorted(others, key=lambda one: one.stat().st_mtime, reverse=True)[:MAX_COMPARED]:
        if _is_equal(file, state):
            try:
                with atomic_path(run.file(FEATURES_FILE)) as temporary:
                    os.link(file, temporary)
            except OSError:  # a file system without hard links; the caller writes the file
                return False
            return True
    return False


def _is_equal(file: Path, state: Mapping[str, Tensor]) -> bool:
    """Compare a file with tensors; a file that cannot be read is not equal."""
    try:
        other, facts = RunFolder(file.parent).read_tensors(file.name)
    except UserError:
        return False
    names = {
        kind: [n.partition(".")[2] for n in state if n.startswith(f"{kind}.")] for kind in ("items", "users")
    }
    return (
        facts == names and other.keys() == state.keys() and all(_same(other[n], x) for n, x in state.items())
    )


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)


def write_graphs(run: RunFolder, graphs: Sequence[StoredGraph]) -> None:
    """Write ``graphs.safetensors``: graphs in the order in which the model asked for them."""
    state: dict[str, Tensor] = {}
    facts = []
    for number, stored in enumerate(graphs):
        state |= {f"{number}.{part}": x for part, x in _csr(stored.graph).items()}
        facts.append({"kind": stored.kind, "label": stored.label, "shape": list(stored.graph.shape)})
    run.write_tensors(GRAPHS_FILE, state, graphs=facts)


def open_graphs(run: RunFolder) -> list[StoredGraph]:
    """Return what :func:`write_graphs` wrote, after a check of sizes and ids.

    Raises:
        UserError: If the file is missing or damaged.
    """
    state, facts = run.read_tensors(GRAPHS_FILE)
    try:
        return [_stored(run, state, number, fact) for number, fact in enumerate(facts["graphs"])]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{run.file(GRAPHS_FILE)}: damaged: {reason}; copy the run folder again") from None


def _narrow(table: Tensor) -> Tensor:
    """Return a float32 table as float16 if that changes no number."""
    table = table.detach().cpu()
    if table.dtype != torch.float32:
        return table
    half = table.half()
    return half if torch.equal(half.float(), table) else table


def _csr(graph: Tensor) -> dict[str, Tensor]:
    graph = graph.detach().cpu().coalesce()
    row, column = graph.indices()
    indptr = torch.zeros(len(graph) + 1, dtype=torch.int64)
    indptr[1:] = torch.bincount(row, minlength=len(graph)).cumsum(0)
    return {"indptr": indptr, "columns": column.int(), "values": graph.values()}


def _stored(run: RunFolder, state: Mapping[str, Tensor], number: int, fact: Mapping[str, Any]) -> StoredGraph:
    n_rows, n_columns = fact["shape"]
    names = f"{number}.indptr", f"{number}.columns"
    check_csr(run.file(GRAPHS_FILE), state, names, n_rows, n_columns)
    indptr, column = (state[name].long() for name in names)
    row = torch.arange(n_rows).repeat_interleave(indptr[1:] - indptr[:-1])
    value, index = state[f"{number}.values"], torch.stack((row, column))
    graph = torch.sparse_coo_tensor(index, value, (n_rows, n_columns), check_invariants=True)
    return StoredGraph(str(fact["kind"]), str(fact["label"]), graph.coalesce())
