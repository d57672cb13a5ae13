"""Cold items and users through whole runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_siger.config import Config
from recbole_siger.data.dataset import MultimodalDataset
from recbole_siger.data.loading import split_and_load
from recbole_siger.errors import UserError
from recbole_siger.evaluation.cold_start import draw_cold_items
from recbole_siger.quick_start import evaluate_run, run_experiment
from recbole_siger.runs.folder import RunFolder
from recbole_siger.runs.scoring import open_seen
from recbole_siger.training.experiment import Experiment, build_experiment
from tests.toy import N_ITEMS, N_USERS, QUIET, random_splits, write_dataset

Settings = Callable[..., dict[str, Any]]
MODELS = ["SIGER", "LightGCN", "BPR", "EASE", "ItemKNN"]
KINDS: list[dict[str, Any]] = [
    {"kind": "item"},
    {"kind": "item", "candidates": "cold"},
    {"kind": "item_few_shot", "max_train": 4},
    {"kind": "item_few_shot", "max_train": 4, "candidates": "cold"},
    {"kind": "user", "max_train": 7},
]


@pytest.fixture
def small(settings: Settings) -> Settings:
    def build(model: str = "SIGER", **changes: Any) -> dict[str, Any]:
        values = settings(epochs=2, **changes)
        return values if model in ("SIGER", "LightGCN", "BPR") else {**values, "embedding_size": None}

    return build


def build(values: dict[str, Any], model: str = "BPR") -> Experiment:
    given = {key: value for key, value in values.items() if value is not None}
    config = Config(model, "toy", config_dict=given)
    run = RunFolder.create(f"run{len(list(Path().glob('run*')))}")
    return build_experiment(config, run)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind.values())))
@pytest.mark.parametrize("model", MODELS)
def test_no_model_stumbles_over_a_cold_one(model: str, kind: dict[str, Any], small: Settings) -> None:
    values = {key: value for key, value in small(model).items() if value is not None}
    result = run_experiment(model, "toy", config_dict={**values, "cold_start": kind, "run_dir": "run"})
    assert result["candidates"] == kind.get("candidates", "all")
    assert result["protocol_facts"]["cold_start"]["kind"] == kind["kind"]
    assert result.get("scores_cold_items") == (None if kind["kind"] == "user" else model == "SIGER")
    assert all(0 <= value <= 1 for value in result["test"].values())
    assert ("recall@5[warm]" in result["test"]) == (kind == KINDS[2])
    assert "recall@5[cold]" in result["valid"]
    assert evaluate_run("run") == result["test"]
    said = "cannot score an item without training rows" in Path("run/run.log").read_text()
    assert said == (model != "SIGER" and kind["kind"] != "user")


# ---- the redrawn split


def pairs_of(loader: Any) -> set[tuple[int, int]]:
    return set(map(tuple, loader._dataset.train_edges.T.tolist()))


def test_every_interaction_of_a_cold_item_leaves_training(small: Settings) -> None:
    plain = build(small())
    cold = build(small(cold_start={"kind": "item"}))
    parts = [pairs_of(loader) for loader in (cold.train_data, cold.valid_data, cold.test_data)]
    loaders = (plain.train_data, plain.valid_data, plain.test_data)
    assert set.union(*parts) == set().union(*map(pairs_of, loaders))
    train, valid, test = ({item for _, item in part} for part in parts)
    assert (len(valid), len(test)) == (3, 3)  # int(0.2 * 31) = 6
    assert not train & (valid | test)
    assert not valid & test
    assert train == set(range(1, N_ITEMS + 1)) - valid - test
    assert np.flatnonzero(cold.test_data.cold.items).tolist() == sorted(valid | test)


@pytest.mark.parametrize("protocol", ["mmrec", "recbole"])
def test_lattices_rules_hold_under_either_protocol(protocol: str, small: Settings, tmp_path: Path) -> None:
    """Training items are hidden in test, validation items are not; a user without training rows stays."""
    splits, tokens = random_splits(), [f"i{item}" for item in range(N_ITEMS)]
    _, tested = draw_cold_items(tokens, 0.2, 123)
    splits["train"].append(("lone", tokens[tested[0]]))
    write_dataset(tmp_path / "lone", "toy", splits)
    values = small(cold_start={"kind": "item"}, protocol=protocol)
    experiment = build({**values, "data_path": str(tmp_path / "lone")})
    trained = pairs_of(experiment.train_data)
    users = {user for user, _ in pairs_of(experiment.test_data)}
    assert users - {user for user, _ in trained}
    seen = set()
    for batch, (row, item), _, _ in experiment.test_data:
        seen |= {(batch["user_id"][r].item(), i) for r, i in zip(row.tolist(), item.tolist(), strict=True)}
    assert seen == {pair for pair in trained if pair[0] in users}
    assert set(experiment.test_data.uid_list.tolist()) == users
    ids = experiment.test_data.uid_list.numpy()
    n_seen = [sum(pair[0] == user for pair in trained) for user in ids.tolist()]
    assert experiment.test_data.n_candidates(ids).tolist() == [N_ITEMS - n for n in n_seen]


@pytest.mark.parametrize("protocol", ["mmrec", "recbole"])
def test_a_cold_item_is_never_a_negative(protocol: str, small: Settings) -> None:
    experiment = build(small(cold_start={"kind": "item"}, protocol=protocol))
    cold = set(np.flatnonzero(experiment.test_data.cold.items).tolist())
    drawn = {
        item for _ in range(20) for batch in experiment.train_data for item in batch["neg_item_id"].tolist()
    }
    assert drawn == set(range(1, N_ITEMS + 1)) - cold


def test_asking_for_cold_negatives_is_refused(small: Settings) -> None:
    with pytest.raises(UserError, match="train_negatives='all' would draw cold items; leave it out"):
        build(small(cold_start={"kind": "item"}, train_negatives="all"))


def test_a_split_drawn_by_the_seed_is_redrawn_too(tmp_path: Path, workdir: Path) -> None:
    """The cold items are those of cold_start's seed, whatever the run's."""
    tables = []
    for seed in (1, 2):
        values = {**QUIET, "seed": seed, "cold_start": {"kind": "item"}}
        config = Config("BPR", "ml-100k", config_dict=values)
        _, valid, test = split_and_load(config, MultimodalDataset(config))
        tables.append((pairs_of(valid), pairs_of(test)))
    assert tables[0] == tables[1]


# ---- few rows


def test_few_shot_filters_the_given_split(small: Settings) -> None:
    plain = build(small())
    few = build(small(cold_start={"kind": "item_few_shot", "max_train": 4}))
    alone = build(small(cold_start={"kind": "item_few_shot", "max_train": 4, "candidates": "cold"}))
    counts = np.bincount(plain.train_data._dataset.train_edges[1], minlength=N_ITEMS + 1)
    rare = {item for item in range(1, N_ITEMS + 1) if counts[item] <= 4}
    assert 0 < len(rare) < N_ITEMS
    for name in ("train_data", "valid_data", "test_data"):
        assert pairs_of(getattr(few, name)) == pairs_of(getattr(plain, name))
    left = {pair for pair in pairs_of(plain.test_data) if pair[1] in rare}
    assert pairs_of(alone.test_data) == left
    assert pairs_of(alone.train_data) == pairs_of(plain.train_data)


def test_a_recommender_knows_all_validation_items(small: Settings) -> None:
    """Those that were no candidates of the validation, too: they are the user's own items."""
    values = {key: value for key, value in small("BPR").items() if value is not None}
    seen = []
    for name, kind in (("plain", None), ("alone", KINDS[3])):
        run_experiment("BPR", "toy", config_dict={**values, "cold_start": kind, "run_dir": name})
        lists = open_seen(RunFolder(name), N_USERS + 1, N_ITEMS + 1)
        seen.append([(part.indptr.tolist(), part.items.tolist()) for part in lists.values()])
    assert seen[0] == seen[1]


