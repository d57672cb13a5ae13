"""SIGER as a whole against the slow twins, and what each of its options changes and leaves alone."""

from __future__ import annotations

import gc
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_siger.data.features import has_feature
from recbole_siger.errors import UserError
from recbole_siger.graph.knn import semantic_graph
from recbole_siger.graph.normalize import normalize_adjacency
from recbole_siger.testing.experiments import graphs_of
from recbole_siger.training.experiment import Experiment
from tests.conftest import (
    BATCH,
    N_ITEMS,
    N_USERS,
    WIDTHS,
    first_batch,
    make_experiment,
    make_toy,
    score_table,
    train_steps,
)
from tests.reference import twins

# Weights of one order, so that no term hides behind another, and different numbers for what could be swapped.
VISIBLE = {
    "cl_weight": 0.3,
    "align_weight": 0.7,
    "reg_weight": 0.11,
    "cl_temperature": 0.31,
    "anchor_temperature": 0.23,
    "align_temperature": 0.17,
    "noise_eps": 0.4,
}


def build(tmp_path: Path, **options: Any) -> Experiment:
    return make_experiment(tmp_path, "SIGER", **VISIBLE | options)


def fixed_batch(experiment: Experiment) -> Interaction:
    """The same batch for every experiment on the same training rows, whatever was drawn before."""
    rng = np.random.default_rng(11)
    edges = experiment.train_data._dataset.train_edges
    chosen = torch.from_numpy(rng.choice(edges.shape[1], BATCH, replace=False))
    negatives = torch.from_numpy(rng.integers(1, N_ITEMS, BATCH))
    return Interaction({"user_id": edges[0, chosen], "item_id": edges[1, chosen], "neg_item_id": negatives})


def losses(experiment: Experiment) -> dict[str, Tensor]:
    return experiment.model.loss_terms(fixed_batch(experiment))


def values(terms: dict[str, Tensor]) -> dict[str, float]:
    return {name: term.item() for name, term in terms.items()}


# ---- the whole loss, Eq. 19


def encoded_by_hand(experiment: Experiment, toy_edges: np.ndarray) -> tuple[np.ndarray, dict, dict]:
    """Behaviour ``(N, d)``, clean semantics ``{m: (users, items)}`` and two views ``{m: [items, items]}``."""
    model, p = experiment.model, experiment.model.params
    state = {name: value.double().numpy() for name, value in model.state_dict().items()}
    user, item = state["user_embedding.weight"], state["item_embedding.weight"]
    behavior = twins.lightgcn(toy_edges, N_USERS, N_ITEMS, np.concatenate([user, item]), p.n_ui_layers)
    bipartite = twins.normalized_bipartite(twins.interactions(toy_edges, N_USERS, N_ITEMS))
    co_graph = twins.co_occurrence(
        toy_edges, N_USERS, N_ITEMS, p.n_co_neighbors, p.min_co_occurrence, p.co_tie_break
    )
    generator = torch.Generator().manual_seed(experiment.config.run.seed)  # draws what the model will draw
    semantics, views = {}, {}
    for m in model.modalities:
        features = model.raw_features[m].double().numpy()
        graph = twins.eisg(co_graph, twins.semantic(features, p.n_semantic_neighbors), p.co_weight)
        layers = (
            state[f"gates.{m}.{layer}.{kind}"] for layer in ("inner", "outer") for kind in ("weight", "bias")
        )
        start = item * twins.gate(features, *layers)
        clean = twins.item_semantics(graph, start, p.n_semantic_layers)
        semantics[m] = twins.product(bipartite, clean), clean
        views[m] = [start, start]
        for _ in range(p.n_semantic_layers):
            views[m] = [perturbed_by_hand(twins.product(graph, x), p.noise_eps, generator) for x in views[m]]
    return behavior, semantics, views


def perturbed_by_hand(x: np.ndarray, eps: float, generator: torch.Generator) -> np.ndarray:
    """Eq. 12 without the padding row."""
    delta = torch.rand(len(x) - 1, x.shape[1], generator=generator).double().numpy()
    order = torch.randperm(len(x) - 1, generator=generator).numpy()
    return np.concatenate([x[:1], twins.perturbed(x[1:], eps, delta, order)])


def contrast_by_hand(kind: str, rows: np.ndarray, query: np.ndarray, key: np.ndarray, *rest: Any) -> float:
    """One contrastive loss of the distinct ``rows``; negatives are those, or all but the padding."""
    *anchor, tau, negatives = rest
    keys, target = (key[rows], np.arange(len(rows))) if negatives == "batch" else (key[1:], rows - 1)
    return getattr(twins, kind)(query[rows], keys, *(a[rows] for a in anchor), tau, target)


