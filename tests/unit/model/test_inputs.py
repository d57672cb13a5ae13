"""A model from tensors: what is refused, and what its defaults are."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from recbole_siger.errors import UserError
from recbole_siger.model.abstract_recommender import MultimodalRecommender
from recbole_siger.model.general_recommender.bm3 import BM3Params
from recbole_siger.model.general_recommender.vbpr import VBPR, VBPRParams
from recbole_siger.model.inputs import seeded
from recbole_siger.model.layers import UserItem
from recbole_siger.options.resources import find_resource
from recbole_siger.options.yaml_values import read_yaml

N_USERS, N_ITEMS = 7, 5


def inputs(**changes: Any) -> dict[str, Any]:
    features = torch.randn(N_ITEMS, 3, generator=torch.Generator().manual_seed(1))
    features[0] = 0
    edges = torch.tensor([[1, 2, 6, 6], [4, 1, 2, 3]])
    values = {"n_users": N_USERS, "n_items": N_ITEMS, "train_edges": edges, "features": {"image": features}}
    return values | changes


def table(row: int = 1, value: float = 1.0, **options: Any) -> torch.Tensor:
    features = torch.zeros(N_ITEMS, 3, **options)
    features[row] = value
    return features


def edges(*pairs: tuple[int, int]) -> torch.Tensor:
    return torch.tensor(pairs).T


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"n_users": 1}, "n_users is 1; it must be an integer >= 2"),
        ({"n_items": 5.0}, "n_items is 5.0; it must be an integer >= 2"),
        ({"n_items": True}, "n_items is True; it must be an integer >= 2"),
        ({"seed": -1}, "seed is -1; it must be an integer in [0, 4294967296)"),
        ({"missing_modality": "drop"}, "missing_modality is 'drop'; it must be 'zero' or 'mean'"),
        ({"train_edges": [[1], [1]]}, "train_edges is a list; it must be a tensor"),
        (
            {"train_edges": edges((1, 1)).int()},
            "torch.int32 of shape (2, 1); it must be int64",
        ),
        ({"train_edges": edges((1, 1), (2, 2), (3, 3)).T}, "train_edges is torch.int64 of shape (3, 2);"),
        ({"train_edges": torch.zeros(2, 0, dtype=torch.int64)}, "of shape (2, E) with E >= 1"),
        ({"train_edges": edges((0, 1))}, "train_edges has the user id 0; user ids must be in [1, 7)"),
        ({"train_edges": edges((1, 1), (7, 1))}, "train_edges has the user id 7; user ids must be in [1, 7)"),
        ({"train_edges": edges((5, -2))}, "train_edges has the item id -2; item ids must be in [1, 5)"),
        ({"features": {}}, "features must be a dict with at least one modality"),
        (
            {"features": {"im.age": table()}},
            "features['im.age']: use letters, digits and _",
        ),
        ({"features": {"training": table()}}, "features['training']: torch.nn uses this name itself"),
        ({"features": {"items": table()}}, "features['items']: torch.nn uses this name itself"),
        ({"features": {"image": table().numpy()}}, "features['image'] is a ndarray; it must be a tensor"),
        (
            {"features": {"image": table(dtype=torch.int64)}},
            "torch.int64; it must have a floating-point type",
        ),
        ({"features": {"image": table()[:4]}}, "has the shape (4, 3); it must have the shape (5, F)"),
        (
            {"features": {"image": table()[:, :0]}},
            "has the shape (5, 0);",
        ),
        ({"features": {"image": table()[:, 0]}}, "features['image'] has the shape (5,);"),
        (
            {"features": {"image": table(4, float("nan"))}},
            "features['image'] has a value that is NaN",
        ),
        ({"features": {"image": table(4, 1e300, dtype=torch.float64)}}, "is NaN or infinite as float32"),
        (
            {"features": {"image": table().requires_grad_()}},
            "features['image'] requires a gradient, and a model gives it none; use .detach()",
        ),
        (
            {"features": {"image": table(0)}},
            "features['image'] has numbers in row 0;",
        ),
        ({"params": BM3Params.defaults()}, "params is a BM3Params; VBPR needs VBPRParams"),
    ],
)
def test_what_makes_no_model_is_refused(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=r"\A[^\n]*\Z") as caught:
        VBPR.from_tensors(**inputs(**changes))
    assert expected in str(caught.value)


def test_parameters_that_skipped_their_checks_are_refused() -> None:
    params = replace(VBPRParams.defaults(), embedding_size=0)
    with pytest.raises(UserError, match=r"^params: embedding_size=0: expected a number in \[1, inf\)"):
        VBPR.from_tensors(params, **inputs())


def test_integers_of_numpy_and_torch_are_integers() -> None:
    sizes = {"n_users": np.int64(N_USERS), "n_items": torch.tensor(N_ITEMS), "seed": np.uint32(3)}
    params = VBPRParams.defaults(embedding_size=np.int64(3), reg_weight=np.float32(0.5))
    model = VBPR.from_tensors(params, **inputs(**sizes))
    same = VBPR.from_tensors(VBPRParams.defaults(embedding_size=3, reg_weight=0.5), **inputs(seed=3))
    assert model.params == same.params
    assert torch.equal(model.user_embedding.weight, same.user_embedding.weight)


def test_what_is_not_given_is_the_default() -> None:
    model = VBPR.from_tensors(**inputs(features={"image": table(dtype=torch.float64)}))
    assert model.params == VBPRParams.defaults()
    assert model.raw_features["image"].dtype == torch.float32
    assert model.training
    assert model.graph_cache.folder is None
    overall = find_resource("properties/overall.yaml")
    assert overall
    known = read_yaml(overall) | {"seed": 2020}  # RecBole's
    for name, argument in inspect.signature(VBPR.from_tensors).parameters.items():
        if name in ("seed", "missing_modality"):
            assert argument.default == known[name], name


def test_missing_features_become_the_mean_if_asked() -> None:
    features = table(1) + table(2, 3.0)
    model = VBPR.from_tensors(**inputs(features={"image": features}, missing_modality="mean"))
    assert model.features.image[:, 0].tolist() == [0.0, 1.0, 3.0, 2.0, 2.0]


def test_the_global_generator_draws_on_as_before() -> None:
    torch.manual_seed(5)
    expected = [torch.rand(1), torch.rand(1)]
    torch.manual_seed(5)
    found = [torch.rand(1)]
    with seeded(11, torch.device("cpu")):
        inside = torch.rand(1)
    found.append(torch.rand(1))
    assert found == expected
    assert torch.equal(inside, torch.rand(1, generator=torch.Generator().manual_seed(11)))


def test_a_model_has_no_constructor_of_its_own() -> None:
    with pytest.raises(
        TypeError, match=r"Other: from_tensors does not call __init__; write build\(\) instead"
    ):

        class Other(VBPR):
            def __init__(self) -> None:
                pass

    class Unbuilt(MultimodalRecommender):
        params_class = VBPRParams

        def forward(self) -> UserItem:
            raise AssertionError

        def loss_terms(self, interaction: Any) -> dict[str, torch.Tensor]:
            raise AssertionError

    with pytest.raises(TypeError, match=r"abstract method .?build"):
        Unbuilt.from_tensors(**inputs())
