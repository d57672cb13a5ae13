"""Every key is known, typed and traced; nothing but the arguments is read."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from recbole_siger import config as module
from recbole_siger.config import Config
from recbole_siger.errors import UserError
from recbole_siger.options.yaml_values import parse_value
from recbole_siger.runs.folder import RunFolder
from recbole_siger.studies.reuse import config_hash
from tests.toy import write_dataset

ROOT = Path(__file__).parents[2]

RECBOLE_MODELS = (
    "BPR LightGCN NGCF SGL NCL SimpleX ItemKNN EASE SLIMElastic MultiVAE Pop Random".split()  # noqa: SIM905
)


def build(
    model: str = "SIGER",
    dataset: str = "ml-100k",
    files: list[Path] | None = None,
    command_line: dict[str, str] | None = None,
    **values: Any,
) -> Config:
    return Config(model, dataset, files, {"gpu_id": "", **values}, command_line)


def refusal(*arguments: Any, **values: Any) -> str:
    with pytest.raises(UserError) as caught:
        build(*arguments, **values)
    message = str(caught.value)
    assert "\n" not in message
    return message


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# ---- precedence


@pytest.fixture
def properties(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of ``properties/`` that the configuration reads in place of the real one."""
    shutil.copytree(ROOT / "properties", tmp_path / "shipped" / "properties")

    def find(relative: str) -> Path | None:
        path = tmp_path / "shipped" / relative
        return path if path.exists() else None

    monkeypatch.setattr(module, "find_resource", find)
    return tmp_path / "shipped" / "properties"


def test_each_layer_beats_the_weaker_ones_and_is_named(tmp_path: Path, properties: Path) -> None:
    pairs = {split: [("u", "i")] for split in ("train", "valid", "test")}
    folder = write_dataset(tmp_path / "data", "toy", pairs)
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    # Weakest first; each entry adds one layer, and all the weaker ones stay in place.
    layers = [
        ("properties/overall.yaml", properties / "overall.yaml", 0.11),
        ("properties/model/SIGER.yaml", properties / "model" / "SIGER.yaml", 0.12),
        (str(folder / "toy.yaml"), folder / "toy.yaml", 0.13),
        ("properties/dataset/toy.yaml", properties / "dataset" / "toy.yaml", 0.14),
        (str(first), first, 0.15),
        (str(second), second, 0.16),
    ]
    files: list[Path] = []

    def expect(value: float, origin: str, command_line: dict[str, str] | None = None, **values: Any) -> None:
        config = build("SIGER", "toy", files, command_line, data_path=str(tmp_path / "data"), **values)
        assert config["learning_rate"] == config.run.learning_rate == value
        assert config.origin["learning_rate"] == origin

    expect(0.001, "recbole/properties/overall.yaml")
    for origin, path, value in layers:
        with path.open("a") as stream:
            stream.write(f"\nlearning_rate: {value}\n")
        if path in (first, second):
            files.append(path)
        expect(value, origin)
    files.reverse()
    expect(0.15, str(first))
    expect(0.17, "config_dict", learning_rate=0.17)
    expect(0.18, "command line", {"learning_rate": "0.18"}, learning_rate=0.17)


def test_ours_lies_over_recboles_of_the_same_kind(properties: Path) -> None:
    assert build("BPR")["embedding_size"] == 64
    assert build("BPR").origin["embedding_size"] == "recbole/properties/model/BPR.yaml"
    write(properties / "model" / "BPR.yaml", "embedding_size: 16\n")
    assert build("BPR")["embedding_size"] == 16
    assert build("BPR").origin["embedding_size"] == "properties/model/BPR.yaml"
    # RecBole's overall.yaml says epochs 300, stopping_step 10 and MRR@10.
    assert build("BPR")["epochs"] == 1000
    assert build("BPR").origin["epochs"] == "properties/overall.yaml"


def test_the_datasets_choices_beat_the_models_defaults(properties: Path) -> None:
    write(properties / "dataset" / "ml-100k.yaml", "co_weight: 0.75\n")
    assert build()["co_weight"] == 0.75
    write(properties / "dataset" / "ml-100k.yaml", "USER_ID_FIELD: other\n")
    assert build()["USER_ID_FIELD"] == "other"  # which RecBole's dataset/sample.yaml gives too


