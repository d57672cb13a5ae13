"""SCALE's encoder, graphs and loss against their twins, Eqs. 6-13."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_siger.errors import UserError
from recbole_siger.graph.blocks import combine_graphs, join_blocks
from recbole_siger.model.relations import Relations
from recbole_siger.testing.experiments import graphs_of
from recbole_siger.training.experiment import Experiment
from recbole_siger.training.memory import estimate
from tests.conftest import N_ITEMS, N_USERS, make_experiment, make_toy, start_epoch
from tests.reference import scale, twins
from tests.reference.baselines import Array, assert_loss, assert_scores, batch_of, training_edges

SPARSITY = {"user_sparsity": 2, "user_item_sparsity": 3, "item_sparsity": 4}
SMALL = {"n_candidates": 11, "n_semantic_neighbors": 2, **SPARSITY}


def scaled(tmp_path: Path, modalities: tuple[str, ...] = ("text", "image"), **options: Any) -> Experiment:
    """Build SCALE with large random embeddings, and begin an epoch."""
    experiment = make_experiment(tmp_path, "SCALE", make_toy(modalities), **{**SMALL, **options})
    generator = torch.Generator().manual_seed(13)
    with torch.no_grad():
        for parameter in experiment.model.parameters():
            parameter.normal_(std=0.4, generator=generator)
    start_epoch(experiment)
    return experiment


def blocks_by_hand(experiment: Experiment, text: str = "text") -> tuple[dict[str, Array], dict[str, Array]]:
    """The subspace and the similarity graphs, users being the mean of their items' texts."""
    p, raw = experiment.model.params, experiment.model.raw_features
    features = {m: x.double().numpy() for m, x in raw.items()}
    item = features[text]
    user = scale.mean_of_items(item, training_edges(experiment), N_USERS).astype(np.float32)
    pairs = {"uu": (user, user), "ui": (user, item), "ii": (item, item)}
    sparsity = {"uu": p.user_sparsity, "ui": p.user_item_sparsity, "ii": p.item_sparsity}
    subspace = {
        name: scale.subspace(a, b, p.n_candidates, sparsity[name], name != "ui")
        for name, (a, b) in pairs.items()
    }
    k = p.n_semantic_neighbors
    similar = {name: scale.similarity(a, b, k, name != "ui") for name, (a, b) in pairs.items()}
    similar["ii"] = scale.combined([scale.similarity(x, x, k, True) for x in features.values()], p.combine)
    return subspace, similar


def semantic_graph_by_hand(experiment: Experiment, text: str = "text") -> Array:
    """Eq. 6, normalised."""
    p = experiment.model.params
    subspace, similar = blocks_by_hand(experiment, text)
    parts = {"sag": [similar], "fsg": [subspace]}.get(p.ablation, [subspace, similar])
    blocks = {name: scale.combined([part[name] for part in parts], p.combine) for name in similar}
    for name in {"inter": ("ui",), "intra": ("uu", "ii")}.get(p.ablation, ()):
        blocks[name] = np.zeros_like(blocks[name])
    return twins.normalized(scale.joined(blocks["uu"], blocks["ui"], blocks["ii"]))


def encoded_by_hand(experiment: Experiment, edges: Array) -> tuple[Array, Array]:
    """Both representations of all nodes, ``(N, d)`` each, on the user-item graph of ``edges``."""
    model, p = experiment.model, experiment.model.params
    z = torch.cat((model.user_embedding.weight, model.item_embedding.weight)).detach().double().numpy()
    behavior = twins.lightgcn(edges, N_USERS, N_ITEMS, z, p.n_ui_layers)
    return behavior, twins.item_semantics(semantic_graph_by_hand(experiment), z, p.n_semantic_layers)


@pytest.mark.parametrize("combine", ["union", "intersection"])
@pytest.mark.parametrize("n_semantic_layers", [1, 2])
def test_scores(tmp_path: Path, combine: str, n_semantic_layers: int) -> None:
    experiment = scaled(tmp_path, combine=combine, n_semantic_layers=n_semantic_layers)
    behavior, semantics = encoded_by_hand(experiment, training_edges(experiment))
    assert_scores(experiment, (behavior + semantics)[:N_USERS], (behavior + semantics)[N_USERS:])


