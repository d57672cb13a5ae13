"""DA-MRS against its equations, written as loops."""

from __future__ import annotations

from collections import Counter
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_siger.errors import UserError
from recbole_siger.graph.co_occurrence import co_occurrence_graph
from recbole_siger.graph.knn import consistent_graphs, consistent_rows, mean_cosine
from recbole_siger.model.general_recommender.damrs import DAMRS, DAMRSParams
from recbole_siger.model.loss import bernoulli_divergence, neighbor_discrimination
from recbole_siger.training.experiment import Experiment
from tests.conftest import N_ITEMS, N_USERS, make_experiment, score_table
from tests.reference import twins
from tests.reference.baselines import (
    Array,
    assert_loss,
    assert_scores,
    batch_of,
    every_choice_of_modalities,
    scrambled,
    training_edges,
)

LFM2K = Path(__file__).parents[3] / "shared" / "data" / "lfm2k"


def threshold(x: Array) -> float:
    """The mean cosine of all pairs of items that have a feature."""
    there = [row for row in x if row.any()]
    return sum(twins.cosine(a, b) for a in there for b in there) / len(there) ** 2


def consistent(features: dict[str, Array], k: int) -> dict[str, Array]:
    """For each item the nearest among those that no modality refuses; a missing feature refuses nothing."""
    n_items = len(next(iter(features.values())))
    limits = {m: threshold(x) for m, x in features.items()}

    def refused(m: str, i: int, j: int) -> bool:
        x = features[m]
        return bool(x[i].any() and x[j].any() and twins.cosine(x[i], x[j]) < limits[m] - 1e-12)

    graphs = {m: np.zeros((n_items, n_items)) for m in features}
    for i in range(n_items):
        kept = [j for j in range(n_items) if not any(refused(m, i, j) for m in features)]
        for m, x in features.items():
            ranking = [
                (j != i, -round(twins.cosine(x[i], x[j]), 9), j) for j in kept if x[i].any() and x[j].any()
            ]
            for _, _, j in sorted(ranking)[:k]:
                graphs[m][i, j] = 1
    return graphs


def session(edges: Array, n_users: int, n_items: int, k: int = 2) -> Array:
    """Each item, and the ``k`` with most common users, at least two."""
    together = twins.co_occurrence(edges, n_users, n_items, k, min_count=2)
    graph = (together > 0).astype(float)
    for i in range(1, n_items):
        graph[i, i] = 1
    return graph


def top(values: list[float], k: int, without: frozenset[int] = frozenset()) -> frozenset[int]:
    order = sorted((j for j in range(len(values)) if j not in without), key=lambda j: -values[j])
    return frozenset(order[:k])


def discrimination(views: list[Array], items: Array, k: int, tau: float) -> float:
    """AI: neighbours in all views, and in one view among the others."""
    total = 0.0
    for i in items.tolist():
        cosines = [[twins.cosine(view[i], row) for row in view] for view in views]
        chances = [[exp(c) / sum(map(exp, row)) for c in row] for row in cosines]
        for row, chance in zip(cosines, chances, strict=True):
            common = top([sum(column) + own for *column, own in zip(*chances, chance, strict=True)], k)
            single = top(chance, k, without=common)
            power = [exp(c / tau) for c in row]
            inside, everything = sum(power[j] for j in common), sum(power)
            alone = sum(power[j] for j in single)
            total -= log(inside / everything + 1e-9) + log(alone / (everything - inside) + 1e-9)
    return total / len(items) / len(views)


def sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x))


def divergence(user: Array, item: Array, other: Array) -> float:
    """AU: both Kullback-Leibler divergences of Bernoulli variables, written out."""
    total = 0.0
    for u in user:
        for i, o in zip(item, other, strict=True):
            p, q = sigmoid(float(u @ i)), sigmoid(float(u @ o))
            total += p * log(p / q) + (1 - p) * log((1 - p) / (1 - q))
            total += q * log(q / p) + (1 - q) * log((1 - q) / (1 - p))
    return total / len(user) / len(item)