def test_model_and_dataset_are_found_in_every_outer_layer(tmp_path: Path) -> None:
    file = write(tmp_path / "run.yaml", "model: BPR\ndataset: ml-100k\n")
    assert Config(config_file_list=[file])["model"] == "BPR"
    assert Config(config_file_list=[file], config_dict={"model": "Pop"})["model"] == "Pop"
    assert Config(config_file_list=[file], command_line={"model": "EASE"})["model"] == "EASE"
    assert Config("Random", config_file_list=[file])["model"] == "Random"
    with pytest.raises(UserError, match="dataset=None; set it, as in --dataset=NAME"):
        Config("BPR")


def test_nothing_is_read_from_sys_argv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "--epochs=3", "--no_such_key=1", "--model=Pop", "stray"])
    config = build("BPR")
    assert config["epochs"] == 1000
    assert config["model"] == "BPR"
    assert "no_such_key" not in config


@pytest.mark.parametrize(
    "text",
    ["2024", "1e3", "2024-01-31", "1.5", "True", "none", "runs/try #2", "#3", "&a b", "x: y", "!!int 3"],
)
def test_text_stays_text_on_the_command_line(text: str) -> None:
    config = build("SIGER", "NAME", command_line={"run_dir": text, "data_path": text, "cache_dir": text})
    assert [config[key] for key in ("run_dir", "cache_dir")] == [text, text]
    assert config.run.run_dir == text
    assert config["data_path"] == f"{text}/NAME"
    again = Config(config_dict=config.portable())  # what a trial and a process of a run get
    assert again["cache_dir"] == (text if text == "none" else str(Path(text).absolute()))
    assert again["data_path"] == str(Path(text, "NAME").absolute())


def test_none_on_the_command_line_is_still_no_text() -> None:
    assert build("SIGER", command_line={"run_dir": "None"}).run.run_dir is None
    assert build("SIGER", command_line={"run_dir": "~"}).run.run_dir is None
    assert build("SIGER", command_line={"run_dir": "'~'"}).run.run_dir == "~"


@pytest.mark.parametrize(
    ("text", "value"),
    [("True", True), ("yes", True), ("1", True), ("False", False), ("no", False), ("0", False)],
)
def test_one_rule_for_booleans_on_the_command_line(text: str, value: bool) -> None:
    keys = ("saved", "train_features", "use_gpu")  # of a run, a model, RecBole
    config = build("SIGER", command_line=dict.fromkeys(keys, text))
    assert [config[key] for key in keys] == [value] * 3
    assert config.origin["use_gpu"] == "command line"


# ---- strictness


