"""An honest dataset and run pass the audit; each planted fault fails it and is named."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction, cat_interactions
from torch import Tensor

from recbole_siger import cli
from recbole_siger.audit import checks as audit_module
from recbole_siger.audit.checks import audit
from recbole_siger.audit.graphs import Finding
from recbole_siger.data.dataset import MultimodalDataset
from recbole_siger.errors import UserError
from recbole_siger.graph import eisg
from recbole_siger.quick_start import run_experiment
from recbole_siger.tuning.ledger import Ledger
from tests.toy import random_features, random_splits, tastes, write_dataset

Settings = Callable[..., dict[str, Any]]


def audit_toy(folder: Path, **values: str) -> list[Finding]:
    small = {"gpu_id": "", "topk": "[3, 5]", "valid_metric": "Recall@5", "n_semantic_neighbors": "3"}
    return audit("toy", values={"data_path": str(folder), **small, **values})


def write(folder: Path, splits: dict[str, Any] | None = None, features: Any = None) -> Path:
    write_dataset(
        folder, "toy", splits or random_splits(), features or random_features({"image": 5, "text": 11})
    )
    return folder


def failures(findings: list[Finding]) -> list[str]:
    return [f"{finding.check}: {finding.text}" for finding in findings if finding.verdict == "FAIL"]


# ---- data


def test_an_honest_dataset_passes(tmp_path: Path, workdir: Path) -> None:
    findings = audit_toy(write(tmp_path / "data"))
    assert not failures(findings)
    told = {(finding.verdict, finding.check) for finding in findings}
    passed = {("PASS", "parts"), ("PASS", "features"), ("PASS", "graphs")}
    assert told == passed | {("INFO", "cold"), ("INFO", "time"), ("INFO", "features")}
    graphs = [finding.text.partition(":")[0] for finding in findings if finding.check == "graphs"]
    assert graphs == [
        f"SIGER.{name}" for name in ("train_edges", "norm_adj", "user_items", "eisg.image", "eisg.text")
    ]
    assert list(workdir.iterdir()) == []


@pytest.mark.parametrize(("first", "second"), [("train", "valid"), ("train", "test"), ("valid", "test")])
def test_a_pair_in_two_parts_is_named(first: str, second: str, tmp_path: Path, workdir: Path) -> None:
    splits = random_splits()
    pair = splits[first][0]
    splits[second].append(pair)
    said = failures(audit_toy(write(tmp_path / "data", splits)))
    expected = f"1 pairs are in {first} and in {second}, such as user {pair[0]!r}, item {pair[1]!r}"
    assert said == [f"parts: {expected}"]


def test_what_has_no_training_row_is_counted(tmp_path: Path, workdir: Path) -> None:
    splits = random_splits()
    splits["train"] = [pair for pair in splits["train"] if pair[0] != "u4" and pair[1] != "i3"]
    told = {
        finding.text for finding in audit_toy(write(tmp_path / "data", splits)) if finding.check == "cold"
    }
    tested = {item for _, item in splits["test"]}
    assert "1 of 23 users of test have no training row" in told
    assert f"{int('i3' in tested)} of {len(tested)} items of test have no training row" in told


def test_repeated_rows_and_features_are_told(tmp_path: Path, workdir: Path) -> None:
    features = random_features({"image": 5, "text": 11})
    features["image"][0][[4, 9, 11]] = features["image"][0][0]
    features["text"][0][2] = 0
    splits = random_splits()
    splits["train"] += splits["train"][:3]
    findings = audit_toy(write(tmp_path / "data", splits, features))
    told = [finding.text for finding in findings if finding.verdict == "INFO"]
    assert "image: 3 of 31 rows repeat an earlier row; the most frequent row occurs 4 times" in told
    assert "30 items have all of image, text, 1 some, 0 none" in told
    assert "3 rows of train repeat an earlier row of that part" in told
    assert not failures(findings)


@pytest.mark.parametrize("exchanged", [False, True])
def test_the_audit_doubts_rows_that_belong_to_other_items(
    exchanged: bool, tmp_path: Path, workdir: Path
) -> None:
    table, content = tastes(3)
    splits: dict[str, list[tuple[str, str]]] = {"train": [], "valid": [], "test": []}
    for user in range(table.shape[1]):
        items = np.flatnonzero(table[:, user])
        for name, part in zip(splits, (items[:-2], items[-2:-1], items[-1:]), strict=True):
            splits[name] += [(f"u{user}", f"i{item}") for item in part]
    ids = np.arange(len(table))
    if exchanged:
        ids = np.random.default_rng(4).permutation(ids)
    write_dataset(tmp_path, "toy", splits, {"text": (content, [f"i{item}" for item in ids])})
    findings = audit("toy", values={"data_path": str(tmp_path), "gpu_id": "", "model": "SIGER"})
    (finding,) = [f for f in findings if "nearest item" in f.text]
    assert finding.text.startswith("text: an item and its nearest item have ")
    assert finding.verdict == ("INFO" if exchanged else "PASS")
    assert ("the rows may belong to other items" in finding.text) is exchanged


def test_features_that_tell_nothing_apart_fail(tmp_path: Path, workdir: Path) -> None:
    features = random_features({"image": 5})
    features["image"][0][:] = 2.0
    said = failures(audit_toy(write(tmp_path / "data", None, features)))
    assert said == ["features: image: all 31 rows are the same"]


@pytest.mark.parametrize("loaded", ["user_id, item_id, timestamp", "user_id, item_id"])
def test_test_rows_before_training_are_counted(loaded: str, tmp_path: Path, workdir: Path) -> None:
    """Whether or not training loads the column."""
    folder = tmp_path / "data" / "toy"
    folder.mkdir(parents=True)
    times = {"train": [5, 1], "valid": [6, 2], "test": [3, 4]}  # ann trained until 5, bob until 1
    for part, (ann, bob) in times.items():
        item = {"train": "a", "valid": "b", "test": "c"}[part]
        rows = f"ann\t{item}\t{ann}\nbob\t{item}\t{bob}\nbob\td{part}\t0\n"
        (folder / f"toy.{part}.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n" + rows)
    facts = [
        "benchmark_filename: [train, valid, test]",
        "load_col:",
        f"  inter: [{loaded}]",
    ]
    (folder / "toy.yaml").write_text("\n".join([*facts, ""]))
    options = {"gpu_id": "", "topk": "[2]", "valid_metric": "Recall@2", "model": "BPR"}
    findings = audit("toy", values={"data_path": str(tmp_path / "data"), **options})
    told = [finding.text for finding in findings if finding.check == "time"]
    # Of ann 3 < 5, of bob 4 > 1 and 0 < 1.
    assert told == ["66.7% of the test rows are older than their user's last training row"]


# ---- graphs


def plant(edges: Tensor, users: Tensor, items: Tensor) -> Tensor:
    return torch.cat((edges, torch.stack((users, items))), dim=1)


@pytest.mark.parametrize("model", ["SIGER", "LightGCN"])
def test_a_test_pair_among_the_edges_is_named(
    model: str, tmp_path: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is given one test pair with its training rows."""
    folder, splits = write(tmp_path / "data"), random_splits()
    user, item = splits["test"][5]
    honest = audit_module.build_experiment

    def leaky(config: Any, run: Any) -> Any:
        experiment = honest(config, run)
        train = experiment.train_data._dataset
        u, i = train.user_tokens.index(user), train.item_tokens.index(item)
        pair = Interaction({"user_id": torch.tensor([u]), "item_id": torch.tensor([i])})
        experiment.model = config.model_class(config, train.copy(cat_interactions([train.inter_feat, pair])))
        return experiment

    monkeypatch.setattr(audit_module, "build_experiment", leaky)
    said = failures(audit_toy(folder, model=model) if model == "SIGER" else audit_plain(folder, model))
    named = f"such as user {user!r}, item {item!r}, which is in test"
    expected = {
        "SIGER": ["train_edges", "norm_adj", "user_items"],
        "LightGCN": ["interaction_matrix", "norm_adj_matrix"],
    }
    traced = [text for text in said if "user-item" in text or "not training rows" in text]
    assert {text.split(":")[1].strip() for text in traced} == {f"{model}.{name}" for name in expected[model]}
    assert all(f"1 edges are not training rows, {named}" in text for text in traced)