def weights(user: Array, views: list[Array], pos: Array, neg: Array) -> tuple[list[float], list[float]]:
    """w+ and w- of each row of a batch; ``user`` is ``(B, d)``, ``pos`` and ``neg`` are ids."""

    def beliefs(items: Array) -> list[list[float]]:
        return [
            [sigmoid(float(u @ twins.unit(view[i : i + 1])[0])) for view in views]
            for u, i in zip(user, items.tolist(), strict=True)
        ]

    flat = [value for row in beliefs(neg) for value in row]
    t, trust, doubt = sum(flat) / len(flat), [], []
    for row in beliefs(pos):
        mean = sum(row) / len(row)
        variance = sum((value - mean) ** 2 for value in row) / (len(row) - 1)
        trust.append(mean * exp(-2 * variance))
        doubt.append(min(max(max(row) - t, 0), 1) if mean < t else 0.0)
    return trust, doubt


# ---- graphs


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), k=st.integers(1, 7))
def test_consistent_graphs(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    features = {"image": rng.normal(size=(13, 3)), "text": rng.normal(size=(13, 5)), "a": rng.random((13, 2))}
    for x, rows in zip(features.values(), ([0, 4], [0, 5, 4], [0]), strict=True):
        x[rows] = 0
    tables = {m: torch.from_numpy(x) for m, x in features.items()}
    found, expected = consistent_graphs(tables, k), consistent(features, k)
    assert list(found) == list(features)
    for m, graph in found.items():
        np.testing.assert_array_equal(graph.to_dense().numpy(), expected[m])
        assert mean_cosine(tables[m]) == pytest.approx(threshold(features[m]), abs=1e-12)


def test_blocks_do_not_change_the_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    tables = {
        "image": torch.randn(31, 3, generator=generator),
        "text": torch.rand(31, 2, generator=generator),
    }
    for x in tables.values():
        x[[0, 7, 8, 9, 10, 11]] = 0
    expected = {m: graph.to_dense() for m, graph in consistent_graphs(tables, 5).items()}
    monkeypatch.setattr("recbole_siger.graph.knn.CROSS_BYTES", 3 * 8 * 31)
    for m, graph in consistent_graphs(tables, 5).items():
        assert torch.equal(graph.to_dense(), expected[m])


def test_consistent_graphs_by_hand() -> None:
    """Items 1 and 3 agree in both modalities, 1 and 2 only in image, 2 and 4 only in text; 5 has no image."""
    image = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [0.0, 1.0], [0.0, 0.0]])
    text = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [2.0, 0.0]])
    found = consistent_graphs({"image": image, "text": text}, k=3)
    assert found["image"].indices().T.tolist() == [[1, 1], [1, 3], [2, 2], [3, 1], [3, 3], [4, 4]]
    loops = [[1, 1], [2, 2], [3, 3], [4, 4], [5, 5]]
    assert sorted(found["text"].indices().T.tolist()) == sorted(
        [*loops, [1, 3], [3, 1], [1, 5], [3, 5], [5, 1], [5, 3]]
    )


