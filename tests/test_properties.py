"""Every default has one home, the YAML, and the dataclasses agree with it."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import pytest
import yaml

from recbole_siger.config import Config, RunParams
from recbole_siger.errors import UserError
from recbole_siger.extract.run import ExtractParams
from recbole_siger.options.params import build_params, options
from recbole_siger.options.yaml_values import parse_value
from recbole_siger.prepare import run
from recbole_siger.prepare.pipeline import PrepareParams
from recbole_siger.profiles.run import ProfilesParams
from recbole_siger.registry import MODELS, get_model_class, model_names, recbole_root
from recbole_siger.serve.params import ServeParams

ROOT = Path(__file__).parents[1] / "properties"
OVERALL = ROOT / "overall.yaml"
DATASETS = sorted((ROOT / "dataset").glob("*.yaml"))
SEARCHES = sorted((ROOT / "search").glob("*.yaml"))
TUNED = sorted((ROOT / "tuned").glob("*/*.yaml"))
KINDS = "int|float|str|bool|list|dict"
# A setting on one line: the value, then its type and its meaning as a sentence.
SETTING = re.compile(
    rf"^(?P<key>\w+): +[^#]*\S +# \((?P<kinds>(?:{KINDS})(?: or (?:{KINDS}))*)\) (?P<meaning>\S.*)$"
)


def read(path: Path) -> dict[str, Any]:
    """Read a file of defaults; what YAML 1.1 leaves as text, such as ``1e-5``, is read as our files are."""
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    return {key: parse_value(value) for key, value in content.items()}


def settings_of(path: Path) -> dict[str, re.Match[str]]:
    lines = [
        line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")
    ]
    found = [SETTING.match(line) for line in lines]
    assert all(found), [line for line, match in zip(lines, found, strict=True) if not match]
    return {match["key"]: match for match in found if match}


def kind_of(annotation: Any) -> str:
    """Name a parameter's type as the comments do."""
    if get_origin(annotation) in (Union, UnionType):
        return kind_of(next(one for one in get_args(annotation) if one is not type(None)))
    if get_origin(annotation) is Literal:
        return type(get_args(annotation)[0]).__name__
    return "list" if get_origin(annotation) is tuple else annotation.__name__


def make_config(tmp_path: Path, model: str, dataset: str = "none") -> Config:
    return Config(model, dataset, config_dict={"data_path": str(tmp_path), "gpu_id": ""})


@pytest.mark.parametrize("model", MODELS)
def test_a_model_has_one_default_for_each_parameter(model: str) -> None:
    params_class = get_model_class(model).params_class
    values = read(ROOT / "model" / f"{model}.yaml")
    assert set(values) == {field.name for field in fields(params_class)}
    build_params(params_class, values)


@pytest.mark.parametrize("model", MODELS)
def test_a_models_defaults_are_the_ones_in_force(tmp_path: Path, model: str) -> None:
    config = make_config(tmp_path, model)
    values = read(ROOT / "model" / f"{model}.yaml")
    assert {config.origin[key] for key in values} == {f"properties/model/{model}.yaml"}
    assert {key: config[key] for key in values} == values


@pytest.mark.parametrize("model", MODELS)
def test_a_models_comments_tell_type_and_meaning(model: str) -> None:
    found = settings_of(ROOT / "model" / f"{model}.yaml")
    assert {name: match["kinds"] for name, match in found.items()} == {
        option.name: kind_of(option.type) for option in options(get_model_class(model).params_class)
    }
    for option in options(get_model_class(model).params_class):
        meaning = found[option.name]["meaning"]
        assert meaning.endswith("."), option.name
        if get_origin(option.type) is Literal:
            assert [c for c in get_args(option.type) if f"'{c}'" not in meaning] == [], option.name


@pytest.mark.parametrize("model", MODELS)
def test_every_number_has_a_range(model: str) -> None:
    for option in options(get_model_class(model).params_class):
        assert option.range or kind_of(option.type) in ("bool", "str"), option.name


def test_every_run_parameter_has_a_default(tmp_path: Path) -> None:
    config = make_config(tmp_path, "LightGCN")
    for field in fields(RunParams):
        assert config.origin[field.name] in ("properties/overall.yaml", "recbole/properties/overall.yaml")
    assert build_params(RunParams, config.final_config_dict) == config.run


def test_overall_comments_tell_type_and_meaning() -> None:
    found = settings_of(OVERALL)
    assert set(found) == set(read(OVERALL))
    kinds = {option.name: kind_of(option.type) for option in options(RunParams)}
    for name, match in found.items():
        if name in kinds:
            assert match["kinds"] == kinds[name], name


