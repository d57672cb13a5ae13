"""The ledger ranks points by their mean over seeds, and its files bring it back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recbole_siger.errors import UserError
from recbole_siger.tuning.ledger import Ledger

ROWS = [
    # a, seed, state, score
    (1, 7, "finished", 0.30),
    (1, 8, "finished", 0.20),
    (2, 7, "finished", 0.24),
    (2, 8, "finished", 0.28),
    (3, 7, "finished", 0.90),
    (3, 8, "pruned", 0.10),
    (4, 7, "failed", None),
    (4, 8, "finished", 0.95),
    (5, 7, "pruned", 0.99),
    (5, 8, "pruned", 0.99),
]


def make(folder: Path, *, bigger: bool = True) -> Ledger:
    ledger = Ledger(folder, "recall@20", bigger)
    for a, seed, state, score in ROWS:
        trial = ledger.add({"a": a}, seed)
        trial.state, trial.score = state, score
    return ledger


def test_points_are_ranked_by_their_mean_if_every_seed_finished(tmp_path: Path) -> None:
    ranked = make(tmp_path).ranked()
    assert [(round(mean, 9), trials[0].values["a"]) for mean, trials in ranked] == [(0.26, 2), (0.25, 1)]
    assert [trial.seed for trial in ranked[0][1]] == [7, 8]


def test_a_smaller_score_can_be_better(tmp_path: Path) -> None:
    ledger = make(tmp_path, bigger=False)
    assert [trials[0].values["a"] for _, trials in ledger.ranked()] == [1, 2]
    best = ledger.best_trial()
    assert best is not None
    assert best.score == 0.10


def test_the_best_so_far_is_of_any_state(tmp_path: Path) -> None:
    best = make(tmp_path).best_trial()
    assert best is not None
    assert best.values == {"a": 5}
    assert Ledger(tmp_path, "recall@20").best_trial() is None


def test_adding_a_known_trial_returns_it(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    assert ledger.add({"a": 1}, 7).score == 0.30
    assert len(ledger.trials) == len(ROWS)
    assert ledger.counts() == {"finished": 6, "pruned": 3, "failed": 1}


def test_the_table_has_the_best_first_and_every_trial(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    ledger.trials[ledger.add({"a": 4}, 7).id].reason = "no memory, at all"
    lines = ledger.table().splitlines()
    assert lines[0] == "trial,state,valid_recall@20,best_epoch,epochs,seconds,seed,a,reason"
    assert [line.split(",")[2] for line in lines[1:4]] == ["0.99", "0.99", "0.95"]
    assert lines[-1].endswith(',7,4,"no memory, at all"')
    assert len(lines) == 1 + len(ROWS)


def test_without_a_whole_point_the_best_one_is_finished(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "recall@20")
    rows = [  # point, seed, state, epochs, score
        (1, 3, "finished", 40, 0.3),
        (1, 5, "pruned", 2, 0.1),
        (2, 3, "pruned", 20, 0.2),
        (2, 5, "pruned", 22, 0.4),
        (3, 3, "finished", 40, 0.9),
        (3, 5, "failed", 40, 0.9),
        (4, 3, "pruned", 21, 0.25),
        (4, 5, "pruned", 21, 0.4),
    ]
    for a, seed, state, epochs, score in rows:
        trial = ledger.add({"a": a}, seed)
        trial.state, trial.epochs, trial.score = state, epochs, score
    assert not ledger.ranked()
    assert [(trial.values["a"], trial.seed) for trial in ledger.revive()] == [(4, 3), (4, 5)]
    for trial in ledger.trials.values():
        trial.state = "finished" if trial.state == "waiting" else trial.state
    assert [trials[0].values["a"] for _, trials in ledger.ranked()] == [4]


STATES = {  # state of the first seed -> state and reason of the other seed
    "finished": ("waiting", ""),
    "waiting": ("waiting", ""),
    "pruned": ("pruned", "not trained: seed 3 of this point was pruned"),
    "failed": ("pruned", "not trained: seed 3 of this point was failed"),
}


def test_the_first_seed_decides_for_the_other_seeds(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "recall@20")
    for a, state in enumerate(STATES):
        ledger.add({"a": a}, 3).state = state
        ledger.add({"a": a}, 5)
    ledger.add({"a": 9}, 3).state = "pruned"
    ledger.add({"a": 9}, 5).state = "finished"  # of a version in which each seed was pruned by itself
    assert ledger.drop_seeds(3) == 2
    others = [ledger.add({"a": a}, 5) for a in range(len(STATES))]
    assert [(trial.state, trial.reason) for trial in others] == list(STATES.values())
    assert ledger.add({"a": 9}, 5).state == "finished"
    assert ledger.drop_seeds(3) == 0

    # A resumed search tries the failed trial again, so its other seed waits again; the pruned point stays.
    ledger.write()
    again = Ledger(tmp_path, "recall@20")
    again.load(retry=True)
    assert again.drop_seeds(3) == 1
    states = [again.add({"a": a}, 5).state for a in range(len(STATES))]
    assert states == ["waiting", "waiting", "pruned", "waiting"]


def test_a_revived_point_gets_the_seeds_that_it_was_denied(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "recall@20")
    for a, score in ((1, 0.2), (2, 0.4), (3, 0.3)):
        first = ledger.add({"a": a}, 3)
        first.state, first.score, first.epochs = "pruned", score, 20
        ledger.add({"a": a}, 5)
    ledger.drop_seeds(3)
    revived = ledger.revive()
    assert [(t.values["a"], t.seed, t.state, t.reason) for t in revived] == [
        (2, 3, "waiting", ""),
        (2, 5, "waiting", ""),
    ]


def test_where_every_point_failed_none_is_finished(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "recall@20")
    ledger.add({"a": 1}, 3).state = "failed"
    ledger.add({"a": 2}, 3).state = "pruned"  # before its first score
    assert ledger.revive() == []


def test_files_bring_a_search_back(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    ledger.seconds = 12.5
    ledger.add({"a": 6}, 7).state = "running"
    ledger.write()
    again = Ledger(tmp_path, "recall@20")
    again.load(retry=False)
    assert again.trials == ledger.trials
    assert again.seconds == 12.5
    again.load(retry=True)
    assert again.counts() == {"finished": 6, "pruned": 3, "waiting": 2}
    assert (tmp_path / "trials.csv").read_text() == ledger.table()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda whole: [], "the content is a list, expected an object"),
        (lambda whole: {}, "seconds is missing"),
        (lambda whole: {**whole, "trials": [3]}, "trials[0] is 3, expected an object"),
        (
            lambda whole: with_trial(whole, score="high"),
            "trials[0].score is 'high', expected a number",
        ),
        (lambda whole: with_trial(whole, values=[]), "trials[0].values is a list, expected an object"),
        (lambda whole: with_trial(whole, colour="red"), "trials[0] has colour"),
        (lambda whole: with_trial(whole, folder="../../home"), "trials[0].folder leaves the search"),
        (lambda whole: with_trial(whole, folder="/home"), "trials[0].folder leaves the search"),
    ],
)
def test_a_damaged_ledger_is_one_line(tmp_path: Path, damage: Any, said: str) -> None:
    make(tmp_path).write()
    file = tmp_path / "trials.json"
    file.write_text(json.dumps(damage(json.loads(file.read_text()))))
    with pytest.raises(UserError, match=r"trials\.json: damaged: ") as caught:
        Ledger(tmp_path, "recall@20").load(retry=True)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def with_trial(whole: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**whole, "trials": [{**whole["trials"][0], **changes}, *whole["trials"][1:]]}


def test_trials_with_the_ids_of_an_earlier_version_are_found_again(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    ledger.write()
    file = tmp_path / "trials.json"
    whole = json.loads(file.read_text())
    for trial in whole["trials"]:
        trial["id"] = trial["id"][:8]
    file.write_text(json.dumps(whole))
    again = Ledger(tmp_path, "recall@20")
    again.load(retry=False)
    assert again.trials == ledger.trials
    assert again.add({"a": 1}, 7).score == 0.30


def test_writing_may_be_put_off(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    ledger.write()
    ledger.add({"a": 6}, 7)
    ledger.write(every=60)
    assert len((tmp_path / "trials.csv").read_text().splitlines()) == 1 + len(ROWS)


@pytest.mark.parametrize(
    ("text", "part"),
    [(None, "has no search"), ("{", "damaged"), ('{"seconds": 1, "trials": [{}]}', "damaged")],
)
def test_a_missing_or_damaged_file_is_one_line(tmp_path: Path, text: str | None, part: str) -> None:
    if text is not None:
        (tmp_path / "trials.json").write_text(text)
    with pytest.raises(UserError, match=part):
        Ledger(tmp_path, "recall@20").load(retry=True)
