"""The best validation epoch is tested, stopping is exact, and a resumed run ends as an unbroken one."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from recbole.trainer import Trainer

from recbole_siger.config import Config
from recbole_siger.errors import RunInterrupted, UserError
from recbole_siger.quick_start import evaluate_run, resume_run, run_experiment
from recbole_siger.registry import get_model_class
from recbole_siger.runs.folder import RunFolder
from recbole_siger.training.experiment import build_experiment
from recbole_siger.training.trainer import RunTrainer
from tests.conftest import MODEL_OPTIONS

Settings = Callable[..., dict[str, Any]]

NCL = {"num_clusters": 4, "warm_up_step": 2}


def run(values: dict[str, Any], model: str = "BPR", run_dir: str = "run") -> dict[str, Any]:
    return run_experiment(model, "toy", config_dict={**values, "run_dir": run_dir})


def metrics_of(run_dir: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(run_dir, "metrics.jsonl").read_text().splitlines()]


def same_weights(first: str, second: str) -> bool:
    """Compare all tensors and metadata of two saved models, bit by bit."""
    (a, metadata), (b, other) = (
        RunFolder(folder).read_tensors("model.safetensors") for folder in (first, second)
    )
    return metadata == other and a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def script_validation(monkeypatch: pytest.MonkeyPatch, scores: Sequence[float]) -> None:
    """Let validation return ``scores``, one an epoch; the test is as it is."""
    given, evaluate = iter(scores), RunTrainer.evaluate

    def scripted(
        self: RunTrainer, data: Any, load_best_model: bool = True, **options: Any
    ) -> dict[str, float]:
        if load_best_model:
            return evaluate(self, data)
        return {"recall@5": next(given), "ndcg@5": 0.0}

    monkeypatch.setattr(RunTrainer, "evaluate", scripted)


# ---- selection


def test_the_best_validation_epoch_is_tested(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    values = settings(learning_rate=0.05)
    script_validation(monkeypatch, [0.1, 0.3, 0.2, 0.2])
    kept = run({**values, "epochs": 4})
    script_validation(monkeypatch, [0.1, 0.3])
    short = run({**values, "epochs": 2}, run_dir="short")
    script_validation(monkeypatch, [0.1, 0.2, 0.3, 0.4])
    last = run({**values, "epochs": 4}, run_dir="last")
    assert (kept["best_epoch"], kept["n_epochs"], kept["valid"]["recall@5"]) == (1, 4, 0.3)
    assert kept["test"] == short["test"]
    assert kept["test"] != last["test"]  # else the comparison above would say nothing
    assert same_weights("run", "short")


def test_the_best_epoch_is_tested_without_saving_too(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, results = settings(epochs=4, learning_rate=0.05), []
    for saved in (True, False):
        script_validation(monkeypatch, [0.1, 0.3, 0.2, 0.2])
        run_dir = f"saved-{saved}"
        results.append(run({**values, "saved": saved}, run_dir=run_dir))
        assert Path(run_dir, "model.safetensors").exists() is saved
    assert results[0]["test"] == results[1]["test"]
    assert results[1]["best_epoch"] == 1
    with pytest.raises(UserError, match=r"model\.safetensors: missing; the run has --saved=False"):
        evaluate_run("saved-False")


def test_without_validation_the_last_epoch_is_tested(settings: Settings) -> None:
    result = run(settings(epochs=3, eval_step=0))
    assert (result["best_epoch"], result["n_epochs"], result["valid"]) == (2, 3, {})
    assert [line["valid"] for line in metrics_of("run")] == [None] * 3
    assert evaluate_run("run") == result["test"]


def test_validation_every_second_epoch(settings: Settings) -> None:
    result = run(settings(epochs=5, eval_step=2))
    assert [line["valid"] is None for line in metrics_of("run")] == [True, False, True, False, True]
    assert result["best_epoch"] in (1, 3)


# ---- stopping


def stop(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, scores: Sequence[float], **values: Any
) -> tuple[int, int | None, float]:
    """Train under scripted scores: epochs trained, best epoch, best score."""
    script_validation(monkeypatch, scores)
    given = {"patience_from": "start", **values}
    config = Config("BPR", "toy", config_dict=settings(epochs=len(scores), **given))
    experiment = build_experiment(config, RunFolder.create("run"))
    best, _ = experiment.trainer.fit(experiment.train_data, experiment.valid_data)
    return experiment.trainer.n_epochs, experiment.trainer.best_epoch, best


@pytest.mark.parametrize("protocol", ["recbole", "mmrec"])
@pytest.mark.parametrize("plateau", [0.15, 0.2])
def test_training_stops_at_the_21st_epoch_without_a_gain(
    protocol: str, plateau: float, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = [0.1, 0.2] + [plateau] * 40  # an equal score is no gain
    found = stop(settings, monkeypatch, scores, stopping_step=20, protocol=protocol)
    assert found == (2 + 21, 1, 0.2)


def test_a_model_that_hits_nothing_stops(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs flush denormals: the float next to zero would be zero again, and each epoch a gain."""
    assert stop(settings, monkeypatch, [0.0] * 40, stopping_step=5) == (1 + 6, 0, 0.0)


