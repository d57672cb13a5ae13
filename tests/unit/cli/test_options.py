"""Booleans, text, lists and typing errors are the same in every command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from recbole_siger import __version__
from recbole_siger.cli import main
from recbole_siger.cli.app import COMMANDS, make_command
from tests.unit.cli.test_cli import experiments, refusal

__all__ = ["experiments"]

FLAGS = [(name, opt.name) for name in COMMANDS for opt in make_command(name).opts.values() if opt.is_switch]


def test_the_flags_are_found() -> None:
    assert {("run", "dry_run"), ("extract", "normalize"), ("report", "vectors"), ("doctor", "json")} <= {
        *FLAGS
    }


@pytest.mark.parametrize(("command", "flag"), FLAGS)
def test_one_rule_for_booleans(command: str, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = make_command(command)
    needed = [f"--{o.name}={(*o.declared.choices, 'x')[0]}" for o in made.opts.values() if o.required]
    needed += ["word" for argument in made.arguments if argument.required]
    for word, meant in [("", True), *((f"={text}", True) for text in ("True", "true", "yes", "1"))]:
        assert made.make_context(command, [*needed, f"--{flag}{word}"]).params[flag] is meant
    for text in ("False", "false", "no", "0"):
        assert made.make_context(command, [*needed, f"--{flag}={text}"]).params[flag] is False
    assert refusal(capsys, command, *needed, f"--{flag}=maybe") == (
        f"command line: --{flag}=maybe: write --{flag} alone, or =True or =False"
    )


def test_text_that_looks_like_a_number_stays_text() -> None:
    words = ["--dataset=2020", "--items", "1e3", "--id-col=None", "--overwrite"]
    params = make_command("extract").make_context("extract", words).params
    assert (params["dataset"], params["items"], params["id_col"]) == ("2020", "1e3", "None")


def test_a_boolean_of_the_configuration_needs_no_value(experiments: list[Any]) -> None:
    words = ["run", "--model=SIGER", "--dataset=toy", "--strict-ids", "--train_features", "--saved", "no"]
    assert main(words) == 0
    assert experiments[0][3] == {"strict_ids": "True", "train_features": "True", "saved": "no"}


def test_a_key_that_is_no_boolean_needs_a_value(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--epochs"], ["--epochs", "--seed=1"]):
        assert refusal(capsys, "run", "--model=SIGER", *words) == (
            "command line: --epochs has no value; write --epochs=VALUE"
        )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["run", "--model=SIGER", "--dataset=d", "--no-saved"],
            "unknown key `no_saved`; did you mean `saved`?",
        ),
        (["compare", "--models=BPR", "--dataset=d", "--dry_run"], "unknown key `dry_run`; "),
        (["run", "--model=BPR", "--dataset=d", "--no_such", "5"], "unknown key `no_such`; "),
    ],
)
def test_the_error_is_about_an_unknown_key_and_not_about_its_value(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refusal(capsys, *words).startswith(f"command line: {message}")


@pytest.mark.parametrize(
    ("words", "option", "hint"),
    [
        (["run", "--config_file=a.yaml"], "config_file", "; did you mean `config_files`?"),
        (["compare", "--models=A,B", "--dataset=d", "--model=C"], "model", "; did you mean `models`?"),
        (["cold-start", "--models=A", "--dataset=d", "--model", "C"], "model", "; did you mean `models`?"),
        (["report", "overlap", "--dataset=d", "--model=BPR"], "model", "; write `recbole-siger report "),
        (["reproduce", "siger-table1", "--model=BPR"], "model", "; did you mean `models`?"),
    ],
)
def test_a_word_that_is_no_key_is_refused_where_the_command_has_no_such_option(
    words: list[str], option: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refusal(capsys, *words)
    assert message.startswith(f"command line: {words[0]} has no option --{option}{hint}")


def test_lists_keep_every_word(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(
        "recbole_siger.studies.compare.compare_runs", lambda runs, params, out: calls.append((runs, out)) or 0
    )
    assert main(["compare", "--runs", "a", "b", "--out", "t.md", "t.tex", "--out=t.csv"]) == 0
    assert calls == [(("a", "b"), ("t.md", "t.tex", "t.csv"))]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--model=SIGR", "--dataset=d"], "Unknown model 'SIGR'; did you mean `SIGER`?"),
        (["config", "SIGR"], "Unknown model 'SIGR'; did you mean `SIGER`?"),
        (["estimate", "--model=BPR", "--dataset=d", "--epoch=1"], "command line: unknown key `epoch`;"),
        (["tune", "--model=BPR", "--dataset=d", "--co_weight=1"], "command line: unknown key `co_weight`"),
        (["compare", "--models=EASE,BRP", "--dataset=d"], "Unknown model 'BRP'; did you mean `BPR`?"),
        (["audit", "--dataset=d", "--epoch=1"], "command line: unknown key `epoch`;"),
        (["report", "overlap", "--dataset=d", "--epoch=1"], "command line: unknown key `epoch`;"),
        (["run", "--model=BPR", "--dataset=d", "--config_files=no.yaml"], "no.yaml: no such configuration"),
        (["doctor", "--jsn"], "command line: doctor has no option --jsn; did you mean `json`?"),
    ],
)
def test_a_typing_error_is_found_before_recbole_is_imported(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("recbole_siger.config", "recbole_siger.quick_start", "recbole.config", "torch"):
        monkeypatch.setitem(sys.modules, name, None)  # an import of it fails
    assert refusal(capsys, *words).startswith(message)


def test_files_are_checked_as_the_command_line_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("model: SIGER\ndataset: toy\nco_wieght: 1\n")
    assert refusal(capsys, "run", f"--config_files={file}") == (
        f"{file}: unknown key `co_wieght`; did you mean `co_weight`?"
    )


def test_a_model_by_its_import_path_has_keys_of_its_own(experiments: list[Any]) -> None:
    assert main(["run", "--model=package.module:Class", "--dataset=toy", "--its_own=1"]) == 0
    assert experiments == [("package.module:Class", "toy", [], {"its_own": "1"})]


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"recbole-siger {__version__}\n"
