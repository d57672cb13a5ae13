"""What a model is built from: parameters, sizes, training edges, item and user features. No RecBole here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from recbole_siger.data.names import name_problem
from recbole_siger.graph.cache import GraphCache

__all__ = ["Batch", "FieldNames", "ModelInputs", "seeded"]


class FieldNames(NamedTuple):
    """The keys of a batch."""

    user: str = "user_id"
    item: str = "item_id"
    negative: str = "neg_item_id"


FIELDS = FieldNames()


class Batch(Protocol):
    """Ids by field name, int64 ``(B,)`` each: a dict of tensors, or RecBole's Interaction."""

    def __getitem__(self, name: str, /) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class ModelInputs:
    """The inputs of one model.

    Attributes:
        params: The model's typed parameters.
        n_users: Number of users U, the padding id 0 included.
        n_items: Number of items I, the padding id 0 included.
        train_edges: Training interactions, users then items, int64 ``(2, E)``, ids in ``[1, U)`` and
            ``[1, I)``.
        features: ``{modality: (I, F_m)}``, floating point, finite. Row 0 is zero. An item without a feature
            has a row of zeros.
        seed: Seed of the generator from which the model draws during training.
        device: Device of the model.
        missing_modality: Row of an item without a feature: zeros, or the mean of the other rows.
        cache_dir: Folder above the graph cache; ``None`` is the user's folder, ``"none"`` stores no graph.
        fields: The keys of a batch.
        user_features: ``{name: (U, F)}``, as ``features``, of users; only what the model asks for.
        graph_cache: What builds graphs; None: a cache in ``cache_dir``.
    """

    params: Any
    n_users: int
    n_items: int
    train_edges: Tensor
    features: dict[str, Tensor]
    seed: int
    device: torch.device
    missing_modality: Literal["zero", "mean"]
    cache_dir: str | Path | None
    fields: FieldNames = FIELDS
    user_features: dict[str, Tensor] = field(default_factory=dict)
    graph_cache: GraphCache | None = None

    def check(self, *, needs_features: bool = True) -> None:
        """Raise a ValueError of one line if an input has a wrong type, shape, range or value."""
        for name in ("n_users", "n_items"):
            size = getattr(self, name)
            if type(size) is not int or size < 2:
                raise ValueError(
                    f"{name} is {size!r}; it must be an integer >= 2, the padding id 0 and at least one more"
                )
        if type(self.seed) is not int or not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed!r}; it must be an integer in [0, 4294967296)")
        if self.missing_modality not in ("zero", "mean"):
            raise ValueError(f"missing_modality is {self.missing_modality!r}; it must be 'zero' or 'mean'")
        self._check_edges()
        if needs_features and (not isinstance(self.features, dict) or not self.features):
            raise ValueError("features must be a dict with at least one modality, {name: (n_items, F)}")
        for name, table in self.features.items():
            _check_features("features", name, table, self.n_items, "item")
        for name, table in self.user_features.items():
            _check_features("user_features", name, table, self.n_users, "user")

    def _check_edges(self) -> None:
        edges = self.train_edges
        if not isinstance(edges, Tensor):
            raise ValueError(f"train_edges is a {type(edges).__name__}; it must be a tensor")
        if edges.dtype != torch.int64 or edges.dim() != 2 or len(edges) != 2 or not edges.numel():
            raise ValueError(
                f"train_edges is {edges.dtype} of shape {tuple(edges.shape)}; "
                "it must be int64 of shape (2, E) with E >= 1"
            )
        for kind, ids, size in zip(("user", "item"), edges, (self.n_users, self.n_items), strict=True):
            wrong = ids[(ids < 1) | (ids >= size)]
            if len(wrong):
                raise ValueError(
                    f"train_edges has the {kind} id {int(wrong[0])}; {kind} ids must be in [1, {size}), "
                    "because 0 is the padding id"
                )


def _check_features(argument: str, name: str, table: Tensor, n_rows: int, noun: str) -> None:
    where = f"{argument}[{name!r}]"
    if problem := name_problem(name):
        raise ValueError(f"{where}: {problem}")
    if not isinstance(table, Tensor):
        raise ValueError(f"{where} is a {type(table).__name__}; it must be a tensor")
    if not table.is_floating_point():
        raise ValueError(f"{where} is {table.dtype}; it must have a floating-point type")
    if table.requires_grad:
        raise ValueError(f"{where} requires a gradient, and a model gives it none; use .detach()")
    if table.dim() != 2 or len(table) != n_rows or table.shape[1] < 1:
        raise ValueError(
            f"{where} has the shape {tuple(table.shape)}; it must have the shape ({n_rows}, F) with F >= 1"
        )
    if not all(value.isfinite() for value in table.float().aminmax()):  # NaN is the result where one is
        raise ValueError(f"{where} has a value that is NaN or infinite as float32; replace this value")
    if table[0].any():
        raise ValueError(f"{where} has numbers in row 0; row 0 is the padding {noun} and must be zero")


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from fresh seeds of torch's global generators within the block; restore their states after it."""
    on_cuda = device.type == "cuda"
    with torch.random.fork_rng([device] if on_cuda else []):
        torch.default_generator.manual_seed(seed)
        if on_cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