def test_scores_over_an_item_graph_are_no_edges(
    tmp_path: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ItemKNN keeps its predictions as a sparse matrix; a pair that its item graph cannot give is a fault."""
    folder = write(tmp_path / "data")
    findings = audit_plain(folder, "ItemKNN")
    assert not failures(findings)
    told = [finding.text for finding in findings if "ItemKNN.pred_mat" in finding.text]
    assert len(told) == 1
    assert told[0].endswith(" scores of training rows times an item graph; no edges")

    honest = audit_module.build_experiment

    def planted(config: Any, run: Any) -> Any:
        experiment = honest(config, run)
        pairs = audit_module.pairs_of(experiment)
        dense = experiment.model.pred_mat.tolil()
        user, item = divmod(int(pairs["test"][0]), experiment.dataset.item_num)
        dense[user] = 0
        experiment.model.w = experiment.model.w * 0
        dense[user, item] = 1.0
        experiment.model.pred_mat = dense.tocsr()
        return experiment

    monkeypatch.setattr(audit_module, "build_experiment", planted)
    (said,) = (text for text in failures(audit_plain(folder, "ItemKNN")) if "pred_mat" in text)
    assert "edges are not training rows, such as user " in said
    assert said.endswith("which is in test")


def audit_plain(folder: Path, model: str) -> list[Finding]:
    values = {
        "data_path": str(folder),
        "gpu_id": "",
        "topk": "[3, 5]",
        "valid_metric": "Recall@5",
        "model": model,
    }
    return audit("toy", values=values)


def test_a_test_pair_behind_an_item_graph_is_named(
    tmp_path: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user-item graphs are clean; co-occurrence alone has seen a test pair."""
    folder, splits = write(tmp_path / "data"), random_splits()
    user, item = splits["test"][5]
    honest, seen = eisg.co_occurrence_graph, {}
    spy = MultimodalDataset.build

    def build(self: MultimodalDataset) -> Any:
        seen["u"], seen["i"] = self.user_tokens.index(user), self.item_tokens.index(item)
        return spy(self)

    def leaky(edges: Tensor, *sizes: Any, **options: Any) -> Tensor:
        return honest(plant(edges, torch.tensor([seen["u"]]), torch.tensor([seen["i"]])), *sizes, **options)

    monkeypatch.setattr(MultimodalDataset, "build", build)
    monkeypatch.setattr(eisg, "co_occurrence_graph", leaky)
    said = failures(audit_toy(folder, n_co_neighbors="30"))
    assert {text.split(":")[1].strip() for text in said} == {"SIGER.eisg.image", "SIGER.eisg.text"}
    for text in said:
        assert "edges come from evaluation rows, such as" in text
        assert f"user {user!r}, item {item!r}, which is in test" in text


# ---- a run


@pytest.fixture
def run_dir(settings: Settings) -> Path:
    run_experiment("BPR", "toy", config_dict=settings(epochs=6, learning_rate=0.05, run_dir="run"))
    return Path("run")


def doctor(run_dir: Path, **changes: Any) -> None:
    file = run_dir / "results.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def lines_of(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_an_honest_run_passes(run_dir: Path) -> None:
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    findings = audit(None, run_dir)
    assert not failures(findings)
    assert {"parts", "run", "selection", "weights", "users"} <= {
        finding.check for finding in findings if finding.verdict == "PASS"
    }
    assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()} == before


