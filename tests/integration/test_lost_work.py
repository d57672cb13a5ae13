"""No run is lost or overwritten, two processes do not disturb each other, and a run folder is only data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from recbole_siger import cli
from recbole_siger.quick_start import run_experiment
from recbole_siger.training import analysis
from recbole_siger.training import experiment as experiment_module
from tests.integration.conftest import Settings

# Every process starts in the same second.
_SAME_SECOND = """
import json, sys, time
time.strftime = lambda *_: "20260101-120000"
from recbole_siger.quick_start import run_experiment
print(run_experiment("BPR", "toy", config_dict=json.loads(sys.argv[1]))["run_dir"])
"""


@pytest.mark.slow
def test_runs_of_the_same_second_get_folders_of_their_own(settings: Settings) -> None:
    rates = [0.1, 0.01, 0.001]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", _SAME_SECOND, json.dumps(settings(epochs=3, learning_rate=rate))],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rate in rates
    ]
    ended = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], ended
    folders = [Path(out.splitlines()[-1]) for out, _ in ended]
    names = {f"BPR-20260101-120000-seed7{suffix}" for suffix in ("", "-2", "-3")}
    assert {folder.name for folder in folders} == names
    for rate, folder in zip(rates, folders, strict=True):
        assert yaml.safe_load((folder / "config.yaml").read_text())["learning_rate"] == rate
        assert len((folder / "metrics.jsonl").read_text().splitlines()) == 3
        assert (folder / "run.log").read_text().count("run folder: ") == 2
    assert {path.name for path in Path("runs/toy").iterdir()} == names


def words(values: dict[str, Any], *more: str) -> list[str]:
    return ["run", "--model=BPR", *(f"--{key}={json.dumps(value)}" for key, value in values.items()), *more]


@pytest.mark.parametrize("dataset", ["toy", "nope"])
@pytest.mark.parametrize("name", ["results.json", "run.log"])
def test_a_folder_of_the_user_is_no_run_folder(
    dataset: str, name: str, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("f").mkdir()
    Path("f", name).write_text("mine")
    assert cli.main(words(settings(epochs=1), f"--dataset={dataset}", "--run_dir=f")) == 2
    reasons = {
        "results.json": "f: has files that are not of a run, such as results.json; choose another --run_dir",
        "run.log": "f: has run.log and no config.yaml; a run that is killed before its first epoch leaves "
        "such files: delete them unless they are yours, or choose another --run_dir",
    }
    assert capsys.readouterr().err == f"error: {reasons[name]}\n"
    assert [path.name for path in Path("f").iterdir()] == [name]
    assert Path("f", name).read_text() == "mine"


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_folder_names_no_other_folder_to_write_to(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_experiment("SIGER", "toy", config_dict=settings(epochs=2, n_semantic_neighbors=3, run_dir="run"))
    outside = tmp_path / "outside"
    file = Path("run/config.yaml")
    values = yaml.safe_load(file.read_text())
    places = {"run_dir": str(outside / "run"), "cache_dir": str(outside / "cache"), "prepare": "ml_100k"}
    file.write_text(yaml.safe_dump({**values, **places, "checkpoint_dir": str(outside / "saved")}))
    before = snapshot(tmp_path / "data")
    for command in (["evaluate", "run"], ["audit", "--run=run"]):
        assert cli.main(command) == 0, capsys.readouterr()
    Path("run/results.json").unlink()
    assert cli.main(["resume", "run"]) == 0, capsys.readouterr()
    assert Path("run/results.json").exists()
    assert not outside.exists()
    assert snapshot(tmp_path / "data") == before


@pytest.mark.parametrize(
    "damage",
    [
        {"test": {"recall@5\x1b]0;owned\x07": 0.5}},
        {"protocol_id": "\x1b[2J\nPASS  run: all is well"},
        {"best_epoch": 1, "protocol_id": "\x9b31m"},
    ],
)
def test_text_of_a_run_folder_cannot_change_a_terminal(
    damage: dict[str, Any], settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    run_experiment("BPR", "toy", config_dict=settings(epochs=2, run_dir="run"))
    file = Path("run/results.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), **damage}))
    capsys.readouterr()
    assert cli.main(["audit", "--run=run"]) == 1
    printed = capsys.readouterr()
    assert all(letter.isprintable() or letter == "\n" for letter in printed.out + printed.err)
    assert "\nPASS  run: all is well" not in printed.out


@pytest.mark.parametrize("text", ["{}", "[]", '{"test": "high"}', "[" * 100_000, ""])
@pytest.mark.parametrize(
    "command", [["audit", "--run=run"], ["report", "runs", "run", "--out=page.html"], ["resume", "run"]]
)
def test_damaged_results_are_one_line_in_every_command(
    command: list[str], text: str, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("run").mkdir()
    Path("run/config.yaml").write_text(yaml.safe_dump({"model": "BPR", "dataset": "toy", **settings()}))
    Path("run/results.json").write_text(text)
    assert cli.main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: run")
    assert error.count("\n") == 1
    assert len(error) < 400


def test_the_peak_of_memory_is_read_before_the_analysis(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    analyse, peak = experiment_module.analyse, experiment_module.peak_memory_mib
    monkeypatch.setattr(
        experiment_module, "analyse", lambda *given: [order.append("analyse"), analyse(*given)][1]
    )
    monkeypatch.setattr(
        experiment_module, "peak_memory_mib", lambda *given: [order.append("peak"), peak(*given)][1]
    )
    run_experiment("BPR", "toy", config_dict=settings(epochs=1))
    assert order == ["peak", "analyse"]


def test_features_in_use_are_not_loaded_again(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*given: Any, **options: Any) -> Any:
        raise AssertionError("loaded again")

    monkeypatch.setattr(analysis, "load_features", load)
    results = run_experiment("VBPR", "toy", config_dict=settings(epochs=1))
    assert results["slices"]["modality_coverage"]
