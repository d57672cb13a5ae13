"""Datasets of every kind have exact ids and times, and what RecBole would ignore or mistake is one line."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from recbole.data.dataset import Dataset, SequentialDataset

from recbole_siger import cli
from recbole_siger.config import Config
from recbole_siger.data.dataset import MultimodalDataset
from recbole_siger.data.exact import ExactDataset, dataset_class
from recbole_siger.data.failures import explain_recbole
from recbole_siger.data.loading import split_and_load
from recbole_siger.errors import UserError

HEADER = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
SPLIT = {"benchmark_filename": ["train", "valid", "test"]}
TIMED = {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}}
LATEST = {"eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"}}

Row = Sequence[Any]


def draw_rows(start: int = 1_700_000_000, step: int = 1) -> list[list[Any]]:
    """Seven rows of each of 13 users, over 17 items, in an order of time that the file does not have."""
    rng = np.random.default_rng(7)
    pairs = [(f"u{u}", f"i{i}") for u in range(13) for i in rng.permutation(17)[:7]]
    times = start + step * rng.permutation(len(pairs))
    return [
        [*pair, 1 + n % 5, time] for n, (pair, time) in enumerate(zip(pairs, times.tolist(), strict=True))
    ]


def text(rows: Sequence[Row], header: str = HEADER) -> str:
    return "".join(line + "\n" for line in [header, *("\t".join(map(str, row)) for row in rows)])


def write(root: Path, **files: str) -> Path:
    """Write ``toy.<name>``; ``train`` stands for ``train.inter``."""
    folder = root / "toy"
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        suffix = f"{name}.inter" if name in ("train", "valid", "test") else name
        (folder / f"toy.{suffix}").write_text(content, encoding="utf-8")
    return root


def config_of(root: Path, model: str = "BPR", **values: Any) -> Config:
    return Config(model, "toy", config_dict={"data_path": str(root), "gpu_id": "", **values})


def load(root: Path, model: str = "BPR", **values: Any) -> MultimodalDataset:
    return MultimodalDataset(config_of(root, model, **values))


def refusal(root: Path, model: str = "BPR", **values: Any) -> str:
    with pytest.raises(UserError) as caught:
        dataset_class(config := config_of(root, model, **values))(config).build()
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix(f"{root / 'toy'}/")


def pairs_of(split: Any) -> list[tuple[str, str]]:
    users, items = split.field2id_token["user_id"], split.field2id_token["item_id"]
    return [
        (users[u], items[i])
        for u, i in zip(
            split.inter_feat["user_id"].tolist(), split.inter_feat["item_id"].tolist(), strict=True
        )
    ]


def thirds(rows: list[Row]) -> dict[str, str]:
    return {"train": text(rows[:61]), "valid": text(rows[61:73]), "test": text(rows[73:])}


# ---- ids


@pytest.mark.parametrize("odd", ["NA", "null", "None", "nan", "007", "1.0", '"wide', "N/A"])
def test_no_row_is_lost_for_its_id(tmp_path: Path, odd: str) -> None:
    rows = draw_rows()
    renamed = [
        [odd if user == "u3" else user, odd if item == "i5" else item, *rest] for user, item, *rest in rows
    ]
    expected = {(str(user), str(item)) for user, item, *_ in renamed}
    whole = load(write(tmp_path, inter=text(renamed)))
    assert {pair for split in whole.build() for pair in pairs_of(split)} == expected
    given = load(write(tmp_path, **thirds(renamed)), **SPLIT).build()
    assert [pairs_of(split) for split in given] == [
        [(str(user), str(item)) for user, item, *_ in part]
        for part in (renamed[:61], renamed[61:73], renamed[73:])
    ]
    assert all((split.train_edges > 0).all() for split in given)


@pytest.mark.parametrize("part", ["inter", "train", "valid", "test"])
@pytest.mark.parametrize(("place", "field"), [(0, "user_id"), (1, "item_id")])
def test_an_empty_id_is_refused(tmp_path: Path, part: str, place: int, field: str) -> None:
    rows = draw_rows()
    files = {"inter": text(rows), **thirds(rows)}
    lines = files[part].split("\n")
    cells = lines[4].split("\t")
    cells[place] = ""
    files[part] = "\n".join([*lines[:4], "\t".join(cells), *lines[5:]])
    file = "toy.inter" if part == "inter" else f"toy.{part}.inter"
    message = refusal(write(tmp_path, **files), **({} if part == "inter" else SPLIT))
    assert message == f"{file}: line 5: {field} is empty; write the id or remove the row"


def test_an_empty_id_of_a_table_of_items(tmp_path: Path) -> None:
    write(tmp_path, inter=text(draw_rows()), item="item_id:token\tclass:token\ni1\ta\n\tb\n")
    columns = {"inter": ["user_id", "item_id"], "item": ["item_id", "class"]}
    assert (
        refusal(tmp_path, load_col=columns)
        == "toy.item: line 3: item_id is empty; write the id or remove the row"
    )


def test_a_missing_value_of_an_item_is_padding_and_na_is_a_value(tmp_path: Path) -> None:
    table = "item_id:token\tclass:token\ttags:token_seq\tvoid:token\n"
    table += "i1\tNA\tNA b\t\ni2\t\t\t\ni3\tc\tb\t\n"
    write(tmp_path, inter=text(draw_rows()), item=table)
    columns = {"inter": ["user_id", "item_id"], "item": ["item_id", "class", "tags", "void"]}
    dataset = load(tmp_path, load_col=columns, filter_inter_by_user_or_item=False)
    dataset.build()
    assert dataset.field2id_token["class"].tolist() == ["[PAD]", "NA", "c"]
    assert dataset.field2id_token["void"].tolist() == ["[PAD]"]
    assert dataset.field2id_token["tags"].tolist() == ["[PAD]", "NA", "b"]
    items = [dataset.item_tokens.index(token) for token in ("i1", "i2", "i3")]
    assert dataset.item_feat["class"][items].tolist() == [1, 0, 2]
    assert dataset.item_feat["tags"][items].tolist() == [[1, 2], [0, 0], [2, 0]]


def test_a_row_with_id_0_never_trains(tmp_path: Path) -> None:
    class Losing(ExactDataset):
        def _load_feat(self, filepath: str, source: Any) -> Any:
            frame = super()._load_feat(filepath, source)
            frame.loc[[2, 5], "item_id"] = np.nan
            return frame

    write(tmp_path, **thirds(draw_rows()))
    with pytest.raises(UserError, match=r"dataset 'toy': 6 rows have no item_id; write the id or remove the"):
        Losing(config_of(tmp_path, **SPLIT))


# ---- what was right stays the same


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"rm_dup_inter": "last", **TIMED},
        {"user_inter_num_interval": "[3,inf)", "item_inter_num_interval": "[5,inf)"},
        {"val_interval": {"rating": "[2,4]"}, "load_col": {"inter": ["user_id", "item_id", "rating"]}},
        {**TIMED, **LATEST},
        {"load_col": None},
        {
            "load_col": {"inter": ["user_id", "item_id"], "item": ["item_id", "tags", "sizes"]},
            "seq_len": {"tags": 2},
        },
    ],
)
def test_plain_data_are_recboles(tmp_path: Path, values: dict[str, Any]) -> None:
    rng = np.random.default_rng(3)
    table = ["item_id:token\ttags:token_seq\tsizes:float_seq\tprice:float"]
    table += [
        f"i{i}\t{' '.join(rng.choice(list('abcd'), i % 4))}\t0.5 {i}\t{i / 7}" for i in rng.permutation(17)
    ]
    rows = draw_rows(start=1000)  # whole numbers that float32 holds
    write(tmp_path, inter=text(rows + rows[:11]), item="\n".join(table) + "\n")
    found = []
    for kind in (Dataset, MultimodalDataset):
        torch.manual_seed(5)
        whole = kind(config_of(tmp_path, **values))
        found.append((whole, whole.build()))
    (theirs, their_splits), (ours, our_splits) = found
    assert ours.field2seqlen == theirs.field2seqlen
    for field, tokens in theirs.field2id_token.items():
        assert ours.field2id_token[field].tolist() == tokens.tolist()
    for one, other in zip(their_splits, our_splits, strict=True):
        tables = [(one.inter_feat, other.inter_feat)]
        tables += [(one.item_feat, other.item_feat)] if one.item_feat is not None else []
        for expected, table_of_ours in tables:
            assert set(expected.interaction) == set(table_of_ours.interaction)
            for name, column in expected.interaction.items():
                assert torch.equal(table_of_ours[name].to(column.dtype), column), name


# ---- times


@pytest.mark.parametrize(
    ("start", "step"), [(1_700_000_000, 1), (1_700_000_000_000, 7), (1_700_000_000_000_000_000, 3)]
)
def test_the_latest_row_is_tested_to_the_last_digit(tmp_path: Path, start: int, step: int) -> None:
    rows = draw_rows(start, step)
    splits = load(write(tmp_path, inter=text(rows)), **TIMED, **LATEST).build()
    by_user: dict[str, list[tuple[int, str]]] = {}
    for user, item, _, time in rows:
        by_user.setdefault(user, []).append((time, item))
    for place, split in ((-1, splits[2]), (-2, splits[1])):
        assert set(pairs_of(split)) == {(user, sorted(held)[place][1]) for user, held in by_user.items()}
    times = {(user, item): time for user, item, _, time in rows}
    for split in splits:
        assert split.inter_feat["timestamp"].tolist() == [times[pair] for pair in pairs_of(split)]


def test_parts_of_a_second_and_of_a_split_file_are_kept(tmp_path: Path) -> None:
    rows = draw_rows()
    for n, row in enumerate(rows):
        row[3] = 1_700_000_000 + n / 8
    given = load(write(tmp_path, **thirds(rows)), **SPLIT, **TIMED).build()
    assert [t for split in given for t in split.inter_feat["timestamp"].tolist()] == [row[3] for row in rows]


def test_sequences_are_in_the_order_of_exact_times(tmp_path: Path) -> None:
    rows = draw_rows(1_700_000_000_000, 3)
    config = config_of(write(tmp_path, inter=text(rows)), "SASRec", train_neg_sample_args=None, **TIMED)
    dataset = dataset_class(config)(config)
    assert isinstance(dataset, SequentialDataset)
    test = dataset.build()[2]
    tokens = dataset.field2id_token["item_id"]
    for user, items, last in zip(
        test.inter_feat["user_id"], test.inter_feat["item_id_list"], test.inter_feat["item_id"], strict=True
    ):
        mine = sorted((row[3], row[1]) for row in rows if row[0] == dataset.field2id_token["user_id"][user])
        assert [tokens[i] for i in [*items[items > 0].tolist(), int(last)]] == [item for _, item in mine]


@pytest.mark.parametrize("bound", ["[1700000040,inf)", "(1700000039,inf)"])
def test_a_filter_compares_64_bits(tmp_path: Path, bound: str) -> None:
    rows = draw_rows()
    dataset = load(write(tmp_path, inter=text(rows)), val_interval={"timestamp": bound}, **TIMED)
    assert dataset.inter_num == sum(row[3] >= 1_700_000_040 for row in rows)


def test_an_order_that_cannot_be_had(tmp_path: Path) -> None:
    rows = draw_rows()
    write(tmp_path, inter=text(rows))
    assert refusal(tmp_path, **LATEST) == (
        "config_dict: eval_args: order=TO needs the time of each row, and TIME_FIELD='timestamp' is not "
        "loaded; set load_col to {inter: [user_id, item_id, timestamp]}, or order to RO"
    )
    write(tmp_path, inter=text(rows, HEADER.replace("timestamp:float", "timestamp:token")))
    for values in (LATEST, {"rm_dup_inter": "first"}):
        message = refusal(tmp_path, **TIMED, **values)
        assert message.startswith("toy.inter: line 1: TIME_FIELD='timestamp' must hold numbers")
    rows[4][3] = ""
    write(tmp_path, inter=text(rows))
    message = refusal(tmp_path, **TIMED, **LATEST)
    assert message == "toy.inter: line 6: timestamp is empty; write a number or remove the row"


# ---- files of another form


@pytest.mark.parametrize(
    ("part", "columns", "message"),
    [
        ("test", [0, 2, 3], "toy.test.inter: has no column 'item_id' (it has user_id, rating, timestamp)"),
        ("train", [1, 2, 3], "toy.train.inter: has no column 'user_id' (it has item_id, rating, timestamp)"),
        ("valid", [0, 1, 3], "toy.valid.inter: has no column 'rating' (it has user_id, item_id, timestamp)"),
    ],
)
def test_a_part_of_a_split_without_a_column(
    tmp_path: Path, part: str, columns: list[int], message: str
) -> None:
    files = thirds(draw_rows())
    files[part] = "".join(
        "\t".join(line.split("\t")[place] for place in columns) + "\n" for line in files[part].splitlines()
    )
    load_col = {"inter": ["user_id", "item_id", "rating"]}
    assert refusal(write(tmp_path, **files), **SPLIT, load_col=load_col).startswith(message)
    if part == "valid":
        message = refusal(tmp_path, **SPLIT, load_col=None)
        assert message.startswith("toy.valid.inter: line 1: has the columns user_id:token, item_id:token, ")
        assert message.endswith("; give all parts of the split the same columns")


@pytest.mark.parametrize("cells", [3, 5])
@pytest.mark.parametrize("part", ["train", "test"])
def test_a_first_row_of_another_length(tmp_path: Path, part: str, cells: int) -> None:
    files = thirds(draw_rows())
    lines = files[part].split("\n")
    lines[1] = "\t".join([*lines[1].split("\t"), "9"][:cells])
    files[part] = "\n".join(lines)
    message = refusal(write(tmp_path, **files), **SPLIT)
    assert message.startswith(f"toy.{part}.inter: line 2: {cells} cells, but line 1 names 4 columns; ")


def test_tabs_at_the_end_of_rows_mean_nothing(tmp_path: Path) -> None:
    files = thirds(draw_rows())
    expected = [pairs_of(split) for split in load(write(tmp_path, **files), **SPLIT).build()]
    files["test"] = files["test"].replace("\n", "\t\n")
    files["valid"] = files["valid"].replace("\n", "\t\t\n").replace("\t\t\n", "\n", 1)
    assert [pairs_of(split) for split in load(write(tmp_path, **files), **SPLIT).build()] == expected


@pytest.mark.parametrize(
    ("content", "values", "message"),
    [
        (text([]), {}, "toy.inter: holds no rows; write one line for each interaction"),
        ("", {}, "toy.inter: the first line is empty"),
        (
            text([[1, "a"]], "user_id:float\titem_id:token"),
            {},
            "toy.inter: line 1: user_id:float holds ids; ",
        ),
        (
            text(draw_rows(), HEADER.replace("user_id:token", "user_id:token_seq")),
            {},
            "toy.inter: line 1: user_id:token_",
        ),
        (
            text(draw_rows(), HEADER.replace("user_id", "uid")),
            {},
            "toy.inter: has no column 'user_id' (it has uid,",
        ),
        (
            text(draw_rows()),
            {"load_col": {"inter": ["item_id", "rating"]}},
            "toy.inter: USER_ID_FIELD='user_id' is not",
        ),
        (
            text(draw_rows()),
            {"unload_col": {"inter": ["ratng"]}, "load_col": None},
            "toy.inter: has no column 'ratng'",
        ),
    ],
)
def test_a_file_that_is_wrong(tmp_path: Path, content: str, values: dict[str, Any], message: str) -> None:
    assert refusal(write(tmp_path, inter=content), **values).startswith(message)


def test_columns_of_other_names(tmp_path: Path) -> None:
    rows = draw_rows()
    write(tmp_path, inter=text(rows, HEADER.replace("user_id", "who").replace("item_id", "what")))
    names = {"USER_ID_FIELD": "who", "ITEM_ID_FIELD": "what", "load_col": {"inter": ["who", "what"]}}
    assert load(tmp_path, **names).inter_num == len(rows)


# ---- options


@pytest.mark.parametrize("value", [False, True, "frist", "both"])
def test_a_repeated_pair_keeps_its_first_or_its_last_row(tmp_path: Path, value: Any) -> None:
    write(tmp_path, inter=text(draw_rows()))
    message = refusal(tmp_path, rm_dup_inter=value)
    assert message.startswith(f"config_dict: rm_dup_inter={value!r}: expected ")
    assert "first" in message or "str" in message


@pytest.mark.parametrize("model", ["BPR", "VBPR", "NGCF"])
def test_a_pairwise_model_needs_negatives(tmp_path: Path, model: str) -> None:
    write(tmp_path, inter=text(draw_rows()))
    message = refusal(tmp_path, model, train_neg_sample_args=None)
    assert message.startswith("config_dict: train_neg_sample_args=")
    assert f"{model} trains with negative items; leave the option out" in message


def test_a_transform_of_sequences_that_no_model_reads(tmp_path: Path) -> None:
    write(tmp_path, inter=text(draw_rows()))
    for model in ("BPR", "EASE", "VBPR"):
        message = refusal(tmp_path, model, transform="mask_itemseq")
        assert message.startswith("config_dict: transform='mask_itemseq': has no effect: ")
        assert f"{model} reads no sequences; leave the option out" in message


@pytest.mark.parametrize("value", [{"rating": 3}, {"timestamp": 5.5}])
def test_a_threshold_that_no_model_reads(tmp_path: Path, value: Any) -> None:
    write(tmp_path, inter=text(draw_rows()), **thirds(draw_rows()))
    for model in ("BPR", "EASE", "NeuMF"):
        message = refusal(tmp_path, model, threshold=value, load_col=None)
        assert message.startswith(f"config_dict: threshold={value!r}: has no effect: {model} reads no labels")
        assert refusal(tmp_path, model, threshold=value, **SPLIT) == message
    labels = {"train_neg_sample_args": None, "threshold": {"rating": 3}, "load_col": None}
    assert set(load(tmp_path, model="NeuMF", **labels).inter_feat["label"]) == {0, 1}


@pytest.mark.parametrize("table", ["item", "user"])
def test_columns_of_a_file_that_does_not_exist(tmp_path: Path, table: str) -> None:
    write(tmp_path, inter=text(draw_rows()))
    columns = {"inter": ["user_id", "item_id"], table: [f"{table}_id", "class"]}
    file = tmp_path / "toy" / f"toy.{table}"
    message = refusal(tmp_path, "FM", load_col=columns)
    assert message == f"config_dict: load_col={columns!r}: {file}: no such file; remove {table!r}"


@pytest.mark.parametrize("field", ["ratng", "user"])
def test_a_filter_of_a_column_that_does_not_exist(tmp_path: Path, field: str) -> None:
    write(tmp_path, inter=text(draw_rows()))
    message = refusal(tmp_path, val_interval={field: "[3,4]"})
    start = f"config_dict: val_interval={{{field!r}: '[3,4]'}}: {field!r} is not a loaded column (loaded: "
    assert message.startswith(start)
    assert message.endswith("add it to load_col, or leave it out")


RATED = {"load_col": {"inter": ["user_id", "item_id", "rating"]}}


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("val_interval", {"rating": "[3,inf)"}, "'rating' is not a loaded column (loaded: user_id, item_id)"),
        ("val_interval", {"user_id": "[3,inf)"}, "user_id: write [a, b], a list of tokens"),
        ("normalize_field", ["rating"], "'rating' is not a loaded column"),
        ("numerical_features", ["rating"], "'rating' is not a loaded column"),
        ("numerical_features", ["user_id"], "'user_id' has no numbers; leave it out"),
        ("discretization", {"rating": {"method": "LD"}}, "'rating' is not a loaded column"),
        ("discretization", {"user_id": {"method": "LD"}}, "'user_id' has no numbers"),
        ("alias_of_user_id", ["friend_id"], "'friend_id' is not a loaded column"),
        ("alias_of_item_id", ["user_id"], "'user_id' is USER_ID_FIELD; leave it out"),
        ("USER_ID_FIELD", "item_id", "ITEM_ID_FIELD='item_id': USER_ID_FIELD (from config_dict) is this"),
        ("ITEM_ID_FIELD", "user_id", "USER_ID_FIELD (from recbole/properties/dataset/sample.yaml) is this"),
        ("TIME_FIELD", "item_id", "ITEM_ID_FIELD (from recbole/properties/dataset/sample.yaml) is this"),
        ("unused_col", {"inter": ["user_id"]}, "'user_id' is USER_ID_FIELD, which every run uses"),
        ("load_col", {}, "names no column of inter; write {inter: [user_id, item_id]}"),
        ("load_col", {"user": ["user_id"]}, "names no column of inter"),
        ("load_col", {"inter": []}, "names no column of inter"),
        ("unload_col", {"inter": ["rating"]}, "load_col names the columns of inter to load already"),
        ("additional_feat_suffix", ["ent"], "toy.ent: no such file; remove 'ent'"),
    ],
)
def test_an_option_of_a_column_names_itself(tmp_path: Path, key: str, value: Any, problem: str) -> None:
    write(tmp_path, inter=text(draw_rows()))
    message = refusal(tmp_path, **{key: value})
    assert problem in message
    assert key in message
    assert "RecBole says" not in message


def test_a_loaded_column_of_numbers(tmp_path: Path) -> None:
    write(tmp_path, inter=text(draw_rows()))
    n_rows = len(load(tmp_path, **RATED).inter_feat)
    assert 0 < len(load(tmp_path, **RATED, val_interval={"rating": "[3,inf)"}).inter_feat) < n_rows
    assert 'rating: write "[3,inf)"' in refusal(tmp_path, **RATED, val_interval={"rating": [3, 4]})
    binned = {"numerical_features": ["rating"], "discretization": {"rating": {"method": "ED", "bucket": 3}}}
    assert len(load(tmp_path, **RATED, **binned).inter_feat) == n_rows
    assert "'rating': list it in numerical_features too" in refusal(
        tmp_path, **RATED, discretization=binned["discretization"]
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("val_interval", {"rating": "[3,inf)"}),
        ("user_inter_num_interval", "[2,inf)"),
        ("item_inter_num_interval", "[2,inf)"),
        ("rm_dup_inter", "first"),
    ],
)
def test_a_filter_of_data_that_are_split(tmp_path: Path, key: str, value: Any) -> None:
    write(tmp_path, **thirds(draw_rows()))
    message = refusal(tmp_path, **SPLIT, **{key: value})
    assert message.startswith(f"config_dict: {key}={value!r}: has no effect: the dataset is split already ")
    assert "--k_core" in message


@pytest.mark.parametrize(
    "given",
    [{"split": {"RS": [6, 2, 2]}}, {"order": "TO"}, {"group_by": None}, {"split": {"LS": "test_only"}}],
)
def test_another_split_of_data_that_are_split(tmp_path: Path, given: Mapping[str, Any]) -> None:
    write(tmp_path, **thirds(draw_rows()))
    (key, value), *_ = given.items()
    message = refusal(tmp_path, **SPLIT, eval_args=dict(given))
    assert message.startswith(
        f"config_dict: eval_args: {key}={value!r} has no effect: the dataset is split already"
    )
    assert load(tmp_path, **SPLIT, eval_args={"mode": "full", "order": "RO"}).inter_num == len(draw_rows())


@pytest.mark.parametrize(
    "given",
    [{"split": {"RS": [6, 2, 2]}}, {"order": "TO"}, {"group_by": None}, {"split": {"LS": "test_only"}}],
)
def test_another_split_in_the_yaml_of_data_that_are_split(tmp_path: Path, given: dict[str, Any]) -> None:
    """RecBole ignores the keys there as well. The user's own `eval_args` replace those of the file."""
    folder = write(tmp_path, **thirds(draw_rows()))
    file = folder / "toy" / "toy.yaml"
    file.write_text(yaml.safe_dump({**SPLIT, "eval_args": given}))
    (key, value), *_ = given.items()
    message = refusal(folder)
    reason = f"eval_args: {key}={value!r} has no effect: the dataset is split already"
    assert message.startswith(f"toy.yaml: {reason}")
    assert load(folder, eval_args={"mode": "full"}).inter_num == len(draw_rows())
    file.write_text(yaml.safe_dump({**SPLIT, "eval_args": {"mode": "uni5"}}))
    assert load(folder).config["eval_args"]["mode"] == {"valid": "uni5", "test": "uni5"}


