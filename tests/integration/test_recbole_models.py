"""RecBole's general recommenders train, are tested and can be tested again from their run folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_siger import cli
from recbole_siger.errors import UserError
from recbole_siger.quick_start import evaluate_run, resume_run, run_experiment
from recbole_siger.registry import get_model_class
from recbole_siger.training.trainer import RunTrainer
from tests.integration.conftest import Settings
from tests.toy import QUIET

QUICK = ["BPR", "LightGCN", "ItemKNN", "EASE", "MultiVAE", "Pop", "Random"]
SLOW = ["NGCF", "SGL", "NCL", "SimpleX", "SLIMElastic"]

# By chance Recall@20 is some 20 / 1682; one epoch brings these to the order of popularity or above.
LEARNS_AT_ONCE = {"LightGCN": 0.1, "ItemKNN": 0.2, "EASE": 0.2, "Pop": 0.1, "SLIMElastic": 0.2, "NGCF": 0.05}


@pytest.mark.parametrize("model", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_one_epoch_on_ml_100k(model: str, workdir: Path) -> None:
    options: dict[str, Any] = {"num_clusters": 50} if model == "NCL" else {}
    result = run_experiment(model, "ml-100k", config_dict={**QUIET, "epochs": 1, "run_dir": "run", **options})
    assert (result["model"], result["best_epoch"], result["n_epochs"]) == (model, 0, 1)
    assert set(result["test"]) == {
        f"{m}@{k}" for m in ("recall", "ndcg", "hit", "precision") for k in (10, 20)
    }
    assert 0 < result["test"]["recall@10"] < result["test"]["recall@20"] < 1
    assert result["test"]["recall@20"] > LEARNS_AT_ONCE.get(model, 0)
    assert json.loads(Path("run/results.json").read_text())["test"] == result["test"]
    assert Path("run/model.safetensors").is_file()
    assert evaluate_run("run") == result["test"]
    assert [path.name for path in workdir.iterdir()] == ["run"]


# Models and options of TestGeneralRecommender in RecBole's tests/model/test_model_auto.py, without what is
# newer than RecBole 1.2.0: AsymKNN, and ItemKNN between users.
NO_NEGATIVES = {"train_neg_sample_args": None}
DYNAMIC = {"distribution": "uniform", "sample_num": 1, "alpha": 1.0, "dynamic": True, "candidate_num": 2}
PLAIN = [
    "Pop",
    "Random",
    "BPR",
    "NeuMF",
    "ConvNCF",
    "DMF",
    "FISM",
    "NAIS",
    "SpectralCF",
    "GCMC",
    "NGCF",
    "LightGCN",
    "DGCF",
    "LINE",
    "EASE",
    "NNCF",
    "SLIMElastic",
    "SGL",
    "ADMMSLIM",
    "NCEPLRec",
    "DiffRec",
    "LDiffRec",
]
OF_RECBOLE: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in PLAIN},
    **{
        name: (name, NO_NEGATIVES) for name in ("MultiDAE", "MultiVAE", "ENMF", "MacridVAE", "CDAE", "RecVAE")
    },
    "ItemKNN": ("ItemKNN", {}),
    "BPR, dynamic negatives": ("BPR", {"train_neg_sample_args": DYNAMIC}),
    "DMF, ratings": ("DMF", {"inter_matrix_type": "rating"}),
    "FISM, split": ("FISM", {"split_to": 10, "alpha": 0.5}),
    "NAIS, concat": ("NAIS", {"algorithm": "concat", "split_to": 10, "alpha": 0.5, "beta": 0.1}),
    "GCMC, stack": ("GCMC", {"accum": "stack", "sparse_feature": False}),
    "SimpleX, mean": ("SimpleX", {"aggregator": "mean"}),
    "SimpleX, users": ("SimpleX", {"aggregator": "user_attention"}),
    "SimpleX, items": ("SimpleX", {"aggregator": "self_attention"}),
    "NCL": ("NCL", {"num_clusters": 100}),
    "DiffRec, times": ("DiffRec", {"time-aware": True}),
    "LDiffRec, times": ("LDiffRec", {"time-aware": True}),
}


def write_rated(folder: Path) -> None:
    """Write 37 users with 11 rated items each, in the order of time, and a knowledge graph of the items."""
    rng = np.random.default_rng(7)
    rows = [(f"u{u}", f"i{i}") for u in range(37) for i in rng.permutation(29)[:11]]
    lines = [f"{u}\t{i}\t{rng.integers(1, 6)}\t{n}" for n, (u, i) in enumerate(rows)]
    folder.mkdir()
    head = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    (folder / "rated.inter").write_text("\n".join([head, *lines, ""]))
    facts = [f"e{i}\tr{i % 3}\te{(7 * i + 5) % 29}" for i in range(29) for _ in range(2)]
    head = "head_id:token\trelation_id:token\ttail_id:token"
    (folder / "rated.kg").write_text("\n".join([head, *facts, ""]))
    links = [f"i{i}\te{i}" for i in range(29)]
    (folder / "rated.link").write_text("\n".join(["item_id:token\tentity_id:token", *links, ""]))


def words_of(model: str, values: dict[str, Any]) -> list[str]:
    """Return the options of a model with its own widths and batches on the rated items."""
    given = {key: value for key, value in values.items() if key not in ("embedding_size", "train_batch_size")}
    given = {"load_col": {"inter": ["user_id", "item_id", "rating", "timestamp"]}, **given}
    words = [
        f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in given.items()
    ]
    return [f"--model={model}", "--dataset=rated", *words]


@pytest.mark.slow
@pytest.mark.parametrize("case", OF_RECBOLE)
def test_the_general_models_that_recbole_tests(
    case: str, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One epoch by the command; RecBole's own test asks for no more."""
    model, options = OF_RECBOLE[case]
    write_rated(tmp_path / "data" / "rated")
    code = cli.main(["run", *words_of(model, {**settings(), "epochs": 1, "run_dir": "run", **options})])
    assert code == 0, capsys.readouterr().err
    result = json.loads(Path("run/results.json").read_text())
    assert result["n_epochs"] == 1
    assert 0 < result["test"]["recall@5"] < 1


