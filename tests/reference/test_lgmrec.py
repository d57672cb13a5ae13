"""LGMRec against its equations, written as loops."""

from __future__ import annotations

from itertools import combinations
from math import exp, isclose
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_siger.model.hypergraph import directions, hypergraph
from recbole_siger.model.layers import unit_rows
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

OPTIONS = {"n_hyperedges": 5, "hyper_temperature": 0.7, "hyper_noise": "none", "hyper_keep": 1.0}
OPTIONS |= {"n_ui_layers": 1, "n_semantic_layers": 2}


def softmax(row: Array) -> Array:
    powers = [exp(value) for value in row.tolist()]
    return np.array([power / sum(powers) for power in powers])


def over_hyperedges(items: Array, users: Array, x: Array, n_layers: int) -> tuple[Array, Array]:
    """C = H_i^T B, u = H_u C, B = H_i C, nothing normalised."""
    for _ in range(n_layers):
        edges = twins.product(items.T, x)
        x = twins.product(items, edges)
    return twins.product(users, edges), x


def memberships(logit: Array) -> Array:
    """The softmax of each row but the padding."""
    return np.stack([np.zeros(logit.shape[1]), *(softmax(row / 0.7) for row in logit[1:])])


def encoded_by_hand(experiment: Experiment) -> tuple[Array, Array, dict[str, tuple[Array, Array]]]:
    """Final users and items, and the outputs of the hyperedges by modality."""
    model, n, edges = experiment.model, numbers(experiment), training_edges(experiment)
    p = model.params
    history = twins.interactions(edges, N_USERS, N_ITEMS)
    graph = twins.normalized(twins.bipartite_adjacency(history))
    ids = np.concatenate([n["user_embedding.weight"], n["item_embedding.weight"]])
    behavior = twins.layer_mean(graph, ids, p.n_ui_layers)
    final, of_edges, gathered = behavior.copy(), np.zeros(behavior.shape), {}
    for m in model.modalities:
        content = twins.product(n[f"features.{m}"], n[f"projections.{m}.weight"].T)
        nodes = np.concatenate([twins.product(twins.row_normalized(history), content), content])
        final += twins.unit(twins.item_semantics(graph, nodes, p.n_semantic_layers))
        logit = twins.product(n[f"features.{m}"], n[f"hyper_maps.{m}.weight"].T)
        item_edges, user_edges = memberships(logit), memberships(twins.product(history, logit))
        gathered[m] = over_hyperedges(item_edges, user_edges, behavior[N_USERS:], p.n_hyper_layers)
        of_edges += np.concatenate(gathered[m])
    final += p.hyper_weight * twins.unit(of_edges)
    return final[:N_USERS], final[N_USERS:], gathered


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), n_layers=st.integers(1, 4))
def test_hypergraph(seed: int, n_layers: int) -> None:
    rng = np.random.default_rng(seed)
    items, users, x = rng.random((7, 3)), rng.random((11, 3)), rng.normal(size=(7, 5))
    tables = [torch.from_numpy(table) for table in (items, users, x)]
    found = hypergraph(tables[0], tables[1], tables[2], n_layers)
    for mine, expected in zip(found, over_hyperedges(items, users, x, n_layers), strict=True):
        scale = (3 / 7) ** n_layers  # the numbers grow as (7 / 3)^L
        np.testing.assert_allclose(mine.numpy() * scale, expected * scale, rtol=1e-4, atol=1e-6)


