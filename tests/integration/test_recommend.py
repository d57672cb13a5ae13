"""From a finished run folder to recommendations; the dataset is deleted before the folder is opened."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recbole_siger.errors import UserError
from recbole_siger.recommend.new_items import extend_state
from recbole_siger.recommend.recommender import Recommender
from recbole_siger.registry import MODELS
from recbole_siger.runs.item_texts import copy_item_texts, read_item_texts
from recbole_siger.training.experiment import Experiment
from tests.conftest import N_ITEMS, N_USERS, WIDTHS, make_experiment, make_toy, score_table

OURS = [name for name, spec in MODELS.items() if spec.reads != "no features"]
BY_CONTENT = [name for name, spec in MODELS.items() if spec.ranks_cold_items]
WITH_VECTORS = [*OURS, "BPR", "LightGCN", "NGCF", "SGL", "DGCF", "SpectralCF"]
ITEM_ITEM = ["ItemKNN", "EASE", "SLIMElastic"]

Finished = tuple[Experiment, Recommender]
Runner = Callable[..., Finished]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """Train a model once in this file, delete its dataset, move the run folder, and open the folder."""
    runs: dict[Any, Finished] = {}

    def run(model: str, **options: Any) -> Finished:
        key = (model, str(options))
        if key not in runs:
            folder = tmp_path_factory.mktemp(model)
            experiment = make_experiment(folder, model, **options)
            experiment.begin()
            experiment.train()
            shutil.rmtree(folder / "dataset")
            moved = folder / "elsewhere"
            experiment.run.path.rename(moved)
            runs[key] = experiment, Recommender.load(moved)
        return runs[key]

    return run


def expected(table: Tensor, hidden: dict[int, set[int]], user: int, k: int) -> list[int]:
    """Rank the items of one user by score, then by item id, in the plainest way."""
    items = [item for item in range(1, table.shape[1]) if item not in hidden[user]]
    return sorted(items, key=lambda item: (-float(table[user, item]), item))[:k]


def seen_of(*splits: Any) -> dict[int, set[int]]:
    found: dict[int, set[int]] = {user: set() for user in range(N_USERS)}
    for split in splits:
        for user, item in split.train_edges.T.tolist():
            found[user].add(item)
    return found


# ---- the same scores and the same lists as the model


@pytest.mark.parametrize("model", [*WITH_VECTORS, *ITEM_ITEM, "Pop"])
def test_scores_and_lists_are_those_of_the_model(model: str, finished: Runner) -> None:
    experiment, recommender = finished(model)
    table = score_table(experiment)
    users, items = recommender.users.tokens, recommender.items.tokens
    pairs = [(users[u], items[i]) for u in range(1, N_USERS) for i in range(1, N_ITEMS)]
    scores = recommender.score(pairs)["score"].to_numpy()
    assert scores == pytest.approx(table[1:, 1:].float().flatten().numpy(), abs=1e-5, rel=1e-5)

    whole = torch.zeros(N_USERS, N_ITEMS)
    whole[1:, 1:] = torch.from_numpy(scores).reshape(N_USERS - 1, N_ITEMS - 1)
    train, valid = experiment.train_data._dataset, experiment.valid_data._dataset
    cases = [(True, seen_of(train, valid)), ("train", seen_of(train)), (False, seen_of())]
    for exclude_seen, hidden in cases:
        found = recommender.recommend("all", 5, exclude_seen=exclude_seen)
        assert found["user"].unique().tolist() == users[1:]
        for user, part in found.groupby("user", sort=False):
            u = users.index(user)
            ranked = [items.index(item) for item in part["item"]]
            got = [whole[u, item].item() for item in ranked]
            want = [whole[u, item].item() for item in expected(whole, hidden, u, 5)]
            assert got == pytest.approx(want, abs=1e-6)  # products of another shape round differently
            assert not hidden[u] & set(ranked)
            assert part["rank"].tolist() == [1, 2, 3, 4, 5]
            assert part["score"].tolist() == sorted(part["score"], reverse=True)


def test_equal_scores_are_ordered_by_item_id(finished: Runner) -> None:
    experiment, recommender = finished("Pop")
    table = recommender.scoring.scores(torch.arange(N_USERS), recommender.seen["train"])
    assert len(table[0, 1:].unique()) < N_ITEMS - 1  # there are ties
    hidden = seen_of(experiment.train_data._dataset, experiment.valid_data._dataset)
    found = recommender.recommend("all", N_ITEMS)
    for user, part in found.groupby("user", sort=False):
        u = recommender.users.tokens.index(user)
        want = expected(table, hidden, u, N_ITEMS)
        assert [recommender.items.tokens.index(item) for item in part["item"]] == want


@pytest.mark.parametrize("model", ["MultiVAE", "ENMF", "Random"])
def test_a_model_without_vectors_says_so_in_one_line(model: str, tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, model)
    experiment.begin()
    experiment.train()
    assert not list(experiment.run.path.glob("embeddings*"))
    with pytest.raises(UserError, match=rf"missing; {model} has no vectors .*use a model of this package"):
        Recommender.load(experiment.run.path)


def test_the_files_can_be_switched_off(tmp_path: Path) -> None:
    off = make_experiment(tmp_path, "SIGER", save_embeddings=False)
    off.begin()
    off.train()
    names = {path.name for path in off.run.path.iterdir()}
    assert not names & {"embeddings.safetensors", "seen.safetensors", "graphs.safetensors"}
    with pytest.raises(UserError, match="had --save_embeddings=False"):
        Recommender.load(off.run.path)
    lean = make_experiment(tmp_path, "SIGER", save_features=False)
    lean.begin()
    lean.train()
    recommender = Recommender.load(lean.run.path)
    with pytest.raises(UserError, match=r"features\.safetensors: missing; .*--save_features=True"):
        recommender.add_items({m: np.ones((1, WIDTHS[m])) for m in ("image", "text")}, ["new"])
    assert not recommender.explain("u00", "i00").neighbors.empty
    (lean.run.path / "model.safetensors").unlink()  # as with saved=False, which leaves out both files
    with pytest.raises(UserError, match=r"model\.safetensors: missing; .*--saved=True"):
        recommender.add_items({m: np.ones((1, WIDTHS[m])) for m in ("image", "text")}, ["new"])


# ---- arguments


def test_users_candidates_and_unknown_ids(finished: Runner) -> None:
    _, recommender = finished("SIGER")
    found = recommender.recommend(["u07", "u02"], 3, candidates=["i04", "i01"], exclude_seen=False)
    assert found["user"].tolist() == ["u07", "u07", "u02", "u02"]
    assert set(found["item"]) == {"i01", "i04"}
    assert list(recommender.recommend("u07", 2, with_scores=False).columns) == ["user", "item", "rank"]
    many = ["u00", *(f"x{i}" for i in range(7))]
    with pytest.raises(UserError, match=r"^7 of 8 user ids are not in the run: 'x0', 'x1', .*'x4', \.\.\.;"):
        recommender.recommend(many)
    assert set(recommender.recommend(many, on_unknown="skip")["user"]) == {"u00"}
    assert recommender.recommend(["x"], on_unknown="skip").empty
    with pytest.raises(UserError, match="1 of 1 user ids"):
        recommender.recommend(["[PAD]"])  # the padding is no user
    for k in (0, 2.0, True, "3"):
        with pytest.raises(UserError, match=rf"k={k!r}: expected an integer"):
            recommender.recommend("all", k)  # type: ignore[arg-type]
    assert recommender.recommend("all", np.int64(3)).equals(recommender.recommend("all", 3))


@pytest.mark.parametrize("model", ["SIGER", "EASE"])
def test_similar_items(model: str, finished: Runner) -> None:
    experiment, recommender = finished(model)
    found = recommender.similar_items(["i03", "i10"], 4)
    assert found.groupby("item").size().tolist() == [4, 4]
    assert not (found["item"] == found["similar"]).any()
    if model == "SIGER":
        item = torch.nn.functional.normalize(experiment.model.final_embeddings().item, dim=1)
        cosine = item @ item.T
    else:
        cosine = torch.from_numpy(np.asarray(experiment.model.item_similarity)).float()
    row = recommender.items.tokens.index("i03")
    cosine[row, [0, row]] = -torch.inf
    best = [recommender.items.tokens[i] for i in cosine[row].topk(4).indices]
    assert found[found["item"] == "i03"]["similar"].tolist() == best


def test_similar_users_need_embeddings(finished: Runner) -> None:
    found = finished("SIGER")[1].similar_users("u05", 3)
    assert list(found.columns) == ["user", "similar", "score", "rank"]
    assert "u05" not in found["similar"].tolist()
    with pytest.raises(UserError, match="EASE has no embeddings of users"):
        finished("EASE")[1].similar_users("u05")


def test_explanations_sum_to_the_score(finished: Runner) -> None:
    for model in ("SIGER", "EASE"):
        _, recommender = finished(model)
        found = recommender.explain("u03", "i15", 50)
        assert set(found.items["item"]) == set(items_of(recommender, "u03"))
        assert found.items["contribution"].sum() == pytest.approx(found.score, rel=1e-4, abs=1e-6)
        assert found.score == pytest.approx(recommender.score([("u03", "i15")])["score"][0], rel=1e-5)
    neighbors = finished("SIGER")[1].explain("u03", "i15").neighbors
    assert set(neighbors["graph"]) <= {"co_occurrence", "semantic of image", "semantic of text"}
    assert len(neighbors[neighbors["graph"] == "semantic of image"]) == 4  # 5 with the item itself
    with pytest.raises(UserError, match="Pop gives every user the same score"):
        finished("Pop")[1].explain("u03", "i15")


def items_of(recommender: Recommender, user: str) -> list[str]:
    ids = recommender.users.find([user])
    return [recommender.items.tokens[i] for i in recommender.seen["train"].of(ids)[1]]


def test_embeddings_leave_the_padding_out(finished: Runner) -> None:
    experiment, recommender = finished("SIGER")
    found, final = recommender.embeddings(), experiment.model.final_embeddings()
    assert torch.equal(found.user, final.user[1:])
    assert torch.equal(found.item, final.item[1:])
    assert (len(found.users), len(found.items)) == (N_USERS - 1, N_ITEMS - 1)
    assert "[PAD]" not in found.users + found.items


# ---- new users


@pytest.mark.parametrize("model", ITEM_ITEM)
def test_a_list_of_items_scores_as_the_user_who_has_it(model: str, finished: Runner) -> None:
    _, recommender = finished(model)
    want = recommender.recommend("u04", 6, exclude_seen="train").drop(columns="user")
    got = recommender.fold_in({"u04": items_of(recommender, "u04")}, 6).drop(columns="user")
    assert got["item"].tolist() == want["item"].tolist()
    assert got["score"].tolist() == pytest.approx(want["score"].tolist(), rel=1e-5)


def test_the_vector_of_a_new_user_is_the_mean_of_the_items(finished: Runner) -> None:
    experiment, recommender = finished("LightGCN", epochs=40)
    items = recommender.embeddings().item
    history = items_of(recommender, "u04")
    mean = items[[recommender.items.tokens.index(one) - 1 for one in history]].mean(dim=0)
    got = recommender.fold_in(history, 3)
    assert got["user"].tolist() == ["new"] * 3
    assert not set(got["item"]) & set(history)
    scores = dict(zip(recommender.items.tokens[1:], (items @ mean).tolist(), strict=True))
    assert got["score"].tolist() == pytest.approx([scores[item] for item in got["item"]], rel=1e-5)
    # A user of the training set: the list gives scores like the user's own, more than like another user's.
    table = score_table(experiment)[1:-1, 1:]
    means = torch.stack(
        [
            items[[recommender.items.tokens.index(one) - 1 for one in items_of(recommender, user)]].mean(0)
            for user in recommender.users.tokens[1:-1]
        ]
    )
    both = torch.corrcoef(torch.cat([table, means @ items.T]))[: len(table), len(table) :]
    assert (both.argmax(dim=0) == torch.arange(len(table))).float().mean() > 0.9
    with pytest.raises(UserError, match="no item of the run"):
        recommender.fold_in(["x"], on_unknown="skip")


# ---- new items


def catalogue_scores(experiment: Experiment, features: dict[str, Tensor]) -> Tensor:
    """Build the model with one more item in its catalogue, the trained parameters, and a zero ID row."""
    model = experiment.model
    extended = type(model).from_tensors(
        model.params,
        n_users=model.n_users,
        n_items=model.n_items + 1,
        train_edges=model.train_edges,
        features={m: torch.cat([x, features[m]]) for m, x in model.raw_features.items()},
    )
    extend_state(extended, model.state_dict(), model.n_items, "zero")
    extended.eval()
    return extended.final_embeddings().item


@pytest.mark.parametrize("model", BY_CONTENT)
def test_a_new_item_scores_as_in_a_catalogue_without_training_rows(model: str, finished: Runner) -> None:
    """The features are drawn until no trained item chooses the new item in its own graph."""
    # In few dimensions nearly every item is chosen by others, so LATTICE, which projects, has one neighbour.
    # One more item moves the thresholds of DAMRS, but hardly the nearest neighbour.
    options = {"n_semantic_neighbors": 2} if model in ("LATTICE", "DAMRS") else {}
    experiment, recommender = finished(model, modalities=["text" if model == "SCALE" else "image"], **options)
    trained = experiment.model.eval().final_embeddings().item
    # LGMRec sums over all items; in the catalogue the sums have one more term, which is zero.
    same = partial(torch.allclose, atol=1e-6) if model == "LGMRec" else torch.equal
    for seed in range(200):
        generator, features = torch.Generator().manual_seed(seed), {}
        for name, x in experiment.model.raw_features.items():
            away = -torch.nn.functional.normalize(x, dim=1).sum(dim=0)
            features[name] = (away + torch.randn(len(away), generator=generator)).unsqueeze(0)
        want = catalogue_scores(experiment, features)
        if same(want[:-1], trained):
            break
    else:
        raise AssertionError("no features were found that leave the rows of trained items unchanged")
    extended = recommender.add_items({m: x.numpy() for m, x in features.items()}, ["new"])
    assert same(extended.scoring.tensors["item"], want)
    assert want[-1].abs().max() > 0
    user = experiment.model.final_embeddings().user
    scores = extended.score([(one, "new") for one in recommender.users.tokens[1:]])["score"]
    assert scores.tolist() == pytest.approx((user[1:] @ want[-1]).tolist(), rel=1e-5)


@pytest.mark.parametrize("model", BY_CONTENT)
def test_new_items_change_no_trained_item_and_no_other_new_item(model: str, finished: Runner) -> None:
    experiment, recommender = finished(model)
    rng = np.random.default_rng(7)
    features = {m: rng.normal(size=(3, x.shape[1])) for m, x in experiment.model.raw_features.items()}
    features[next(iter(features))][1] = 0  # an item without an image; KAR reads texts alone
    together = recommender.add_items(features, ["a", "b", "c"])
    table = together.scoring.tensors["item"]
    assert torch.equal(table[:N_ITEMS], recommender.scoring.tensors["item"])
    for number, name in enumerate("abc"):
        alone = recommender.add_items({m: x[[number]] for m, x in features.items()}, [name])
        assert torch.allclose(alone.scoring.tensors["item"][-1], table[N_ITEMS + number], atol=1e-6)
    assert set(together.recommend("all", 30, candidates=["a", "b", "c"])["item"]) == {"a", "b", "c"}
    assert len(recommender.items) == N_ITEMS  # the recommender itself is unchanged
    twice = together.add_items({m: x[[0]] for m, x in features.items()}, ["d"])
    assert torch.allclose(twice.scoring.tensors["item"][-1], table[N_ITEMS], atol=1e-6)
    assert together.explain("u03", "b").neighbors.empty


def test_features_of_few_bits_are_stored_and_used_in_their_type(finished: Runner) -> None:
    experiment, recommender = finished("SIGER", feature_dtype="bfloat16")
    stored = recommender.new_items.features.items
    assert all(torch.equal(stored[m], x) for m, x in experiment.model.raw_features.items())
    assert {x.dtype for x in stored.values()} == {torch.bfloat16}
    row = recommender.items.tokens.index("i06")
    copy = {m: x[[row]].float().numpy() for m, x in stored.items()}
    near = {m: x * (1 + 2.0**-10) for m, x in copy.items()}  # the same numbers after rounding
    tables = [recommender.add_items(x, ["copy"]).scoring.tensors["item"] for x in (copy, near)]
    assert torch.equal(*tables)
    assert torch.equal(tables[0][:N_ITEMS], recommender.scoring.tensors["item"])


def test_a_copy_of_a_trained_item_has_its_content(finished: Runner) -> None:
    experiment, recommender = finished("VBPR")
    row, width = recommender.items.tokens.index("i06"), experiment.model.params.embedding_size
    copy = {m: x[[row]].numpy() for m, x in experiment.model.raw_features.items()}
    table = recommender.add_items(copy, ["copy"]).scoring.tensors["item"]
    assert torch.allclose(table[-1, width:], table[row, width:], atol=1e-6)


@pytest.mark.parametrize("policy", ["zero", "mean"])
def test_gaps_of_new_items_are_filled_as_in_training(policy: str, finished: Runner) -> None:
    experiment, recommender = finished("VBPR", missing_modality=policy)
    model = experiment.model
    features = {m: np.zeros((1, x.shape[1])) for m, x in model.raw_features.items()}
    row = recommender.add_items(features, ["new"]).scoring.tensors["item"][-1]
    content = model.projection.bias.detach().clone()
    if policy == "mean":
        means = [x[x.any(dim=1)].mean(dim=0) for x in model.raw_features.values()]
        content += model.projection.weight.detach() @ torch.cat(means)
    assert row[: len(content)].tolist() == [0.0] * len(content)
    assert row[len(content) :].tolist() == pytest.approx(content.tolist(), abs=1e-5)


def test_trained_features_and_the_mean_of_id_embeddings(finished: Runner) -> None:
    experiment, recommender = finished("VBPR", train_features=True)
    features = {m: np.zeros((1, x.shape[1])) for m, x in experiment.model.raw_features.items()}
    row = recommender.add_items(features, ["new"], id_embedding="mean").scoring.tensors["item"][-1]
    mean = experiment.model.item_embedding.weight.detach()[1:].mean(dim=0)
    assert row[: len(mean)].tolist() == pytest.approx(mean.tolist(), abs=1e-6)


def test_new_items_are_checked(finished: Runner) -> None:
    _, recommender = finished("SIGER")
    good = {m: np.ones((1, WIDTHS[m])) for m in ("image", "text")}
    cases: list[tuple[dict[str, Any], list[str], str]] = [
        ({"image": good["image"]}, ["n"], r"the run needs \['image', 'text'\]"),
        ({**good, "audio": good["text"]}, ["n"], r"features of \['audio', 'image', 'text'\]"),
        ({**good, "text": np.ones((2, WIDTHS["text"]))}, ["n"], r"'text' have the shape \(2, 13\)"),
        ({**good, "text": np.full((1, WIDTHS["text"]), np.nan)}, ["n"], "NaN or infinite"),
        (good, ["i03"], "1 of 1 new item ids are in the run: 'i03'"),
        ({m: np.ones((2, WIDTHS[m])) for m in good}, ["n", "n"], "empty or repeated"),
    ]
    for features, ids, message in cases:
        with pytest.raises(UserError, match=message):
            recommender.add_items(features, ids)
    with pytest.raises(UserError, match="id_embedding='random'"):
        recommender.add_items(good, ["n"], id_embedding="random")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="model='BM3': the features of an item do not decide"):
        finished("BM3")[1].add_items(good, ["n"])


# ---- the folder is data


def test_texts_of_items_come_with_the_run(tmp_path: Path) -> None:
    make_toy().write(tmp_path / "dataset" / "toy")
    lines = ["item_id\tbrand\ttitle", "i03\tAcme\tBlue \x1b[31m bib", "i04\t\t" + "x" * 3000, "zz\ta\tb"]
    (tmp_path / "dataset" / "toy" / "items.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    experiment = make_experiment(tmp_path, "BPR")
    experiment.begin()
    experiment.train()
    text = (experiment.run.path / "items.tsv").read_text(encoding="utf-8").splitlines()
    assert text[0] == "item_id\ttitle\tbrand"
    assert len(text) == N_ITEMS
    assert "\x1b" not in "".join(text)
    assert "zz" not in "".join(text)
    found = Recommender.load(experiment.run.path).item_texts(["i03", "i04", "i05"])
    assert found["title"].tolist() == ["Blue [31m bib", "x" * 1000, ""]


def test_a_column_of_texts_that_is_called_item_is_no_id(finished: Runner, tmp_path: Path) -> None:
    folder = shutil.copytree(finished("SIGER")[1].run.path, tmp_path / "run")
    (folder / "items.tsv").write_text(
        "item_id\titem\tprice\ni03\tBlue bib\t7\ni04\tCot\t90\n", encoding="utf-8"
    )
    found = Recommender.load(folder).item_texts(["i04", "i03", "i05"])
    assert found.to_dict("list") == {
        "item": ["i04", "i03", "i05"],
        "item_text": ["Cot", "Blue bib", ""],
        "price": ["90", "7", ""],
    }


def test_ids_with_quotation_marks_keep_their_texts(tmp_path: Path) -> None:
    tokens = ["[PAD]", '"wide"', "wide", '"open', "i03", 'a "b"']
    source, target = tmp_path / "toy.item", tmp_path / "items.tsv"
    source.write_text("item_id:token\ttitle:token_seq\n" + "".join(f"{t}\t<{t}>\n" for t in tokens[1:]))
    assert copy_item_texts(source, "item_id", tokens, target) == 5
    found = read_item_texts(target, {token: i for i, token in enumerate(tokens)})
    assert found == {token: {"title": f"<{token}>"} for token in tokens[1:]}


def test_a_damaged_item_table_costs_the_texts_and_not_the_run(tmp_path: Path) -> None:
    make_toy().write(tmp_path / "dataset" / "toy")
    (tmp_path / "dataset" / "toy" / "items.tsv").write_text("item_id\ttitle\ni03\n", encoding="utf-8")
    experiment = make_experiment(tmp_path, "BPR")
    experiment.begin()
    experiment.train()
    assert not (experiment.run.path / "items.tsv").exists()
    assert Recommender.load(experiment.run.path).item_texts(["i03"]).columns.tolist() == ["item"]


@pytest.mark.parametrize(
    "name", ["embeddings.safetensors", "seen.safetensors", "ids/users.txt", "ids/items.txt"]
)
def test_a_damaged_folder_gives_one_line(name: str, finished: Runner, tmp_path: Path) -> None:
    _, recommender = finished("SIGER")
    run = shutil.copytree(recommender.run.path, tmp_path / "run")
    whole = (run / name).read_bytes()
    for broken in (whole[:-20], b"\x80\x04K\x01.", None):
        (run / name).unlink()
        if broken is not None:
            (run / name).write_bytes(broken)
        with pytest.raises(UserError) as caught:
            Recommender.load(run)
        assert len(str(caught.value).splitlines()) == 1
        assert name in str(caught.value)
        (run / name).write_bytes(whole)
    Recommender.load(run)


def test_ids_outside_the_tables_are_refused(finished: Runner, tmp_path: Path) -> None:
    _, recommender = finished("SIGER")
    run = shutil.copytree(recommender.run.path, tmp_path / "run")
    opened = Recommender.load(run).run
    state, facts = opened.read_tensors("seen.safetensors")
    state = {name: value.clone() for name, value in state.items()}
    state["train.items"][3] = N_ITEMS
    opened.write_tensors("seen.safetensors", state, **facts)
    with pytest.raises(UserError, match=r"seen\.safetensors: damaged: train\.items has a number outside"):
        Recommender.load(run)


def test_other_folders_give_one_line(tmp_path: Path, finished: Runner) -> None:
    with pytest.raises(UserError, match="not a run folder"):
        Recommender.load(tmp_path)
    experiment = make_experiment(tmp_path, "BPR")
    experiment.begin()
    with pytest.raises(UserError, match="the run is unfinished"):
        Recommender.load(experiment.run.path)
    (experiment.run.path / "results.json").write_text("{}")
    values = experiment.run.read_config()
    experiment.run.write_config({key: value for key, value in values.items() if key != "save_embeddings"})
    with pytest.raises(UserError, match="older than this file"):
        Recommender.load(experiment.run.path)


# ---- one copy of the features, and a fast start


def no_links(*_: Any) -> None:
    raise OSError("this file system has no hard links")


def test_runs_of_one_dataset_share_one_copy_of_their_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = []
    for options in ({}, {"seed": 3}, {"modalities": ["text"]}):
        experiment = make_experiment(tmp_path, "VBPR", **options)
        experiment.begin()
        experiment.train()
        files.append(experiment.run.path / "features.safetensors")
    assert files[0].stat().st_ino == files[1].stat().st_ino
    assert files[0].stat().st_ino != files[2].stat().st_ino  # other features
    files[0].rename(tmp_path / "store")
    files[0].symlink_to(tmp_path / "store")
    files[1].unlink()
    linked = make_experiment(tmp_path, "VBPR")
    linked.begin()
    linked.train()
    files[1] = linked.run.path / "features.safetensors"
    assert files[1].is_file()
    assert not files[1].is_symlink()  # its target may go
    monkeypatch.setattr(os, "link", no_links)
    other = make_experiment(tmp_path, "VBPR")
    other.begin()
    other.train()
    copy = other.run.path / "features.safetensors"
    assert copy.stat().st_ino != files[0].stat().st_ino
    assert copy.read_bytes() == files[0].read_bytes()
    shutil.rmtree(files[0].parent)
    row = {m: np.ones((1, WIDTHS[m])) for m in ("image", "text")}
    assert Recommender.load(files[1].parent).add_items(row, ["new"]).n_added == 1


def test_loading_imports_no_recbole(finished: Runner) -> None:
    code = (
        "import sys; from recbole_siger.recommend.recommender import Recommender\n"
        f"Recommender.load({str(finished('SIGER')[1].run.path)!r}).recommend('all', 3)\n"
        "print('recbole' in sys.modules, 'ray' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