def test_rows_outside_the_tables_have_the_edges_of_the_graph() -> None:
    """One item is left out and asked again, with the thresholds of the other items."""
    rng = torch.Generator().manual_seed(5)
    features = {"image": torch.randn(17, 3, generator=rng), "text": torch.randn(17, 5, generator=rng)}
    for x in features.values():
        x[0] = 0
    known, new = ({m: x[part] for m, x in features.items()} for part in (slice(16), slice(16, 17)))
    found = consistent_rows(new, known, 4)
    limits = {m: threshold(x.double().numpy()) for m, x in known.items()}
    for m in features:
        cosines = {
            name: [twins.cosine(x[16].double().numpy(), row) for row in x[:16].double().numpy()]
            for name, x in features.items()
        }
        kept = [j for j in range(1, 16) if all(cosines[name][j] >= limits[name] for name in features)]
        nearest = sorted(kept, key=lambda j: -cosines[m][j])[:3]
        assert found[m].tolist() == [[0] * (1 + len(nearest)), [16, *nearest]]


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"image": torch.ones(3, 2), "text": torch.ones(3, 2, dtype=torch.int64)}, "non-empty float matrix"),
        (
            {"image": torch.ones(3, 2), "text": torch.ones(5, 2)},
            "image 3 and text 5 items; use tables of equal",
        ),
    ],
)
def test_wrong_features_are_refused(features: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        consistent_graphs(features, 2)


def test_an_edge_is_needed() -> None:
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        consistent_graphs({"text": torch.ones(3, 2)}, 0)


def lfm2k() -> tuple[dict[str, torch.Tensor], torch.Tensor, int]:
    """Features and training edges, with a padding row before the items and before the users."""
    if not LFM2K.is_dir():
        pytest.skip(f"skips the graphs of lfm2k: {LFM2K} is not there")
    features = {}
    for m, name in (("text", "text_feat"), ("vggish", "vggish")):
        x = torch.from_numpy(np.load(LFM2K / f"{name}.npy"))
        features[m] = torch.cat([torch.zeros_like(x[:1]), x])
    table = pd.read_csv(LFM2K / "lfm2k.inter", sep="\t")
    train = table.loc[table["x_label"] == 0, ["userID", "itemID"]].to_numpy() + 1
    return features, torch.from_numpy(train.T.copy()), int(table["userID"].max()) + 2


def test_the_counts_of_the_consistent_graphs_of_lfm2k() -> None:
    features, _, _ = lfm2k()
    n_items = len(features["text"]) - 1
    assert mean_cosine(features["text"]) == pytest.approx(0.499363, abs=5e-7)
    assert mean_cosine(features["vggish"]) == pytest.approx(0.967452, abs=5e-7)
    found = consistent_graphs(features, 10)
    assert [graph._nnz() for graph in found.values()] == [13_965, 13_965]
    per_item = torch.bincount(found["text"].indices()[0], minlength=n_items + 1)[1:]
    assert int((per_item < 10).sum()) == 48
    assert consistent_graphs(features, n_items)["vggish"]._nnz() == 656_639


def test_the_counts_of_the_session_graph_of_lfm2k() -> None:
    features, edges, n_users = lfm2k()
    n_items = len(features["text"])
    graph = co_occurrence_graph(edges, n_users, n_items, 2, min_count=2)
    assert graph._nnz() + n_items - 1 == 4_255
    history: dict[int, list[int]] = {}
    for user, item in set(map(tuple, edges.T.tolist())):
        history.setdefault(user, []).append(item)
    together: dict[int, Counter[int]] = {}
    for items in history.values():
        for i in items:
            together.setdefault(i, Counter()).update(j for j in items if j != i)
    counts = [sorted(c.values(), reverse=True) for c in together.values()]
    assert sum(len(c) > 2 and c[1] == c[2] >= 2 for c in counts) == 617


# ---- losses


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("chunk_size", [3, 128])
def test_bernoulli_divergence(seed: int, chunk_size: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    user, item, other = (torch.randn(n, 5, generator=generator, dtype=torch.float64) for n in (7, 11, 11))
    found = bernoulli_divergence(user, item, other, chunk_size=chunk_size)
    assert found.item() == pytest.approx(divergence(user.numpy(), item.numpy(), other.numpy()), rel=1e-9)
    made = [x.requires_grad_() for x in (user, item, other)]
    assert torch.autograd.gradcheck(lambda *x: bernoulli_divergence(*x, chunk_size=chunk_size), made)


def test_the_divergence_of_large_logits_is_finite() -> None:
    """The logarithm of 1 - p is -inf here, and its product with 1 - p is NaN."""
    user, item = torch.tensor([[30.0]]), torch.tensor([[30.0], [-30.0]])
    user.requires_grad_()
    item.requires_grad_()
    loss = bernoulli_divergence(user, item, torch.zeros(2, 1))
    loss.backward()
    assert loss.item() == pytest.approx(0.5 * 900)
    assert user.grad is not None
    assert user.grad.isfinite().all()
    assert item.grad is not None
    assert item.grad.isfinite().all()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("chunk_size", [2, 128])
@pytest.mark.parametrize("n_views", [1, 3])
def test_neighbor_discrimination(seed: int, chunk_size: int, n_views: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    views = [torch.randn(13, 5, generator=generator, dtype=torch.float64) for _ in range(n_views)]
    items, k, tau = torch.tensor([3, 0, 12, 7, 5]), 3, 0.7
    expected = discrimination([view.numpy() for view in views], items.numpy(), k, tau)
    found = neighbor_discrimination(views, items, k, tau, chunk_size=chunk_size)
    assert found.item() == pytest.approx(expected, rel=1e-9)
    made = [view.requires_grad_() for view in views]

    def loss(*tables: torch.Tensor) -> torch.Tensor:
        return neighbor_discrimination(tables, items, k, tau, chunk_size=chunk_size)

    assert torch.autograd.gradcheck(loss, made)


def test_neighbor_discrimination_of_many_items() -> None:
    """Float32 rows of 64 k items and more are ranked by another method on a CPU."""
    generator = torch.Generator().manual_seed(0)
    views = [torch.randn(301, 5, generator=generator) for _ in range(2)]
    items = torch.tensor([17, 300, 4])
    expected = discrimination([view.numpy() for view in views], items.numpy(), 3, 0.7)
    assert neighbor_discrimination(views, items, 3, 0.7).item() == pytest.approx(expected, rel=1e-5)


def test_neighbor_discrimination_by_hand() -> None:
    """T is the item and its copy, O the orthogonal item and one of the opposite items."""
    view = torch.tensor([[1.0, 0.0], [5.0, 0.0], [0.0, 1.0], [-2.0, 0.0], [-3.0, 0.0]])
    others = 1 + 2 * exp(-1)
    expected = -log(2 * exp(1) / (2 * exp(1) + others)) - log((1 + exp(-1)) / others)
    found = neighbor_discrimination([view], torch.tensor([0]), 2, 1.0)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_a_low_temperature_is_finite() -> None:
    view = torch.randn(13, 5, generator=torch.Generator().manual_seed(1), requires_grad=True)
    loss = neighbor_discrimination([view], torch.arange(7), 3, 1e-2)
    loss.backward()
    assert loss.isfinite()
    assert view.grad is not None
    assert view.grad.isfinite().all()


def test_wrong_arguments_of_the_losses_are_refused() -> None:
    view, item = torch.ones(7, 3), torch.tensor([1])
    with pytest.raises(ValueError, match=r"k must be in \[1, 3\], half of the 7 items, got 4"):
        neighbor_discrimination([view], item, 4, 0.2)
    with pytest.raises(ValueError, match="expected views of one shape"):
        neighbor_discrimination([view, view[1:]], item, 2, 0.2)
    with pytest.raises(ValueError, match="temperature must be finite and > 0, got 0"):
        neighbor_discrimination([view], item, 2, 0)
    with pytest.raises(ValueError, match="chunk_size must be at least 1, got 0"):
        neighbor_discrimination([view], item, 2, 0.2, chunk_size=0)
    with pytest.raises(ValueError, match=r"expected shapes \(B, d\), \(n, d\) and \(n, d\)"):
        bernoulli_divergence(view, view, view[1:])
    with pytest.raises(ValueError, match="chunk_size must be at least 1, got 0"):
        bernoulli_divergence(view, view, view, chunk_size=0)


# ---- the model


@every_choice_of_modalities
def test_scores_and_loss(tmp_path: Path, modalities: tuple[str, ...]) -> None:
    options = {"divergence_weight": 0.7, "neighbor_weight": 0.3, "neighbor_temperature": 0.4}
    sizes = {
        "n_discriminated": 4,
        "n_semantic_neighbors": 5,
        "n_session_neighbors": 3,
        "n_semantic_layers": 2,
    }
    experiment = scrambled(tmp_path, "DAMRS", modalities, **sizes, **options)
    model, n, edges = experiment.model, numbers_of(experiment), training_edges(experiment)
    ids = n["item_embedding.weight"]
    nodes = np.concatenate([n["user_embedding.weight"], ids])
    behavior = twins.lightgcn(edges, N_USERS, N_ITEMS, nodes, model.params.n_ui_layers)
    graphs = consistent({m: x.double().numpy() for m, x in model.raw_features.items()}, 5)
    assert all(graph.sum() > N_ITEMS for graph in graphs.values())
    graphs["session"] = session(edges, N_USERS, N_ITEMS, 3)
    views = [twins.item_semantics(twins.normalized(graph), ids, 2) for graph in graphs.values()]
    mean = np.mean(views, axis=0)
    user_table, item_table = behavior[:N_USERS], behavior[N_USERS:]
    final = item_table + mean
    assert_scores(experiment, user_table, final)

    batch, user, pos, neg = batch_of(experiment)
    rows = user_table[user]
    trust, doubt = weights(rows, views, pos, neg)
    assert any(doubt)
    gap = (rows * (final[pos] - final[neg])).sum(1)
    denoised = [w * log(sigmoid(g)) + d * log(sigmoid(-g)) for w, d, g in zip(trust, doubt, gap, strict=True)]
    items = np.unique(np.concatenate([pos, neg]))
    tables = twins.unit(item_table[items]), twins.unit(mean[items])
    expected = {
        "bpr": -sum(denoised) / len(denoised),
        "divergence": 0.7 * divergence(user_table[np.unique(user)], *tables),
        "neighbors": 0.3 * discrimination([view[1:] for view in views], items - 1, 4, 0.4),
    }
    assert_loss(model.loss_terms(batch), expected)


def numbers_of(experiment: Experiment) -> dict[str, Array]:
    """Every parameter in float64; the model has no table of features."""
    state = experiment.model.state_dict()
    return {name: value.detach().double().numpy() for name, value in state.items()}


def test_weights_by_hand() -> None:
    """Beliefs 1/2 and 3/4 in a liked item: mean 5/8, variance 1/32; no other item is believed more."""
    model = DAMRS.from_tensors(DAMRSParams.defaults(n_discriminated=1), **small())
    users, threes = torch.tensor([[0.0], [log(3)]]), torch.tensor([[0.0], [1.0], [-1.0]])
    views = [torch.tensor([[0.0], [0.0], [-1.0]]), threes]
    ids = [torch.tensor([1]), torch.tensor([1]), torch.tensor([2])]
    trust, doubt = model.weights(users, views, *ids)
    assert trust.item() == pytest.approx(5 / 8 * exp(-2 / 32))
    assert doubt.item() == 0
    # The same item as a negative of itself, and an item that the views dislike: 3/4 - mean of 1/4, 1/4 < 0.
    trust, doubt = model.weights(users, views, ids[0], ids[2], ids[1])
    assert trust.item() == pytest.approx(1 / 4)
    assert doubt.item() == 0  # max 1/4 is below the threshold 5/8
    views = [torch.tensor([[0.0], [0.0], [-1.0]]), torch.tensor([[0.0], [1.0], [1.0]])]
    trust, doubt = model.weights(users, views, ids[0], ids[2], ids[1])
    # Beliefs 1/4 and 3/4: mean 1/2 < 5/8, so the feedback is doubted by 3/4 - 5/8; variance 1/8.
    assert trust.item() == pytest.approx(1 / 2 * exp(-2 / 8))
    assert doubt.item() == pytest.approx(1 / 8)
    assert not trust.requires_grad


def small() -> dict[str, Any]:
    table = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 1.0], [0.3, 1.0]])
    edges = torch.tensor([[1, 2, 3], [1, 2, 3]])
    return {"n_users": 5, "n_items": 4, "train_edges": edges, "features": {"text": table}}


