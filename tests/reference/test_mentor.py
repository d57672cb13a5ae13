"""MENTOR against its equations, written as loops."""

from __future__ import annotations

from itertools import combinations
from math import exp, log2
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_siger.errors import UserError
from recbole_siger.model.layers import sign_noise
from recbole_siger.model.moments import moment_gap
from recbole_siger.training.experiment import Experiment
from tests.conftest import N_ITEMS, N_USERS, make_experiment, make_toy
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

SHARES = {
    ("image", "text"): [0.3, 0.7],
    ("image", "text", "audio"): [0.3, 0.35, 0.35],
    ("text",): [1.0],
}
ALIGN, CONTRAST, PENALTY = 0.7, 1.3, 0.11


# ---- the twins


def noisy(x: Array, eps: float, delta: Array) -> Array:
    """x + ε sign(x) ⊙ norm(Δ), row by row."""
    moved = []
    for row, noise in zip(x, delta, strict=True):
        size = twins.length(noise)
        moved.append([a + eps * np.sign(a) * b / size for a, b in zip(row, noise, strict=True)])
    return np.array(moved)


def moments(table: Array) -> tuple[float, float]:
    """Mean and variance of all entries, by sums."""
    entries = table.flatten().tolist()
    mean = sum(entries) / len(entries)
    return mean, sum((a - mean) ** 2 for a in entries) / len(entries)


def gap(*tables: Array) -> float:
    total = 0.0
    for a, b in combinations(tables, 2):
        (mean_a, var_a), (mean_b, var_b) = moments(a), moments(b)
        total += abs(mean_a - mean_b) + abs(var_a - var_b)
    return total


def first_layer(n: dict[str, Array], name: str, features: Array) -> Array:
    """norm([P; f(X)]) of one encoder."""
    hidden = twins.linear(features, n[f"{name}.inner.weight"], n[f"{name}.inner.bias"])
    hidden = np.array([[a if a > 0 else 0.01 * a for a in row] for row in hidden.tolist()])
    content = twins.linear(hidden, n[f"{name}.outer.weight"], n[f"{name}.outer.bias"])
    return twins.unit(np.concatenate([n[f"{name}.preference"], content]))


class Twin:
    """The encodings of one model: dense graphs, loops over modalities."""

    def __init__(self, experiment: Experiment, modalities: tuple[str, ...]) -> None:
        self.p, self.n, self.modalities = experiment.model.params, numbers(experiment), modalities
        edges = training_edges(experiment)
        interactions = twins.interactions(edges, N_USERS, N_ITEMS)
        self.adjacency = twins.normalized(twins.bipartite_adjacency(interactions))
        raw = {m: x.double().numpy() for m, x in experiment.model.raw_features.items()}
        self.item_graph = np.zeros((N_ITEMS, N_ITEMS))
        for m, share in zip(modalities, SHARES[modalities], strict=True):
            neighbors = twins.knn(raw[m], self.p.n_semantic_neighbors, "one")
            self.item_graph += share * twins.normalized(neighbors)

    def summed(self, x: Array, deltas: list[Array] | None = None) -> Array:
        """The sum of layers 0 to L; with noise, layer l has noise and goes into layer l + 1."""
        total = layer = x
        for number in range(self.p.n_ui_layers):
            layer = twins.product(self.adjacency, layer)
            if deltas is not None:
                layer = noisy(layer, self.p.noise_eps, deltas[number])
            total = total + layer
        return total

    def near(self, item: Array) -> Array:
        return item + twins.item_semantics(self.item_graph, item, self.p.n_semantic_layers)

    def fused(self, tables: dict[str, Array]) -> tuple[Array, Array]:
        """Users with their weights, and items with what similar items add; modalities side by side."""
        weight, user, item = self.n["user_weight"], [], []
        for number, m in enumerate(self.modalities):
            rows = tables[m][:N_USERS]
            user.append(np.array([weight[u, number] * rows[u] for u in range(N_USERS)]))
            item.append(self.near(tables[m][N_USERS:]))
        return np.concatenate(user, axis=1), np.concatenate(item, axis=1)

    def first(self, group: str) -> dict[str, Array]:
        return {m: first_layer(self.n, f"{group}.{m}", self.n[f"features.{m}"]) for m in self.modalities}

    def final(self) -> tuple[Array, Array]:
        return self.fused({m: self.summed(x) for m, x in self.first("encoders").items()})

    def alignment(self) -> float:
        ids = first_layer(self.n, "id_encoder", self.n["item_embedding.weight"])
        singles = {"id": ids} | (self.first("encoders") if len(self.modalities) > 1 else {})
        views = [np.concatenate([side[1:].flatten() for side in self.final()])]
        for x in singles.values():
            table = self.summed(x)
            views.append(np.concatenate([table[1:N_USERS], self.near(table[N_USERS:])[1:]]))
        return gap(*views)

    def contrast(self, generator: torch.Generator, rows: tuple[Array, Array]) -> float:
        """The two views, with noise drawn in the order of the model: view, layer, then all tables at once."""
        views = []
        for number in range(2):
            first = self.first("encoders" if self.p.noise_shared else f"noise_encoders.{number}")
            shape = (N_USERS + N_ITEMS, len(self.modalities), self.p.embedding_size)
            drawn = [
                torch.rand(shape, generator=generator).double().numpy() for _ in range(self.p.n_ui_layers)
            ]
            tables = {}
            for place, m in enumerate(self.modalities):
                tables[m] = self.summed(first[m], [delta[:, place] for delta in drawn])
            views.append(self.fused(tables))
        return sum(
            twins.info_nce(query[ids], key[1:], self.p.cl_temperature, ids - 1)
            for query, key, ids in zip(*views, rows, strict=True)
        )