def test_a_gain_in_the_20th_epoch_goes_on(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = [0.2] + [0.1] * 20 + [0.3] + [0.1] * 30
    assert stop(settings, monkeypatch, scores, stopping_step=20) == (22 + 21, 21, 0.3)


NEAR = [0.20001, 0.20004, 0.20003, 0.1, 0.1, 0.1]


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        ("mmrec", (4, 0, 0.2)),  # all three are 0.2000: epochs 1, 2 and 3 bring nothing
        ("recbole", (5, 1, 0.20004)),
    ],
)
def test_mmrec_compares_rounded_scores(
    protocol: str, expected: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stop(settings, monkeypatch, NEAR, stopping_step=2, protocol=protocol) == expected


def test_mmrec_rounds_to_four_places(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = [0.2001, 0.2002, 0.20024]  # the last two are equal
    assert stop(settings, monkeypatch, scores, protocol="mmrec") == (3, 1, 0.2002)


@pytest.mark.parametrize(
    ("min_epochs", "stopping_step", "n_epochs"),
    [
        (0, 2, 4),  # epoch 0 gains, epochs 1 to 3 do not
        (1, 2, 4),  # epoch 0 gained anyway
        (2, 2, 5),  # epochs 2 to 4 count
        (5, 2, 8),  # epochs 5 to 7 count
        (5, 0, 6),  # epoch 5 counts
    ],
)
def test_early_epochs_do_not_count(
    min_epochs: int, stopping_step: int, n_epochs: int, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = [0.9 - epoch / 100 for epoch in range(12)]
    found = stop(settings, monkeypatch, scores, stopping_step=stopping_step, min_epochs=min_epochs)
    assert found == (n_epochs, 0, 0.9)


@pytest.mark.parametrize("model", ["BPR", "SIGER"])  # RecBole's model does not name its loss
def test_epochs_of_the_plateau_do_not_count(
    model: str, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    falling = [0.9 - epoch / 100 for epoch in range(14)]
    script_validation(monkeypatch, falling)
    values = settings(epochs=14, stopping_step=2, learning_rate=1e-7)
    assert run(values, model)["n_epochs"] == 14
    assert "note:" not in caplog.text
    script_validation(monkeypatch, falling)
    assert run({**values, "patience_from": "start"}, model, "other")["n_epochs"] == 4
    assert "note: the best epoch is 0, among the first 5; a larger --stopping_step or" in caplog.text


# ---- losses and hooks


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_term_that_is_not_finite_stops_the_run(
    value: float, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    siger = get_model_class("SIGER")
    loss_terms, calls = siger.loss_terms, []

    def broken(self: Any, interaction: Any) -> dict[str, Any]:
        calls.append(1)
        terms = loss_terms(self, interaction)
        return terms if len(calls) < 5 else {**terms, "perturbation": terms["perturbation"] * value}

    monkeypatch.setattr(siger, "loss_terms", broken)
    with pytest.raises(UserError) as caught:
        run(settings(epochs=4), "SIGER")  # three batches an epoch
    assert str(caught.value).startswith(f"training stopped in epoch 1: loss term `perturbation` is {value}; ")
    assert not Path("run/results.json").exists()
    assert len(metrics_of("run")) == 1


def test_a_single_loss_is_checked_too(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    bpr = get_model_class("BPR")
    monkeypatch.setattr(bpr, "calculate_loss", lambda self, _: self.user_embedding.weight.sum() * math.nan)
    with pytest.raises(UserError, match=r"^training stopped in epoch 0: loss term `loss` is nan; "):
        run(settings(epochs=2))
    assert not Path("run/results.json").exists()


def test_the_hook_is_called_once_an_epoch(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    epochs: list[int] = []
    monkeypatch.setattr(get_model_class("SIGER"), "on_epoch_start", lambda self, epoch: epochs.append(epoch))
    run(settings(epochs=3), "SIGER")
    assert epochs == [0, 1, 2]


def test_the_model_sets_the_learning_rate_of_an_epoch(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    train_epoch = Trainer._train_epoch

    def noted(self: RunTrainer, *args: Any, **options: Any) -> Any:
        rates.extend(group["lr"] for group in self.optimizer.param_groups)
        return train_epoch(self, *args, **options)

    monkeypatch.setattr(Trainer, "_train_epoch", noted)
    run(settings(epochs=3, learning_rate=0.01, lr_decay=0.25, lr_decay_epochs=2), "MGCN")
    run(settings(epochs=2, learning_rate=0.01), "SIGER", "constant")
    assert rates == pytest.approx([0.01, 0.005, 0.0025, 0.01, 0.01])


# ---- what a run leaves


def test_what_a_run_leaves(settings: Settings, workdir: Path) -> None:
    result = run(settings(epochs=3, seed=5), "SIGER")
    assert sorted(path.name for path in workdir.iterdir()) == ["run"]
    assert sorted(path.name for path in Path("run").iterdir()) == [
        "config.yaml",
        "digests.json",
        "embeddings.safetensors",
        "features.safetensors",
        "graphs.safetensors",
        "ids",
        "metrics.jsonl",
        "model.safetensors",
        "results.json",
        "run.log",
        "seen.safetensors",
        "users.csv",
    ]
    lines = metrics_of("run")
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    for line in lines:
        assert list(line["loss"]) == [
            "bpr",
            "perturbation",
            "modality_alignment",
            "behavior_alignment",
            "regularization",
        ]
        assert all(math.isfinite(value) for value in line["loss"].values())
        assert line["valid"].keys() == result["valid"].keys()
        assert line["seconds_train"] > 0
    written = json.loads(Path("run/results.json").read_text())
    assert list(written) == [
        "model",
        "dataset",
        "protocol",
        "protocol_id",
        "protocol_facts",
        "candidates",
        "seed",
        "best_epoch",
        "valid",
        "test",
        "test_beyond",
        "slices",
        "n_epochs",
        "seconds_per_epoch",
        "peak_memory_mib",
        "threads",
        "n_parameters",
        "versions",
    ]
    assert {**written, "run_dir": "run"} == result
    named = ("model", "dataset", "protocol", "seed", "n_epochs")
    assert tuple(written[key] for key in named) == ("SIGER", "toy", "mmrec", 5, 3)
    assert written["valid"] == lines[written["best_epoch"]]["valid"]
    assert written["valid"]["recall@5"] == max(line["valid"]["recall@5"] for line in lines)
    # User and item table with padding, width 8; per modality two maps (5 or 11 to 8, 8 to 8) with bias.
    gates = sum(width * 8 + 8 + 8 * 8 + 8 for width in (5, 11))
    assert written["n_parameters"] == (24 + 32) * 8 + gates
    assert {"python", "torch", "recbole", "recbole-siger"} <= written["versions"].keys()
    assert yaml.safe_load(Path("run/config.yaml").read_text())["seed"] == 5


@pytest.mark.parametrize("protocol", ["mmrec", "recbole"])
def test_users_average_to_the_result(protocol: str, settings: Settings) -> None:
    """Every digit of it: RecBole rounds to 16 places here."""
    changes = {"metrics": ["Recall", "NDCG", "MRR", "MAP", "Hit", "Precision"], "eval_batch_size": 7}
    result = run(settings(epochs=2, metric_decimal_place=16, protocol=protocol, **changes))
    users = RunFolder.open("run").read_users()
    means = users.drop(columns=["user_id", "n_train"]).mean()
    assert dict(means) == pytest.approx(result["test"], rel=1e-12)
    assert set(users["user_id"]) == {f"u{user}" for user in range(23)}
    assert set(users["n_train"]) == {7}
    tokens = Path("run/ids/users.txt").read_text().split()
    assert list(users["user_id"]) == tokens[1:]  # ascending internal id, without the padding


def test_slices_and_the_catalogue_are_told(settings: Settings) -> None:
    result = run(settings(epochs=2), "SIGER")
    assert set(result["test_beyond"]) == {
        f"{name}@{k}"
        for name in ("itemcoverage", "giniindex", "averagepopularity", "tailpercentage", "novelty")
        for k in (3, 5)
    }
    assert set(result["slices"]) == {"item_popularity", "user_activity", "modality_coverage"}
    assert result["slices"]["user_activity"]["low"]["n_users"] == 23  # all have seven rows
    low = {key: value for key, value in result["slices"]["user_activity"]["low"].items() if key != "n_users"}
    assert low == pytest.approx(result["test"], abs=1e-6)
    assert result["slices"]["modality_coverage"]["partial"] == {"n_items": 0, "n_users": 0}
    json.dumps(result, allow_nan=False)


def test_catalogue_metrics_are_those_that_recbole_reports(settings: Settings) -> None:
    names = ["Recall", "ItemCoverage", "GiniIndex", "AveragePopularity", "TailPercentage"]
    result = run(settings(epochs=2, metrics=names, metric_decimal_place=16))
    for name in names[1:]:
        for k in (3, 5):
            key = f"{name.lower()}@{k}"
            assert result["test_beyond"][key] == pytest.approx(result["test"][key], rel=1e-12), key


def test_a_model_of_values_ranks_nobody(settings: Settings) -> None:
    values = {"metrics": ["LogLoss"], "valid_metric": "LogLoss", "eval_args": {"mode": "uni5"}}
    result = run(settings(epochs=1, protocol="recbole", **values))
    assert (result["test_beyond"], result["slices"]) == ({}, {})
    assert not Path("run/users.csv").exists()


def test_sampled_candidates_are_told_by_user_too(settings: Settings) -> None:
    result = run(settings(epochs=1, protocol="recbole", eval_args={"mode": "uni5"}, metric_decimal_place=16))
    assert result["candidates"] == "uni5"
    users = RunFolder.open("run").read_users()
    means = users.drop(columns=["user_id", "n_train"]).mean()
    assert {key: means[key] for key in result["test"]} == pytest.approx(result["test"], rel=1e-12)


@pytest.mark.parametrize("model", ["SIGER", "BPR"])
def test_the_same_seed_gives_the_same_run(model: str, settings: Settings) -> None:
    values = settings(epochs=2)
    first, second = (run(values, model, run_dir) for run_dir in ("first", "second"))
    other = run({**values, "seed": 8}, model, "other")
    assert first["test"] == second["test"]
    assert same_weights("first", "second")
    assert not same_weights("first", "other")
    assert other["seed"] == 8


# Models whose evaluations draw.
DRAWING = [("MIGGT", {"resample_evaluation": True}), ("LGMRec", {"hyper_noise": "always"})]


@pytest.mark.parametrize(("model", "options"), [("SIGER", {}), *DRAWING])
def test_a_saved_run_is_tested_again_to_the_last_digit(
    model: str, options: dict[str, Any], settings: Settings
) -> None:
    values = settings(epochs=3, metric_decimal_place=16, **MODEL_OPTIONS.get(model, {}))
    result = run({**values, **options}, model)
    assert evaluate_run("run") == result["test"]


@pytest.mark.parametrize(("model", "options"), DRAWING)
def test_an_evaluation_that_draws_does_not_change_training(
    model: str, options: dict[str, Any], settings: Settings
) -> None:
    losses = []
    for step in (1, 3):
        values = settings(epochs=3, eval_step=step, **MODEL_OPTIONS.get(model, {}))
        run({**values, **options}, model, f"every-{step}")
        losses.append([line["loss"] for line in metrics_of(f"every-{step}")])
    assert losses[0] == losses[1]


def test_a_run_is_not_overwritten(settings: Settings) -> None:
    values = settings(epochs=1)
    run(values)
    before = Path("run/results.json").read_bytes()
    with pytest.raises(UserError, match="has a finished run; choose another --run_dir"):
        run(values)
    assert Path("run/results.json").read_bytes() == before


def test_a_run_that_cannot_begin_leaves_nothing(settings: Settings, workdir: Path) -> None:
    with pytest.raises(UserError, match="'audio' is not a feature"):
        run(settings(modalities=["audio"]), "SIGER")
    assert list(workdir.iterdir()) == []


def test_more_places_than_items_are_refused(settings: Settings) -> None:
    with pytest.raises(UserError, match="topk"):  # there are 31 items and the padding
        run(settings(epochs=1, topk=[50], valid_metric="Recall@50"))


def test_the_default_folder_is_named_after_the_run(settings: Settings) -> None:
    result = run_experiment("BPR", "toy", config_dict=settings(epochs=1))
    assert [str(path.parent) for path in Path("runs").rglob("results.json")] == [result["run_dir"]]
    assert Path(result["run_dir"]).match("runs/toy/BPR-*-seed7")


# ---- resuming


class Interrupt:
    """Raise KeyboardInterrupt in one epoch: at its start, or after its first batch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, model: str, epoch: int, after_batch: bool) -> None:
        cls = get_model_class(model)
        self.armed, self.epoch = True, -1
        calculate_loss, seen = cls.calculate_loss, []
        hook = getattr(cls, "on_epoch_start", lambda *_: None)

        def on_epoch_start(model_self: Any, epoch_idx: int) -> None:
            self.epoch = epoch_idx
            if self.armed and self.epoch == epoch and not after_batch:
                raise KeyboardInterrupt
            hook(model_self, epoch_idx)

        def interrupted(model_self: Any, interaction: Any, **options: Any) -> Any:
            if self.armed and self.epoch == epoch:
                seen.append(1)
                if len(seen) > 1:
                    raise KeyboardInterrupt
            return calculate_loss(model_self, interaction, **options)

        monkeypatch.setattr(cls, "on_epoch_start", on_epoch_start, raising=False)
        monkeypatch.setattr(cls, "calculate_loss", interrupted)


def assert_same_run(first: str, second: str) -> None:
    assert same_weights(first, second)
    measured = ("seconds_train", "seconds_valid", "peak_memory_mib", "seconds_per_epoch")
    lines, results = [], []
    for run_dir in (first, second):
        lines.append([{k: v for k, v in line.items() if k not in measured} for line in metrics_of(run_dir)])
        result = json.loads(Path(run_dir, "results.json").read_text())
        results.append({key: value for key, value in result.items() if key not in measured})
    assert lines[0] == lines[1]
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("model", "options", "epoch", "after_batch"),
    [
        ("SIGER", {}, 3, False),
        ("SIGER", {"protocol": "recbole", "train_features": True}, 3, True),
        ("SIGER", {}, 0, True),  # there is no checkpoint yet
        ("LATTICE", {"lr_decay_epochs": 2}, 3, True),  # builds a graph and sets a learning rate each epoch
        ("BM3", {}, 3, False),
        ("FREEDOM", {}, 3, True),  # draws edges each epoch
        ("MGCN", {"lr_decay_epochs": 2}, 3, False),
        ("DiffMM", {"hidden_size": 11, "denoise_batch": 7}, 3, True),  # generates edges each epoch
        ("BPR", {}, 3, False),
        ("BPR", {"learner": "sgd", "eval_step": 2}, 3, True),
        ("NCL", NCL, 3, False),
        ("NCL", {**NCL, "m_step": 2}, 3, False),  # clusters are those of epoch 2
        ("MultiVAE", {"mlp_hidden_size": [7], "latent_dimension": 6}, 3, False),
        ("LightGCN", {}, 3, True),
        ("SGL", {}, 3, False),  # draws sparse graphs each epoch
        ("RecVAE", {"hidden_dimension": 7, "latent_dimension": 6}, 3, False),  # has two optimizers
    ],
)
def test_a_resumed_run_ends_as_one_in_one_go(
    model: str,
    options: dict[str, Any],
    epoch: int,
    after_batch: bool,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = settings(epochs=6, checkpoint_interval=0, **options)
    if model in ("MultiVAE", "RecVAE"):
        del values["embedding_size"]
    run(values, model, "whole")
    interrupt = Interrupt(monkeypatch, model, epoch, after_batch)
    with pytest.raises(KeyboardInterrupt):
        run(values, model, "broken")
    assert Path("broken/checkpoint.safetensors").exists() is (epoch > 0)
    assert not Path("broken/results.json").exists()
    interrupt.armed = False
    torch.rand(17)  # the stream of whoever resumes is another one
    resume_run("broken")
    assert_same_run("whole", "broken")
    assert not Path("broken/checkpoint.safetensors").exists()


def changes_printed(text: str, epoch: int) -> list[str]:
    """Return the line of an epoch up to its seconds, which are measured."""
    return [
        line.partition("  patience")[0] for line in text.splitlines() if line.startswith(f"epoch {epoch:4d}")
    ]


def test_the_folder_is_named_first_and_by_an_interrupt(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = settings(epochs=4, checkpoint_interval=0)
    run(values, "BPR", "whole")
    whole = capsys.readouterr().out
    interrupt = Interrupt(monkeypatch, "BPR", 2, after_batch=False)
    with pytest.raises(RunInterrupted) as caught:
        run(values, "BPR", "broken")
    assert caught.value.run_dir == Path("broken")
    assert capsys.readouterr().out.startswith("run folder: broken\n")
    interrupt.armed = False
    resume_run("broken")
    resumed = capsys.readouterr().out
    assert resumed.startswith("run folder: broken\n")
    changed = changes_printed(whole, 2)
    assert re.fullmatch(r"epoch    2  recall@5 0\.\d{4} [+-]0\.\d{4}  best 0\.\d{4} at [012]", changed[0])
    assert changes_printed(resumed, 2) == changed  # the change is to the epoch before the interrupt


def test_an_interrupt_before_the_folder_is_written_names_no_folder(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, workdir: Path
) -> None:
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("recbole_siger.quick_start.build_experiment", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        run(settings(epochs=1))
    assert not isinstance(caught.value, RunInterrupted)
    assert list(workdir.iterdir()) == []


def test_epochs_after_the_last_checkpoint_are_repeated(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = settings(epochs=6)
    run({**values, "checkpoint_interval": 0}, "BPR", "whole")
    save, saved = RunTrainer.save_run_checkpoint, []

    def only_first(self: RunTrainer) -> None:
        if not saved:
            saved.append(1)
            save(self)

    monkeypatch.setattr(RunTrainer, "save_run_checkpoint", only_first)
    interrupt = Interrupt(monkeypatch, "BPR", 4, after_batch=False)
    with pytest.raises(KeyboardInterrupt):
        run({**values, "checkpoint_interval": 0}, "BPR", "broken")
    assert len(metrics_of("broken")) == 4
    interrupt.armed = False
    resume_run("broken")
    assert [line["epoch"] for line in metrics_of("broken")] == list(range(6))
    assert_same_run("whole", "broken")


def interrupt_before_results(monkeypatch: pytest.MonkeyPatch, values: dict[str, Any]) -> None:
    """Train the run `broken` to its end, and interrupt it before it writes its results."""

    def interrupted(self: RunFolder, results: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_results", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(values, "BPR", "broken")


def test_a_run_that_stopped_early_is_only_tested(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    values = settings(epochs=30, stopping_step=2, checkpoint_interval=0, patience_from="start")
    script_validation(monkeypatch, [0.3, 0.2, 0.2, 0.2])
    run(values, "BPR", "whole")
    script_validation(monkeypatch, [0.3, 0.2, 0.2, 0.2])
    interrupt_before_results(monkeypatch, values)
    assert resume_run("broken")["n_epochs"] == 4  # no score is left in the script
    assert_same_run("whole", "broken")


@pytest.mark.parametrize("epochs", [1, 3])
def test_without_validation_a_run_that_trained_to_its_end_is_only_tested(
    epochs: int, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = settings(epochs=epochs, eval_step=0, checkpoint_interval=0)
    run(values, "BPR", "whole")
    interrupt_before_results(monkeypatch, values)
    assert resume_run("broken")["best_epoch"] == epochs - 1
    assert_same_run("whole", "broken")
    assert [line["best_epoch"] for line in metrics_of("broken")] == list(range(epochs))


def test_a_finished_run_cannot_be_resumed(settings: Settings) -> None:
    run(settings(epochs=1))
    with pytest.raises(UserError, match="this run is finished; `recbole-siger evaluate run` shows"):
        resume_run("run")


def test_a_folder_that_is_no_run(workdir: Path) -> None:
    for function in (resume_run, evaluate_run):
        with pytest.raises(UserError, match=r"absent: not a run folder \(no config\.yaml\)"):
            function("absent")


# ---- damage


def test_another_models_tensors_are_refused(settings: Settings) -> None:
    values = settings(epochs=1)
    run(values, "BPR", "bpr")
    run(values, "LightGCN", "lightgcn")
    run({**values, "embedding_size": 9}, "BPR", "wide")
    Path("bpr/model.safetensors").write_bytes(Path("lightgcn/model.safetensors").read_bytes())
    with pytest.raises(
        UserError, match=r"^bpr/model\.safetensors: contains a LightGCN, but config\.yaml has BPR$"
    ):
        evaluate_run("bpr")
    Path("bpr/model.safetensors").write_bytes(Path("wide/model.safetensors").read_bytes())
    with pytest.raises(UserError, match=r"^bpr/model\.safetensors: does not fit the model: .*; train again$"):
        evaluate_run("bpr")


def test_a_damaged_checkpoint_is_told(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt = Interrupt(monkeypatch, "BPR", 2, after_batch=False)
    with pytest.raises(KeyboardInterrupt):
        run(settings(epochs=3, checkpoint_interval=0))
    interrupt.armed = False
    file = Path("run/checkpoint.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"^run/checkpoint\.safetensors: damaged or not a safetensors file"):
        resume_run("run")
    assert len(metrics_of("run")) == 2  # nothing was cut


def test_a_dataset_that_changed_is_told(settings: Settings, tmp_path: Path) -> None:
    run(settings(epochs=1))
    train = tmp_path / "data" / "toy" / "toy.train.inter"
    train.write_text(train.read_text().replace("\ti3\n", "\tother\n"))
    for command in (evaluate_run, resume_run):
        with pytest.raises(
            UserError, match=r"^run/ids/items\.txt: the ids of items differ from those used in training"
        ):
            command("run")
        Path("run/results.json").unlink(missing_ok=True)  # an unfinished run, for the second round


@pytest.mark.parametrize("part", ["test", "features of image"])
def test_data_that_changed_are_told(part: str, settings: Settings, tmp_path: Path) -> None:
    run(settings(epochs=1), "SIGER")
    folder = tmp_path / "data" / "toy"
    if part == "test":
        rows = (folder / "toy.test.inter").read_text().splitlines()
        (folder / "toy.test.inter").write_text("\n".join(rows[:-1]) + "\n")
    else:
        np.save(folder / "toy.image.npy", np.load(folder / "toy.image.npy")[::-1])
    with pytest.raises(
        UserError, match=f"^run/digests.json: the data differ from those used in training: {part};"
    ):
        evaluate_run("run")


def test_features_that_a_model_does_not_need_cost_no_results(settings: Settings, tmp_path: Path) -> None:
    values = settings(epochs=1)
    file = Path(values["data_path"], "toy", "toy.text.npy")
    file.write_bytes(file.read_bytes()[:-9])
    result = run(values)
    assert set(result["slices"]) == {"item_popularity", "user_activity"}
    assert "no slices by modality coverage" in Path("run/run.log").read_text()
