"""SLMRec against its equations, written as loops."""

from __future__ import annotations

from math import exp, log
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_siger.model.general_recommender.slmrec import SLMRec
from recbole_siger.model.loss import info_nce
from recbole_siger.testing import check_model
from recbole_siger.training.experiment import Experiment
from tests.conftest import N_ITEMS, N_USERS, make_experiment, score_table
from tests.reference import twins
from tests.reference.baselines import (
    Array,
    assert_loss,
    assert_scores,
    batch_of,
    every_choice_of_modalities,
    numbers,
    scrambled,
    training_edges,
)

FAC_ORDER: dict[tuple[str, ...], list[str | None]] = {
    ("image", "text"): ["image", None, "text"],
    ("image", "text", "audio"): ["image", "audio", "text"],
    ("text",): ["text"],
}


def inner_nce(query: Array, key: Array, temperature: float) -> float:
    """Cross entropy of inner products; row i of the keys is the positive of query i."""
    total = 0.0
    for i, q in enumerate(query):
        logit = [sum(a * b for a, b in zip(q.tolist(), k.tolist(), strict=True)) / temperature for k in key]
        total -= log(exp(logit[i]) / sum(map(exp, logit)))
    return total / len(query)


def layer(n: dict[str, Array], name: str, x: Array) -> Array:
    return twins.linear(x, n[f"{name}.weight"], n[f"{name}.bias"])


def encoded_by_hand(experiment: Experiment, n: dict[str, Array]) -> tuple[list[Array], Array, Array]:
    """Z_0 to Z_M, ``(N, d)`` each, and the final users and items."""
    edges, n_layers = training_edges(experiment), experiment.model.params.n_ui_layers
    users, parts = n["user_embedding.weight"], [n["item_embedding.weight"]]
    for m in experiment.model.modalities:
        parts.append(layer(n, f"projections.{m}", twins.unit(n[f"features.{m}"])))
    z = [twins.lightgcn(edges, N_USERS, N_ITEMS, np.concatenate([users, part]), n_layers) for part in parts]
    wide = np.concatenate(z, axis=1)
    user, item = wide[:N_USERS], wide[N_USERS:]
    return z, layer(n, "user_fusion", user), layer(n, "item_fusion", item)


def test_inner_products_by_hand() -> None:
    """Logits 6 and 4 of the first query, 0 and 10 of the second."""
    query, key = torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 0.0], [2.0, 5.0]])
    expected = (log(1 + exp(-2)) + log(1 + exp(-10))) / 2
    assert info_nce(query, key, 1.0, cosine=False).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("chunk_size", [3, 128])
