"""Each check fails for a model that breaks what the check holds, and says why."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recbole_siger.data import dataset as dataset_module
from recbole_siger.errors import UserError
from recbole_siger.model.general_recommender.vbpr import VBPR, VBPRParams
from recbole_siger.model.layers import UserItem
from recbole_siger.model.propagation import SparseMatrix
from recbole_siger.testing import CHECKS, check_model
from recbole_siger.testing.experiments import require
from recbole_siger.testing.toy import N_ITEMS, N_USERS

NAMES = [name for name in CHECKS if "gpu" not in name]
draws = itertools.count(1)


class Whole(VBPR):
    """Keeps the contract; from outside the package."""


class NaNLoss(VBPR):
    def loss_terms(self, interaction: Any) -> dict[str, Tensor]:
        return {name: term * float("nan") for name, term in super().loss_terms(interaction).items()}


class WideLoss(VBPR):
    def loss_terms(self, interaction: Any) -> dict[str, Tensor]:
        return {name: term.reshape(1) for name, term in super().loss_terms(interaction).items()}


class OtherPredict(VBPR):
    def predict(self, interaction: Any) -> Tensor:
        return super().predict(interaction) + 0.1


class WidePredict(VBPR):
    def predict(self, interaction: Any) -> Tensor:
        return super().predict(interaction)[:, None]


class Idle(VBPR):
    def build(self) -> None:
        super().build()
        self.idle = nn.Parameter(torch.ones(3))


class Frozen(VBPR):
    frozen_parameters = ("user_embedding.weight",)


class Noisy(VBPR):
    def build(self) -> None:
        super().build()
        with torch.no_grad():
            self.user_embedding.weight += 0.1 * next(draws)


class Unsaved(VBPR):
    def build(self) -> None:
        super().build()
        self.shift = torch.zeros(())

    def on_epoch_start(self, epoch: int) -> None:
        self.shift = self.shift + 0.1

    def forward(self) -> UserItem:
        user, item = super().forward()
        return UserItem(user + self.shift, item)


class Stale(VBPR):
    def train(self, mode: bool = True) -> Any:
        kept = getattr(self, "_final", None)
        super().train(mode)
        self._final = kept
        return self


class StaleState(VBPR):
    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        kept, self._final = self._final, None
        done = super().load_state_dict(*args, **kwargs)
        self._final = kept
        return done


class Uncached(VBPR):
    def final_embeddings(self) -> UserItem:
        return self.forward()


class TouchesPadding(VBPR):
    def build(self) -> None:
        super().build()
        self.graph = torch.sparse_coo_tensor([[0], [3]], [1.0], (N_ITEMS, N_ITEMS)).coalesce()


class Empty(VBPR):
    def build(self) -> None:
        super().build()
        self.graph = SparseMatrix(torch.sparse_coo_tensor(np.zeros((2, 0)), [], (N_USERS, N_USERS)))


class FirstModality(VBPR):
    def build(self) -> None:
        self.modalities = self.modalities[:1]
        self.raw_features = {name: self.raw_features[name] for name in self.modalities}
        super().build()


class NamesOneModality(VBPR):
    """Says after construction that one modality is read."""

    def build(self) -> None:
        super().build()
        self.modality_names = lambda params, listed: tuple(listed[:1])  # type: ignore[method-assign]


class SaysNothingOfColdItems(VBPR):
    scores_cold_items = False


class Untrained(VBPR):
    def loss_terms(self, interaction: Any) -> dict[str, Tensor]:
        return {name: 1e-9 * term for name, term in super().loss_terms(interaction).items()}

    def learning_rate_factor(self, epoch: int) -> float:
        return 1e-9


class Seeds(VBPR):
    """Starts from a seed of its own."""

    def build(self) -> None:
        torch.manual_seed(11)
        super().build()


class Blind(VBPR):
    @classmethod
    def from_tensors(cls, *args: Any, **values: Any) -> Any:
        values["train_edges"] = values["train_edges"].clamp(max=N_ITEMS - 1)
        return super().from_tensors(*args, **values)


@dataclass(frozen=True, kw_only=True)
class TwoDefaultsParams(VBPRParams):
    @classmethod
    def defaults(cls, **changes: Any) -> Any:
        return super().defaults(**{"reg_weight": 0.5, **changes})


class TwoDefaults(VBPR):
    params_class = TwoDefaultsParams


BROKEN = [
    (TwoDefaults, "defaults_are_one", "a run has the defaults TwoDefaultsParams("),
    (NaNLoss, "loss_terms_are_finite", "the loss term 'bpr' is nan"),
    (WideLoss, "loss_terms_are_finite", "the loss term 'bpr' has the shape (1,), not ()"),
    (OtherPredict, "full_sort_agrees_with_predict", "full_sort_predict differs from predict: "),
    (WidePredict, "full_sort_agrees_with_predict", "predict returned (23, 1) for 23 pairs, expected (23,)"),
    (Idle, "parameters_learn_or_are_frozen", "no gradient reaches ['idle']; use or declare them"),
    (Frozen, "parameters_learn_or_are_frozen", "frozen_parameters has ['user_embedding.weight'], which get"),
    (Noisy, "seed_decides_scores", "two trainings with one seed give different scores"),
    (Seeds, "from_tensors_is_the_same_model", "another seed gives the same first parameters"),
    (Unsaved, "saved_model_scores_as_before", "a loaded model scores differently"),
    (Stale, "train_drops_the_cache", "after new parameters the scores are those of old embeddings: "),
    (StaleState, "loading_a_state_drops_the_cache", "after load_state_dict the old scores remain"),
    (Uncached, "caches_embeddings_in_evaluation", "an evaluation calls forward"),
    (
        Noisy,
        "from_tensors_is_the_same_model",
        "a model from tensors starts with another user_embedding.weight",
    ),
    (Blind, "wrong_tensors_are_refused", "from_tensors accepts wrong tensors"),
    (TouchesPadding, "no_graph_touches_padding", "the graph .graph. has an edge at padding"),
    (Empty, "no_graph_touches_padding", "the graph graph has no edge"),
    (FirstModality, "takes_2_modalities", "features of 'text' change no score"),
    (FirstModality, "takes_3_modalities", "features of 'image' change no score"),
    (NamesOneModality, "takes_2_modalities", "features of 'text' change a score, but modality_names does"),
    (
        SaysNothingOfColdItems,
        "scores_cold_items_as_declared",
        "scores_cold_items is False, but features of a",
    ),
    (Untrained, "finds_the_checkerboard", "after 20 epochs the held-out items are not first: hit@1 0."),
]


@pytest.mark.parametrize(("model", "check", "text"), BROKEN, ids=lambda one: getattr(one, "__name__", None))
def test_a_broken_model_fails_its_check(model: type[VBPR], check: str, text: str) -> None:
    with pytest.raises(AssertionError) as caught:
        check_model(model, checks=[check])
    assert str(caught.value).startswith(f"{model.__name__}: {check}: {text}")


def test_a_leak_of_the_other_splits_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dataset that gives a model all interactions makes the tensors of the model depend on every split."""
    init = dataset_module.MultimodalDataset.__init__

    def loaded(self: Any, config: Any) -> None:
        init(self, config)
        users, items = (self.inter_feat[field] for field in (self.uid_field, self.iid_field))
        self.all_edges = torch.tensor(np.stack([users, items]))

    monkeypatch.setattr(dataset_module.MultimodalDataset, "__init__", loaded)
    monkeypatch.setattr(
        dataset_module.MultimodalDataset, "train_edges", property(lambda self: self.all_edges)
    )
    with pytest.raises(AssertionError, match=r"validation and test interactions change \["):
        check_model("SIGER", options={"n_semantic_neighbors": 5}, checks=["other_splits_do_not_leak"])


