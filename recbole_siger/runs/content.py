"""Item content in a run folder: raw features and the graphs of a model, in ``content.safetensors``.

Features are stored as float16 where every number is one, else as float32, so that nothing is lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recbole_siger.errors import UserError
from recbole_siger.runs.folder import RunFolder
from recbole_siger.runs.scoring import CONTENT_FILE, check_csr

__all__ = ["Content", "StoredGraph"]


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
class Content:
    """What a model of a run was built from, besides its training rows.

    Attributes:
        features: ``{modality: (n_items, F_m)}``, float32 or float16, row 0 zero.
        user_features: ``{name: (n_users, F)}``.
        graphs: The graphs in the order in which the model asked for them.
    """

    features: Mapping[str, Tensor]
    user_features: Mapping[str, Tensor]
    graphs: Sequence[StoredGraph]

    def write(self, run: RunFolder) -> None:
        """Write ``content.safetensors``."""
        state = {f"features.{name}": _narrow(x) for name, x in self.features.items()}
        state |= {f"user_features.{name}": _narrow(x) for name, x in self.user_features.items()}
        facts = []
        for number, stored in enumerate(self.graphs):
            state |= {f"graph.{number}.{part}": x for part, x in _csr(stored.graph).items()}
            facts.append({"kind": stored.kind, "label": stored.label, "shape": list(stored.graph.shape)})
        run.write_tensors(
            CONTENT_FILE,
            state,
            features=list(self.features),
            user_features=list(self.user_features),
            graphs=facts,
        )

    @classmethod
    def open(cls, run: RunFolder, n_users: int, n_items: int) -> Content:
        """Map ``content.safetensors`` into memory and check types, shapes and ids.

        Raises:
            UserError: If the file is missing or damaged.
        """
        file = run.file(CONTENT_FILE)
        if not file.is_file():
            raise UserError(f"{file}: missing; the run has no stored item content")
        state, facts = run.read_tensors(CONTENT_FILE)
        try:
            features = {name: state[f"features.{name}"] for name in facts["features"]}
            user_features = {name: state[f"user_features.{name}"] for name in facts["user_features"]}
            graphs = [_stored(run, state, number, fact) for number, fact in enumerate(facts["graphs"])]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"{file}: damaged: {str(error).splitlines()[0]}; copy the run folder again"
            ) from None
        for tables, n_rows in ((features, n_items), (user_features, n_users)):
            for name, table in tables.items():
                if table.dim() != 2 or len(table) != n_rows or not table.is_floating_point():
                    raise UserError(f"{file}: damaged: {name!r} is not a float table of {n_rows:,} rows")
        return cls(features, user_features, graphs)


def _narrow(table: Tensor) -> Tensor:
    """Return a table as float16 if that changes no number."""
    table = table.detach().cpu()
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
    names = f"graph.{number}.indptr", f"graph.{number}.columns"
    check_csr(run.file(CONTENT_FILE), state, names, n_rows, n_columns)
    indptr, column = (state[name].long() for name in names)
    row = torch.arange(n_rows).repeat_interleave(indptr[1:] - indptr[:-1])
    value, index = state[f"graph.{number}.values"], torch.stack((row, column))
    graph = torch.sparse_coo_tensor(index, value, (n_rows, n_columns), check_invariants=True)
    return StoredGraph(str(fact["kind"]), str(fact["label"]), graph.coalesce())