@pytest.mark.parametrize("ablation", ["sag", "fsg", "inter", "intra", "llm"])
def test_the_graph_of_each_variant(tmp_path: Path, ablation: str) -> None:
    experiment = scaled(tmp_path, ablation=ablation)
    found = graphs_of(experiment.model)["semantic_graph"]
    np.testing.assert_allclose(found, semantic_graph_by_hand(experiment), rtol=1e-6)


@pytest.mark.parametrize("combine", ["union", "intersection"])
@pytest.mark.parametrize(("ablation", "text"), [("none", "audio"), ("llm", "text")])
def test_profiles_and_raw_texts_take_the_place_of_each_other(
    tmp_path: Path, ablation: str, text: str, combine: str
) -> None:
    """Neither variant has a graph of the other's texts."""
    options = {"item_profile": "audio", "ablation": ablation, "combine": combine}
    experiment = scaled(tmp_path, ("text", "image", "audio"), **options)
    assert set(experiment.model.modalities) == {text, "image"}
    found = graphs_of(experiment.model)["semantic_graph"]
    np.testing.assert_allclose(found, semantic_graph_by_hand(experiment, text), rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "subspace", "similar"),
    [
        ({}, "uu ui ii", "uu ui ii ii"),  # similar items: by text and by image
        ({"ablation": "sag"}, "", "uu ui ii ii"),
        ({"ablation": "fsg"}, "uu ui ii", ""),
        ({"ablation": "inter"}, "uu ui ii", "uu ii ii"),  # the relation alignment needs all subspace graphs
        ({"ablation": "intra"}, "uu ui ii", "ui"),
        ({"ablation": "intra", "relation_weight": 0.0}, "ui", "ui"),
        ({"ablation": "inter", "relation_weight": 0.0}, "uu ii", "uu ii ii"),
        ({"ablation": "relation"}, "uu ui ii", "uu ui ii ii"),
    ],
)
def test_a_variant_builds_only_the_graphs_that_it_uses(
    tmp_path: Path, options: dict[str, Any], subspace: str, similar: str
) -> None:
    model = scaled(tmp_path, **options).model
    built: dict[str, list[str]] = {"subspace": [], "similarity": []}
    for request in model.graph_cache.requests:
        sides = (len(request.tensors[name]) for name in ("queries", "atoms"))
        built[request.kind].append("".join({N_USERS: "u", N_ITEMS: "i"}[size] for size in sides))
    assert {kind: " ".join(names) for kind, names in built.items()} == {
        "subspace": subspace,
        "similarity": similar,
    }


@pytest.mark.parametrize("options", [{"relation_weight": 0.0}, {"ablation": "relation"}])
def test_without_relation_alignment_no_pair_is_kept_or_drawn(tmp_path: Path, options: dict[str, Any]) -> None:
    model = scaled(tmp_path / "without", **options).model
    assert model.relations == {}
    weighted = scaled(tmp_path / "with", relation_weight=0.05).model
    assert model.memory_terms(61).step < weighted.memory_terms(61).step
    assert torch.equal(model.semantic_graph.col, weighted.semantic_graph.col)