LABELLED = {"threshold": {"rating": 3}, "eval_args": {"mode": "labeled"}, "metrics": ["AUC"]}
GRAPH = {"kg": ["head_id", "relation_id", "tail_id"], "link": ["item_id", "entity_id"]}
KNOWLEDGE = {"load_col": {"inter": ["user_id", "item_id"], **GRAPH}}
KINDS: dict[str, tuple[dict[str, Any], int]] = {  # options, passes over the rows in an epoch
    "LightGCN": ({}, 1),
    "EASE": ({}, 1),
    "NCL": ({"num_clusters": 7}, 1),
    "MultiVAE": (NO_NEGATIVES, 1),
    "RecVAE": (NO_NEGATIVES, 4),
    "DiffRec": ({"steps": 3}, 1),
    "SASRec": ({**NO_NEGATIVES, "loss_type": "CE"}, 1),
    "CFKG": (KNOWLEDGE, 1),
    "FM": ({**LABELLED, "valid_metric": "AUC"}, 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("model", KINDS)
def test_every_kind_of_model_is_timed(
    model: str, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also a model that trains in several passes, in two stages, or with triples of a knowledge graph."""
    options, passes = KINDS[model]
    write_rated(tmp_path / "data" / "rated")
    files = sorted(tmp_path.rglob("*"))
    words = [*words_of(model, {**settings(), **options}), "--timed_steps=2", "--json"]
    if model in ("SASRec", "CFKG", "FM"):
        words = [word for word in words if not word.startswith("--protocol=")] + ["--protocol=recbole"]
    code = cli.main(["estimate", *words])
    found = capsys.readouterr()
    assert code == 0, found.err
    timed = json.loads(found.out)["time"]
    assert timed["steps_per_epoch"] % passes == 0
    assert len(timed["steps"]) <= 2 * passes
    assert min(timed["seconds_train"], timed["seconds_valid"]) > 0
    assert sorted(tmp_path.rglob("*")) == files


# ---- models whose state RecBole keeps outside torch's state dict, or whose trainer is another one

RATED = {"load_col": {"inter": ["user_id", "item_id", "rating", "timestamp"]}}
TRIPLES = {"load_col": {**RATED["load_col"], **GRAPH}}


def rated_values(settings: Settings, tmp_path: Path, options: dict[str, Any]) -> dict[str, Any]:
    write_rated(tmp_path / "data" / "rated")
    values = settings(protocol="recbole", **options)
    del values["embedding_size"]
    return values


def metrics_of(run_dir: str) -> list[Any]:
    lines = [json.loads(line) for line in Path(run_dir, "metrics.jsonl").read_text().splitlines()]
    return [(line["loss"], line["valid"], line["best_epoch"]) for line in lines]


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("DiffRec", RATED),  # keeps losses in a tensor, which it changes in place
        ("LINE", RATED),  # shuffles an array in place
        ("CFKG", TRIPLES),  # has a loader of rows and a loader of triples
    ],
)
def test_a_resumed_run_ends_as_one_in_one_go(
    model: str,
    options: dict[str, Any],
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = rated_values(settings, tmp_path, {"epochs": 5, "checkpoint_interval": 0, **options})
    whole = run_experiment(model, "rated", config_dict={**values, "run_dir": "whole"})
    finish = RunTrainer._finish_epoch

    def interrupted(trainer: Any) -> None:
        finish(trainer)
        if trainer.n_epochs == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunTrainer, "_finish_epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(model, "rated", config_dict={**values, "run_dir": "broken"})
    torch.rand(3)  # the stream of whoever resumes is another one
    assert resume_run("broken")["test"] == whole["test"]
    assert metrics_of("broken") == metrics_of("whole")


def test_a_layer_among_the_other_parameters_is_stored_once(settings: Settings, tmp_path: Path) -> None:
    """DIN, DIEN, SASRecF, GRU4RecF and FDSA list a layer, which is in the state dict already."""
    cut = {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "labeled"}
    options = {**RATED, **LABELLED, "valid_metric": "AUC", "eval_args": cut, "epochs": 1}
    values = rated_values(settings, tmp_path, options)
    result = run_experiment("DIN", "rated", config_dict={**values, "run_dir": "run"})
    assert evaluate_run("run") == result["test"]


def test_a_state_that_needs_pickle_is_refused_before_training(settings: Settings, tmp_path: Path) -> None:
    values = rated_values(settings, tmp_path, {"epochs": 1, **TRIPLES})
    with pytest.raises(UserError, match=r"^model 'RippleNet': other_parameter ripple_set: a defaultdict"):
        run_experiment("RippleNet", "rated", config_dict={**values, "run_dir": "run"})
    assert not Path("run/metrics.jsonl").exists()


@pytest.mark.parametrize(("model", "package"), [("KGAT", "dgl"), ("KGIN", "torch_scatter")])
def test_a_package_that_recbole_does_not_declare_is_named(
    model: str, package: str, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KGAT imports it when it is built, KGIN in the first step."""
    monkeypatch.setitem(sys.modules, package, None)
    values = rated_values(settings, tmp_path, {"epochs": 1, **TRIPLES})
    with pytest.raises(UserError, match=rf"^model '{model}' needs the package {package}; install it"):
        run_experiment(model, "rated", config_dict={**values, "run_dir": "run"})


@pytest.mark.parametrize(
    ("model", "options", "loss", "name"),
    [
        ("MKR", {**TRIPLES, "kge_interval": 1}, "calculate_rs_loss", "loss_1"),
        ("MKR", {**TRIPLES, "kge_interval": 1}, "calculate_kg_loss", "loss_2"),
        ("RecVAE", {**RATED, **NO_NEGATIVES, "n_dec_epochs": 3}, "calculate_loss", "loss"),
    ],
)
def test_a_loss_is_the_mean_over_its_own_batches(
    model: str,
    options: dict[str, Any],
    loss: str,
    name: str,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """RecBole's trainer of KGAT and of MKR returns a sum over rows and one over triples."""
    values = rated_values(settings, tmp_path, {"epochs": 1, **options})
    calls, compute = [], getattr(get_model_class(model), loss)

    def noted(*arguments: Any, **keywords: Any) -> Any:
        found = compute(*arguments, **keywords)
        if not keywords.get("encoder_flag"):  # RecBole reports the passes of RecVAE's decoder
            calls.append(found.item())
        return found

    monkeypatch.setattr(get_model_class(model), loss, noted)
    run_experiment(model, "rated", config_dict={**values, "train_batch_size": 16, "run_dir": "run"})
    assert len(calls) > 1
    assert metrics_of("run")[0][0][name] == pytest.approx(np.mean(calls))
