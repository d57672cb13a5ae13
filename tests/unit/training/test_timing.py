"""The time of a run is scaled from the steps that were timed, and an estimate writes nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.trainer.trainer import early_stopping

from recbole_siger import cli
from recbole_siger.errors import UserError
from recbole_siger.training import memory, timing
from recbole_siger.training.experiment import Experiment
from recbole_siger.training.progress import Schedule
from recbole_siger.training.timing import time_run
from tests.conftest import make_experiment, make_toy

BATCH = 5
START, FIRST, STEP, USERS = 11.0, (7.0, 5.0, 13.0), 2.0, 3.0  # seconds of what an epoch does


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replace the clock of trainer and loaders by a number that only the test changes."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def costs(experiment: Experiment, now: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the start of an epoch, a step and a batch of users take known times; warm-up takes longer."""
    model, trainer = experiment.model, experiment.trainer
    state = {"epoch": -1, "step": 0}

    def takes(name: str, owner: Any, seconds: Callable[[], float]) -> None:
        original = getattr(owner, name)

        def slow(*args: Any) -> Any:
            now[0] += seconds()
            return original(*args)

        monkeypatch.setattr(owner, name, slow)

    def start() -> float:
        state.update(epoch=state["epoch"] + 1, step=0)
        return 1000.0 if state["epoch"] == 0 else START

    def step() -> float:
        state["step"] += 1
        return 500.0 if state["epoch"] == 0 else (*FIRST, STEP)[min(state["step"], 4) - 1]

    takes("on_epoch_start", model, start)
    takes("calculate_loss", model, step)
    takes("_full_sort_batch_eval", trainer, lambda: 1000.0 if state["epoch"] == 0 else USERS)


