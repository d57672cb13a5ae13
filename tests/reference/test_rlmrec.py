"""RLMRec against its equations, written as loops."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_siger.errors import UserError
from recbole_siger.model.device import CPU, CUDA, force_choices
from recbole_siger.model.general_recommender.rlmrec import RLMRec
from recbole_siger.training.experiment import Experiment
from tests.conftest import N_ITEMS, N_USERS, make_experiment, make_toy
from tests.reference import backbone, scale, twins
from tests.reference.baselines import Array, assert_loss, training_edges

WEIGHTS = {"align_weight": 0.7, "reg_weight": 0.01, "contrast_weight": 0.3, "n_ui_layers": 2}


def profiles_by_hand(experiment: Experiment, text: str = "text") -> tuple[Array, Array]:
    """Users, who are the mean of their items' texts, and items."""
    item = experiment.model.raw_features[text].double().numpy()
    return scale.mean_of_items(item, training_edges(experiment), N_USERS), item


def nce(query: Array, keys: Array, place: list[int], temperature: float) -> float:
    return twins.info_nce(query, keys, temperature, np.array(place))


def start_by_hand(model: Any, nodes: tuple[Array, Array] | None) -> Array:
    """The ID embeddings, the token in the place of those that are masked."""
    table = torch.cat((model.user_embedding.weight, model.item_embedding.weight)).detach().double().numpy()
    table = table.copy()
    if nodes is not None:
        for row in [*nodes[0], *(N_USERS + nodes[1])]:
            table[row] = model.token.detach().double().numpy()
    return table


def backbone_terms(
    experiment: Experiment, start: Array, drawn: list[Array], batch: tuple[Array, ...]
) -> tuple[tuple[Array, Array], dict[str, float]]:
    """What the model ranks on in this step, and the terms of the backbone."""
    p, (users, pos, neg) = experiment.model.params, batch
    views = [backbone.propagated(graph, start, p.n_ui_layers, p.layer_sum) for graph in drawn]
    whole = backbone.propagated(backbone.whole_graph(experiment), start, p.n_ui_layers, p.layer_sum)
    final = whole if p.backbone == "sgl" else views[0]
    terms = {"bpr": backbone.ranking(final, users, pos, neg)}
    if p.backbone == "sgl":
        one, other = views
        terms["contrast"] = p.contrast_weight * sum(
            backbone.contrast(one[side], other[side], rows.tolist(), p.contrast_temperature)
            for side, rows in ((0, users), (1, pos), (1, neg))
        )
    return final, terms | {"regularization": p.reg_weight * backbone.squares(experiment)}