def test_cold_and_warm_are_parts_of_one_ranking(small: Settings) -> None:
    """Against a loop over users and items on the model's own scores."""
    kind = {"kind": "item_few_shot", "max_train": 4}
    experiment = build(small(cold_start=kind, metric_decimal_place=16, eval_batch_size=7))
    model, test = experiment.model, experiment.test_data
    found = experiment.trainer.evaluate(test, load_best_model=False)
    model.eval()
    trained, wanted = pairs_of(experiment.train_data), pairs_of(test)
    rare = set(np.flatnonzero(test.cold.items).tolist())
    users, items = model.user_embedding.weight, model.item_embedding.weight
    recalls: dict[str, list[float]] = {"": [], "[cold]": [], "[warm]": []}
    for user in sorted({user for user, _ in wanted}):
        scores = (users[user] @ items.T).tolist()
        shown = sorted(
            (i for i in range(1, N_ITEMS + 1) if (user, i) not in trained), key=lambda i: -scores[i]
        )
        for name, keep in {
            "": rare | set(range(99)),
            "[cold]": rare,
            "[warm]": set(range(99)) - rare,
        }.items():
            relevant = {i for u, i in wanted if u == user and i in keep}
            if relevant:
                recalls[name].append(len(relevant & set(shown[:5])) / len(relevant))
    for name, values in recalls.items():
        assert found[f"recall@5{name}"] == pytest.approx(np.mean(values), rel=1e-12), name


