"""Keys within dicts, forms and ranges of RecBole's options: the error names key, value and fix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from recbole_siger.cli import main
from recbole_siger.config import Config
from recbole_siger.defaults import default_values
from recbole_siger.errors import UserError
from recbole_siger.options.names import check_dataset_name
from recbole_siger.registry import recbole_root
from recbole_siger.rules.nested import form_problem
from recbole_siger.rules.ranges import range_of, range_problem

# key, value, what the error must say
WRONG: list[tuple[str, Any, str]] = [
    ("eval_args", {"spilt": {"RS": [8, 1, 1]}}, "unknown key `spilt`; did you mean `split`?"),
    ("eval_args", {"groupby": "user"}, "unknown key `groupby`; did you mean `group_by`?"),
    ("eval_args", {"split": {"RX": [8, 1, 1]}}, "unknown key `RX`"),
    ("eval_args", {"split": {"RS": [0.8, 0.2]}}, "expected three ratios"),
    ("eval_args", {"split": {"RS": [8, 1, 1], "LS": "valid_and_test"}}, "one way of splitting"),
    ("eval_args", {"split": {"LS": "valid_and_tset"}}, "did you mean `valid_and_test`?"),
    ("eval_args", {"order": "OT"}, "order='OT'; expected RO or TO"),
    ("eval_args", {"group_by": "item"}, "group_by='item'; expected user or none"),
    ("eval_args", {"mode": "uni"}, "uniN or popN, such as uni100, not 'uni'"),
    ("eval_args", {"mode": {"validation": "full"}}, "unknown key `validation`; did you mean `valid`?"),
    ("eval_args", {"mode": {"valid": "uni0"}}, "not 'uni0'"),
    ("eval_args", {"mode": "labeled"}, "mode=labeled needs metrics of values"),
    ("train_neg_sample_args", {"distribution": "uniform", "sample_numb": 5}, "did you mean `sample_num`?"),
    ("train_neg_sample_args", {"sample_num": 5}, "expected a distribution"),
    ("train_neg_sample_args", {"distribution": "uniform", "sample_num": 0}, "sample_num of at least 1"),
    ("train_neg_sample_args", {"distribution": "unifrom"}, "did you mean `uniform`?"),
    ("train_neg_sample_args", {"distribution": "popularity", "alpha": -1}, "alpha of at least 0"),
    ("train_neg_sample_args", 5, "expected dict, such as {'distribution'"),
    ("load_col", {"intr": ["user_id"]}, "unknown key `intr`; did you mean `inter`?"),
    ("data_path", None, "expected a folder, such as dataset"),
    ("valid_metric", None, "expected a metric, such as Recall@20"),
    ("NEG_PREFIX", None, "expected text, such as neg_"),
    ("numerical_features", None, "expected a list of names, such as [age]"),
    ("metrics", ["Recal"], "there is no metric Recal; did you mean `recall`?"),
    ("metrics", ["AUC"], "AUC needs eval_args with mode: labeled"),
    ("metrics", ["AUC", "Recall"], "AUC is a metric of values and the others rank items"),
    ("load_col", ["user_id"], "expected a dict, such as {inter: [user_id, item_id]}"),
    ("load_col", {"inter": "user_id"}, "expected a list of fields, such as {inter: [user_id]}"),
    ("unused_col", {"items": ["item_id"]}, "did you mean `item`?"),
    ("unload_col", {"user": [3]}, "expected a list of fields"),
    ("val_interval", {"rating": "[3,"}, "rating: expected an interval in quotation marks"),
    ("val_interval", "[3,inf)", "expected a dict"),
    ("user_inter_num_interval", "[5,", "expected an interval in quotation marks"),
    ("item_inter_num_interval", 5, "expected"),
    ("rm_dup_inter", False, "expected first or last"),
    ("rm_dup_inter", "frist", "did you mean `first`?"),
    ("threshold", {"rating": "4"}, "expected a number for rating"),
    ("seq_len", {"tags": 0}, "expected a number for tags"),
    ("cold_start", {"knid": "item"}, "knid"),
    ("clip_grad_norm", 5, "expected a dict, such as {max_norm: 5}"),
    ("clip_grad_norm", {"maxnorm": 5}, "did you mean `max_norm`?"),
    ("clip_grad_norm", {"max_norm": "5"}, "expected a number max_norm"),
    ("topk", [5.0], "expected a positive integer, or a list such as [10, 20]"),
    ("topk", ["5"], "expected a positive integer"),
    ("topk", [], "expected a positive integer"),
    ("topk", [5, 5], "expected different integers"),
    ("metrics", [], "expected a metric or a list such as [Recall, NDCG]"),
    ("metrics", [3], "expected a metric"),
    ("gpu_id", "abc", "expected numbers of GPUs, such as 0 or '0,1'"),
    ("gpu_id", -2, "expected numbers of GPUs"),
    ("encoding", "utf-99", "expected an encoding that Python knows"),
    ("encoding", 8, "expected an encoding"),
    ("transform", "mask_items", "did you mean `mask_itemseq`?"),
    ("transform", {"a": 1}, "expected mask_itemseq or"),
    ("benchmark_filename", "train", "expected a list of names"),
    ("alias_of_item_id", "other", "expected a list of names"),
    ("embedding_size", 0, "expected a number in [1, inf)"),
    ("embedding_size", 10**400, "expected at most 9223372036854775807"),
    ("embedding_size", True, "expected int"),
    ("epochs", 10**400, "expected at most 9223372036854775807"),
    ("learning_rate", 10**400, "expected a number below 1e308"),
    ("data_path", "a\0b", "text cannot contain the character NUL"),
    ("run_dir", "a\0b", "text cannot contain the character NUL"),
]


@pytest.mark.parametrize(("key", "value", "part"), WRONG)
def test_a_wrong_value_is_refused_with_its_place(key: str, value: Any, part: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({key: value}))
    given: list[tuple[str, dict[str, Any]]] = [
        ("config_dict", {"config_dict": {"gpu_id": "", key: value}}),
        (str(file), {"config_file_list": [file]}),
    ]
    for source, arguments in given:
        with pytest.raises(UserError) as caught:
            Config("BPR", "ml-100k", **arguments)
        message = str(caught.value)
        assert message.startswith(f"{source}: {key}")
        assert part in message
        assert "\n" not in message
        assert len(message) < 500


RIGHT: list[tuple[str, Any]] = [
    ("eval_args", {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": {"valid": "uni100"}}),
    ("eval_args", {"split": {"RS": [8, 1, 1]}, "group_by": None, "order": "RO", "mode": "pop50"}),
    ("train_neg_sample_args", None),
    (
        "train_neg_sample_args",
        {"distribution": "popularity", "alpha": 0.5, "dynamic": True, "candidate_num": 3},
    ),
    ("load_col", {"inter": ["user_id", "item_id", "rating"], "item": "*"}),
    ("val_interval", {"rating": "[3,inf);(0, 1e0]", "class": ["a", "b"]}),
    ("user_inter_num_interval", "[5,inf)"),
    ("clip_grad_norm", {"max_norm": 5, "norm_type": 1}),
    ("topk", 20),
    ("gpu_id", "0,1"),
    ("gpu_id", -1),
    ("encoding", "latin-1"),
    ("rm_dup_inter", "last"),
    ("preload_weight", {"ent_id": "ent_emb"}),
]


@pytest.mark.parametrize(("key", "value"), RIGHT)
def test_what_recbole_reads_is_accepted(key: str, value: Any) -> None:
    assert form_problem(key, value) is None
    assert Config("BPR", "ml-100k", config_dict={"valid_metric": "Recall@20", key: value})["model"] == "BPR"


def test_a_table_of_additional_feat_suffix_is_known() -> None:
    values = {"additional_feat_suffix": ["poi"], "load_col": {"poi": ["poi_id"]}}
    assert Config("BPR", "ml-100k", config_dict=values)["load_col"] == {"poi": ["poi_id"]}
    assert "unknown key `poi`" in str(form_problem("load_col", {"poi": ["poi_id"]}))


# ---- ranges


@pytest.mark.parametrize(
    ("model", "key", "value", "part"),
    [
        ("LightGCN", "n_layers", -1, "[0, inf)"),
        ("LightGCN", "reg_weight", -1, "[0, inf)"),
        ("ItemKNN", "k", 0, "[1, inf)"),
        ("NeuMF", "mlp_hidden_size", [64, 0], "[1, inf), not 0"),
        ("NeuMF", "dropout_prob", 1.5, "[0, 1]"),
        ("SGL", "ssl_tau", 0, "(0, inf)"),
        ("MultiVAE", "latent_dimension", -7, "[1, inf)"),
        ("DiffRec", "steps", 0, "[1, inf)"),
        ("EASE", "reg_weight", -250.0, "[0, inf)"),
        ("NCL", "num_clusters", 0, "[1, inf)"),
    ],
)
def test_a_value_out_of_range_is_refused(model: str, key: str, value: Any, part: str) -> None:
    with pytest.raises(UserError, match=rf"^config_dict: {key}=") as caught:
        Config(model, "ml-100k", config_dict={key: value})
    assert part in str(caught.value)


@pytest.mark.parametrize(
    "model", sorted(path.stem for path in (recbole_root() / "properties/model").glob("*"))
)
def test_every_default_of_recbole_is_in_range_and_of_its_form(model: str) -> None:
    for key, value in default_values(model, "ml-100k").items():
        assert (key, range_problem(key, value), form_problem(key, value, ["ent"])) == (key, None, None)


def test_the_table_knows_the_numbers_of_recboles_general_models() -> None:
    files = (recbole_root() / "model" / "general_recommender").glob("*.py")
    general, unknown = {path.stem for path in files}, set()
    for path in (recbole_root() / "properties" / "model").glob("*.yaml"):
        values = yaml.safe_load(path.read_text()) or {} if path.stem.lower() in general else {}
        numbers = [key for key, value in values.items() if type(value) in (int, float)]
        unknown |= {key for key in numbers if range_of(key) is None}
    assert unknown == {"alpha", "beta", "gamma", "std"}  # each means something else in each model


# ---- names in paths


@pytest.mark.parametrize(
    "name", ["../x", "a/b", ".", "..", "", "a\nb", "a\0b", "-x", "/etc", "a\\b", "x" * 101, 7, None]
)
def test_a_name_that_leads_out_of_its_folder_is_refused(name: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^here: dataset=") as caught:
        check_dataset_name(name, "here")
    assert "\n" not in str(caught.value)
    assert "\0" not in str(caught.value)


@pytest.mark.parametrize("name", ["ml-100k", "lfm2k", "Amazon_Books", "007", "电影", "a.b"])
def test_names_of_datasets(name: str) -> None:
    assert check_dataset_name(name) == name


@pytest.mark.parametrize("words", [["run"], ["estimate"], ["run", "--dry_run"]])
def test_a_dataset_outside_of_its_folder_writes_nothing(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("../x", "a/../../y"):
        assert main([*words, "--model=BPR", f"--dataset={name}"]) == 2
        assert f"dataset='{name}': use letters" in capsys.readouterr().err
    (tmp_path / "n.yaml").write_text("dataset: 007\nmodel: BPR\n")
    assert main([*words, "--config_files=n.yaml"]) == 2
    assert "n.yaml: dataset=7 is a number; write the name in quotation marks" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["n.yaml"]
