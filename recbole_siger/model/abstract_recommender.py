"""The base of every multimodal model: features in, one table of users and one of items out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_siger.config import Config, params_from_config
from recbole_siger.data.dataset import MultimodalDataset
from recbole_siger.data.features import fill_missing
from recbole_siger.errors import UserError
from recbole_siger.graph.cache import GraphCache
from recbole_siger.graph.knn import knn_graph
from recbole_siger.graph.normalize import normalize_adjacency
from recbole_siger.graph.user_item import user_item_adjacency
from recbole_siger.model.layers import Projection, UserItem
from recbole_siger.model.propagation import SparseMatrix
from recbole_siger.parallel.shares import current_share

__all__ = ["MultimodalRecommender"]


class MultimodalRecommender(GeneralRecommender, ABC):
    """Scores by inner product of the embeddings that :meth:`forward` returns.

    A model declares its parameters and implements :meth:`forward` and :meth:`loss_terms`. Prediction, the
    cache of final embeddings, the padding row and any number of modalities are dealt with here.

    Attributes:
        scores_cold_items: Whether what an item is like decides its scores, so that one without a training row
            is ranked by more than its untrained ID embedding.
        shares_batches: Whether :meth:`loss_terms` takes the rows of all processes and counts its own, because
            rows are contrasted with each other; else it is given its own.
        share: This process's part of each batch; all, unless several train.
        samples_negatives: Whether a batch has a negative item for each positive one.
        frozen_parameters: Names of the parameters that get no gradient.
        params: The model's typed parameters.
        raw_features: ``{modality: (n_items, F_m)}``, zero where an item has none; what graphs are built from.
        train_edges: Training interactions, users then items, shape ``(2, E)``.
        generator: Source of the model's own randomness, on its device.
        graph_cache: Keeps graphs that are built from features and edges alone.
        loss_names: Names of the terms that the last :meth:`calculate_loss` returned.
    """

    input_type = InputType.PAIRWISE
    params_class: ClassVar[type]
    scores_cold_items: ClassVar[bool] = False
    shares_batches: ClassVar[bool] = False
    samples_negatives: ClassVar[bool] = True
    frozen_parameters: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: Config, dataset: MultimodalDataset) -> None:
        super().__init__(config, dataset)
        self.params: Any = params_from_config(self.params_class, config)
        self.modalities = dataset.modalities()
        self.raw_features = {m: x.to(self.device) for m, x in dataset.item_features().items()}
        self.train_edges = dataset.train_edges.to(self.device)
        self.generator = torch.Generator(self.device).manual_seed(config.run.seed)
        self.graph_cache = GraphCache(config.run.cache_dir)
        self.share = current_share()
        self.loss_names: tuple[str, ...] = ()
        self._missing_modality = config.run.missing_modality
        self._final: UserItem | None = None

    @abstractmethod
    def forward(self) -> UserItem:
        """Return the embeddings that rank, ``(n_users, d)`` and ``(n_items, d)``, padding rows included."""

    @abstractmethod
    def loss_terms(self, interaction: Interaction) -> dict[str, Tensor]:
        """Return the weighted terms of the loss by name, each ``()``; training minimises their sum."""

    def on_epoch_start(self, epoch: int) -> None:  # a hook: most models need none
        """Do what a model does once an epoch, such as dropping edges."""

    def learning_rate_factor(self, epoch: int) -> float:  # a hook: most models keep their learning rate
        """Return what the learning rate is multiplied by in an epoch."""
        return 1.0

    def feature_tables(self, *, trained: bool, dtype: str = "float32") -> nn.Module:
        """Hold ``{modality: (n_items, F_m)}`` for projections, gaps filled as ``missing_modality`` says.

        Raises:
            UserError: If trained features are asked for in less than float32.
        """
        if trained and dtype != "float32":
            raise UserError(
                f"feature_dtype={dtype!r}: trained features are float32; drop one of the two options"
            )
        tables = nn.Module()
        for name, raw in self.raw_features.items():
            table = fill_missing(raw, self._missing_modality)
            if trained:
                tables.register_parameter(name, nn.Parameter(table.clone()))
            else:
                tables.register_buffer(name, table.to(getattr(torch, dtype)), persistent=False)
        return tables

    def feature_projections(self, width: int) -> nn.ModuleDict:
        """Make ``F_m = W_m X_m + b_m`` for each modality."""
        return nn.ModuleDict({m: Projection(x.shape[1], width) for m, x in self.raw_features.items()})

    def build_norm_adj(self, edges: Tensor) -> SparseMatrix:
        """Normalise the user-item graph of some interactions ``(2, n)``: ``(N, N)`` with N = U + I."""
        adjacency = normalize_adjacency(user_item_adjacency(edges, self.n_users, self.n_items))
        return SparseMatrix(adjacency, symmetric=True)

    def knn_graphs(self, k: int, weight: str) -> dict[str, Tensor]:
        """Build each modality's normalised graph of nearest neighbours: sparse ``(I, I)``."""
        arguments: dict[str, int | str] = {"k": k, "weight": weight}
        return {
            m: self.graph_cache.cached("knn", knn_graph, {"features": x}, arguments)
            for m, x in self.raw_features.items()
        }

    def calculate_loss(self, interaction: Interaction) -> tuple[Tensor, ...]:
        """Return the terms of the loss as RecBole's trainer takes them."""
        terms = self.loss_terms(interaction)
        self.loss_names = tuple(terms)
        return tuple(terms.values())

    def final_embeddings(self) -> UserItem:
        """Return :meth:`forward`, computed once between two training steps."""
        if self.training:
            return self.forward()
        if self._final is None:
            with torch.no_grad():
                user, item = self.forward()
            # Ranking multiplies by the transpose, a third faster if that is what lies in a row in memory.
            self._final = UserItem(user, item.T.contiguous().T)
        return self._final

    def predict(self, interaction: Interaction) -> Tensor:
        """Score pairs of users and items, shape ``(B,)``."""
        user, item = self.final_embeddings()
        return (user[interaction[self.USER_ID]] * item[interaction[self.ITEM_ID]]).sum(dim=-1)

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Score all items for each user, shape ``(B * n_items,)``, row after row."""
        user, item = self.final_embeddings()
        return (user[interaction[self.USER_ID]] @ item.T).flatten()

    def train(self, mode: bool = True) -> Self:
        """Switch mode; the cached embeddings are forgotten."""
        self._final = None
        return super().train(mode)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load parameters; the cached embeddings are forgotten."""
        self._final = None
        return super().load_state_dict(*args, **kwargs)
