"""Final embeddings of items that were not in training, from their features.

The model is built again with the new items in its catalogue and with its trained parameters (for SIGER: its
Eqs. 6-11 with an empty row of co-occurrence). Three rules keep the scores of trained items as they are:

1. A new item chooses its nearest neighbours among the trained items, as each item does in training,
   and has an edge to itself. No trained item chooses a new item, and no new item another one.
2. A new item has no training row and no co-occurrence.
3. Its ID embedding is zero, or the mean of the trained items.

Graphs are normalised by the sums of their rows. The new rows are the only ones that change, so the rows of
trained items are the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recbole_siger.data.features import fill_missing, has_feature
from recbole_siger.errors import UserError
from recbole_siger.graph.cache import GraphCache, GraphRequest
from recbole_siger.graph.knn import consistent_rows, semantic_rows
from recbole_siger.graph.normalize import sparse_matrix
from recbole_siger.options.params import bounded, build_params
from recbole_siger.registry import MODELS, check_model_of_file, get_model_class
from recbole_siger.runs.checkpoint import select
from recbole_siger.runs.content import Features, StoredGraph, open_graphs
from recbole_siger.runs.folder import RunFolder
from recbole_siger.runs.scoring import EMBEDDINGS_FILE, FEATURES_FILE, GRAPHS_FILE, Scoring, open_seen

__all__ = ["ExtendedGraphs", "NewItems", "extend_state"]

IdEmbedding = Literal["zero", "mean"]
MODEL_FILE = "model.safetensors"
ID_TABLE = "item_embedding.weight"
TOLERANCE = 1e-4

Arguments = Mapping[str, str | int | float | bool | None]


@dataclass(frozen=True, kw_only=True)
class _Used:
    """Keys of ``config.yaml`` that are read beside the parameters of the model."""

    seed: int = bounded("[0, 4294967296)")
    missing_modality: Literal["zero", "mean"]


class ExtendedGraphs(GraphCache):
    """Build the graphs of a catalogue whose last items are new: the stored graphs with rows for new items.

    Args:
        features: ``{modality: (n_known + n, F_m)}``, the tensors that the model is built from.
        n_known: Number of trained items, the padding included.
        stored: Graphs of the run in the order in which the model asks for them.
    """

    def __init__(self, features: Mapping[str, Tensor], n_known: int, stored: list[StoredGraph]) -> None:
        super().__init__("none")
        self._tables, self._n_known, self._stored = list(features.values()), n_known, stored
        self._n_items = len(self._tables[0])

    def learned(
        self, kind: str, build: Callable[..., Tensor], tensors: Mapping[str, Tensor], arguments: Arguments
    ) -> Tensor:
        """Build the graph of learned features of all items."""
        known = {name: x[: self._n_known] for name, x in tensors.items()}
        return self._extended(kind, build, tensors, arguments, build(**known, **arguments))

    def _graph(self, request: GraphRequest) -> Tensor:
        kind, build, tensors, arguments = request
        number = len(self.requests) - 1
        if number >= len(self._stored) or self._stored[number].kind != kind:
            raise UserError(f"{GRAPHS_FILE}: damaged: graph {number} is not of kind {kind!r}")
        known = self._stored[number].graph
        of_items = [name for name, x in tensors.items() if any(x is table for table in self._tables)]
        if not of_items:
            return self._resized(known, arguments)
        if of_items == ["atoms"]:  # rows of users: no user chooses a new item
            return sparse_matrix(known.indices(), known.values(), (len(known), self._n_items))
        return self._extended(kind, build, tensors, arguments, known)

    def _resized(self, known: Tensor, arguments: Arguments) -> Tensor:
        """Add empty rows and columns if the graph is of items by its arguments: co-occurrence."""
        if "n_items" not in arguments:
            return known
        return sparse_matrix(known.indices(), known.values(), (self._n_items, self._n_items))

    def _extended(
        self,
        kind: str,
        build: Callable[..., Tensor],
        tensors: Mapping[str, Tensor],
        arguments: Arguments,
        known: Tensor,
    ) -> Tensor:
        """Put the rows of the new items below a graph of the trained items."""
        table, n = next(iter(tensors.values())), self._n_known
        if kind == "semantic":
            index, value = semantic_rows(table[n:], table[:n], int(arguments["k"] or 1))
            index = _below(n, index)
        elif kind == "consistent":
            new, old = ({name: x[part] for name, x in tensors.items()} for part in (slice(n, None), slice(n)))
            found = consistent_rows(new, old, int(arguments["k"] or 1))[f"features.{arguments['modality']}"]
            index, value = _below(n, found), torch.ones(found.shape[1])
        elif "same" in arguments:
            asked = {"queries": table[n:], "atoms": table[:n], **arguments, "same": False}
            rows = build(**asked).coalesce()
            index, value = rows.indices() + torch.tensor([[n], [0]]), rows.values()
        else:
            raise UserError(f"graphs of kind {kind!r} have no rule for new items")
        index = torch.cat((known.indices(), index), dim=1)
        return sparse_matrix(index, torch.cat((known.values(), value)), (self._n_items, self._n_items))


class NewItems:
    """Score items that were not in training.

    Args:
        run: The run folder.
        scoring: What the scores of the run are made of.
        n_known: Number of trained items, the padding included.
    """

    def __init__(self, run: RunFolder, scoring: Scoring, n_known: int) -> None:
        self.run, self.scoring, self.n_known = run, scoring, n_known

    def embed(self, features: Mapping[str, Any], n_new: int, id_embedding: IdEmbedding = "zero") -> Tensor:
        """Return the final embeddings of new items, ``(n_new, d)``.

        Args:
            features: ``{modality: (n_new, F_m)}``; a row of zeros means that the item has no such feature.
            n_new: Number of new items, >= 1.
            id_embedding: ``zero`` or ``mean``.

        Raises:
            UserError: As :meth:`~recbole_siger.recommend.recommender.Recommender.add_items`.
        """
        if id_embedding not in ("zero", "mean"):
            raise UserError(f"id_embedding={id_embedding!r}: expected 'zero' or 'mean'")
        values, model_class = self._model_class()
        self._check_files()
        stored = self.features
        origin = dict.fromkeys([*values, "seed", "missing_modality"], str(self._config_file))
        params, used = (build_params(cls, values, origin) for cls in (model_class.params_class, _Used))
        dtype = model_class.feature_dtype(params)
        rows = _checked(features, stored.items, n_new, dtype)
        known = {m: x.to(dtype) for m, x in stored.items.items()}
        extended = {m: torch.cat([x, rows[m]]) for m, x in known.items()}
        lists = open_seen(self.run, self.scoring.n_users, self.n_known)["train"]
        users = np.repeat(np.arange(self.scoring.n_users), np.diff(lists.indptr))
        model = model_class.from_tensors(
            params,
            n_users=self.scoring.n_users,
            n_items=self.n_known + n_new,
            train_edges=torch.from_numpy(np.stack((users, lists.items))),
            features=extended,
            seed=used.seed,
            missing_modality=used.missing_modality,
            user_features={name: x.float() for name, x in stored.users.items()},
            graph_cache=ExtendedGraphs(extended, self.n_known, self.graphs),
        )
        state, _ = self.run.read_tensors(MODEL_FILE)
        model.n_source_items = self.n_known
        _set_gaps(model, known, rows, used.missing_modality)
        extend_state(model, select(state, "model."), self.n_known, id_embedding)
        model.eval()
        item = model.final_embeddings().item.detach()
        self._compare(item)
        return item[self.n_known :].contiguous()

    @property
    def _config_file(self) -> Any:
        return self.run.file("config.yaml")

    def _model_class(self) -> tuple[dict[str, Any], Any]:
        values = self.run.read_config()
        check_model_of_file(values["model"], str(self._config_file))
        model_class = get_model_class(values["model"])
        if not getattr(model_class, "scores_cold_items", False):
            able = [name for name, spec in MODELS.items() if spec.ranks_cold_items]
            raise UserError(
                f"{self._config_file}: model={values['model']!r}: the features of an item do not decide its "
                f"scores, so a new item cannot be scored; train {', '.join(able[:-1])} or {able[-1]}"
            )
        return values, model_class

    @cached_property
    def features(self) -> Features:
        """The stored features."""
        return Features.open(self.run, self.scoring.n_users, self.n_known)

    @cached_property
    def graphs(self) -> list[StoredGraph]:
        """The stored graphs of the model; none if the model has no such graphs."""
        return open_graphs(self.run) if self.run.file(GRAPHS_FILE).is_file() else []

    def _check_files(self) -> None:
        for name, key in ((MODEL_FILE, "saved"), (FEATURES_FILE, "save_features")):
            if not self.run.file(name).is_file():
                raise UserError(
                    f"{self.run.file(name)}: missing; new items need it, train again with --{key}=True"
                )

    def _compare(self, found: Tensor) -> None:
        """Make sure that trained items have the embeddings in memory, not those of a run that came later."""
        known, stored = found[: self.n_known], self.scoring.tensors["item"][: self.n_known]
        same = known.shape == stored.shape
        distance = float((known - stored).abs().amax()) if same else float("inf")
        if not distance <= TOLERANCE * max(1.0, float(stored.abs().amax())):
            raise UserError(
                f"{self.run.file(EMBEDDINGS_FILE)}: the parameters and the content of the folder give other "
                f"embeddings (by {distance:.2g}); the folder is damaged, of another version, or has another "
                "run since it was opened: open the folder again"
            )

    def neighbors_of(self, item: int) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Return the neighbours of a trained item in the stored item graphs, itself left out.

        Returns:
            ``{graph: (item ids, weights)}``; empty without stored graphs and for an item that was added.
        """
        if item >= self.n_known:
            return {}
        found = {}
        for stored in self.graphs:
            if not stored.label and stored.kind != "co_occurrence":
                continue  # a graph of users
            row, column = stored.graph.indices()
            mine = (row == item) & (column != item)
            name = f"{stored.kind} of {stored.label}" if stored.label else stored.kind
            found[name] = column[mine].numpy(), stored.graph.values()[mine].numpy()
        return found


