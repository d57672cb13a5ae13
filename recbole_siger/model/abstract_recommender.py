"""The base of every multimodal model: item features in, one table of users and one table of items out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from math import log
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_siger.config import Config, params_from_config
from recbole_siger.data.dataset import MultimodalDataset
from recbole_siger.data.features import fill_missing
from recbole_siger.errors import UserError
from recbole_siger.graph.cache import GraphCache
from recbole_siger.graph.knn import normalized_neighbors, semantic_graph
from recbole_siger.graph.normalize import normalize_adjacency
from recbole_siger.graph.user_item import draw_edges, user_item_adjacency
from recbole_siger.model.inputs import Batch, FieldNames, ModelInputs, seeded
from recbole_siger.model.layers import Projection, UserItem
from recbole_siger.model.memory import FLOAT, MemoryTerms
from recbole_siger.model.propagation import SparseMatrix
from recbole_siger.options.params import ModelParams, build_params
from recbole_siger.options.yaml_values import plain_value
from recbole_siger.parallel.shares import current_share

__all__ = ["MultimodalRecommender"]


class MultimodalRecommender(GeneralRecommender, ABC):
    """Scores by inner product of the embeddings that :meth:`forward` returns.

    What a subclass writes:
        1. ``params_class``, a frozen dataclass below :class:`~recbole_siger.options.params.ModelParams` with
           the type and range of each parameter, and ``params: <that class>`` for type checkers. The defaults
           are in ``properties/model/<Model>.yaml``.
        2. :meth:`build` makes tables, layers and graphs. There is no ``__init__``: the base class has two
           constructors, ``Model(config, dataset)``, which RecBole calls, and :meth:`from_tensors`.
        3. :meth:`forward` returns the embeddings that rank; :meth:`loss_terms` the weighted losses by name.
        4. Where the default is wrong: the class attributes below, :meth:`memory_terms` and three hooks,
           :meth:`on_epoch_start`, :meth:`auxiliary_losses` and :meth:`learning_rate_factor`.
    The base class does prediction, the cache of final embeddings, the padding row and all modalities.

    Attributes:
        uses_features: Whether the model reads item features, by default; without, ``raw_features`` is empty.
        scores_cold_items: Whether the features of an item decide its scores, so that an item without a
            training row is ranked by more than its untrained ID embedding.
        shares_batches: Whether :meth:`loss_terms` gets the rows of all processes and counts its own, because
            the loss contrasts rows with each other. Otherwise each process gets its own rows.
        share: This process's part of each batch: all rows, unless several processes train.
        samples_negatives: Whether a batch has a negative item for each positive item.
        content_graphs: Attributes that hold a graph of users and items by content, or a module of such
            graphs; their edges are no training rows, and the audit names them.
        frozen_parameters: Names of the parameters that get no gradient.
        untrained_bpr: The term ``bpr`` when all scores are equal, if less than ln 2.
        params: The model's typed parameters.
        n_users: Number of users, the padding id 0 included.
        n_items: Number of items, the padding id 0 included.
        n_source_items: Number of items whose embeddings a sum over all items may contain: all, but not items
            that are added to a trained model.
        modalities: Names of the modalities, in the order of ``raw_features``.
        raw_features: ``{modality: (n_items, F_m)}`` in :meth:`feature_dtype`, zero where an item has no
            feature; graphs use these.
        raw_user_features: ``{name: (n_users, F)}``, what :meth:`user_feature_names` asks for.
        train_edges: Training interactions, users then items, shape ``(2, E)``.
        generator: Source of the model's own randomness, on its device.
        graph_cache: Stores graphs that depend on features and edges alone.
        loss_names: Names of the terms that the last :meth:`calculate_loss` returned.
    """

    input_type = InputType.PAIRWISE
    params_class: ClassVar[type[ModelParams]]
    uses_features: ClassVar[bool] = True
    scores_cold_items: ClassVar[bool] = False
    shares_batches: ClassVar[bool] = False
    samples_negatives: ClassVar[bool] = True
    content_graphs: ClassVar[tuple[str, ...]] = ()
    frozen_parameters: ClassVar[tuple[str, ...]] = ()
    untrained_bpr: ClassVar[float] = log(2)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            raise TypeError(f"{cls.__name__}: from_tensors does not call __init__; write build() instead")

    def __init__(self, config: Config, dataset: MultimodalDataset) -> None:
        """Read the inputs out of RecBole's objects; RecBole sets the seed and the device around this call."""
        user, item = config["USER_ID_FIELD"], config["ITEM_ID_FIELD"]
        params = params_from_config(self.params_class, config)
        read = self.modality_names(params, dataset.modalities()) if self.needs_features(params) else ()
        names = self.user_feature_names(params, tuple(dataset.user_feature_files()))
        inputs = ModelInputs(
            params=params,
            n_users=dataset.num(user),
            n_items=dataset.num(item),
            train_edges=dataset.train_edges,
            features=dataset.item_features(names=read),
            seed=config.run.seed,
            device=torch.device(config["device"]),
            missing_modality=config.run.missing_modality,
            cache_dir=config.run.cache_dir,
            fields=FieldNames(user, item, config["NEG_PREFIX"] + item),
            user_features=dataset.user_features(names),
        )
        dataset.check_user_features(names)
        self._set_up(inputs)

    @classmethod
    def from_tensors(
        cls,
        params: ModelParams | None = None,
        *,
        n_users: int,
        n_items: int,
        train_edges: Tensor,
        features: Mapping[str, Tensor] | None = None,
        seed: int = 2020,
        device: str | torch.device = "cpu",
        missing_modality: Literal["zero", "mean"] = "zero",
        cache_dir: str | Path | None = "none",
        user_features: Mapping[str, Tensor] | None = None,
        graph_cache: GraphCache | None = None,
    ) -> Self:
        """Build a model without RecBole's Config and Dataset.

        Equal inputs and an equal seed give the same model as RecBole's call. A batch for :meth:`loss_terms`
        is a dict of ``user_id``, ``item_id`` and ``neg_item_id``, int64 ``(B,)`` each. The states of torch's
        global generators do not change.

        Args:
            params: The model's parameters, such as ``SIGERParams.defaults(embedding_size=32)``; None: the
                defaults of the YAML.
            n_users: Number of users, the padding id 0 included, >= 2.
            n_items: Number of items, the padding id 0 included, >= 2.
            train_edges: Training interactions, users then items, int64 ``(2, E)``, ids in ``[1, n)``.
            features: ``{modality: (n_items, F_m)}``, floating point, finite, row 0 zero; used in
                :meth:`feature_dtype`. The row of an item without a feature is zero. Tensors of this type on
                this device are not copied. None for a model that reads none.
            seed: Seed of the first parameters and of the model's own randomness, in ``[0, 2**32)``.
            device: Device of the model.
            missing_modality: What replaces the row of an item without a feature.
            cache_dir: Folder of the graph cache; ``"none"`` stores nothing, ``None`` is the user's folder.
            user_features: ``{name: (n_users, F)}``, as ``features``; for models that read some.
            graph_cache: What builds graphs in place of the cache in ``cache_dir``.

        Returns:
            The model in training mode.

        Raises:
            ValueError: In one line, if a tensor or a size has a wrong type, shape, range or value.
            UserError: If a parameter has a wrong type or range.
        """
        params = cls.params_class.defaults() if params is None else params
        if not isinstance(params, cls.params_class):
            raise ValueError(
                f"params is a {type(params).__name__}; {cls.__name__} needs {cls.params_class.__name__}"
            )
        given = user_features or {}
        inputs = ModelInputs(
            params=build_params(cls.params_class, vars(params), dict.fromkeys(vars(params), "params")),
            n_users=plain_value(n_users),
            n_items=plain_value(n_items),
            train_edges=train_edges,
            features=dict(features or {}),
            seed=plain_value(seed),
            device=torch.device(device),
            missing_modality=missing_modality,
            cache_dir=cache_dir,
            user_features={name: given[name] for name in cls.user_feature_names(params, tuple(given))},
            graph_cache=graph_cache,
        )
        inputs.check(needs_features=cls.needs_features(params))
        read = cls.modality_names(params, tuple(inputs.features)) if cls.needs_features(params) else ()
        inputs = replace(inputs, features={m: inputs.features[m] for m in read})
        model = cls.__new__(cls)
        with seeded(inputs.seed, inputs.device):
            model._set_up(inputs)
        return model.to(inputs.device)

    def _set_up(self, inputs: ModelInputs) -> None:
        """Do what both constructors do: keep the inputs on the device, then :meth:`build`."""
        super(GeneralRecommender, self).__init__()  # GeneralRecommender's own reads Config and Dataset
        self.USER_ID, self.ITEM_ID, self.NEG_ITEM_ID = inputs.fields
        self.n_users, self.n_items, self.device = inputs.n_users, inputs.n_items, inputs.device
        self.n_source_items = inputs.n_items
        self.params: Any = inputs.params
        self.modalities = tuple(inputs.features)
        dtype = self.feature_dtype(inputs.params)
        self.raw_features = {m: x.to(self.device, dtype) for m, x in inputs.features.items()}
        self.raw_user_features = {
            name: x.to(self.device, torch.float32) for name, x in inputs.user_features.items()
        }
        self.train_edges = inputs.train_edges.to(self.device)
        self.generator = torch.Generator(self.device).manual_seed(inputs.seed)
        self.graph_cache = inputs.graph_cache or GraphCache(inputs.cache_dir)
        self.share = current_share()
        self.loss_names: tuple[str, ...] = ()
        self._missing_modality = inputs.missing_modality
        self._final: UserItem | None = None
        self.build()

    @classmethod
    def feature_dtype(cls, params: Any) -> torch.dtype:
        """Return the type of the item features: the parameter ``feature_dtype``, float32 without it.

        The model keeps the features once, in this type; graphs are built from the same numbers.
        """
        dtype: torch.dtype = getattr(torch, getattr(params, "feature_dtype", "float32"))
        return dtype

    @classmethod
    def needs_features(cls, params: Any) -> bool:
        """Return whether the model reads item features, which a parameter can decide."""
        return cls.uses_features

    @classmethod
    def modality_names(cls, params: Any, listed: Sequence[str]) -> tuple[str, ...]:
        """Return the modalities that the model reads, if it reads any; most models read all.

        Args:
            params: The model's parameters.
            listed: The modalities in use, at least one.

        Raises:
            UserError: If a parameter names a modality that is not in use.
        """
        return tuple(listed)

    @classmethod
    def user_feature_names(cls, params: Any, listed: Sequence[str]) -> tuple[str, ...]:
        """Return the user features that the model reads, among those listed; most models read none.

        Raises:
            UserError: If a parameter names a user feature that is not listed.
        """
        return ()

    @abstractmethod
    def build(self) -> None:
        """Make tables, layers and graphs from ``params``, sizes, ``train_edges`` and ``raw_features``.

        Parameters are drawn from torch's global generator, whose seed both constructors' callers set.
        """

    @abstractmethod
    def forward(self) -> UserItem:
        """Return the embeddings that rank, ``(n_users, d)`` and ``(n_items, d)``, with the padding rows."""

    @abstractmethod
    def loss_terms(self, interaction: Batch) -> dict[str, Tensor]:
        """Return the weighted terms of the loss by name, each ``()``; training minimises their sum."""

    def on_epoch_start(self, epoch: int) -> None:  # a hook: most models need none
        """Do the work of the start of an epoch, such as dropping edges."""

    def auxiliary_losses(self, epoch: int) -> Iterator[dict[str, Tensor]]:
        """Yield losses by name that are trained before the batches of an epoch; most models yield none.

        The optimizer of the run takes a step after each of them. Parameters without a gradient, which are
        those of the rest of the model, do not change in such a step. Code after the last loss runs before the
        first batch.
        """
        return iter(())

    def learning_rate_factor(self, epoch: int) -> float:  # a hook: most models keep their learning rate
        """Return the factor on the learning rate in an epoch."""
        return 1.0

    def memory_terms(self, batch_size: int) -> MemoryTerms:
        """Estimate the bytes of a training step and of a forward pass.

        This default is a guess: LightGCN's tables of nodes, six tables of items and eight rows of the batch
        for each modality. A model with other shapes overrides it with a formula of its own.

        Args:
            batch_size: Rows of a training batch.
        """
        width = FLOAT * int(getattr(self.params, "embedding_size", 64))
        nodes = 4 * (self.n_users + self.n_items) * width
        items, rows = self.n_items * width, batch_size * width
        step = nodes + len(self.modalities) * (6 * items + 8 * rows) + 8 * rows
        return MemoryTerms(step, nodes + len(self.modalities) * 3 * items)

    def feature_tables(self, *, trained: bool) -> nn.Module:
        """Hold ``{modality: (n_items, F_m)}`` for projections; ``missing_modality`` fills missing rows.

        A frozen table without filled rows is the table in ``raw_features``, not a copy.

        Raises:
            UserError: If trained features are to have another type than float32.
        """
        if trained and self.feature_dtype(self.params) != torch.float32:
            name = self.params.feature_dtype
            raise UserError(
                f"feature_dtype={name!r}: trained features are float32; remove this option or train_features"
            )
        tables = nn.Module()
        for name, raw in self.raw_features.items():
            table = fill_missing(raw, self._missing_modality)
            if trained:
                tables.register_parameter(name, nn.Parameter(table.clone()))
            else:
                tables.register_buffer(name, table, persistent=False)
        return tables

    def feature_projections(self, width: int) -> nn.ModuleDict:
        """Make ``F_m = W_m X_m + b_m`` for each modality."""
        return nn.ModuleDict({m: Projection(x.shape[1], width) for m, x in self.raw_features.items()})

    def build_norm_adj(self, edges: Tensor) -> SparseMatrix:
        """Normalise the user-item graph of some interactions ``(2, n)``: ``(N, N)`` with N = U + I."""
        adjacency = normalize_adjacency(user_item_adjacency(edges, self.n_users, self.n_items))
        return SparseMatrix(adjacency, symmetric=True)

    def draw_norm_adj(self, edges: Tensor, weights: Tensor, dropout: float) -> SparseMatrix:
        """Normalise the graph of a share of the interactions, drawn by weight and none twice: ``(N, N)``.

        Args:
            edges: Users then items, shape ``(2, E)``.
            weights: One number an edge, > 0, shape ``(E,)``.
            dropout: Share that is left out, in [0, 1).
        """
        n_kept = int(len(weights) * (1 - Decimal(str(dropout))))  # a float's 1 - 0.8 is less than 0.2
        return self.build_norm_adj(edges[:, draw_edges(weights, n_kept, self.generator)])

    def knn_graphs(self, k: int, weight: str) -> dict[str, Tensor]:
        """Build each modality's normalised graph of nearest neighbours: sparse ``(I, I)``."""
        arguments: dict[str, int | str] = {"k": k, "method": "exact"}
        return {
            m: normalized_neighbors(
                self.graph_cache.cached("semantic", semantic_graph, {"features": x}, arguments), weight
            )
            for m, x in self.raw_features.items()
        }

    def graph_shares(self, image_weight: float, given: Sequence[float] | None) -> list[float]:
        """Return the share of each modality's item graph in their sum, in the order of ``modalities``.

        Args:
            image_weight: Share of ``image``; the other modalities have equal parts of the rest.
            given: ``semantic_weights``, all shares, which replace that rule.

        Raises:
            UserError: If ``semantic_weights`` has not one number a modality.
        """
        names = self.modalities
        if given is not None:
            if len(given) != len(names):
                raise UserError(
                    f"semantic_weights={list(given)}: give one number each for {', '.join(names)}"
                )
            return list(given)
        if "image" not in names or len(names) == 1:
            return [1 / len(names)] * len(names)
        return [image_weight if m == "image" else (1 - image_weight) / (len(names) - 1) for m in names]

    def calculate_loss(self, interaction: Batch) -> tuple[Tensor, ...]:
        """Return the terms of the loss as RecBole's trainer takes them."""
        terms = self.loss_terms(interaction)
        self.loss_names = tuple(terms)
        return tuple(terms.values())

    def final_embeddings(self) -> UserItem:
        """Return :meth:`forward`; in evaluation mode the result is cached until :meth:`train`."""
        if self.training:
            return self.forward()
        if self._final is None:
            with torch.no_grad():
                user, item = self.forward()
            # Ranking multiplies by the transpose. This is a third faster if the transpose is contiguous.
            self._final = UserItem(user, item.T.contiguous().T)
        return self._final

    def predict(self, interaction: Batch) -> Tensor:
        """Score pairs of users and items, shape ``(B,)``."""
        user, item = self.final_embeddings()
        return (user[interaction[self.USER_ID]] * item[interaction[self.ITEM_ID]]).sum(dim=-1)

    def full_sort_predict(self, interaction: Batch) -> Tensor:
        """Score all items for each user, shape ``(B * n_items,)``, row after row."""
        user, item = self.final_embeddings()
        return (user[interaction[self.USER_ID]] @ item.T).flatten()

    def train(self, mode: bool = True) -> Self:
        """Switch the mode and drop the cached embeddings."""
        self._final = None
        return super().train(mode)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load parameters and drop the cached embeddings."""
        self._final = None
        return super().load_state_dict(*args, **kwargs)
