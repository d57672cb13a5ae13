"""Every command gets what was typed, and every error is one line and a 2."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from recbole_siger.cli import main
from recbole_siger.errors import RunInterrupted


@pytest.fixture
def experiments(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What would have been run: model, dataset, files and the command line's values."""
    calls: list[Any] = []

    def run_experiment(model: Any, dataset: Any, files: Any, command_line: Any) -> None:
        calls.append((model, dataset, files, command_line))

    monkeypatch.setattr("recbole_siger.quick_start.run_experiment", run_experiment)
    return calls


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err.removeprefix("error: ").strip()


def test_run_passes_everything_on(
    experiments: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.yaml", "b.yaml"):
        Path(name).write_text("epochs: 7\n")
    words = [
        "run",
        "-m",
        "SIGER",
        "--dataset=toy",
        "--config_files",
        "a.yaml  b.yaml",
        "--learning-rate=1e-3",
        "--dry_run=no",
    ]
    assert main(words) == 0
    assert main(["run"]) == 0
    assert experiments == [
        ("SIGER", "toy", ["a.yaml", "b.yaml"], {"learning_rate": "1e-3"}),
        (None, None, [], {}),
    ]


def test_a_dry_run_runs_nothing(experiments: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--model=BPR", "--dataset=ml-100k", "--seed=12345", "--dry_run"]) == 0
    assert experiments == []
    line = next(line for line in capsys.readouterr().out.splitlines() if " seed " in line)
    assert "12345" in line
    assert "command line" in line


def test_help_and_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for words, code in ((["--help"], 0), (["-h"], 0), (["help"], 0), ([], 2)):
        assert main(words) == code
        printed.append(capsys.readouterr().out)
    assert printed[0].startswith("Usage: recbole-siger COMMAND")
    assert printed == printed[:1] * 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rum"], "unknown command 'rum'; did you mean `run`?; see `recbole-siger --help`"),
        (["--model=BPR"], "unknown command '--model=BPR'; see `recbole-siger --help`"),
        (
            ["run", "BPR"],
            "command line: cannot place 'BPR'; write "
            "`recbole-siger run --model=NAME --dataset=NAME [--key=value ...]`",
        ),
        (
            ["resume"],
            "command line: RUN_DIR is missing; write "
            "`recbole-siger resume RUN_DIR [--data_path=FOLDER] [--model=NAME]`",
        ),
        (
            ["evaluate", "a", "b"],
            "command line: Got unexpected extra argument (b); write "
            "`recbole-siger evaluate RUN_DIR [--data_path=FOLDER] [--model=NAME]`",
        ),
        (
            ["evaluate", "a", "--b=1"],
            "command line: evaluate has no option --b; write "
            "`recbole-siger evaluate RUN_DIR [--data_path=FOLDER] [--model=NAME]`",
        ),
        (
            ["config"],
            "command line: MODEL is missing; write `recbole-siger config MODEL [--dataset=NAME]`",
        ),
        (
            ["config", "BPR", "--seed=1"],
            "command line: config has no option --seed; write `recbole-siger config MODEL [--dataset=NAME]`",
        ),
        (
            ["import-mmrec", "d", "--name=n", "--feature=image"],
            "command line: --feature 'image'; write --feature MODALITY=FILE",
        ),
    ],
)
def test_misuse_is_one_line_and_a_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refusal(capsys, *words) == message


def test_import_needs_a_folder_and_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    usage = "write `recbole-siger import-mmrec DIR --name=NAME [--feature MODALITY=FILE ...]`"
    for words, problem in (
        (["d"], "import-mmrec requires --name; see `recbole-siger import-mmrec --help`"),
        (["--name=n"], f"DIR is missing; {usage}"),
        (["d", "--name=n", "--other=1"], f"import-mmrec has no option --other; {usage}"),
    ):
        assert refusal(capsys, "import-mmrec", *words) == f"command line: {problem}"


def test_import_passes_everything_on(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def import_mmrec(source: Path, name: str, **options: Any) -> None:
        calls.append((source, name, {key: value for key, value in options.items() if key != "report"}))

    monkeypatch.setattr("recbole_siger.prepare.sources.mmrec.import_mmrec", import_mmrec)
    words = [
        "baby_folder",
        "--name=baby",
        "--feature=image=i.npy",
        "--feature",
        "audio=a=b.npy",
        "--user-feature=bio=b.npy",
        "--overwrite",
    ]
    assert main(["import-mmrec", *words]) == 0
    assert main(["import-mmrec", "d", "--name=n", "--data_path=elsewhere"]) == 0
    features = {"image": Path("i.npy"), "audio": Path("a=b.npy")}
    assert calls == [
        (
            Path("baby_folder"),
            "baby",
            {
                "data_path": Path("dataset"),
                "features": features,
                "user_features": {"bio": Path("b.npy")},
                "overwrite": True,
            },
        ),
        (
            Path("d"),
            "n",
            {"data_path": Path("elsewhere"), "features": {}, "user_features": {}, "overwrite": False},
        ),
    ]


def test_an_interrupt_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("recbole_siger.quick_start.run_experiment", interrupted)
    assert main(["run"]) == 130
    assert capsys.readouterr().err.startswith("interrupted; `recbole-siger resume RUN_DIR` continues a run")


def test_an_interrupted_run_names_the_command_that_continues_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: Any, **options: Any) -> None:
        raise RunInterrupted(Path("runs/my run"))

    monkeypatch.setattr("recbole_siger.quick_start.run_experiment", interrupted)
    assert main(["run"]) == 130
    expected = "interrupted; continue with: recbole-siger resume 'runs/my run'\n"
    assert capsys.readouterr().err == expected


def test_evaluate_prints_every_digit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "recbole_siger.quick_start.evaluate_run",
        lambda path, data_path, model, gpu_id: {"recall@20": 0.1 + 0.2, "hit@20": 1.0},
    )
    assert main(["evaluate", "some"]) == 0
    assert capsys.readouterr().out == "test   recall@20 0.30000000000000004  hit@20 1.0\n"


def test_models_are_listed_with_their_home(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    homes = dict(line.split()[:2] for line in lines)
    assert homes["SIGER"] == "recbole_siger"
    assert homes["BPR"] == homes["Random"] == "recbole"
    (vbpr, bm3) = (next(line for line in lines if line.startswith(name)) for name in ("VBPR ", "BM3 "))
    assert re.split(r"  +", vbpr)[1:] == [
        "recbole_siger",
        *("AAAI 2016", "arXiv:1510.01784", "any modalities", "ranks cold items"),
    ]
    assert "cold" not in bm3
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("code", [0, 1])
def test_the_doctors_verdict_is_the_exit_code(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr("recbole_siger.cli.doctor.main", lambda as_json: asked.append(as_json) or code)
    assert main(["doctor"]) == main(["doctor", "--json"]) == code
    assert asked == [False, True]


@pytest.mark.parametrize("words", [["doctor", "--jsn"], ["doctor", "now"], ["models", "--all"]])
def test_words_that_a_command_does_not_take(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(capsys, *words).startswith("command line: ")