@pytest.mark.parametrize("negatives", ["batch", "full"])
@pytest.mark.parametrize("modalities", [("image", "text"), ("image", "text", "audio"), ("text",)])
def test_the_loss_of_a_batch_is_eq_19(tmp_path: Path, modalities: tuple[str, ...], negatives: str) -> None:
    experiment = build(
        tmp_path, toy=make_toy(modalities), contrast_negatives=negatives, n_ui_layers=3, co_weight=0.35
    )
    model, p = experiment.model, experiment.model.params
    edges = experiment.train_data._dataset.train_edges.numpy()
    behavior, semantics, views = encoded_by_hand(experiment, edges)
    batch = first_batch(experiment)
    user, pos, neg = (batch[key].numpy() for key in ("user_id", "item_id", "neg_item_id"))
    users, items = np.unique(user), np.unique(pos)
    assert len(users) < len(user)  # some id is repeated, and counts once

    b = {"user": behavior[:N_USERS], "item": behavior[N_USERS:]}
    s = {side: [semantics[m][n] for m in modalities] for n, side in enumerate(("user", "item"))}
    fused = {side: sum(tables) / len(tables) for side, tables in s.items()}
    u, i, j = b["user"][user] + fused["user"][user], *((b["item"] + fused["item"])[x] for x in (pos, neg))
    expected = {
        "bpr": twins.bpr((u * i).sum(1), (u * j).sum(1)),
        "perturbation": p.cl_weight
        * sum(
            contrast_by_hand("info_nce", items, *views[m], p.cl_temperature, negatives) for m in modalities
        ),
        "behavior_alignment": p.align_weight
        * sum(
            contrast_by_hand("info_nce", rows, fused[side], b[side], p.align_temperature, negatives)
            for side, rows in (("user", users), ("item", items))
        ),
        "regularization": p.reg_weight * twins.l2(u, i, j),
    }
    if len(modalities) > 1:
        pairs = [
            contrast_by_hand("anchor_info_nce", rows, x, y, b[side], p.anchor_temperature, negatives)
            for side, rows in (("user", users), ("item", items))
            for x, y in combinations(s[side], 2)
        ]
        n_pairs = len(pairs) / 2
        expected["modality_alignment"] = p.align_weight * sum(pairs) / n_pairs

    found = values(model.loss_terms(batch))
    assert found == pytest.approx(expected, rel=2e-5)
    scores = (b["user"] + fused["user"]) @ (b["item"] + fused["item"]).T
    np.testing.assert_allclose(score_table(experiment), scores, rtol=1e-4, atol=1e-6)  # Eq. 18


# ---- ablations


def test_the_graphs_are_there_to_be_checked(tmp_path: Path) -> None:
    names = {name.removesuffix(".transposed") for name in graphs_of(build(tmp_path).model)}
    assert names == {"norm_adj", "user_items", "eisg.image", "eisg.text"}


def ablated(
    tmp_path: Path, ablation: str, **options: Any
) -> tuple[dict[str, float], dict[str, float], list[str]]:
    """Loss terms of SIGER and of the variant, and the names of the graphs that differ."""
    whole, variant = build(tmp_path, **options), build(tmp_path, ablation=ablation, **options)
    graphs, others = graphs_of(whole.model), graphs_of(variant.model)
    differing = [name for name in graphs if not np.array_equal(graphs[name], others[name])]
    return values(losses(whole)), values(losses(variant)), differing


def changed(one: dict[str, float], other: dict[str, float]) -> set[str]:
    return {name for name in one if name not in other or one[name] != pytest.approx(other[name], rel=1e-6)}


def test_without_mp_there_is_no_perturbation(tmp_path: Path) -> None:
    whole, variant, graphs = ablated(tmp_path, "mp")
    assert changed(whole, variant) == {"perturbation"}
    assert "perturbation" not in variant
    assert not graphs


def test_without_da_there_is_no_alignment(tmp_path: Path) -> None:
    whole, variant, graphs = ablated(tmp_path, "da")
    gone = {"modality_alignment", "behavior_alignment"}
    assert changed(whole, variant) == gone
    assert not gone & set(variant)
    assert not graphs


def test_without_the_modulus_only_the_perturbation_changes(tmp_path: Path) -> None:
    whole, variant, graphs = ablated(tmp_path, "mp_weight")
    assert changed(whole, variant) == {"perturbation"}
    assert variant["perturbation"] > 0
    assert not graphs