def test_an_unknown_key_is_refused_with_its_place_and_a_hint(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.yaml", "n_co_neighbours: 3\n")
    assert refusal(files=[file]) == f"{file}: unknown key `n_co_neighbours`; did you mean `n_co_neighbors`?"
    assert refusal(epoch=3) == "config_dict: unknown key `epoch`; did you mean `epochs`?"
    assert refusal(command_line={"see": "1"}).startswith(
        "command line: unknown key `see`; did you mean `seed`?"
    )
    assert refusal(zzzzzzzz=1) == (
        "config_dict: unknown key `zzzzzzzz`; `recbole-siger config SIGER` lists the options"
    )


def test_recboles_list_of_arguments_names_a_key_that_nothing_reads() -> None:
    message = "unknown key `config_file`; "
    assert message in refusal(command_line={"config_file": "a.yaml"})
    assert message in refusal(config_file="a.yaml")


@pytest.mark.parametrize("given", ["a.yaml", Path("a.yaml"), {"epochs": 3}])
def test_configuration_files_are_a_list(given: Any) -> None:
    with pytest.raises(UserError, match=r"^config_file_list=.*: write a list of files, as in \['a.yaml'\]$"):
        Config("SIGER", "ml-100k", given)


def test_values_of_numpy_paths_and_tuples_are_values_of_yaml(tmp_path: Path) -> None:
    config = build(
        learning_rate=np.float64(0.5),
        co_weight=np.float32(0.25),
        epochs=np.int64(3),
        saved=np.bool_(False),
        topk=(np.int64(5), 20),
        modalities=np.array(["text"]),
        data_path=tmp_path,
        eval_args={"split": {"RS": (8, 1, 1)}},
    )
    values = yaml.safe_load(yaml.safe_dump(config.effective()))
    expected = {"learning_rate": 0.5, "co_weight": 0.25, "epochs": 3, "saved": False, "topk": [5, 20]}
    assert {key: values[key] for key in expected} == expected
    assert (values["modalities"], values["data_path"]) == (["text"], str(tmp_path))
    assert values["eval_args"]["split"] == {"RS": [8, 1, 1]}
    assert "learning_rate=-1.0: expected" in refusal(command_line={"learning_rate": np.float64(-1)})


def test_an_option_of_another_model_is_unknown() -> None:
    assert "unknown key `co_weight`" in refusal("BPR", co_weight=0.1)
    assert "unknown key `ssl_tau`" in refusal("SIGER", ssl_tau=0.1)


@pytest.mark.parametrize(
    ("key", "value", "parts"),
    [
        ("co_weight", 1.5, ["expected a number in [0, 1]"]),
        ("n_co_neighbors", 0, ["expected a number in [1, inf)"]),
        ("n_co_neighbors", 2.5, ["expected an integer"]),
        ("co_tie_break", "cosin", ["'cosine', 'popularity', 'id'", "did you mean `cosine`?"]),
        ("detach_modulus", "maybe", ["expected True or False"]),
        ("epochs", 0, ["expected a number in [1, inf)"]),
        ("seed", -1, ["expected a number in [0, 4294967296)"]),
        ("seed", 2**32, ["expected a number in [0, 4294967296)"]),
        ("learning_rate", 0, ["expected a number in (0, inf)"]),
        ("min_epochs", -1, ["expected a number in [0, inf)"]),
        ("protocol", "mmrek", ["'recbole', 'mmrec'", "did you mean `mmrec`?"]),
        ("train_negatives", "some", ["'all', 'train_items'"]),
        ("modalities", "image", ["expected a list"]),
        ("metric_decimal_place", 17, ["[1, 16]"]),
        ("weight_decay", -0.1, ["expected a number in [0, inf)"]),
        ("learner", "adm", ["did you mean `adam`?"]),
        # RecBole declares no types for its own; they are those of the defaults.
        ("loss_decimal_place", "few", ["expected int", "such as 4"]),
        ("loss_decimal_place", -1, ["expected a number in [0, inf)"]),
        ("reproducibility", 3, ["expected bool", "such as True"]),
    ],
)
def test_a_wrong_value_names_key_value_range_and_source(
    key: str, value: Any, parts: list[str], tmp_path: Path
) -> None:
    file = write(tmp_path / "mine.yaml", yaml.safe_dump({key: value}))
    messages = {
        "config_dict": refusal(**{key: value}),
        str(file): refusal(files=[file]),
        "command line": refusal(command_line={key: str(value)}),
    }
    for source, message in messages.items():
        assert message.startswith(f"{source}: {key}={value!r}: ")
        assert all(part in message for part in parts)


def test_a_file_is_no_folder_of_graphs(tmp_path: Path) -> None:
    file = write(tmp_path / "notes.txt", "not a graph")
    for place in (file, file / "below"):
        message = refusal(cache_dir=str(place))
        assert message.startswith(f"config_dict: cache_dir={str(place)!r}: {file} is a file, not a folder")
    assert build(cache_dir="none")["cache_dir"] == "none"


def test_a_number_for_text_is_text_on_the_command_line_alone(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.yaml", "USER_ID_FIELD: 3\n")
    assert refusal(USER_ID_FIELD=3) == "config_dict: USER_ID_FIELD=3: expected str, such as 'user_id'"
    assert refusal(files=[file]) == f"{file}: USER_ID_FIELD=3: expected str, such as 'user_id'"
    assert build(command_line={"USER_ID_FIELD": "3"})["USER_ID_FIELD"] == "3"
    assert build(USER_ID_FIELD="3")["USER_ID_FIELD"] == "3"


@pytest.mark.parametrize("text", ["|", ";", ",", ":", ">", "\t", " ", "::"])
def test_a_separator_is_taken_as_typed(text: str) -> None:
    for key in ("field_separator", "seq_separator"):
        assert build(command_line={key: text})[key] == text
        assert build(**{key: text})[key] == text
        assert "expected text of at least one character" in refusal(command_line={key: ""})


def test_a_wrong_value_in_a_shipped_file_names_that_file(properties: Path) -> None:
    write(properties / "dataset" / "ml-100k.yaml", "co_weight: 2\n")
    assert refusal().startswith("properties/dataset/ml-100k.yaml: co_weight=2: ")


def test_an_integer_does_for_a_number() -> None:
    assert build(co_weight=1)["co_weight"] == 1
    assert build(weight_decay=0)["weight_decay"] == 0


@pytest.mark.parametrize(
    "key", ["save_dataset", "save_dataloaders", "dataset_save_path", "dataloaders_save_path"]
)
def test_keys_that_name_a_pickle_are_refused(key: str) -> None:
    assert "pickles" in refusal(**{key: True if key.startswith("save") else "x.pth"})


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"valid_metric": "Recall@7"}, "valid_metric='Recall@7' is not among metrics x topk: Recall@10"),
        ({"valid_metric": "MRR@10"}, "valid_metric='MRR@10' is not among metrics x topk"),
        ({"topk": [10]}, "valid_metric='Recall@20' is not among metrics x topk"),
        ({"metrics": ["NDCG"]}, "valid_metric='Recall@20' is not among metrics x topk"),
        ({"valid_metric": "Recall"}, "valid_metric='Recall'"),
        ({"metrics": ["Recal"]}, "metrics=['Recal']: there is no metric Recal; did you mean `recall`?"),
        ({"metrics": "Recall,NDCG"}, "no metric Recall,NDCG; write a list, as in [Recall, NDCG]"),
        ({"metrics": "recall@20"}, "no metric recall@20; write the metric without its cut-off"),
        ({"topk": [0]}, "positive integer"),
        ({"eval_args": 3}, "eval_args"),
    ],
)
def test_an_evaluation_that_cannot_be_computed_is_refused(values: dict[str, Any], part: str) -> None:
    assert part in refusal(**values)


