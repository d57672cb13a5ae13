"""Models of other packages: by import path or entry point, through every command."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from recbole_siger import cli
from recbole_siger.config import Config
from recbole_siger.errors import UserError
from recbole_siger.quick_start import evaluate_run, run_experiment
from recbole_siger.runs.folder import RunFolder
from recbole_siger.tuning import tune_model
from tests.integration.conftest import Settings

SOURCE = """
from dataclasses import dataclass
from typing import Literal
from recbole_siger.model.general_recommender.vbpr import VBPR, VBPRParams
from recbole_siger.options.params import bounded

@dataclass(frozen=True, kw_only=True)
class MineParams(VBPRParams):
    ablation: Literal["full", "less"] = "full"
    depth: int = bounded("[1, inf)", default=3)
    width: float = bounded("(0, inf)", default=0.5)

class Mine(VBPR):
    params_class = MineParams
"""
MINE = "outside_models.mine:Mine"


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with one model, whose YAML and search space lie beside its module."""
    folder = tmp_path / "site" / "outside_models"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "mine.py").write_text(SOURCE)
    (folder / "Mine.yaml").write_text("depth: 4  # (int) How deep it is.\n")
    (folder / "Mine.search.yaml").write_text("depth: [4, 5]\n")
    monkeypatch.syspath_prepend(folder.parent)
    monkeypatch.setenv("PYTHONPATH", f"{folder.parent}:{Path(__file__).parents[2]}")
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] in ("outside_models", "unwanted")]:
        del sys.modules[name]


@pytest.fixture
def options(settings: Settings) -> list[str]:
    values = settings(epochs=2)
    return ["--dataset=toy", *(f"--{key}={value}" for key, value in values.items())]


def one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert cli.main(words) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    return told.removeprefix("error: ").strip()


def test_defaults_come_from_the_dataclass_then_from_the_yaml_beside(mine: Path, settings: Settings) -> None:
    config = Config(MINE, "toy", config_dict=settings(width=0.25))
    assert (config["ablation"], config["depth"], config["width"]) == ("full", 4, 0.25)
    assert config.origin["ablation"] == "defaults of MineParams"
    assert config.origin["depth"] == str(mine / "Mine.yaml")
    assert config.origin["train_features"] == "properties/model/VBPR.yaml"
    with pytest.raises(UserError, match=r"config_dict: unknown key `deph`; did you mean `depth`\?"):
        Config(MINE, "toy", config_dict=settings(deph=1))
    with pytest.raises(UserError, match=r"command line: depth=0: expected a number in \[1, inf\)"):
        Config(MINE, "toy", config_dict=settings(), command_line={"depth": "0"})


def test_an_option_without_a_default_is_given_by_the_user(mine: Path, settings: Settings) -> None:
    (mine / "mine.py").write_text(SOURCE.replace(", default=0.5)", ")"))
    with pytest.raises(UserError, match=r"width is missing; give it a value \(\(0, inf\)\)"):
        Config(MINE, "toy", config_dict=settings())
    assert Config(MINE, "toy", config_dict=settings(), command_line={"width": "0.25"})["width"] == 0.25


