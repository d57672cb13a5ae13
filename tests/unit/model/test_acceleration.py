"""RecBole's graph models compute the same with our sparse product; nobody else is touched."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recbole_siger.model.acceleration import accelerate
from tests.conftest import N_ITEMS, N_USERS, first_batch, make_experiment

GRAPHS = {"LightGCN": "norm_adj_matrix", "NCL": "norm_adj_mat"}


def pair(tmp_path: Path, name: str) -> tuple[nn.Module, nn.Module, Any]:
    """A model as RecBole makes it, the same one accelerated, and a training batch."""
    experiment = make_experiment(tmp_path, name, embedding_size=7)
    plain = experiment.config.model_class(experiment.config, experiment.train_data._dataset)
    fast = copy.deepcopy(plain)
    accelerate(fast)
    if name == "NCL":  # what its E-step would find; clustering is no matter here
        generator = torch.Generator().manual_seed(3)
        for side, size in (("user", N_USERS), ("item", N_ITEMS)):
            centres = torch.randn(5, 7, generator=generator)
            cluster = torch.randint(5, (size,), generator=generator)
            for model in (plain, fast):
                setattr(model, f"{side}_centroids", centres)
                setattr(model, f"{side}_2cluster", cluster)
    return plain, fast, first_batch(experiment)


def flat(outputs: Any) -> list[Tensor]:
    """The tensors of nested tuples and lists, in order."""
    if isinstance(outputs, Tensor):
        return [outputs]
    return [tensor for output in outputs for tensor in flat(output)]


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_model_computes_the_same(tmp_path: Path, name: str) -> None:
    plain, fast, batch = pair(tmp_path, name)
    assert isinstance(getattr(plain, GRAPHS[name]), Tensor)
    assert not isinstance(getattr(fast, GRAPHS[name]), Tensor)
    results = []
    for model in (plain, fast):
        outputs = flat(model.forward())
        losses = flat(model.calculate_loss(batch))
        sum(loss.sum() for loss in losses).backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        assert all(gradient.any() for gradient in gradients)
        with torch.no_grad():
            results.append([*outputs, *losses, *gradients, model.full_sort_predict(batch)])
    assert len(results[0]) > 4
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", GRAPHS)
def test_what_is_saved_stays_the_same(tmp_path: Path, name: str) -> None:
    plain, fast, _ = pair(tmp_path, name)
    assert plain.state_dict().keys() == fast.state_dict().keys()
    assert [n for n, _ in plain.named_parameters()] == [n for n, _ in fast.named_parameters()]


def test_an_experiment_accelerates(tmp_path: Path) -> None:
    model = make_experiment(tmp_path, "LightGCN", embedding_size=7).model
    assert not isinstance(model.norm_adj_matrix, Tensor)


def test_another_use_of_the_graph_is_an_error_and_no_wrong_number(tmp_path: Path) -> None:
    _, fast, _ = pair(tmp_path, "LightGCN")
    table = torch.ones(N_USERS + N_ITEMS, 7)
    for use in (torch.mm, torch.add, torch.matmul):
        with pytest.raises(TypeError):
            use(fast.norm_adj_matrix, table)


@pytest.mark.parametrize("name", ["BPR", "NGCF", "SIGER"])
def test_other_models_are_left_alone(tmp_path: Path, name: str) -> None:
    model = make_experiment(tmp_path, name).model
    before = dict(vars(model))
    accelerate(model)
    assert vars(model).keys() == before.keys()
    assert all(vars(model)[key] is value for key, value in before.items())


def test_a_namesake_is_left_alone() -> None:
    graph = torch.eye(3).to_sparse()
    namesake = type("LightGCN", (), {"__module__": "elsewhere"})()
    namesake.norm_adj_matrix = graph
    accelerate(namesake)
    assert namesake.norm_adj_matrix is graph