@pytest.mark.parametrize("parts", [["train", "test"], ["train", "train", "test"], ["train"]])
def test_a_split_of_other_than_three_parts(tmp_path: Path, parts: Any) -> None:
    write(tmp_path, inter=text(draw_rows()), **thirds(draw_rows()))
    message = refusal(tmp_path, benchmark_filename=parts)
    assert "benchmark_filename=" in message
    assert message.endswith("name three files: training, validation and test, as in [train, valid, test]")


@pytest.mark.parametrize(
    "values",
    [
        {"user_inter_num_interval": "[100,inf)"},
        {"val_interval": {"rating": "[30,inf)"}, "load_col": {"inter": ["user_id", "item_id", "rating"]}},
        {"item_inter_num_interval": "(1000,inf)"},
        {"item_inter_num_interval": "[5,2]"},
    ],
)
def test_filters_that_leave_nothing_are_named(tmp_path: Path, values: dict[str, Any]) -> None:
    write(tmp_path, inter=text(draw_rows()))
    (key, value), *_ = values.items()
    folder = tmp_path / "toy"
    assert refusal(tmp_path, **values) == (
        f"{folder}: dataset 'toy': no interaction is left after {key}={value!r}; filter less"
    )


# ---- splits


@pytest.mark.parametrize(
    ("part", "why"),
    [
        ("valid", "the validation split is empty, so no epoch"),
        ("test", "the test split is empty, so nothing"),
    ],
)
def test_an_empty_part_is_refused_before_training(tmp_path: Path, part: str, why: str) -> None:
    write(tmp_path, **{**thirds(draw_rows()), part: text([])})
    message = refusal(tmp_path, **SPLIT)
    assert why in message
    assert f"write rows into toy.{part}.inter" in message