def test_a_run_is_resumed_and_evaluated_with_its_model(
    mine: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", f"--model={MINE}", *options]) == 0
    (folder,) = Path("runs/toy").iterdir()
    assert folder.name.startswith("Mine-")
    run = RunFolder.open(folder)
    assert run.read_config()["model"] == MINE
    assert run.read_results()["model"] == "Mine"
    told = one_line(["evaluate", str(folder)], capsys)
    assert told.startswith(f"{folder}/config.yaml: model={MINE!r}: a file cannot import code;")
    assert f"add --model={MINE}" in told
    assert cli.main(["evaluate", str(folder), f"--model={MINE}"]) == 0
    assert "\ntest " in capsys.readouterr().out
    told = one_line(["evaluate", str(folder), "--model=VBPR"], capsys)
    assert told == f"{folder}/config.yaml: model={MINE!r}, but --model=VBPR was given; write --model={MINE}"
    run.file("results.json").unlink()
    assert "a file cannot import code" in one_line(["resume", str(folder)], capsys)
    assert cli.main(["resume", str(folder), f"--model={MINE}"]) == 0
    assert run.file("results.json").exists()


def test_a_class_is_a_model_too(mine: Path, settings: Settings) -> None:
    from outside_models.mine import Mine

    done = run_experiment(Mine, "toy", config_dict=settings(epochs=1))
    assert evaluate_run(done["run_dir"], model=Mine) == evaluate_run(done["run_dir"], model=MINE)


def test_files_of_others_import_nothing(
    mine: Path, options: list[str], settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    (mine.parent / "unwanted.py").write_text("raise SystemExit('imported')\n")
    assert cli.main(["run", "--model=BPR", "--run_dir=runs/a", *options]) == 0
    file = Path("runs/a/config.yaml")
    values = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**values, "model": "unwanted:Model"}))
    for command in (
        ["evaluate", "runs/a"],
        ["audit", "--run=runs/a"],
        ["report", "vectors", "runs/a", "--out=a.svg"],
    ):
        assert "a file cannot import code" in one_line(command, capsys)
    Path("own.yaml").write_text("model: unwanted:Model\n")
    told = one_line(["run", "--config_files=own.yaml", *options], capsys)
    assert told.startswith("own.yaml: model='unwanted:Model': a file cannot import code")
    with pytest.raises(UserError, match=r"^config_dict: model='unwanted:Model': a file cannot import code"):
        Config(dataset="toy", config_dict={**settings(), "model": "unwanted:Model"})
    assert "unwanted" not in sys.modules


def test_config_prints_the_options_of_a_model_from_outside(
    mine: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["config", MINE]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines]
    assert ["depth", "4", "int", "[1, inf)", "How deep it is."] in rows
    assert ["width", "0.5", "float", "(0, inf)", ""] in rows
    assert [
        "embedding_size",
        "64",
        "int",
        "[1, inf)",
        "Width of the ID half and of the feature half of an embedding.",
    ] in rows
    assert any(row[:1] == ["learning_rate"] for row in rows)
    assert cli.main(["run", f"--model={MINE}", *options, "--depth=6", "--dry_run"]) == 0
    first, _, rest = capsys.readouterr().out.partition(": defaults")
    assert "depth" in first
    assert "width" not in first
    assert "width" in rest


def test_compare_and_ablate(
    mine: Path, options: list[str], in_process: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", f"--models={MINE},BPR", *options, "--set=Mine.depth=7", "--out=t.csv"]
    assert cli.main(words) == 0
    with Path("t.csv").open(newline="") as stream:
        assert [row["model"] for row in csv.DictReader(stream)] == ["Mine", "BPR"]
    (folder,) = Path("runs/toy").glob("Mine-*")
    assert RunFolder.open(folder).read_config()["depth"] == 7
    capsys.readouterr()
    (folder / "results.json").unlink()
    assert cli.main(words) == 0
    assert f"continuing {folder}" in capsys.readouterr().err
    in_process.clear()
    assert cli.main([word.replace("Mine.depth", f"{MINE}.depth") for word in words]) == 0
    assert in_process == []
    assert cli.main(["ablate", f"--model={MINE}", *options]) == 0
    out = capsys.readouterr().out
    assert "Components of Mine on toy" in out
    assert "| ablation=less |" in out


@pytest.mark.slow
def test_tune(mine: Path, settings: Settings) -> None:
    pytest.importorskip("ray")
    values: dict[str, Any] = {key: str(value) for key, value in settings(epochs=1).items()}
    found = tune_model(MINE, "toy", options=values, scheduler="none", cpus_per_trial="1", out="tuned")
    assert found["trials"] == {"finished": 2}
    assert found["best"]["values"]["depth"] in (4, 5)
    assert RunFolder.open("tuned/best-seed7").read_config()["model"] == MINE