def build(tmp_path: Path, modalities: tuple[str, ...] = ("image", "text"), **options: Any) -> Experiment:
    values = {"image_weight": 0.3, "align_weight": ALIGN, "cl_weight": CONTRAST, "reg_weight": PENALTY}
    return scrambled(tmp_path, "MENTOR", modalities, **{**values, **options})


# ---- the model


@every_choice_of_modalities
@pytest.mark.parametrize(("shared", "rows"), [(False, "all"), (True, "batch")])
def test_scores_and_loss(tmp_path: Path, modalities: tuple[str, ...], shared: bool, rows: str) -> None:
    options = {"noise_shared": shared, "noise_rows": rows, "n_semantic_layers": 2 if shared else 1}
    experiment = build(tmp_path, modalities, **options)
    model, twin = experiment.model, Twin(experiment, modalities)
    user, item = twin.final()
    assert_scores(experiment, user, item)

    batch, users, pos, neg = batch_of(experiment)
    generator = torch.Generator()
    generator.set_state(model.generator.get_state())
    whole = np.arange(1, N_USERS), np.arange(1, N_ITEMS)
    margins = [sum(user[u] * (item[i] - item[j])) for u, i, j in zip(users, pos, neg, strict=True)]
    tables = [twin.n[f"encoders.{m}.preference"][users] for m in modalities] + [twin.n["user_weight"][1:]]
    expected = {
        "bpr": sum(log2(1 + exp(-margin)) for margin in margins) / len(margins),
        "alignment": ALIGN * twin.alignment(),
        "contrast": CONTRAST * twin.contrast(generator, whole if rows == "all" else (users, pos)),
        "regularization": PENALTY * sum(sum(a * a for a in t.flatten()) / t.size for t in tables),
    }
    model.train()
    assert_loss(model.loss_terms(batch), expected)


@pytest.mark.parametrize("n_modalities", [1, 2, 3])
def test_the_views_that_are_aligned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_modalities: int
) -> None:
    """E, the IDs and each modality: 3 pairs of moments for one more modality; with one, E and the IDs."""
    modalities = ("image", "text", "audio")[:n_modalities]
    seen: list[int] = []
    name = "recbole_siger.model.general_recommender.mentor.moment_gap"

    def counted(*tables: torch.Tensor) -> torch.Tensor:
        seen.append(len(tables))
        return tables[0].sum()

    monkeypatch.setattr(name, counted)
    model = make_experiment(tmp_path, "MENTOR", make_toy(modalities)).model
    batch = {"user_id": torch.tensor([3]), "item_id": torch.tensor([2]), "neg_item_id": torch.tensor([5])}
    model.loss_terms(batch)
    assert seen == [n_modalities + 2 if n_modalities > 1 else 2]