def _below(n_known: int, index: Tensor) -> Tensor:
    """Number the new rows after the trained items; column ``n_known`` + r is the new row r itself."""
    column = torch.where(index[1] >= n_known, n_known + index[0], index[1])
    return torch.stack((n_known + index[0], column))


def _checked(
    features: Mapping[str, Any], known: Mapping[str, Tensor], n_new: int, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Return the features of new items in the model's type, in the order of the run's modalities."""
    missing, foreign = sorted(known.keys() - features.keys()), sorted(features.keys() - known.keys())
    if missing or foreign or n_new < 1:
        raise UserError(
            f"new items: features of {sorted(features)} for {n_new} items; the run needs {sorted(known)}, "
            "one row an item, zeros where an item has no such feature"
        )
    found = {}
    for name, table in known.items():
        rows = torch.as_tensor(np.asarray(features[name])).to(dtype)
        if rows.shape != (n_new, table.shape[1]):
            shape = f"{tuple(rows.shape)}; expected ({n_new}, {table.shape[1]})"
            raise UserError(f"new items: features of {name!r} have the shape {shape}")
        if not rows.isfinite().all():
            raise UserError(f"new items: features of {name!r} have a value that is NaN or infinite")
        found[name] = rows
    return found


def _set_gaps(model: Any, known: Mapping[str, Tensor], rows: Mapping[str, Tensor], missing: Any) -> None:
    """Fill the gaps of feature tables as in training: a mean is the mean of the trained items."""
    for name, table in _feature_tables(model):
        filled = fill_missing(torch.cat([known[name], torch.zeros_like(known[name][:1])]), missing)
        gap = filled[-1]  # the row of an item without a feature
        new = torch.where(has_feature(rows[name]).unsqueeze(1), rows[name], gap)
        with torch.no_grad():
            table.copy_(torch.cat([filled[:-1], new]))


def _feature_tables(model: Any) -> Iterator[tuple[str, Tensor]]:
    if (tables := getattr(model, "features", None)) is not None:
        yield from tables.named_parameters()
        yield from tables.named_buffers()


@torch.no_grad()
def extend_state(model: Any, state: Mapping[str, Tensor], n_known: int, id_embedding: IdEmbedding) -> None:
    """Load the parameters of a run into a model with more items.

    Args:
        model: The model with the new items in its catalogue.
        state: Parameters of the run.
        n_known: Number of items of the run, the padding included.
        id_embedding: What the new rows of the ID embeddings are. Trained features keep their raw rows there.

    Raises:
        UserError: If a parameter is missing or has another shape.
    """
    for name, own in model.state_dict().items():
        trained = state.get(name)
        if trained is not None and trained.shape == own.shape:
            own.copy_(trained)
            continue
        fits = trained is not None and trained.shape == (n_known, *own.shape[1:]) and len(own) > n_known
        if not fits:
            shape = None if trained is None else tuple(trained.shape)
            raise UserError(f"{MODEL_FILE}: {name} has the shape {shape}, the model needs {tuple(own.shape)}")
        own[:n_known] = trained
        if not name.startswith("features."):
            is_mean = (
                id_embedding == "mean" and own.is_floating_point()
            )  # ids, such as drawn items, have no mean
            own[n_known:] = own[1:n_known].mean(dim=0) if is_mean else 0
