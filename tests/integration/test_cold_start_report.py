"""The command `cold-start`: runs, table and bars."""

from __future__ import annotations

import csv
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

from recbole_siger import cli
from recbole_siger.report import figures

pytestmark = pytest.mark.usefixtures("in_process")

Settings = Callable[..., dict[str, Any]]
SMALL = ["--train_batch_size=64", "--topk=[3, 5]", "--valid_metric=Recall@5", "--gpu_id=", "--epochs=2"]


@pytest.fixture
def words(settings: Settings) -> list[str]:
    return ["cold-start", "--dataset=toy", f"--data_path={settings()['data_path']}", *SMALL]


def rows_of(folder: str) -> dict[str, dict[str, str]]:
    with Path(folder, "cold_start.csv").open(encoding="utf-8", newline="") as stream:
        return {row["model"]: row for row in csv.DictReader(stream)}


def results_of(model: str) -> Path:
    (file,) = Path("runs/toy").glob(f"{model}-*-seed2020/results.json")
    return file


def test_table_and_bars(words: list[str], workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*words, "--models=SIGER,BPR", "--out=cold"]) == 0
    assert sorted(path.name for path in Path("cold").iterdir()) == [
        "cold_start.csv",
        "cold_start.md",
        "cold_start.png",
        "cold_start.svg",
    ]
    rows = rows_of("cold")
    scores = {"SIGER": "yes", "BPR": "no", "chance": ""}
    assert {model: row["scores_cold_items"] for model, row in rows.items()} == scores
    chance = rows.pop("chance")
    page = Path("cold/cold_start.md").read_text()
    assert "## Cold start on toy" in page
    assert "| Model | Seeds | Scores cold items | Best epoch | R@5 | " in page
    for model, row in rows.items():
        kept = json.loads(results_of(model).read_text())
        assert float(row["recall@5[cold]"]) == kept["test"]["recall@5[cold]"] == kept["test"]["recall@5"]
        assert row["protocol_id"] == kept["protocol_id"]
        assert int(row["best_epoch"]) == kept["best_epoch"]
        facts = f"| {model} | 1 | {row['scores_cold_items']} | {kept['best_epoch']} | "
        (line,) = [line for line in page.splitlines() if line.startswith(facts)]
        value = line.removeprefix(facts).split(" | ")[0]
        assert re.sub(r"\*\*|</?u>", "", value) == f"{kept['test']['recall@5']:.4f}"
    assert f"| chance |  |  |  | {kept['chance']['recall@5']:.4f} |" in page
    assert float(chance["recall@5"]) == kept["chance"]["recall@5"]
    assert chance["protocol_id"] == ""
    assert "A model that does not score cold items ranks items without a training row" in page
    assert "kind item, ratio 0.2, seed 123; candidates: all; seeds: 2020" in page
    assert Path("cold/cold_start.png").read_bytes().startswith(b"\x89PNG")
    ElementTree.parse("cold/cold_start.svg")  # as we wrote it ourselves
    assert page in capsys.readouterr().out


def test_finished_runs_are_used_again_and_unfinished_ones_continued(
    words: list[str], workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*words, "--models=BPR,Pop", "--out=cold"]) == 0
    before = results_of("BPR").read_bytes()
    results_of("Pop").unlink()
    capsys.readouterr()
    assert cli.main([*words, "--models=BPR,Pop", "--out=cold"]) == 0
    told = capsys.readouterr().err
    assert "BPR seed 2020: finished before" in told
    assert "Pop seed 2020: finished before" not in told
    assert results_of("BPR").read_bytes() == before
    assert results_of("Pop").is_file()


def test_seeds_are_averaged_and_a_failure_is_told(
    words: list[str], workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--models=BPR,SIGER", "--seeds=2", "--set", "SIGER.features=[smell]", "--out=cold"]
    assert cli.main([*words, *more]) == 1
    kept = [json.loads(file.read_text()) for file in Path("runs/toy").glob("BPR-*/results.json")]
    kept.sort(key=lambda one: one["seed"])
    values, epochs = zip(*((one["test"]["recall@5"], one["best_epoch"]) for one in kept), strict=True)
    row, failed = (rows_of("cold")[model] for model in ("BPR", "SIGER"))
    assert float(row["recall@5"]) == pytest.approx(fmean(values), rel=1e-12)
    assert float(row["recall@5_std"]) == pytest.approx(stdev(values), rel=1e-12)
    assert row["seeds"] == "2020 2021"
    page = Path("cold/cold_start.md").read_text()
    seeds = f"| BPR | 2 | no | {epochs[0]}, {epochs[1]} |"
    assert f"{seeds} {fmean(values):.4f} ± {stdev(values):.4f} |" in page
    assert "SIGER: 2 of 2 failed: seed 2020: " in page
    assert "; seed 2021: " in page
    assert failed["recall@5"] == ""
    assert failed["failure"].startswith("2 of 2 failed: seed 2020: ")
    assert "seeds: 2020, 2021" in page


@pytest.mark.parametrize(("kind", "groups"), [("item_few_shot", 3), ("user", 2)])
def test_other_kinds(kind: str, groups: int, words: list[str], workdir: Path) -> None:
    cold = f"--cold_start={{kind: {kind}, max_train: {4 if kind == 'item_few_shot' else 7}}}"
    assert cli.main([*words, "--models=Pop", cold]) == 0
    row = rows_of(f"runs/toy/cold-start-{kind}")["Pop"]
    names = [name for name in row if name.startswith("recall@5") and not name.endswith("_std")]
    assert len(names) == groups  # all users of the toy have seven rows


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--models=,"], "name each model once, and at least one"),
        (["--models=BPR,BPR"], "name each model once"),
        (["--models=BPR,SIGR"], "Unknown model 'SIGR'"),
        (
            ["--models=BPR", "--kind=item", "--cold_start={kind: user}"],
            "--kind and --cold_start say the same",
        ),
        (["--models=BPR", "--kind=things"], "kind='things': expected one of"),
        (["--models=BPR", "--run_dir=x"], "use --runs_dir"),
        ([], "cold-start requires --models"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    more: list[str], said: str, words: list[str], workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*words, *more]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert list(workdir.iterdir()) == []


def test_models_under_different_protocols_share_no_table(
    words: list[str], workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same seed, other cut-offs; no run starts."""
    assert cli.main([*words, "--models=BPR,Pop", "--set", "Pop.topk=[2, 5]", "--out=cold"]) == 2
    error = capsys.readouterr().err.removesuffix("\n")
    told = "BPR and Pop are evaluated under different protocols (topk: [3, 5] and [2, 5])"
    assert error == f"error: {told}"
    assert not Path("cold").exists()


def test_without_matplotlib_there_is_a_table_and_a_hint(
    words: list[str], workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(figures, "find_spec", lambda name: None)
    assert cli.main([*words, "--models=Pop", "--out=cold"]) == 0
    assert "pip install 'recbole-siger[figures]'" in capsys.readouterr().err
    assert sorted(path.name for path in Path("cold").iterdir()) == ["cold_start.csv", "cold_start.md"]