def test_a_run_with_features_of_few_bits_passes(settings: Settings) -> None:
    values = settings(epochs=2, n_semantic_neighbors=3, feature_dtype="bfloat16", run_dir="few")
    run_experiment("SIGER", "toy", config_dict=values)
    findings = audit(None, Path("few"))
    assert not failures(findings)
    passed = [finding.text for finding in findings if finding.verdict == "PASS"]
    assert any(text.startswith("SIGER.eisg.image: all") for text in passed)


def test_choosing_by_test_is_found(run_dir: Path) -> None:
    """Another epoch stands in the results than validation chose."""
    lines = lines_of(run_dir)
    best = json.loads((run_dir / "results.json").read_text())["best_epoch"]
    other = next(
        line["epoch"] for line in lines if line["valid"]["recall@5"] < lines[best]["valid"]["recall@5"]
    )
    doctor(run_dir, best_epoch=other, valid=lines[other]["valid"])
    said = failures(audit("toy", run_dir))
    score, chosen = lines[other]["valid"]["recall@5"], lines[best]["valid"]["recall@5"]
    assert said[0] == (
        f"selection: results.json: best_epoch is {other} ({score}), "
        f"but validation recall@5 was best in epoch {best} ({chosen})"
    )


def test_another_point_than_the_search_found_best_is_named(run_dir: Path) -> None:
    """A winner that validation does not favour, such as one chosen on test."""
    Path("search").mkdir()
    winner = run_dir.rename("search/best-seed7")
    score = json.loads((winner / "results.json").read_text())["valid"]["recall@5"]
    ledger = Ledger(Path("search"), "recall@5")
    for rate, scored in ((0.05, score), (0.01, score - 0.01)):
        trial = ledger.add({"learning_rate": rate}, 7)
        trial.state, trial.score = "finished", scored
    ledger.write()
    told = "this point has the best validation recall@5 of 2 finished points of the search"
    assert Finding("PASS", "selection", told) in audit(None, winner)

    other = ledger.add({"learning_rate": 0.01}, 7)
    other.score = score + 0.01
    ledger.write()
    (said,) = failures(audit(None, winner))
    assert f"was best, {other.score}, with learning_rate 0.01; the run has {{'learning_rate': 0.05}}" in said