def test_a_direction_that_recbole_replaces_is_refused(tmp_path: Path) -> None:
    """RecBole decides by the metric, so that `valid_metric_bigger=False` would choose no other epoch."""
    key = "valid_metric_bigger"
    assert refusal(**{key: False}).startswith(f"config_dict: {key}=False has no effect with Recall@20")
    assert build(**{key: True})[key] is True
    smaller = {"metrics": ["GiniIndex"], "valid_metric": "GiniIndex@20"}
    assert build(**smaller, **{key: False})[key] is False
    file = write(tmp_path / "config.yaml", yaml.safe_dump({key: False, **smaller}))
    assert build(files=[file])[key] is False
    assert build(files=[file], metrics=["Recall"], valid_metric="Recall@20")[key] is True
    assert refusal(files=[file], **smaller, **{key: True}).startswith(f"config_dict: {key}=True ")


def test_the_case_of_a_metric_does_not_matter() -> None:
    assert build(valid_metric="ndcg@10")["valid_metric"] == "ndcg@10"
    assert build(topk=20)["topk"] == [20]


# ---- YAML


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("epochs: 3\nseed: [1, 2\n", ", line 3: "),
        ("epochs: 3\n\tseed: 1\n", ", line 2: "),
        ("epochs: 3\nseed: !!python/object/apply:os.system ['touch caught']\n", ", line 2: "),
        ("epochs: !!python/name:os.system\n", ", line 1: "),
        ("- epochs\n", ": contains a list; write `key: value` lines"),
        ("just words\n", ": contains a str; write `key: value` lines"),
    ],
)
def test_a_broken_file_is_told_with_its_line(
    text: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = write(tmp_path / "broken.yaml", text)
    message = refusal(files=[file])
    assert message.startswith(f"{file}{part}")
    assert [path.name for path in tmp_path.iterdir()] == ["broken.yaml"]


def test_tags_are_not_run_on_the_command_line_or_beside_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tag = "!!python/object/apply:os.system ['touch caught']"
    assert "expected an integer" in refusal(command_line={"epochs": tag})
    write(tmp_path / "dataset" / "toy" / "toy.yaml", f"epochs: {tag}\n")
    assert "toy.yaml, line 1: " in refusal("BPR", "toy")
    assert not (tmp_path / "caught").exists()


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    absent = tmp_path / "absent.yaml"
    assert refusal(files=[absent]) == f"{absent}: no such configuration file; check --config_files"
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"note: caf\xe9\n")
    assert refusal(files=[latin]).startswith(f"{latin}: cannot be read: ")
    assert refusal(files=[tmp_path]).startswith(f"{tmp_path}: is a folder, not a configuration file; ")


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    file = write(tmp_path / "empty.yaml", "# nothing\n")
    assert build(files=[file]).final_config_dict == build().final_config_dict


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**12), 10**12) | st.booleans())
def test_a_number_survives_the_command_line(value: Any) -> None:
    parsed = parse_value(repr(value))
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("-2.5E+3", -2500.0),
        (".5", 0.5),
        ("[a, 1e-3]", ["a", 1e-3]),
        ("{valid: full}", {"valid": "full"}),
        ("e5", "e5"),
        ("1e", "1e"),
        ("", ""),
        ("\t", "\t"),
        ("[1, 2", "[1, 2"),
        (7, 7),
    ],
)
def test_parse_value(text: Any, value: Any) -> None:
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