def test_inner_products(seed: int, chunk_size: int) -> None:
    query, key = torch.randn(2, 11, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = info_nce(query, key, 0.5, cosine=False, chunk_size=chunk_size)
    assert found.item() == pytest.approx(inner_nce(query.numpy(), key.numpy(), 0.5), rel=1e-9)


@every_choice_of_modalities
@pytest.mark.parametrize("dedup", [False, True])
def test_scores_and_loss(tmp_path: Path, modalities: tuple[str, ...], dedup: bool) -> None:
    options = {"align_weight": 0.7, "align_temperature": 0.9, "temperature": 0.3, "reg_weight": 0.11}
    experiment = scrambled(tmp_path, "SLMRec", modalities, contrast_dedup=dedup, **options)
    model, n = experiment.model, numbers(experiment)
    z, user, item = encoded_by_hand(experiment, n)
    assert_scores(experiment, user, item)

    batch, users, pos, neg = batch_of(experiment)
    assert len(neg) == 0
    assert len(np.unique(pos)) < len(pos)
    items, target = np.unique(pos, return_inverse=True) if dedup else (pos, np.arange(len(pos)))
    order = FAC_ORDER[modalities]
    query, alignment = z[0][N_USERS:][items], 0.0
    for k, m in enumerate(order):
        query = layer(n, f"chain.{k}", query)
        if m is not None:
            key = layer(n, f"heads.{m}", z[1 + modalities.index(m)][N_USERS:][items])
            alignment += inner_nce(query, key, 0.9)
    assert query.shape[1] == (7 if len(modalities) == 1 else 3)
    expected = {
        "contrast": twins.info_nce(user[users], item[items], 0.3, target),
        "alignment": 0.7 * alignment,
        "regularization": 0.11 / 2 * sum((x.detach().double() ** 2).sum().item() for x in model.parameters()),
    }
    assert_loss(model.loss_terms(batch), expected)


def test_the_penalty_is_the_weight_decay_of_adam(tmp_path: Path) -> None:
    """One model has the penalty, the other Adam's decay; both have equal parameters after two steps."""
    found = []
    for number, (reg_weight, decay) in enumerate([(0.3, 0.0), (0.0, 0.3)]):
        experiment = scrambled(tmp_path / str(number), "SLMRec", ("image", "text"), reg_weight=reg_weight)
        model = experiment.model
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=decay)
        for _ in range(2):
            optimizer.zero_grad()
            torch.stack(model.calculate_loss(batch_of(experiment)[0])).sum().backward()
            optimizer.step()
        found.append(torch.cat([x.detach().flatten() for x in model.parameters()]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_the_loss_without_the_penalty_reaches_every_parameter() -> None:
    check_model("SLMRec", options={"reg_weight": 0.0}, checks=["parameters_learn_or_are_frozen"])


def test_large_scores_are_not_tied(tmp_path: Path) -> None:
    """The sigmoid of these scores is 1 in float32 for many items of a user; the model ranks them apart."""
    experiment = scrambled(tmp_path, "SLMRec", ("image", "text"))
    with torch.no_grad():
        for fusion in (experiment.model.user_fusion, experiment.model.item_fusion):
            fusion.weight.mul_(30)
    scores = score_table(experiment)[1:, 1:]
    assert max(int((row.sigmoid() == 1).sum()) for row in scores) > 5
    assert all(len(row.unique()) == N_ITEMS - 1 for row in scores)


def test_evaluation_sees_the_last_step(tmp_path: Path) -> None:
    """The public code evaluates the tables of the last loss, from before the last step."""
    experiment = make_experiment(tmp_path, "SLMRec")
    model, optimizer = experiment.model, experiment.trainer.optimizer
    model.train()
    torch.stack(model.calculate_loss(batch_of(experiment)[0])).sum().backward()
    optimizer.step()
    found = score_table(experiment)
    with torch.no_grad():
        user, item = model.forward()
    torch.testing.assert_close(found, user @ item.T)


def test_large_inner_products_have_a_finite_loss_and_gradient() -> None:
    """Logits of 10^4 overflow an exponential whose maximum is not subtracted first."""
    query = torch.tensor([[100.0, 0.0], [0.0, 50.0]], requires_grad=True)
    key = torch.tensor([[10.0, 1.0], [0.0, 20.0]], requires_grad=True)
    loss = info_nce(query, key, 0.1, cosine=False)
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert query.grad is not None
    assert query.grad.isfinite().all()
    worse = info_nce(query.detach().flip(0), key, 0.1, cosine=False)
    assert worse.item() == pytest.approx((10_000 - 0 + 10_000 - 500) / 2, rel=1e-6)


def test_an_item_without_a_feature_gets_the_bias(tmp_path: Path) -> None:
    model = scrambled(tmp_path, "SLMRec", ("image", "text")).model
    missing = (model.raw_features["image"] == 0).all(dim=1)
    assert missing.sum() > 2
    content = model.content("image")
    assert content.isfinite().all()
    assert (content[missing] == model.projections["image"].bias).all()
    longer = torch.where(missing[:, None], 0.0, 7 * model.features.image)
    model.features.image.copy_(longer)  # only the direction counts
    torch.testing.assert_close(model.content("image"), content)


def test_other_names_follow_in_the_order_of_the_dataset() -> None:
    edges = torch.tensor([[1, 2, 3], [1, 2, 1]])
    features = {
        name: torch.ones(3, 2) * torch.tensor([[0.0], [1.0], [1.0]]) for name in ("b", "text", "a", "image")
    }
    model = SLMRec.from_tensors(n_users=4, n_items=3, train_edges=edges, features=features)
    assert model.aligned == ["image", "text", "b", "a"]