def test_too_few_items_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"^DAMRS: n_discriminated=2: the dataset has 3 items; set .* to 1 or"
    ):
        DAMRS.from_tensors(DAMRSParams.defaults(n_discriminated=2), **small())


def test_a_modality_cannot_have_the_name_of_the_session_view() -> None:
    values = small()
    values["features"] = {"session": values["features"]["text"]}
    with pytest.raises(UserError, match="a modality is named 'session'"):
        DAMRS.from_tensors(DAMRSParams.defaults(n_discriminated=1), **values)


def test_items_without_a_feature_have_no_edges_and_finite_losses(tmp_path: Path) -> None:
    """Cosines of a row of zeros are NaN in the public code, and such items become each other's neighbours."""
    experiment = make_experiment(tmp_path, "DAMRS")
    model = experiment.model
    missing = (model.raw_features["image"] == 0).all(dim=1).nonzero().flatten()
    graph = model.build_consistent_graphs()["image"].to_dense()
    assert len(missing) > 2
    assert not graph[missing].any()
    assert not graph[:, missing].any()
    text = model.build_consistent_graphs()["text"].to_dense()
    assert (text[missing[1:]].sum(dim=1) > 1).any()
    terms = model.loss_terms(batch_of(experiment)[0])
    assert all(term.isfinite() for term in terms.values())
    assert score_table(experiment).isfinite().all()


def test_one_comparison_gives_all_graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(*arguments: Any) -> Any:
        calls.append(1)
        return consistent_graphs(*arguments)

    monkeypatch.setattr("recbole_siger.model.general_recommender.damrs.consistent_graphs", counted)
    make_experiment(tmp_path, "DAMRS", cache_dir="none")
    assert len(calls) == 1