# ---- RecBole's models


@pytest.mark.parametrize("name", RECBOLE_MODELS)
def test_recboles_models_can_be_configured(name: str) -> None:
    config = build(name)
    assert config["model"] == name
    assert config.model_class.__name__ == name
    assert config["topk"] == [10, 20]
    assert config["valid_metric"] == "Recall@20"


def test_recboles_models_keep_their_own_options() -> None:
    assert build("NCL")["num_clusters"] == 1000
    assert build("NCL", num_clusters=7)["num_clusters"] == 7
    assert build("LightGCN", n_layers=4)["n_layers"] == 4
    assert "expected int" in refusal("LightGCN", n_layers="four")
    assert build("MultiVAE", mlp_hidden_size=[11])["mlp_hidden_size"] == [11]


# ---- what a run folder keeps


@pytest.mark.parametrize("name", ["SIGER", "NCL", "MultiVAE"])
def test_the_effective_configuration_gives_the_same_again(name: str, tmp_path: Path) -> None:
    first = build(name, epochs=3, topk=[5], valid_metric="NDCG@5", eval_args={"mode": "full"})
    run = RunFolder.create(tmp_path / "run")
    run.write_config(first.effective())
    again = Config(config_dict=run.read_config())
    assert again.effective() == first.effective()
    differing = {
        key
        for key, value in first.final_config_dict.items()
        if again.final_config_dict.get(key, "absent") != value
    }
    assert differing == set()


@pytest.mark.parametrize(
    ("name", "key"), [("LightGCN", "weight_decay"), ("LightGCN", "reg_weight"), ("SIGER", "cl_weight")]
)
def test_an_integer_for_a_float_is_the_same_run(name: str, key: str) -> None:
    """A study finds finished runs by the digest of their configurations."""
    first, second = build(name, **{key: 0}).effective(), build(name, **{key: 0.0}).effective()
    assert config_hash(first) == config_hash(second)
    assert config_hash(build(name, **{key: 1}).effective()) != config_hash(first)


def test_a_dataset_whose_name_reads_as_a_number_can_be_opened_again(tmp_path: Path) -> None:
    pairs = {split: [("u", "i")] for split in ("train", "valid", "test")}
    write_dataset(tmp_path, "2024", pairs)
    first = build("BPR", "2024", data_path=str(tmp_path))
    run = RunFolder.create(tmp_path / "run")
    run.write_config(first.effective())
    assert Config(config_dict=run.read_config())["dataset"] == "2024"


def test_feature_path_stays_with_the_data_path(tmp_path: Path) -> None:
    config = build(data_path=str(tmp_path))
    assert config["feature_path"] == str(tmp_path / "ml-100k")
    assert Path(config["data_path"], "ml-100k.inter").is_file()  # RecBole's own copy
    assert config.effective()["data_path"] == str(tmp_path)


def test_a_model_without_negatives_needs_no_flag() -> None:
    config = Config("BM3", "none", config_dict={"gpu_id": ""})
    assert config["train_neg_sample_args"]["distribution"] == "none"
    assert config.origin["train_neg_sample_args"] == "BM3.samples_negatives"
    assert Config("VBPR", "none")["train_neg_sample_args"]["distribution"] == "uniform"
    again = Config(config_dict=config.effective())
    assert again["train_neg_sample_args"] == config["train_neg_sample_args"]