@pytest.mark.parametrize(
    ("options", "processes", "every"), [({}, 1, 1), ({"eval_step": 2}, 1, 2), ({"nproc": 2}, 2, 1)]
)
def test_steps_and_users_are_scaled_to_an_epoch(
    options: dict[str, Any],
    processes: int,
    every: int,
    tmp_path: Path,
    clock: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timing, "_VALID_BATCHES", 3)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    values = {"train_batch_size": BATCH, "eval_batch_size": 2, "epochs": 97, "stopping_step": 4, **options}
    experiment = make_experiment(tmp_path, "SIGER", **values)
    costs(experiment, clock, monkeypatch)
    rows, users = len(experiment.train_data._dataset), experiment.valid_data.sample_size
    found = time_run(experiment, 4)
    n_steps, n_batches = -(-rows // (BATCH * processes)), -(-users // (2 * processes))
    assert found.steps == (STEP,) * 4
    assert found.steps_per_epoch == n_steps
    assert found.seconds_train == START + sum(FIRST) + STEP * (n_steps - 3)
    assert found.seconds_valid == USERS * n_batches
    assert found.seconds_epoch == found.seconds_train + found.seconds_valid / every
    assert found.schedule.all_epochs == (6 * every, 97)
    assert found.seconds_run == (
        6 * every * found.seconds_train + 6 * found.seconds_valid,
        97 * found.seconds_train + 97 // every * found.seconds_valid,
    )
    assert found.threads == torch.get_num_threads() == 1
    assert found.peak_mib > 1


def test_a_short_epoch_is_timed_as_a_whole(
    tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = make_experiment(tmp_path, "SIGER", train_batch_size=29, eval_step=0, epochs=3)
    costs(experiment, clock, monkeypatch)
    n_steps = len(experiment.train_data)
    found = time_run(experiment, 1000)
    assert len(found.steps) == n_steps - 3
    assert (found.seconds_train, found.seconds_valid) == (START + sum(FIRST) + STEP * (n_steps - 3), 0)
    assert found.seconds_run == (3 * found.seconds_train,) * 2


def test_a_model_of_recbole_that_counts_rows_is_timed(tmp_path: Path) -> None:
    """Pop has no gradient and one epoch; its evaluation is timed on all users of a cold start."""
    found = time_run(make_experiment(tmp_path, "Pop", cold_start={"kind": "user"}), 2)
    assert found.schedule.all_epochs == (1, 1)
    assert found.seconds_train > 0
    assert found.seconds_valid > 0


def test_several_processes_need_batches_of_rows(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, "MultiVAE", nproc=2, train_neg_sample_args=None)
    with pytest.raises(UserError, match="nproc: MultiVAE makes its own batches; remove nproc"):
        time_run(experiment, 2)


def test_several_processes_rank_all_items(tmp_path: Path) -> None:
    """RecBole's loader of sampled candidates would give all users to each process."""
    experiment = make_experiment(tmp_path, "BPR", nproc=2, protocol="recbole", eval_args={"mode": "uni5"})
    with pytest.raises(
        UserError, match="nproc: several processes rank all items, not mode=uni5; remove nproc"
    ):
        time_run(experiment, 2)


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("first", [0, 1, 5])
@pytest.mark.parametrize("patience", [0, 2])
@pytest.mark.parametrize("epochs", [1, 5, 23])
def test_the_shortest_training_is_that_of_recboles_early_stopping(
    every: int, first: int, patience: int, epochs: int
) -> None:
    """Only the first validation is an improvement; validations before epoch ``first`` do not count."""
    every = min(every, epochs)
    best, steps, n = -1.0, 0, epochs
    for epoch in range(epochs):
        if (epoch + 1) % every == 0:
            steps = -1 if epoch < first else steps
            best, steps, stops, _ = early_stopping(0.0 - bool(best >= 0), best, steps, max_step=patience)
            if stops:
                n = epoch + 1
                break
    assert Schedule(epochs, every, patience, first).all_epochs == (n, epochs)


WORDS = ["estimate", "--dataset=toy", "--data_path=dataset", "--gpu_id=", "--topk=[3,5]"]
WORDS += ["--valid_metric=Recall@3", "--train_batch_size=7"]


@pytest.fixture
def toy_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_toy().write(tmp_path / "dataset" / "toy")


@pytest.mark.usefixtures("toy_here")
def test_the_command_prints_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert cli.main([*WORDS, "--model=BPR", "--timed_steps=3", "--stopping_step=9", "--epochs=51"]) == 0
    lines = dict(line.partition(" ")[::2] for line in capsys.readouterr().out.splitlines())
    assert "thread" in lines["device"]
    assert "median of 3 steps" in lines["step"]
    assert "validation" in lines["epoch"]
    assert "11 to 51 epochs" in lines["run"]
    assert sorted(tmp_path.rglob("*")) == before

    assert cli.main([*WORDS, "--model=BPR", "--json", "--nproc=2", "--eval_step=0"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["schema"], report["model"], report["nproc"]) == (1, "BPR", 2)
    assert report["memory"]["peak"] > sum(t["n_bytes"] for t in report["memory"]["terms"][:1]) > 0
    assert report["time"]["seconds_epoch"] == report["time"]["seconds_train"] > 0
    assert report["time"]["seconds_valid"] == 0
    assert len(report["time"]["steps"]) == 10

    assert cli.main([*WORDS, "--model=BPR", "--timed_steps=2", "--nproc=2"]) == 0
    assert "MiB in each of 2 processes" in capsys.readouterr().out


@pytest.mark.usefixtures("toy_here")
@pytest.mark.parametrize(
    ("words", "free", "said"), [(["--timed_steps=0"], None, False), (["--check_memory=warn"], 10, True)]
)
def test_no_step_is_taken(
    words: list[str],
    free: int | None,
    said: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With 0 steps, and if the memory does not suffice."""
    monkeypatch.setattr("recbole_siger.cli.estimate.time_run", lambda *_: pytest.fail("a step was taken"))
    monkeypatch.setattr(memory, "available", lambda device: free)
    assert cli.main([*WORDS, "--model=BPR", *words]) == 0
    out = capsys.readouterr().out
    assert "\npeak " in out
    assert ("no step was taken" in out) is said
    assert cli.main([*WORDS, "--model=BPR", *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["time"] is None


@pytest.mark.parametrize("text", ["-1", "x", "1.5", "", "²"])
def test_a_bad_number_of_steps(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["estimate", "--model=BPR", "--dataset=toy", f"--timed_steps={text}"]) == 2
    assert "--timed_steps" in capsys.readouterr().err