def test_hypergraph_by_hand() -> None:
    """Items 2 and 4 share the first of two hyperedges: 2 + 4 = 6, which each of them gets."""
    x, items = torch.tensor([[2.0], [4.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    user, item = hypergraph(items, torch.tensor([[0.5, 0.5]]), x, n_layers=1)
    assert (user.tolist(), item.tolist()) == ([[3.0]], [[6.0], [6.0]])


def test_items_behind_the_sources_take_and_do_not_give() -> None:
    rng = torch.Generator().manual_seed(3)
    items, users, x = (torch.rand(n, 3, generator=rng) for n in (13, 5, 13))
    found = hypergraph(items, users, x, n_layers=3, n_sources=7)
    alone = hypergraph(items[:7], users, x[:7], n_layers=3)
    assert torch.equal(found.user, alone.user)
    torch.testing.assert_close(found.item[:7], alone.item)
    assert found.item[7:].abs().min() > 0


@pytest.mark.parametrize("shapes", [((7, 3), (11, 2), (7, 5)), ((7, 3), (11, 3), (5, 7))])
def test_wrong_shapes_of_hyperedges_are_refused(shapes: tuple[tuple[int, int], ...]) -> None:
    items, users, x = map(torch.ones, shapes)
    with pytest.raises(ValueError, match=r"expected shapes \(I, K\), \(U, K\) and \(I, d\), got \(7, 3\)"):
        hypergraph(items, users, x, 1)


def test_sources_are_items() -> None:
    with pytest.raises(ValueError, match=r"n_sources must be in \[1, 7\], got 0"):
        hypergraph(torch.ones(7, 3), torch.ones(11, 3), torch.ones(7, 5), 1, n_sources=0)


def test_a_hyper_layer_is_needed() -> None:
    with pytest.raises(ValueError, match="n_layers must be at least 1, got 0"):
        hypergraph(torch.ones(7, 3), torch.ones(11, 3), torch.ones(7, 5), 0)


def test_many_layers_keep_their_directions() -> None:
    """The squares of these numbers are infinite in float32."""
    generator = torch.Generator().manual_seed(1)
    items = torch.rand(30_011, 2, generator=generator).softmax(dim=1)
    x = torch.randn(30_011, 3, generator=generator) + 0.1
    found = directions(hypergraph(items, items[:7], x, n_layers=6).item)
    exact = x.double()
    for _ in range(6):
        exact = items.double() @ (items.double().T @ exact)
    assert exact.abs().max() > 1e20
    torch.testing.assert_close(found.double(), unit_rows(exact), rtol=1e-3, atol=1e-3)


def test_autocast_does_not_reach_the_sums_over_items() -> None:
    """The sums over items keep the 24 bits of float32."""
    items, users, x = (torch.rand(n, 3, generator=torch.Generator().manual_seed(n)) for n in (1009, 7, 1009))
    expected = hypergraph(items, users, x, n_layers=2)
    with torch.autocast("cpu", torch.bfloat16):
        found = hypergraph(items, users, x, n_layers=2)
    assert torch.equal(found.item, expected.item)
    assert torch.equal(found.user, expected.user)


@every_choice_of_modalities
@pytest.mark.parametrize("n_hyper_layers", [1, 3])
def test_scores_and_loss(tmp_path: Path, modalities: tuple[str, ...], n_hyper_layers: int) -> None:
    options = {**OPTIONS, "cl_weight": 0.7, "cl_temperature": 0.3, "reg_weight": 0.11}
    experiment = scrambled(tmp_path, "LGMRec", modalities, n_hyper_layers=n_hyper_layers, **options)
    final_user, final_item, gathered = encoded_by_hand(experiment)
    assert_scores(experiment, final_user, final_item)

    batch, user, pos, neg = batch_of(experiment)
    u, i, j = final_user[user], final_item[pos], final_item[neg]
    expected = {
        "bpr": twins.bpr((u * i).sum(1), (u * j).sum(1)),
        "regularization": 0.11 * twins.norms(u, i, j),
    }
    pairs = list(combinations(modalities, 2))
    if pairs:
        total = 0.0
        for a, b in pairs:
            for side, rows in enumerate((user, pos)):
                query, key = gathered[a][side][rows], gathered[b][side][1:]
                total += len(rows) * twins.info_nce(query, key, 0.3, rows - 1)
        expected["contrast"] = 0.7 * total / len(pairs)
    experiment.model.train()
    assert_loss(experiment.model.loss_terms(batch), expected)


def test_rows_near_zero_are_divided_by_the_shortest_length(tmp_path: Path) -> None:
    """Public code divides by max(length, 1e-12), so the rows of any length have a gradient."""
    options = {**OPTIONS, "n_ui_layers": 2, "n_hyper_layers": 2, "cl_weight": 1.0}
    experiment = scrambled(tmp_path, "LGMRec", ("image", "text"), **options)
    model, batch = experiment.model, batch_of(experiment)[0]
    masks = {
        m: (torch.rand(model.n_items, 5) < 0.5, torch.rand(model.n_users, 5) < 0.5) for m in model.modalities
    }
    steep = {m: (60 * model.hyper_maps[m].weight).detach().double() for m in model.modalities}
    wanted = {m: weight.clone().requires_grad_() for m, weight in steep.items()}
    history = torch.from_numpy(twins.interactions(training_edges(experiment), N_USERS, N_ITEMS)).double()

    def shares(logit: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        share = (logit / 0.7).softmax(dim=1) * kept
        return torch.cat([share[:1] * 0, share[1:]])

    behavior, views = model.encode_behavior().item.detach().double(), []
    for m in model.modalities:
        logit = model.raw_features[m].double() @ wanted[m].T
        items, users, x = shares(logit, masks[m][0]), shares(history @ logit, masks[m][1]), behavior
        for _ in range(2):
            edges = items.T @ x
            x = items @ edges
        views.append((users @ edges, x))
    lengths = torch.cat([x.norm(dim=1) for view in views for x in view])
    assert ((lengths > 0) & (lengths < 1e-12)).any()
    assert ((lengths > 1e-12) & (lengths < 1e-9)).any()
    expected = torch.zeros(())
    for side, key in enumerate(("user_id", "item_id")):
        queries, keys = (torch.nn.functional.normalize(view[side]) for view in views)
        logits = queries[batch[key]] @ keys[1:].T / model.params.cl_temperature
        expected = expected + torch.nn.functional.cross_entropy(logits, batch[key] - 1, reduction="sum")
    expected.backward()

    model.train()
    kept = iter([mask for m in model.modalities for mask in reversed(masks[m])])  # users first
    model.share_out = lambda logit: shares(logit, next(kept)).to(logit.dtype)
    with torch.no_grad():
        for m in model.modalities:
            model.hyper_maps[m].weight.copy_(steep[m])
    model.loss_terms(batch)["contrast"].backward()
    for m in model.modalities:
        found = model.hyper_maps[m].weight.grad.double()
        torch.testing.assert_close(found, wanted[m].grad, rtol=1e-3, atol=1e-5)


def test_evaluation_has_no_noise_unless_asked(tmp_path: Path) -> None:
    """The public code draws Gumbel noise in evaluations, so that two of them differ."""
    tables: dict[str, list[torch.Tensor]] = {}
    for noise in ("train", "always"):
        experiment = make_experiment(tmp_path, "LGMRec", hyper_noise=noise)
        model, before = experiment.model.eval(), experiment.model.generator.get_state()
        tables[noise] = []
        for _ in range(2):
            model.train()
            tables[noise].append(score_table(experiment))
        assert torch.equal(model.generator.get_state(), before) is (noise == "train")
    assert torch.equal(tables["train"][0], tables["train"][1])
    assert not torch.allclose(tables["always"][0], tables["always"][1], rtol=1e-3)


def test_training_draws_gumbel_noise_and_drops_memberships(tmp_path: Path) -> None:
    """The largest of logits with Gumbel noise is each with the probability of its softmax."""
    model = make_experiment(tmp_path, "LGMRec", hyper_temperature=0.01, hyper_keep=0.8).model
    logit = torch.tensor([[0.0, 1.0, -0.5]]).expand(40_001, 3)
    model.train()
    share = model.share_out(logit)
    assert not share[0].any()
    best = share[1:].argmax(dim=1)[share.amax(dim=1)[1:] > 0.7]  # the largest is kept
    frequency = torch.bincount(best, minlength=3) / len(best)
    torch.testing.assert_close(frequency, logit[0].softmax(dim=0), rtol=0, atol=0.01)
    # At a low temperature a row has one share, which is 0 or 1 / 0.8.
    assert share[1:].sum(dim=1).mean().item() == pytest.approx(1.0, abs=0.01)
    assert isclose(share.max().item(), 1 / 0.8, rel_tol=1e-5)


def test_the_padding_item_is_in_no_hyperedge(tmp_path: Path) -> None:
    """Features of zeros have equal shares of all hyperedges; the row of the padding item must not."""
    experiment = scrambled(tmp_path, "LGMRec", ("image", "text"), **OPTIONS)
    before = score_table(experiment)
    with torch.no_grad():
        experiment.model.item_embedding.weight[0] += 100
    experiment.model.train()
    assert torch.equal(score_table(experiment)[1:, 1:], before[1:, 1:])


def test_an_item_without_a_feature_is_finite(tmp_path: Path) -> None:
    experiment = scrambled(tmp_path, "LGMRec", ("image",), **OPTIONS)
    missing = (experiment.model.raw_features["image"] == 0).all(dim=1)
    missing[0] = False
    shares = experiment.model.hyperedges("image").item[missing]
    torch.testing.assert_close(shares, torch.full_like(shares, 1 / 5))
    assert score_table(experiment).isfinite().all()
