"""Ray's events become rows, and a line that tells how the search stands."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

pytest.importorskip("ray")

from recbole_siger.tuning.ledger import Ledger
from recbole_siger.tuning.trial import SCORE, Plan
from recbole_siger.tuning.watch import Watch


def ray_trial(a: int, **more: Any) -> Any:
    return SimpleNamespace(config={"trial": {"point": {"a": a}, "seed": 7}}, error_file=None, **more)


def epoch(score: float, epochs: int, *, finished: bool = False) -> dict[str, Any]:
    facts = {"best_epoch": epochs - 1, "epochs": epochs, "seconds": 0.5 * epochs, "finished": finished}
    return {SCORE: score, **facts}


def make(folder: Path, n: int) -> Watch:
    ledger = Ledger(folder, "recall@20")
    for a in range(n):
        ledger.add({"a": a}, 7)
    return Watch(ledger, Plan({}, "recall@20", 7), n)


def test_a_search_as_it_goes(tmp_path: Path) -> None:
    watch = make(tmp_path, 5)
    for a, scores in enumerate(([0.1, 0.3], [0.2], [0.25], [])):
        trial = ray_trial(a)
        watch.on_trial_start(0, [], trial)
        for number, score in enumerate(scores, start=1):
            watch.on_trial_result(0, [], trial, epoch(score, number, finished=number == 2))
    watch.on_trial_complete(0, [], ray_trial(0))
    watch.on_trial_complete(0, [], ray_trial(1))  # it did not say that it had finished
    error = tmp_path / "error.txt"
    error.write_text("Failure # 1\nTraceback:\n  File x\nMemoryError: 3 GB\n")
    watch.on_trial_error(0, [], SimpleNamespace(config=ray_trial(3).config, error_file=error))
    states = [trial.state for trial in watch.ledger.trials.values()]
    assert states == ["finished", "pruned", "running", "failed", "waiting"]
    assert list(watch.ledger.trials.values())[3].reason == "MemoryError: 3 GB"
    told = watch.summary()
    assert told.startswith("best valid recall@20 0.3000 (a 0); 1 finished; 1 pruned; 1 failed; 1 running; ")
    assert told.endswith("2 trials left, about 0 min")

    stream = io.StringIO()
    Console(file=stream, width=150).print(watch._table())
    lines = [" ".join(line.split()) for line in stream.getvalue().splitlines()]
    assert lines[0] == "trial state valid recall@20 best at epochs point"
    assert [line.partition(" ")[2] for line in lines[1:-1]] == [  # without the ids
        "finished 0.3000 1 2 a 0",
        "pruned 0.2000 0 1 a 1",
        "running 0.2500 0 1 a 2",
    ]
    assert lines[-1] == told


def test_what_was_over_before_stays_as_it_was(tmp_path: Path) -> None:
    """Its epochs are reported again, and ASHA may stop that half-way."""
    known = make(tmp_path, 2)
    trial = known.ledger.add({"a": 0}, 7)
    trial.state, trial.score, trial.epochs, trial.folder = "finished", 0.5, 9, "ray/session-1/x"
    watch = Watch(known.ledger, known.plan, 2)
    before = vars(trial).copy()
    watch.on_trial_start(0, [], ray_trial(0))
    watch.on_trial_result(0, [], ray_trial(0), epoch(0.1, 3))
    watch.on_checkpoint(0, [], ray_trial(0), SimpleNamespace(path=tmp_path / "ray" / "session-2" / "x"))
    watch.on_trial_complete(0, [], ray_trial(0))
    watch.on_trial_error(0, [], ray_trial(0))
    assert vars(trial) == before


def test_trials_that_report_their_last_epoch_together_are_counted_one_by_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Ray ends a trial some time after its last report."""
    watch = make(tmp_path, 2)
    with caplog.at_level("INFO"):
        for a in range(2):
            watch.on_trial_start(0, [], ray_trial(a))
            watch.on_trial_result(0, [], ray_trial(a), epoch(0.1, 1, finished=True))
        for a in range(2):
            watch.on_trial_complete(0, [], ray_trial(a))
    told = [line for line in caplog.messages if line.startswith("[")]
    assert [line.partition(":")[0] for line in told] == [
        "[1/2] finished after 1 epochs",
        "[2/2] finished after 1 epochs",
    ]