@pytest.mark.parametrize("kind", [{"kind": "item", "candidates": "cold"}, KINDS[3]])
def test_only_cold_items_are_candidates_where_said(kind: dict[str, Any], small: Settings) -> None:
    experiment = build(small(cold_start=kind))
    experiment.trainer.evaluate(experiment.test_data, load_best_model=False)
    shown = set(experiment.trainer.ranking.items.ravel().tolist())
    cold = set(np.flatnonzero(experiment.test_data.cold.items).tolist())
    assert shown - {0} <= cold
    assert shown - {0}
    trained = pairs_of(experiment.train_data)
    users = experiment.test_data.uid_list
    expected = [len(cold - {item for u, item in trained if u == user}) for user in users.tolist()]
    assert experiment.test_data.n_candidates(users.numpy()).tolist() == expected


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"cold_start": {"kind": "item", "ratio": 0.05}}, "1 of 31 items would be cold"),
        (
            {"cold_start": {"kind": "item_few_shot", "max_train": 0}},
            "no item with so few training rows is evaluated in test",
        ),
        (
            {"cold_start": {"kind": "user", "max_train": 6}},
            "no user with so few training rows is evaluated in test",
        ),
        (
            {"cold_start": {"kind": "item"}, "protocol": "recbole", "eval_args": {"mode": "uni5"}},
            "cold_start ranks all items; use `full`",
        ),
    ],
)
def test_what_cannot_be_asked_is_told(values: dict[str, Any], said: str, small: Settings) -> None:
    with pytest.raises(UserError, match=said):
        build(small(**values))


# ---- what carries a cold item


def blocks(tmp_path: Path) -> None:
    """Two tastes: users and items of one letter belong together, and features tell the letter."""
    rng = np.random.default_rng(5)
    splits: dict[str, list[tuple[str, str]]] = {"train": [], "valid": [], "test": []}
    for user in range(26):
        taste = "ab"[user % 2]
        for place, item in enumerate(rng.permutation(19)[:11]):
            part = "train" if place < 9 else ("valid", "test")[place - 9]
            splits[part].append((f"{taste}{user}", f"{taste}{item}"))
    names = [f"{taste}{item}" for taste in "ab" for item in range(19)]
    rows = np.array([[1.0, 0.0] if name[0] == "a" else [0.0, 1.0] for name in names])
    rows = np.hstack((rows, 0.1 * rng.normal(size=(len(names), 5))))
    write_dataset(tmp_path, "toy", splits, {"text": (rows, names)})


def test_siger_ranks_cold_items_by_their_semantics_and_bpr_does_not(tmp_path: Path, workdir: Path) -> None:
    blocks(tmp_path)
    recalls = {}
    for model in ("SIGER", "BPR"):
        values = {**QUIET, "data_path": str(tmp_path), "epochs": 60, "learning_rate": 0.02, "topk": [3]}
        values |= {"valid_metric": "Recall@3", "cold_start": {"kind": "item", "candidates": "cold"}}
        result = run_experiment(model, "toy", config_dict={**values, "run_dir": model})
        recalls[model] = result["test"]["recall@3[cold]"]
    assert recalls["SIGER"] > 0.7
    assert recalls["BPR"] < 0.6


def test_a_cold_item_has_semantic_edges_and_a_vector_that_follows_its_features(small: Settings) -> None:
    experiment = build(small(cold_start={"kind": "item"}), "SIGER")
    model = experiment.model
    cold = np.flatnonzero(experiment.test_data.cold.items)
    with torch.no_grad():
        for modality in ("image", "text"):
            graph = model.eisg[modality]
            assert (graph.crow[cold + 1] - graph.crow[cold] > 0).all()  # Eq. 7
            item = model.encode_semantics()[0][modality].item[cold]
            assert (item.norm(dim=1) > 0).all()  # Eq. 10
            before = item.clone()
            getattr(model.features, modality)[cold] += 3.0
            assert not torch.equal(model.encode_semantics()[0][modality].item[cold], before)
        # Eq. 11: no user's vector holds a cold item.
        columns = model.user_items.col
        assert not set(columns.tolist()) & set(cold.tolist())


def test_nan_scores_are_no_ranking(small: Settings) -> None:
    experiment = build(small(cold_start={"kind": "item"}))
    cold = np.flatnonzero(experiment.test_data.cold.items)
    with torch.no_grad():
        experiment.model.item_embedding.weight[cold] = torch.nan
    with pytest.raises(UserError, match="some scores are NaN"):
        experiment.trainer.evaluate(experiment.test_data, load_best_model=False)


def test_models_of_another_kind_are_refused(tmp_path: Path, workdir: Path) -> None:
    write_dataset(tmp_path, "toy", random_splits())
    values = {**QUIET, "data_path": str(tmp_path), "protocol": "recbole", "cold_start": {"kind": "item"}}
    with pytest.raises(UserError, match="cold_start is for general recommenders"):
        run_experiment("GRU4Rec", "toy", config_dict={**values, "train_neg_sample_args": None})