@pytest.mark.parametrize("model", ["BPR", "FM"])
@pytest.mark.parametrize(
    ("split", "part"),
    [({"RS": [8, 0, 2]}, "validation"), ({"RS": [8, 2, 0]}, "test"), ({"LS": "valid_only"}, "test")],
)
def test_a_split_with_an_empty_part(tmp_path: Path, model: str, split: Any, part: str) -> None:
    write(tmp_path, inter=text(draw_rows()))
    mode = "labeled" if model == "FM" else "full"
    message = refusal(tmp_path, model, eval_args={"split": split, "order": "RO", "mode": mode})
    assert f"dataset 'toy': the {part} split is empty" in message
    assert "change eval_args=" in message


def test_training_without_validation_needs_no_validation_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, **{**thirds(draw_rows()), "valid": text([])})
    words = [f"--data_path={tmp_path}", "--benchmark_filename=[train,valid,test]", "--epochs=1", "--gpu_id="]
    run = ["run", "--model=BPR", "--dataset=toy", *words, "--topk=[3]", "--valid_metric=Recall@3"]
    assert cli.main([*run, "--run_dir=first"]) == 2
    assert not Path("first").exists()
    assert cli.main([*run, "--run_dir=second", "--eval_step=0"]) == 0


def test_nobody_to_evaluate(tmp_path: Path) -> None:
    rows = draw_rows()
    files = {"train": rows[:49], "valid": rows[49:70], "test": rows[70:]}  # seven rows a user
    write(tmp_path, **{name: text(part) for name, part in files.items()})
    config = config_of(tmp_path, **SPLIT, protocol="mmrec")
    with pytest.raises(
        UserError, match="no user of the validation split has a training row, so protocol mmrec"
    ):
        split_and_load(config, MultimodalDataset(config))