def test_weights_of_another_epoch_are_found(run_dir: Path) -> None:
    """Results tell the chosen epoch, the test metrics another one's."""
    test = json.loads((run_dir / "results.json").read_text())["test"]
    doctor(run_dir, test={**test, "recall@5": test["recall@5"] + 0.01})
    checks = [text.split(":")[0] for text in failures(audit(None, run_dir))]
    assert checks == ["weights", "users"]


@pytest.mark.parametrize("change", [9e-4, -5e-5, 3e-6])
@pytest.mark.parametrize("part", ["test", "valid"])
def test_any_printed_digit_counts(part: str, change: float, run_dir: Path) -> None:
    results = json.loads((run_dir / "results.json").read_text())
    doctor(run_dir, **{part: {**results[part], "recall@5": results[part]["recall@5"] + change}})
    assert any(
        text.startswith(f"weights: {part} recall@5 of model") for text in failures(audit(None, run_dir))
    )


def test_looking_at_test_while_training_is_found(run_dir: Path) -> None:
    lines = lines_of(run_dir)
    lines[2]["test"] = {"recall@5": 0.5}
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert failures(audit(None, run_dir)) == ["selection: metrics.jsonl: test data were read in epoch 2"]


def test_a_metric_that_no_epoch_has_is_found(run_dir: Path) -> None:
    lines = lines_of(run_dir)
    for line in lines:
        line["valid"] = {"mrr@7": 0.5}
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert any("the valid_metric of config.yaml" in text for text in failures(audit(None, run_dir)))


def test_other_data_than_in_training_are_found(run_dir: Path, tmp_path: Path) -> None:
    splits = random_splits()
    splits["test"][0], splits["valid"][0] = splits["valid"][0], splits["test"][0]
    write(tmp_path / "other", splits)
    said = failures(audit(None, run_dir, {"data_path": str(tmp_path / "other")}))
    assert any("the data differ from those used in training: test, valid" in text for text in said)
    assert any("protocol_id is" in text for text in said)