@pytest.mark.parametrize("params_class", [ExtractParams, ProfilesParams, ServeParams])
def test_a_command_has_one_default_for_each_option_that_may_be_left_out(params_class: type) -> None:
    command = params_class.__name__.removesuffix("Params").lower()
    path = ROOT / f"{command}.yaml"
    kinds = {option.name: kind_of(option.type) for option in options(params_class)}
    needed = {"dataset", "items"} | ({"kind", "model"} if command == "profiles" else set())
    found = settings_of(path)
    assert {name: match["kinds"] for name, match in found.items()} == {
        name: kind for name, kind in kinds.items() if name not in needed
    }
    build_params(params_class, read(path) | {"dataset": "d", "items": "i.tsv", "kind": "item", "model": "m"})
    for option in options(params_class):
        assert option.range or kind_of(option.type) in ("bool", "str", "list"), option.name
        if get_origin(option.type) is Literal and option.name in found:
            meaning = found[option.name]["meaning"]
            assert [choice for choice in get_args(option.type) if f"'{choice}'" not in meaning] == []


def test_no_default_is_stated_twice() -> None:
    """What equals RecBole's default has its home there."""
    theirs = {}
    for relative in ("overall.yaml", "dataset/sample.yaml"):
        theirs |= read(recbole_root() / "properties" / relative)
    assert theirs
    assert [key for key, value in read(OVERALL).items() if key in theirs and theirs[key] == value] == []


@pytest.mark.parametrize("model", MODELS)
def test_a_model_repeats_no_default_of_the_run(model: str) -> None:
    below = read(recbole_root() / "properties" / "overall.yaml") | read(OVERALL)
    assert not set(read(ROOT / "model" / f"{model}.yaml")) & set(below)


@pytest.mark.parametrize("path", DATASETS, ids=lambda path: path.stem)
def test_a_dataset_states_known_keys_and_other_values(tmp_path: Path, path: Path) -> None:
    plain, chosen = make_config(tmp_path, "SIGER"), make_config(tmp_path, "SIGER", path.stem)
    settings_of(path)
    for key, value in read(path).items():
        assert key in plain.known_keys()
        assert chosen[key] == value
        assert plain[key] != value, f"{key} is so already"


@pytest.mark.parametrize("line", ["missing_modalty: mean", "save_dataset: True"])
def test_what_lies_beside_the_data_is_checked_too(tmp_path: Path, line: str) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "toy.yaml").write_text(f"{line}\n", encoding="utf-8")
    with pytest.raises(UserError, match=line.split(":")[0]):
        make_config(tmp_path, "SIGER", "toy")


def test_prepare_has_one_default_for_each_parameter() -> None:
    path = ROOT / "prepare.yaml"
    assert set(read(path)) == {"data_path", *(field.name for field in fields(PrepareParams))}
    kinds = {option.name: kind_of(option.type) for option in options(PrepareParams)} | {"data_path": "str"}
    found = settings_of(path)
    assert {name: match["kinds"] for name, match in found.items()} == kinds
    build_params(PrepareParams, yaml.safe_load(path.read_text(encoding="utf-8"))).shares()


def test_a_kind_of_raw_data_has_defaults_for_its_own_options() -> None:
    for path in (ROOT / "prepare").glob("*.yaml"):
        assert set(settings_of(path)) <= set(run.KINDS[path.stem].options)


def test_no_file_is_for_an_unknown_model() -> None:
    for folder in ("model", "search"):
        assert {path.stem for path in (ROOT / folder).glob("*.yaml")} <= set(model_names())


def test_every_model_of_ours_has_a_search_space() -> None:
    assert {path.stem for path in SEARCHES} >= {*MODELS, "BPR", "LightGCN", "NGCF", "EASE", "ItemKNN"}


@pytest.mark.parametrize("path", SEARCHES, ids=lambda path: path.stem)
def test_a_search_space_lists_values_that_the_model_takes(tmp_path: Path, path: Path) -> None:
    known = make_config(tmp_path, path.stem).known_keys()
    assert path.read_text(encoding="utf-8").startswith("# ")  # where the grid is from
    for key, values in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        assert key in known
        assert isinstance(values, list)
        values = [parse_value(value) for value in values]
        assert len(values) == len(set(values)) > 1
        for value in values:
            options = {"data_path": str(tmp_path), "gpu_id": "", key: value}
            assert Config(path.stem, "none", config_dict=options)[key] == value


@pytest.mark.parametrize("path", TUNED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_tuned_settings_are_options_of_their_model_and_tell_their_search(tmp_path: Path, path: Path) -> None:
    chosen, command, *_ = path.read_text(encoding="utf-8").splitlines()
    model, dataset = path.stem, path.parent.name
    assert re.fullmatch(
        rf"# {model} on {dataset}: the best of \d+ trials by valid recall@20, 0\.\d{{4}}", chosen
    )
    assert command.startswith(f"# recbole-siger tune --model={model} --dataset={dataset} ")
    config = Config(model, dataset, [str(path)], {"data_path": str(tmp_path), "gpu_id": ""})
    for key, value in read(path).items():
        assert config[key] == value