def test_features_joined_by_row_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    features = dataset_module.MultimodalDataset.item_features

    def by_row(self: Any, *_: Any, **__: Any) -> dict[str, Tensor]:
        first = next(iter((Path(self.config["feature_path"])).glob("*.text.npy")))
        table = torch.from_numpy(np.load(first))
        return {**features(self), "text": torch.cat([torch.zeros(1, 13), table[: N_ITEMS - 1]])}

    monkeypatch.setattr(dataset_module.MultimodalDataset, "item_features", by_row)
    with pytest.raises(AssertionError, match="the order of feature rows changes the losses"):
        check_model("VBPR", checks=["order_of_feature_rows_is_nothing"])


def test_a_whole_model_of_another_package_passes() -> None:
    before = torch.get_deterministic_debug_mode()
    check_model(Whole)
    assert torch.get_deterministic_debug_mode() == before


def test_what_cannot_be_checked_is_refused() -> None:
    with pytest.raises(UserError, match=r"^BPR is no MultimodalRecommender; the contract is for those$"):
        check_model("BPR")
    with pytest.raises(UserError, match=r"^check_model: unknown check 'seed_decide_scores'; did you mean"):
        check_model("VBPR", checks=["seed_decide_scores"])
    with pytest.raises(UserError, match="not a model"):
        check_model(nn.Linear)


def test_another_error_names_the_check() -> None:
    class Crashes(VBPR):
        def forward(self) -> UserItem:
            raise RuntimeError("no forward")

    with pytest.raises(RuntimeError, match="no forward") as caught:
        check_model(Crashes, checks=["seed_decides_scores"])
    assert caught.value.__notes__ == ["check_model: Crashes: seed_decides_scores"]


def test_a_requirement_holds_without_assert_statements() -> None:
    require(True, "fine")
    with pytest.raises(AssertionError, match=r"^text$"):
        require(torch.tensor(False), "text")
    assert len(NAMES) == len(CHECKS) - 1
    assert all(check.__doc__ for check in CHECKS.values())
    sources = (Path(check.__code__.co_filename).read_text() for check in CHECKS.values())
    assert not any("\n    assert " in source for source in sources)