def test_repeated_rows_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = draw_rows()
    config = config_of(write(tmp_path, inter=text(rows + rows)))
    with caplog.at_level(logging.WARNING, logger="recbole_siger"):
        train, _, test = (loader._dataset for loader in split_and_load(config, MultimodalDataset(config)))
    known = set(pairs_of(train))
    n_repeats = sum(pair in known for pair in pairs_of(test))
    assert n_repeats
    assert (
        f"{n_repeats} of {len(pairs_of(test))} test rows repeat a pair of a user and an item in training, "
        "which inflates the metrics; set --rm_dup_inter=first"
    ) in caplog.messages
    caplog.clear()
    for values in ({"rm_dup_inter": "first"}, {}):
        config = config_of(tmp_path, **values)
        if not values:
            write(tmp_path, inter=text(rows))
        split_and_load(config, MultimodalDataset(config))
    assert "repeat a pair" not in caplog.text


def test_repeated_rows_of_a_given_split(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = draw_rows()
    config = config_of(write(tmp_path, **{**thirds(rows), "test": text(rows[70:75])}), **SPLIT)
    with caplog.at_level(logging.WARNING, logger="recbole_siger"):
        split_and_load(config, MultimodalDataset(config))
    assert caplog.messages == []
    config = config_of(write(tmp_path, test=text([*rows[:2], *rows[73:]])), **SPLIT)
    split_and_load(config, MultimodalDataset(config))
    assert [message.partition(" rows")[0] for message in caplog.messages] == ["2 of 20 test"]
    assert caplog.messages[0].endswith("; remove them from the files")


# ---- other kinds of models, and RecBole's own errors


def test_a_knowledge_graph_that_is_missing(tmp_path: Path) -> None:
    write(tmp_path, inter=text(draw_rows()))
    message = refusal(tmp_path, "KGAT")
    assert message.startswith(
        "toy.kg: no such file; KGAT needs a knowledge graph: put toy.kg and toy.link there"
    )


KG = "head_id:token\trelation_id:token\ttail_id:token\ne1\tNA\te2\ne3\tr\tNA\n"


def test_a_knowledge_graph_has_exact_ids(tmp_path: Path) -> None:
    link = "item_id:token\tentity_id:token\n" + "".join(f"i{i}\te{i}\n" for i in range(17))
    write(tmp_path, inter=text(draw_rows()), kg=KG, link=link)
    config = config_of(tmp_path, "KGAT")
    dataset = dataset_class(config)(config)
    assert {"NA", "r"} <= set(dataset.field2id_token["relation_id"])
    assert "NA" in dataset.field2id_token["tail_id"]
    write(tmp_path, kg=KG + "e1\t\te3\n")
    assert refusal(tmp_path, "KGAT") == "toy.kg: line 4: relation_id is empty; write the id or remove the row"


@pytest.mark.parametrize("model", ["SASRec", "FM", "KGAT"])
def test_other_kinds_refuse_what_general_ones_do(tmp_path: Path, model: str) -> None:
    values = {"train_neg_sample_args": None} if model == "SASRec" else {}
    assert refusal(tmp_path / "none", model, **values).endswith("`recbole-siger import-mmrec`")
    rows = draw_rows()
    rows[2][0] = ""
    write(tmp_path, inter=text(rows), kg=KG, link="item_id:token\tentity_id:token\n")
    message = refusal(tmp_path, model, **values, **TIMED)
    assert message == "toy.inter: line 4: user_id is empty; write the id or remove the row"


def test_an_error_of_ours_is_not_explained_away() -> None:
    with pytest.raises(ZeroDivisionError), explain_recbole("loading", "fix"):
        assert 1 / 0
    said = r"^loading: RecBole says AttributeError: .*; fix$"
    with pytest.raises(UserError, match=said) as caught, explain_recbole("loading", "fix"):
        Dataset.inter_num.fget(None)  # type: ignore[attr-defined]  # fails in RecBole's code
    assert isinstance(caught.value.__cause__, AttributeError)
    assert "\n" not in str(caught.value)


def test_an_error_of_ours_below_recbole_is_not_explained_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, inter=text(draw_rows()))
    monkeypatch.setattr("recbole_siger.data.exact.Field", None)  # a programming error in `_load_feat`
    with pytest.raises(TypeError):
        load(tmp_path, **TIMED)