def test_a_run_without_validation_has_nothing_to_choose(settings: Settings) -> None:
    run_experiment("BPR", "toy", config_dict=settings(epochs=2, eval_step=0, saved=False, run_dir="blind"))
    findings = audit(None, "blind")
    assert Finding("INFO", "selection", "the run has no validation; the last epoch was tested") in findings
    assert any(finding.check == "weights" and finding.verdict == "INFO" for finding in findings)


def test_lost_weights_are_found(run_dir: Path) -> None:
    (run_dir / "model.safetensors").unlink()
    said = "weights: model.safetensors is missing, but the run has saved=True"
    assert failures(audit(None, run_dir)) == [said]


def without(part: str, run_dir: Path) -> None:
    results = json.loads((run_dir / "results.json").read_text())
    results[part].pop("ndcg@3")
    doctor(run_dir, **{part: results[part]})


def rewrite(name: str, change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def damage(run_dir: Path) -> None:
        file = run_dir / name
        file.write_text("".join(f"{line}\n" for line in change(file.read_text().splitlines())))

    return damage


def cut(line: str) -> str:
    return ",".join(line.split(",")[:2])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (partial(without, "test"), "weights: test ndcg@3 of model.safetensors is 0."),
        (partial(without, "valid"), "weights: valid ndcg@3 of model.safetensors is 0."),
        (partial(doctor, test={"recall@5": 0.5, "x": 1.0}), "weights: test recall@5"),
        (
            rewrite("users.csv", lambda lines: [cut(line) for line in lines]),
            "users: users.csv: has no recall@",
        ),
        (rewrite("users.csv", lambda lines: lines[:1]), "users: "),
        (rewrite("users.csv", lambda lines: [lines[0], f"{cut(lines[1])}{',inf' * 12}"]), "is not finite"),
        (rewrite("metrics.jsonl", lambda lines: []), "has not one line for each of the 6 epochs"),
        (rewrite("metrics.jsonl", lambda lines: lines[:-1]), "has not one line for each of the 6 epochs"),
        (rewrite("metrics.jsonl", lambda lines: [lines[0], *lines[:-1]]), "has not one line for each"),
        (
            rewrite(
                "metrics.jsonl", lambda lines: [re.sub(r'"valid": {.*?}', '"valid": null', x) for x in lines]
            ),
            "has no validation, but results.json has `valid`",
        ),
    ],
)
def test_numbers_that_are_missing_or_not_finite_fail(
    damage: Callable[[Path], None], said: str, run_dir: Path
) -> None:
    damage(run_dir)
    assert any(said in text for text in failures(audit(None, run_dir)))


@pytest.mark.parametrize("test", [{}, {"recall@5": float("nan")}, {"recall@5": 10**400}])
def test_results_without_numbers_are_refused(test: dict[str, float], run_dir: Path) -> None:
    doctor(run_dir, test=test)
    with pytest.raises(UserError, match=r"^run/results\.json: damaged: test"):
        audit(None, run_dir)


# ---- the command


def test_the_command_prints_and_returns_1_for_a_fail(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["audit", f"--run={run_dir}"]) == 0
    assert "PASS  selection: " in capsys.readouterr().out
    doctor(run_dir, protocol_id="0" * 16)
    assert cli.main(["audit", f"--run={run_dir}", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    failed = [entry for entry in found if entry["verdict"] == "FAIL"]
    assert [entry["check"] for entry in failed] == ["run"]
    assert "protocol_id is 0000000000000000" in failed[0]["text"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name the dataset"),
        (["--run=nowhere"], "nowhere: not a run folder"),
        (["--run=run", "--dataset=other"], "is a run on 'toy', not on 'other'"),
        (["--run=run", "--topk=3"], "--topk cannot be set for a run"),
        (["--run=open"], "unfinished"),
        (["here"], "write `recbole-siger audit"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], said: str, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("open").mkdir()
    (Path("open") / "config.yaml").write_text((run_dir / "config.yaml").read_text())
    assert cli.main(["audit", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