@pytest.mark.parametrize("ablation", ["none", "semantic", "relation", "sag"])
def test_loss(tmp_path: Path, ablation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pair once, two negatives each: those that are drawn are written down and used by hand."""
    weights = {"semantic_weight": 0.7, "relation_weight": 0.3, "relation_batch": 0, "n_relation_negatives": 2}
    experiment = scaled(tmp_path, ablation=ablation, **weights)
    drawn, draw = [], Relations.draw
    monkeypatch.setattr(Relations, "draw", lambda self, *a: drawn.append(draw(self, *a)) or drawn[-1])
    p = experiment.model.params
    kept = np.stack(np.nonzero(graphs_of(experiment.model)["pruned_adj"][:N_USERS, N_USERS:]))
    behavior, semantics = encoded_by_hand(experiment, kept)
    final = behavior + semantics
    sides = {"u": final[:N_USERS], "i": final[N_USERS:]}
    batch, users, pos, neg = batch_of(experiment)
    found = experiment.model.loss_terms(batch)

    u = sides["u"][users]
    expected = {"bpr": twins.bpr((u * sides["i"][pos]).sum(1), (u * sides["i"][neg]).sum(1))}
    if ablation != "semantic":
        nodes = [np.unique(users), N_USERS + np.unique(pos)]
        expected["semantic_alignment"] = 0.7 * sum(
            twins.info_nce(behavior[n], semantics[n], p.semantic_temperature, np.arange(len(n)))
            for n in nodes
        )
    if ablation != "relation":
        subspace, similar = blocks_by_hand(experiment)
        graphs = similar if ablation == "sag" else subspace
        total = 0.0
        for name, (row, column, others) in zip(("uu", "ui", "ii"), drawn, strict=True):
            assert {*zip(row.tolist(), column.tolist(), strict=True)} == {
                *zip(*np.nonzero(graphs[name]), strict=True)
            }
            left, right = sides[name[0]], sides[name[1]]
            total += scale.relation(left[row], right[column], right[others], p.relation_temperature)
        expected["relation_alignment"] = 0.3 * total
    assert_loss(found, expected)


def test_a_pair_has_any_other_column_as_negative() -> None:
    """Each of the columns that are left, and no other, about equally often."""
    table = torch.zeros(7, 7)
    table[3, [1, 5]] = 1
    table[2] = 1
    relations = Relations(table.to_sparse(), same=True)
    assert {*relations.row.tolist()} == {3}  # row 2 has no column left
    negatives = relations.draw(3000, 3, torch.Generator().manual_seed(1)).negatives
    found = torch.bincount(negatives.flatten(), minlength=7)
    assert found.nonzero().flatten().tolist() == [2, 4, 6]
    assert (found[[2, 4, 6]] / found.sum() - 1 / 3).abs().max() < 0.02
    between = Relations(table.to_sparse(), same=False)
    assert {*between.draw(900, 2, torch.Generator()).negatives[between.row[0] == 3].flatten().tolist()} <= {
        2,
        3,
        4,
        6,
    }


def test_pairs_are_drawn_uniformly(tmp_path: Path) -> None:
    relations = scaled(tmp_path).model.relations["ii"]
    drawn = relations.draw(50 * len(relations), 1, torch.Generator().manual_seed(3))
    counts = np.bincount((drawn.row * N_ITEMS + drawn.column).numpy())
    counts = counts[counts > 0]
    assert len(counts) == len(relations)
    assert counts.min() > 20
    assert counts.max() < 90


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: combine_graphs([x], "both"), "expected 'union' or 'intersection'"),
        (lambda x: combine_graphs([x, x.t()], "union"), "of graphs of one shape"),
        (lambda x: join_blocks(x, None, None, (2, 3)), r"expected a block of shape \(2, 2\), got \(2, 3\)"),
        (lambda x: join_blocks(None, None, None, (2, 3)), "expected at least one block"),
    ],
)
def test_refuses(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(torch.ones(2, 3).to_sparse())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"user_profile": "bio"},
            "user_profile='bio' is not a user feature; the dataset lists none; list the",
        ),
        ({"item_profile": "txt"}, "item_profile='txt' is not a modality in use; did you mean `text`"),
        ({"user_sparsity": 0}, r"user_sparsity=0: expected a number in \[1, inf\)"),
        (
            {"user_sparsity": 13},
            "user_sparsity=13 is more than n_candidates=11; lower user_sparsity",
        ),
        ({"combine": "both"}, "combine='both': expected one of 'union', 'intersection'"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        scaled(tmp_path, **options)


def with_user_profiles(
    tmp_path: Path, width: int = 13, without: Sequence[str] = (), **options: Any
) -> Experiment:
    """Build SCALE on users who have a profile; the rows of the file are in another order than the users."""
    folder = tmp_path / "dataset" / "toy"
    if not folder.exists():
        make_toy(("text", "image")).write(folder)
        users = [f"u{number:02}" for number in range(N_USERS - 1)][::-1]
        users = [user for user in users if user not in without]
        np.save(folder / "toy.bio.npy", np.random.default_rng(5).normal(size=(len(users), width)))
        (folder / "toy.bio.ids").write_text("".join(f"{user}\n" for user in users), encoding="utf-8")
    return make_experiment(tmp_path, "SCALE", user_features=["bio"], **{**SMALL, **options})


def test_user_profiles_decide_the_graph_and_are_kept_by_digest(tmp_path: Path) -> None:
    experiment = with_user_profiles(tmp_path)
    model = experiment.model
    dataset = experiment.dataset
    table = model.raw_user_features["bio"].double().numpy()
    file = np.load(tmp_path / "dataset" / "toy" / "toy.bio.npy")
    assert table[dataset.user_tokens.index("u03")] == pytest.approx(file[N_USERS - 2 - 3])
    item = model.raw_features["text"].double().numpy()
    expected = scale.subspace(table, item, 11, 3, same=False)
    found = np.zeros((N_USERS, N_ITEMS))
    found[model.relations["ui"].row, model.relations["ui"].column] = 1
    np.testing.assert_array_equal(found, expected)
    assert "user features of bio" in experiment.digests()
    mean = with_user_profiles(tmp_path, user_profile="mean")
    assert mean.model.raw_user_features == {}
    assert with_user_profiles(tmp_path, ablation="llm").model.raw_user_features == {}
    assert not torch.equal(mean.model.semantic_graph.col, model.semantic_graph.col)


def test_the_graphs_are_counted_by_estimate(tmp_path: Path) -> None:
    experiment = with_user_profiles(tmp_path, user_profile="mean")
    terms = {term.name.rpartition(" ")[2]: term.n_bytes for term in estimate(experiment).terms}
    graph = experiment.model.semantic_graph
    n_edges = len(graph.col)
    assert n_edges > 300
    assert terms["semantic_graph"] >= 8 * n_edges  # at least a column, 4 bytes, and a weight, 4 bytes
    pairs = experiment.model.relations.values()
    listed = [x for one in pairs for x in (one.row, one.column, one.excluded, one.n_free)]
    assert terms["relations"] == sum(x.untyped_storage().nbytes() for x in listed)
    assert terms["graph_cache"] == 4 * N_USERS * 13  # the mean profiles, which no file has


def test_a_user_without_a_profile_has_no_content_edge(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    experiment = with_user_profiles(tmp_path, without=("u03", "u07"))
    assert f"bio: {N_USERS - 3} of {N_USERS - 1} users" in caplog.text
    assert "item profile: text; user profile: bio" in caplog.text
    dense = graphs_of(experiment.model)["semantic_graph"]
    lacking = [experiment.dataset.user_tokens.index(token) for token in ("u03", "u07")]
    assert not dense[lacking].any()
    assert not dense[:, lacking].any()
    others = [user for user in range(1, N_USERS) if user not in lacking]
    assert dense[others].any(axis=1).all()
    batch, *_ = batch_of(experiment)
    experiment.model.train()
    assert all(term.isfinite() for term in experiment.model.loss_terms(batch).values())
    experiment.model.eval()
    assert experiment.model.final_embeddings().user[lacking].isfinite().all()


def test_without_user_features_the_mean_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    scaled(tmp_path)
    assert "user profile: mean of the text of the user's training items" in caplog.text


def test_user_features_are_counted_by_estimate(tmp_path: Path) -> None:
    terms = {term.name: term for term in estimate(with_user_profiles(tmp_path)).terms}
    term = terms["graphs and tables: raw_user_features"]
    assert (term.n_bytes, term.option, term.when) == (4 * N_USERS * 13, "user_features", "built")
    assert terms["graphs and tables: raw_features"].option == "modalities"
    mean = {term.name for term in estimate(with_user_profiles(tmp_path, user_profile="mean")).terms}
    assert "graphs and tables: raw_user_features" not in mean


def test_profiles_of_another_width_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="bio is 7 wide and text 13; encode users and items with one encoder"):
        with_user_profiles(tmp_path, width=7)


def test_from_tensors_takes_user_features(tmp_path: Path) -> None:
    experiment = with_user_profiles(tmp_path)
    model = experiment.model
    made = type(model).from_tensors(
        model.params,
        n_users=N_USERS,
        n_items=N_ITEMS,
        train_edges=model.train_edges,
        features=model.raw_features,
        user_features=model.raw_user_features,
        seed=experiment.config.run.seed,
    )
    assert torch.equal(made.semantic_graph.col, model.semantic_graph.col)
    with pytest.raises(ValueError, match=r"user_features\['bio'\] has the shape \(5, 13\)"):
        type(model).from_tensors(
            model.params,
            n_users=N_USERS,
            n_items=N_ITEMS,
            train_edges=model.train_edges,
            features=model.raw_features,
            user_features={"bio": torch.ones(5, 13)},
        )