@pytest.mark.parametrize("kind", ["lightgcn", "sgl"])
def test_con(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch has a user and an item without a profile; neither is query or key, nor is the padding."""
    drawn = backbone.drawn_graphs(monkeypatch)
    experiment = backbone.scrambled(tmp_path, "RLMRec", backbone=kind, align_temperature=0.4, **WEIGHTS)
    model = experiment.model
    batch, users, pos, neg = backbone.a_batch(experiment)
    found = model.loss_terms(batch)
    final, expected = backbone_terms(experiment, start_by_hand(model, None), drawn, (users, pos, neg))

    user, item = profiles_by_hand(experiment)
    assert not user[users].any(axis=1).all()
    assert not item[pos].any(axis=1).all()
    there = [u for u in range(N_USERS) if user[u].any()]
    assert 0 not in there
    rows = [u for u in users if user[u].any()]
    keys = backbone.mapped(model.mlp, user[there])
    total = nce(final[0][rows], keys, [there.index(u) for u in rows], 0.4)
    for ids in (pos, neg):
        rows = [i for i in ids if item[i].any()]
        assert len(set(rows)) < len(rows)  # repeated keys count twice
        total += nce(final[1][rows], backbone.mapped(model.mlp, item[rows]), list(range(len(rows))), 0.4)
    assert_loss(found, expected | {"alignment": 0.7 * total})


@pytest.mark.parametrize("kind", ["lightgcn", "sgl"])
def test_gen(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token is in every view, the ranking included; queries and keys are masked nodes with a profile."""
    drawn = backbone.drawn_graphs(monkeypatch)
    options = {"alignment": "gen", "mask_share": 0.6, "align_temperature": 0.5}
    experiment = backbone.scrambled(tmp_path, "RLMRec", backbone=kind, **options, **WEIGHTS)
    model = experiment.model
    masked = model.draw_nodes()
    monkeypatch.setattr(model, "draw_nodes", lambda: masked)
    batch, users, pos, neg = backbone.a_batch(experiment)
    found = model.loss_terms(batch)
    nodes = tuple(ids.numpy() for ids in masked)
    final, expected = backbone_terms(experiment, start_by_hand(model, nodes), drawn, (users, pos, neg))

    profiles = profiles_by_hand(experiment)
    assert not all(table[ids].any(axis=1).all() for table, ids in zip(profiles, nodes, strict=True))
    queries, keys = [], []
    for table, profile, ids in zip(final, profiles, nodes, strict=True):
        for row in ids:
            if profile[row].any():
                queries.append(table[row])
                keys.append(profile[row])
    total = nce(backbone.mapped(model.mlp, np.array(queries)), np.array(keys), list(range(len(keys))), 0.5)
    assert_loss(found, expected | {"alignment": 0.7 * total})


@pytest.mark.parametrize("kind", ["lightgcn", "sgl"])
def test_the_backbone_alone(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows LightGCN and SGL of the paper: the terms of the backbone, and no profile is read."""
    drawn = backbone.drawn_graphs(monkeypatch)
    experiment = backbone.scrambled(tmp_path, "RLMRec", backbone=kind, alignment="none", **WEIGHTS)
    model = experiment.model
    assert model.raw_features == {} == model.raw_user_features
    batch, *rows = backbone.a_batch(experiment)
    found = model.loss_terms(batch)
    _, expected = backbone_terms(experiment, start_by_hand(model, None), drawn, tuple(rows))
    assert_loss(found, expected)


def test_the_backbone_alone_trains_without_features(tmp_path: Path) -> None:
    options = {"alignment": "none", "embedding_size": 4, "epochs": 1}
    experiment = make_experiment(tmp_path, "RLMRec", features=None, user_features=None, **options)
    assert experiment.fit()
    with pytest.raises(UserError, match="lists no item features and RLMRec needs some"):
        make_experiment(tmp_path, "RLMRec", features=None, user_features=None)


def test_masks_have_no_padding_and_no_node_twice(tmp_path: Path) -> None:
    options: dict[str, Any] = {"alignment": "gen", "mask_share": 0.2}
    model = make_experiment(tmp_path, "RLMRec", **options).model
    n_nodes = N_USERS + N_ITEMS - 2
    counts = np.zeros(n_nodes + 2)
    for _ in range(300):
        user, item = model.draw_nodes()
        ids = torch.cat((user, item + N_USERS))
        assert len(ids.unique()) == len(ids) == int(0.2 * n_nodes)
        counts[ids] += 1
    assert counts[0] == counts[N_USERS] == 0
    others = np.delete(counts, [0, N_USERS]) / 300
    assert others.min() > 0.1
    assert others.max() < 0.32
    whole = make_experiment(tmp_path, "RLMRec", **{**options, "mask_share": 1.0}).model.draw_nodes()
    assert sorted(whole.user.tolist()) == list(range(1, N_USERS))
    assert sorted(whole.item.tolist()) == list(range(1, N_ITEMS))


def test_the_token_starts_at_zero_and_is_no_part_of_an_evaluation(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, "RLMRec", alignment="gen", mask_share=1.0)
    assert not experiment.model.token.any()
    assert experiment.model.final_embeddings().user.any()


@pytest.mark.parametrize("known", ["", "user_id", "item_id", "neg_item_id"])
def test_only_nodes_with_a_profile_are_aligned(tmp_path: Path, known: str) -> None:
    """A batch may have no profile of a kind; a GPU computes this without asking how many there are."""
    experiment = backbone.scrambled(tmp_path, "RLMRec")
    model = experiment.model
    nobody, unknown = backbone.unprofiled(experiment)
    ids = {"user_id": [nobody] * 2, "item_id": [unknown] * 2, "neg_item_id": [unknown] * 2}
    assert not model.raw_features["text"][unknown].any()
    if known:
        rows = model.user_profile if known == "user_id" else model.item_profile
        ids[known] = (rows.place >= 0).nonzero()[:2, 0].tolist()
    found = []
    for choice in (CPU, CUDA):
        model.zero_grad()
        model.generator.manual_seed(3)
        with force_choices(choice):
            loss = model.loss_terms({name: torch.tensor(rows) for name, rows in ids.items()})["alignment"]
        loss.backward()
        grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        found.append((loss.detach(), torch.cat(grads)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert (found[0][0] > 0) == bool(known)


def test_without_any_profile_there_is_no_alignment() -> None:
    model = from_tensors({"text": torch.zeros(7, 11)}, {})
    batch = {"user_id": torch.tensor([1]), "item_id": torch.tensor([2]), "neg_item_id": torch.tensor([3])}
    for choice in (CPU, CUDA):
        with force_choices(choice):
            assert model.loss_terms(batch)["alignment"].item() == 0


def test_which_text_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    toy = make_toy(("audio", "image", "text"))
    with caplog.at_level(logging.INFO):
        assert make_experiment(tmp_path, "RLMRec", toy).model.modalities == ("text",)
    assert "user profile: mean of the text of the user's training items" in caplog.text
    assert "image: " not in caplog.text  # neither loaded nor required
    assert make_experiment(tmp_path, "RLMRec", item_profile="audio").model.modalities == ("audio",)
    with pytest.raises(UserError, match="item_profile='txt' is not a modality in use; did you mean `text`"):
        make_experiment(tmp_path, "RLMRec", item_profile="txt")
    with pytest.raises(UserError, match="user_profile='bio' is not a user feature"):
        make_experiment(tmp_path, "RLMRec", user_profile="bio")


def from_tensors(features: dict[str, torch.Tensor], users: dict[str, torch.Tensor]) -> Any:
    edges = torch.tensor([[1, 1, 2, 3], [1, 2, 2, 4]])
    return RLMRec.from_tensors(
        n_users=5, n_items=7, train_edges=edges, features=features, user_features=users
    )


def test_user_profiles_take_the_place_of_the_mean() -> None:
    item, user = torch.randn(7, 11), torch.randn(5, 11)
    item[0] = user[0] = user[4] = 0
    model = from_tensors({"text": item}, {"bio": user})
    torch.testing.assert_close(model.user_profile.rows, user[1:4])
    assert model.user_profile.place.tolist() == [-1, 0, 1, 2, -1]
    with pytest.raises(UserError, match="RLMRec: bio is 3 wide and text 11; encode users and items with one"):
        from_tensors({"text": item}, {"bio": user[:, :3]})
