"""The help of each command is made from what is declared, and each example can be read."""

from __future__ import annotations

import shlex
from dataclasses import MISSING, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from recbole_siger.cli import main
from recbole_siger.cli.app import COMMANDS, GROUPS, make_command
from recbole_siger.cli.data import KINDS
from recbole_siger.cli.declared import params_of_model, read_dataclass, read_meanings, shipped_files
from recbole_siger.config import RunParams
from recbole_siger.extract.run import ExtractParams
from recbole_siger.options.yaml_values import read_yaml
from recbole_siger.prepare import run as prepare_run
from recbole_siger.prepare.pipeline import PrepareParams
from recbole_siger.profiles.run import ProfilesParams
from recbole_siger.registry import MODELS
from recbole_siger.report.comparison import TableParams
from recbole_siger.serve.params import ServeParams
from recbole_siger.studies.compare import Study
from recbole_siger.tuning.request import SearchParams


def help_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return the help as one line of words."""
    assert main([*words, "--help"]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_every_command_is_listed_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert listed == [*COMMANDS, "--help", "--version", "--debug"]
    assert sum(map(len, GROUPS.values())) == len(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_is_whole(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = make_command(name)
    text = help_of(capsys, name)
    assert text.startswith(f"Usage: {command.usage} ")
    assert f"Example: {command.example} " in text
    for opt in command.opts.values():
        assert f" --{opt.name}" in text
        assert len(opt.declared.meaning.split()) >= 2, opt.name
    assert main(["help", name]) == 0
    assert " ".join(capsys.readouterr().out.split()) == text


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_of_a_command_can_be_read(name: str) -> None:
    command = make_command(name)
    words = shlex.split(command.example.removeprefix('eval "$(').removesuffix(')"'))
    assert words[:2] == ["recbole-siger", name]
    with command.make_context(name, words[2:]) as context:
        assert context.command is command


def kind_and_range(annotation: Any, interval: str) -> tuple[str, str]:
    """Return the word that the YAML files use for a type, and the values that the type has."""
    inner = get_args(annotation)[0] if type(None) in get_args(annotation) else annotation
    if get_origin(inner) is Literal:
        return type(get_args(inner)[0]).__name__, " | ".join(map(str, get_args(inner)))
    return "list" if get_origin(inner) is tuple else inner.__name__, interval


def declared(cls: type) -> dict[str, tuple[str, str]]:
    hints = get_type_hints(cls)
    return {f.name: kind_and_range(hints[f.name], f.metadata.get("interval", "")) for f in fields(cls)}


DATACLASSES = [
    ("config", RunParams),
    ("extract.run", ExtractParams),
    ("profiles.run", ProfilesParams),
    ("serve.params", ServeParams),
    ("prepare.pipeline", PrepareParams),
    ("tuning.request", SearchParams),
    ("report.comparison", TableParams),
]


@pytest.mark.parametrize(("module", "cls"), DATACLASSES)
def test_a_dataclass_is_read_as_it_is(module: str, cls: type) -> None:
    read = read_dataclass(module, cls.__name__)
    assert {name: (one.kind, one.range) for name, one in read.items()} == declared(cls)
    defaults = {f.name: "" if f.default in (MISSING, None) else str(f.default) for f in fields(cls)}
    assert {name: one.default for name, one in read.items()} == defaults


@pytest.mark.parametrize("model", MODELS)
def test_the_options_of_a_model_are_read_as_they_are(model: str) -> None:
    read = params_of_model(model)
    expected = declared(MODELS[model].load().params_class)
    assert {name: (one.kind, one.range) for name, one in read.items()} == expected


@pytest.mark.parametrize("model", MODELS)
def test_a_named_model_adds_its_keys(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys, "run", f"--model={model}")
    for key, value in read_yaml(shipped_files(f"model/{model}.yaml")[-1]).items():
        assert f" --{key}" in text
        assert value is None or f"default: {value}]" in text
    assert " --co_weight=FLOAT" not in help_of(capsys, "run")


def test_ranges_defaults_and_meanings_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys, "run", "-m", "SIGER")
    for file, key, head, notes in (
        ("overall.yaml", "epochs", "--epochs=INT", "[range: [1, inf); default: 1000]"),
        (
            "overall.yaml",
            "missing_modality",
            "--missing_modality=TEXT",
            "[one of: zero | mean; default: zero]",
        ),
        ("overall.yaml", "saved", "--saved[=BOOL]", "[default: True]"),
        ("model/SIGER.yaml", "co_weight", "--co_weight=FLOAT", "[range: [0, 1]; default: 0.3]"),
    ):
        _, meaning = read_meanings(shipped_files(file)[-1])[key]
        assert f" {head} {meaning} {notes} " in text
    assert "--seed=INT Random seed. [range: [0, 4294967296); default: 2020]" in text  # RecBole's comment
    assert "--n_layers=INT" in help_of(capsys, "run", "--model=LightGCN")


@pytest.mark.parametrize(
    ("command", "cls"),
    [
        ("extract", ExtractParams),
        ("profiles", ProfilesParams),
        ("serve", ServeParams),
        ("tune", SearchParams),
    ],
)
def test_a_command_takes_what_its_dataclass_declares(command: str, cls: type) -> None:
    own = {"tune": {"model", "dataset", "set", "space", "seeds", "out", "resume", "config_files"}}
    assert {*make_command(command).opts} - own.get(command, set()) == {field.name for field in fields(cls)}


def test_prepare_takes_what_its_kinds_declare() -> None:
    of_kinds = {name for kind in prepare_run.KINDS.values() for name in kind.options}
    assert {*make_command("prepare").opts} == of_kinds | {*prepare_run.COMMON}
    assert tuple(prepare_run.KINDS) == KINDS


def test_a_table_takes_what_its_dataclasses_declare() -> None:
    opts = make_command("compare").opts
    assert {field.name for field in fields(TableParams)} <= {*opts}
    for name in ("seeds", "runs_dir", "jobs"):
        (field,) = [field for field in fields(Study) if field.name == name]
        assert opts[name].declared.default == str(field.default)