@pytest.mark.parametrize("shared", [False, True])
def test_how_the_contrast_reaches_the_scores(tmp_path: Path, shared: bool) -> None:
    """With encoders of its own, through the users' weights alone."""
    experiment = build(tmp_path, noise_shared=shared)
    model, (batch, *_) = experiment.model, batch_of(experiment)
    model.loss_terms(batch)["contrast"].backward()
    reached = {name for name, x in model.named_parameters() if x.grad is not None and x.grad.any()}
    ranking = {name for name, _ in model.named_parameters() if name.startswith("encoders.")}
    assert "user_weight" in reached
    assert reached & ranking == (ranking if shared else set())
    assert len(model.noise_encoders) == (0 if shared else 2)


def test_the_weights_of_users_start_as_shares_and_are_free(tmp_path: Path) -> None:
    model = make_experiment(tmp_path, "MENTOR").model
    start = model.user_weight.detach()
    assert start.shape == (N_USERS, 2)
    torch.testing.assert_close(start.sum(dim=1), torch.ones(N_USERS))
    assert start.std() > 0
    with torch.no_grad():
        model.user_weight.mul_(3)
    model.train()
    tripled = model.final_embeddings().user
    with torch.no_grad():
        model.user_weight.div_(3)
    torch.testing.assert_close(tripled, 3 * model.final_embeddings().user)


def test_features_are_frozen_and_each_row_of_layer_0_has_length_1(tmp_path: Path) -> None:
    model = make_experiment(tmp_path, "MENTOR", n_ui_layers=0).model
    assert not [name for name, _ in model.named_parameters() if name.startswith("features")]
    for table in model.encode(model.encoders):
        torch.testing.assert_close(table.norm(dim=1), torch.ones(N_USERS + N_ITEMS))


def test_a_wrong_number_of_shares_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"semantic_weights=\[0\.5\]: give one number each for image, text"):
        make_experiment(tmp_path, "MENTOR", semantic_weights=[0.5])


# ---- the shared pieces


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), eps=st.floats(0, 2), n_tables=st.integers(2, 4))
def test_noise_and_moments(seed: int, eps: float, n_tables: int) -> None:
    rng = np.random.default_rng(seed)
    tables = [rng.normal(rng.normal(), 2, size=(rng.integers(1, 7), 5)) for _ in range(n_tables)]
    tables[0][0, 1] = 0
    found = moment_gap(*map(torch.from_numpy, tables))
    assert found.item() == pytest.approx(gap(*tables), rel=1e-9, abs=1e-12)
    generator = torch.Generator().manual_seed(seed)
    delta = torch.rand(tables[0].shape, generator=generator, dtype=torch.float64).numpy()
    moved = sign_noise(torch.from_numpy(tables[0]), eps, generator=generator.manual_seed(seed))
    np.testing.assert_allclose(moved.numpy(), noisy(tables[0], eps, delta), rtol=1e-9, atol=1e-12)


def test_noise_has_a_length_and_keeps_signs_and_gradients() -> None:
    x = torch.randn(13, 7, 5, generator=torch.Generator().manual_seed(1), requires_grad=True)
    moved = sign_noise(x, 0.3)
    torch.testing.assert_close((moved - x).norm(dim=-1), torch.full((13, 7), 0.3))
    assert ((moved - x) * x >= 0).all()
    moved.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.ones_like(x))


def test_copies_of_a_table_have_its_moments() -> None:
    table, other = torch.randn(11, 3, dtype=torch.float64), torch.randn(7, 5, dtype=torch.float64)
    copies = torch.cat([table] * 3, dim=1)
    assert moment_gap(copies, other).item() == pytest.approx(moment_gap(table, other).item(), rel=1e-12)
    assert moment_gap(copies, table).item() == pytest.approx(0, abs=1e-12)
    assert torch.autograd.gradcheck(lambda t: moment_gap(t, other), table.requires_grad_())


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"two or more tables with entries, got \[\(2, 3\)\]"):
        moment_gap(torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"\(2, 3\), \(0, 3\)"):
        moment_gap(torch.ones(2, 3), torch.ones(0, 3))
    with pytest.raises(ValueError, match="eps must be at least 0, got -1"):
        sign_noise(torch.ones(2, 3), -1)