def test_without_the_anchor_the_modalities_are_contrasted_both_ways(tmp_path: Path) -> None:
    whole, variant, graphs = ablated(tmp_path, "anchor")
    assert changed(whole, variant) == {"modality_alignment"}
    assert not graphs

    experiment = build(tmp_path, ablation="anchor")
    model, batch = experiment.model, first_batch(experiment)
    found = values(model.loss_terms(batch))["modality_alignment"]
    with torch.no_grad():
        encoded, _ = model.encode_semantics()
    image, text = (encoded[m] for m in ("image", "text"))
    total, tau = 0.0, model.params.anchor_temperature
    for one, other, ids in ((image.user, text.user, "user_id"), (image.item, text.item, "item_id")):
        rows = np.unique(batch[ids].numpy())
        x, y, target = one.double().numpy()[rows], other.double().numpy()[rows], np.arange(len(rows))
        total += (twins.info_nce(x, y, tau, target) + twins.info_nce(y, x, tau, target)) / 2
    assert found == pytest.approx(model.params.align_weight * total, rel=1e-5)


def test_without_eisg_the_graph_is_the_semantic_one(tmp_path: Path) -> None:
    whole, variant, graphs = ablated(tmp_path, "eisg")
    assert {name.removesuffix(".transposed") for name in graphs} == {"eisg.image", "eisg.text"}
    assert whole.keys() == variant.keys()
    model = build(tmp_path, ablation="eisg").model
    for m, features in model.raw_features.items():
        expected = normalize_adjacency(semantic_graph(features, model.params.n_semantic_neighbors)).to_dense()
        np.testing.assert_array_equal(graphs_of(model)[f"eisg.{m}"], expected)


# ---- options


def test_one_modality_has_nothing_to_align_it_with(tmp_path: Path) -> None:
    assert set(losses(build(tmp_path, modalities=["text"]))) == {
        "bpr",
        "perturbation",
        "behavior_alignment",
        "regularization",
    }


def test_negatives_change_the_contrastive_terms_alone(tmp_path: Path) -> None:
    batch, full = (values(losses(build(tmp_path, contrast_negatives=n))) for n in ("batch", "full"))
    assert changed(batch, full) == {"perturbation", "modality_alignment", "behavior_alignment"}


@pytest.mark.parametrize(
    ("option", "term"),
    [
        ("cl_weight", "perturbation"),
        ("reg_weight", "regularization"),
    ],
)
def test_a_weight_scales_its_term(tmp_path: Path, option: str, term: str) -> None:
    once, twice = (values(losses(build(tmp_path, **{option: VISIBLE[option] * n}))) for n in (1, 2))
    assert changed(once, twice) == {term}
    assert twice[term] == pytest.approx(2 * once[term], rel=1e-6)


@pytest.mark.parametrize(
    ("option", "terms"),
    [
        ("cl_temperature", {"perturbation"}),
        ("anchor_temperature", {"modality_alignment"}),
        ("align_temperature", {"behavior_alignment"}),
        ("align_weight", {"modality_alignment", "behavior_alignment"}),
        ("noise_eps", {"perturbation"}),
    ],
)
def test_an_option_changes_its_terms_alone(tmp_path: Path, option: str, terms: set[str]) -> None:
    one, other = (values(losses(build(tmp_path, **{option: VISIBLE[option] * n}))) for n in (1, 2))
    assert changed(one, other) == terms


@pytest.mark.parametrize("detach", [True, False])
def test_the_modulus_changes_gradients_and_no_loss(tmp_path: Path, detach: bool) -> None:
    terms, gradients = [], []
    for value in (True, detach):
        experiment = build(tmp_path, detach_modulus=value)
        term = losses(experiment)["perturbation"]
        term.backward()
        terms.append(term.item())
        gradients.append(experiment.model.item_embedding.weight.grad)
    assert terms[0] == terms[1]
    assert torch.equal(*gradients) == detach


def test_features_are_frozen_unless_asked_for(tmp_path: Path) -> None:
    frozen, trained = (build(tmp_path, train_features=value).model for value in (False, True))
    ours = {f"features.{m}" for m in frozen.modalities}
    names = {name for name, _ in frozen.named_parameters()}
    assert not ours & names
    assert {name for name, _ in trained.named_parameters()} == names | ours
    assert not ours & set(frozen.state_dict())  # nor are they saved
    for m in trained.modalities:
        assert getattr(trained.features, m).shape == (N_ITEMS, WIDTHS[m])


def test_trained_features_get_gradients_and_leave_the_graphs(tmp_path: Path) -> None:
    experiment = build(tmp_path, train_features=True)
    model = experiment.model
    raw = {m: x.clone() for m, x in model.raw_features.items()}
    torch.stack(list(losses(experiment).values())).sum().backward()
    for m in model.modalities:
        assert getattr(model.features, m).grad.any()
    train_steps(experiment, 3)
    for m, x in raw.items():
        assert torch.equal(model.raw_features[m], x)
        assert not torch.equal(getattr(model.features, m), x)


def feature_tensors() -> dict[int, int]:
    """Return the bytes of each tensor that has the shape of the toy's features, by address."""
    shapes = {(N_ITEMS, WIDTHS[m]) for m in ("image", "text")}
    found = (one for one in gc.get_objects() if issubclass(type(one), Tensor) and one.layout == torch.strided)
    return {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in found if x.shape in shapes}


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("bfloat16", 2)])
def test_features_are_kept_once_in_the_type_asked_for(tmp_path: Path, dtype: str, size: int) -> None:
    """Dataset, model and the requests of the graph cache share one tensor for each modality."""
    gc.collect()  # a tensor of another test that dies later may give its address to a tensor of this test
    before = feature_tensors()
    experiment = build(tmp_path, feature_dtype=dtype)
    train_steps(experiment, 1)
    (graph,) = (one for one in experiment.model.graph_cache.requests if one.kind == "co_occurrence")
    experiment.model.graph_cache.again(graph)
    gc.collect()
    kept = {address: n for address, n in feature_tensors().items() if address not in before}
    assert sum(kept.values()) == size * N_ITEMS * (WIDTHS["image"] + WIDTHS["text"])
    assert len(kept) == 2


def test_graphs_are_built_from_the_rounded_features(tmp_path: Path) -> None:
    model = build(tmp_path, feature_dtype="bfloat16", co_weight=0.0).model
    for m, features in model.raw_features.items():
        assert features.dtype == torch.bfloat16
        expected = semantic_graph(features.float(), model.params.n_semantic_neighbors)
        np.testing.assert_array_equal(graphs_of(model)[f"eisg.{m}"], normalize_adjacency(expected).to_dense())


def test_trained_features_have_no_few_bits(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^feature_dtype='bfloat16': trained features are float32"):
        build(tmp_path, feature_dtype="bfloat16", train_features=True)


def test_missing_features_are_zero_or_the_mean_and_never_an_edge(tmp_path: Path) -> None:
    zero, mean = (build(tmp_path, missing_modality=policy).model for policy in ("zero", "mean"))
    graphs, others = graphs_of(zero), graphs_of(mean)
    assert all(np.array_equal(graphs[name], others[name]) for name in graphs)
    for m, raw in zero.raw_features.items():
        missing = ~has_feature(raw)
        assert missing[1:].any()
        assert torch.equal(getattr(zero.features, m), raw)
        filled, missing[0] = getattr(mean.features, m), False
        torch.testing.assert_close(
            filled[missing], raw[1:][~missing[1:]].mean(0).expand(int(missing.sum()), -1)
        )
        assert torch.equal(filled[~missing], raw[~missing])


def test_repeated_interactions_change_nothing(tmp_path: Path) -> None:
    toy = make_toy()
    once = build(tmp_path / "once", toy=toy)
    twice = build(tmp_path / "twice", toy=replace(toy, train=toy.train + toy.train[:37]))
    assert twice.model.train_edges.shape[1] == once.model.train_edges.shape[1] + 37
    graphs, others = graphs_of(once.model), graphs_of(twice.model)
    assert all(np.array_equal(graphs[name], others[name]) for name in graphs)
    assert torch.equal(score_table(once), score_table(twice))
    batch = fixed_batch(once)
    assert values(once.model.loss_terms(batch)) == values(twice.model.loss_terms(batch))


def test_a_padding_row_is_never_a_negative(tmp_path: Path) -> None:
    """Whatever the padding embedding is, no loss sees it."""
    for negatives in ("batch", "full"):
        experiment = build(tmp_path, contrast_negatives=negatives)
        other = build(tmp_path, contrast_negatives=negatives)
        with torch.no_grad():
            for table in (other.model.user_embedding, other.model.item_embedding):
                table.weight[0] = 100.0
        assert values(losses(experiment)) == values(losses(other))
