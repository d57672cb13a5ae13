"""The reader of papers' tables: what it reads, one line for each fault, and the files that are shipped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recbole_siger.config import Config
from recbole_siger.errors import UserError
from recbole_siger.options.yaml_values import load_yaml
from recbole_siger.registry import model_names
from recbole_siger.reproduce.paper import read_paper, table_names
from recbole_siger.reproduce.plan import Request, plan_rows, print_plan

NOTE = "published kNN graphs, reconstructed features"
# Models that read features beyond the nearest neighbours of each item.
READERS = {"VBPR", "BM3", "SCALE", "SLMRec", "LGMRec", "MIGGT", "MENTOR", "DiffMM"}

TABLE = """
title: A and B
paper: A paper
place: Table 7
metrics: [Recall@5, NDCG@5]
metric: ndcg@5
tolerance: 2.5
seeds: 2
protocol: mmrec
options: {epochs: 3, topk: [5], valid_metric: Recall@5}
datasets:
  toy: {note: drawn at random, gain: 11.5}
  shop: {}
rows:
  - label: A
    model: BPR
    seeds: 5
    settings:
      toy: {options: {learning_rate: 0.01}, source: appendix}
    published:
      toy: [0.25, ~]
      shop: {ndcg@5: 0.125}
  - model: LightGCN
    options: {n_layers: 3}
    source: the authors' code
    skip: {shop: no reason}
sweeps:
  - axis: K
    model: LightGCN
    key: n_layers
    values: [1, 2]
    published:
      toy: {recall@5: [0.5, ~]}
  - {axis: both, model: LightGCN, key: [n_layers, reg_weight], values: [[1, 0.1], [2, 0.01]]}
claims:
  - {text: A is best, better: A}
  - {text: one layer, better: K = 1, than: [K = 2], metric: recall@5, datasets: [toy]}
"""


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


def test_a_table_is_read(tmp_path: Path) -> None:
    table = read_paper(write(tmp_path, TABLE))
    assert (table.name, table.shipped, table.kind) == ("mine", False, "runs")
    assert (table.metrics, table.metric) == (("recall@5", "ndcg@5"), "ndcg@5")
    assert (table.tolerance, table.seeds) == (2.5, 2)
    assert table.options == {"protocol": "mmrec", "epochs": 3, "topk": [5], "valid_metric": "Recall@5"}
    assert (table.datasets["toy"].note, table.datasets["toy"].gain) == ("drawn at random", 11.5)
    first, second, one, two, pair, other = table.rows
    assert (first.label, first.model, first.seeds) == ("A", "BPR", 5)
    assert first.published == {"toy": {"recall@5": 0.25}, "shop": {"ndcg@5": 0.125}}
    assert first.settings["toy"].options == {"learning_rate": 0.01}
    assert first.settings["toy"].source == "appendix"
    assert (second.label, second.source, second.skip) == (
        "LightGCN",
        "the authors' code",
        {"shop": "no reason"},
    )
    assert (one.label, one.panel, one.value, one.options) == ("K = 1", "K", "1", {"n_layers": 1})
    assert one.published == {"toy": {"recall@5": 0.5}}
    assert two.published == {"toy": {}}
    assert (pair.label, pair.options) == ("both = 1 x 0.1", {"n_layers": 1, "reg_weight": 0.1})
    assert other.options == {"n_layers": 2, "reg_weight": 0.01}
    best, layer = table.claims
    assert best.than == ("LightGCN", "K = 1", "K = 2", "both = 1 x 0.1", "both = 2 x 0.01")
    assert (best.metric, best.datasets) == ("ndcg@5", ("toy", "shop"))
    assert (layer.than, layer.metric, layer.datasets) == (("K = 2",), "recall@5", ("toy",))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("title: A and B", "titel: A and B", "titel: unknown key; did you mean `title`?"),
        ("title: A and B", "title: [1]", "title=[1]: write text"),
        ("title: A and B\n", "", "title is missing; write title: TEXT"),
        ("metric: ndcg@5", "metric: ndcg@7", "metric='ndcg@7': name one of recall@5, ndcg@5"),
        ("[Recall@5, NDCG@5]", "[recall@5, Recall@5]", "name each metric once"),
        ("tolerance: 2.5", "tolerance: -1", "tolerance=-1: write a number in [0, 1e9)"),
        ("tolerance: 2.5", "tolerance: .nan", "tolerance=nan: write a number in [0, 1e9)"),
        ("seeds: 2", "seeds: two", "seeds='two': write an integer in [1, 100]"),
        ("protocol: mmrec", "kind: figure", "kind='figure': expected one of runs, overlap"),
        (
            "options: {epochs: 3, topk: [5], valid_metric: Recall@5}",
            "options: [3]",
            "options=[3]: write a mapping of options",
        ),
        ("{epochs: 3,", "{seed: 3,", "options.seed=3: the table sets this option; remove it"),
        ("  shop: {}", "  ../shop: {}", "datasets: dataset='../shop': use letters"),
        ("  shop: {}", "  shop: {nota: x}", "datasets.shop.nota: unknown key; did you mean `note`?"),
        ("    seeds: 5", "    seed: 5", "rows[1].seed: unknown key; did you mean `seeds`?"),
        ("    seeds: 5", "    seeds: 500", "rows[1].seeds=500: write an integer in [1, 100]"),
        ("toy: [0.25, ~]", "toy: [0.25]", "rows[1].published.toy=[0.25]: write 2 numbers: recall@5, ndcg@5"),
        ("toy: [0.25, ~]", "toy: [0.25, x]", "rows[1].published.toy.ndcg@5='x': write a number"),
        ("toy: [0.25, ~]", "try: [0.25, ~]", "rows[1].published.try: unknown key; did you mean `toy`?"),
        ("{ndcg@5: 0.125}", "{ndcg@10: 0.125}", "rows[1].published.shop.ndcg@10: unknown key"),
        ("skip: {shop: no reason}", "skip: {shop: 1}", "rows[2].skip.shop=1: write text"),
        ("skip: {shop: no reason}", "skip: yes", "rows[2].skip=True: write a mapping"),
        ("- model: LightGCN", "- modle: LightGCN", "rows[2].modle: unknown key; did you mean `model`?"),
        ("- model: LightGCN", "- {label: A, model: Pop}\n  - model: LightGCN", "label='A': two rows"),
        ("label: A", "label: 'A, b'", "label='A, b': --models=A,B separates rows by commas; leave it out"),
        ("values: [1, 2]", "values: [1, 1]", "sweeps[1].values=[1, 1]: write a list of different values"),
        ("[0.5, ~]", "[0.5]", "sweeps[1].published.toy.recall@5=[0.5]: write a list of 2 numbers"),
        ("[[1, 0.1], [2, 0.01]]", "[[1, 0.1], [2]]", "write 2 numbers for the keys n_layers, reg_weight"),
        ("better: A}", "better: C}", "claims[1].better='C': expected one of A, LightGCN"),
        ("than: [K = 2]", "than: [K = 3]", "claims[2].than='K = 3': did you mean `K = 2`?"),
        ("datasets: [toy]", "datasets: [tay]", "claims[2].datasets='tay': did you mean `toy`?"),
        ("claims:", "map: {rows: [Z]}\nclaims:", "map.rows='Z': expected one of A, LightGCN"),
        ("claims:", "map: {columns: {toy: kind}}\nclaims:", "map.rows=None: "),
        ("claims:", "map: {rows: A, columns: {tay: x}}\nclaims:", "map.columns.tay: unknown key; did you"),
        ("claims:", "map: {rows: A, columns: {toy: 3}}\nclaims:", "map.columns.toy=3: write text"),
        ("claims:", "map: {rows: A, separator: 3}\nclaims:", "map.separator=3: write text, such as"),
    ],
)
def test_a_fault_is_one_line_with_file_key_value_and_fix(
    old: str, new: str, said: str, tmp_path: Path
) -> None:
    assert old in TABLE
    file = write(tmp_path, TABLE.replace(old, new, 1))
    with pytest.raises(UserError) as raised:
        read_paper(file)
    message = str(raised.value)
    assert message.startswith(f"{file}: ")
    assert said in message
    assert "\n" not in message


ODD = (None, True, -1, 5, 1e300, "x", "", [], {}, [[]], {"x": {}}, [None])


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each container of a tree with each of its keys or positions."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(pairs):
        yield value, key
        yield from places(inner)


def test_an_odd_value_at_any_place_is_read_or_refused_in_one_line(tmp_path: Path) -> None:
    whole = load_yaml(TABLE)
    refused = []
    for container, key in places(whole):
        kept = container[key]
        for odd in ODD:
            container[key] = odd
            file = write(tmp_path, json.dumps(whole))  # JSON is YAML
            try:
                read_paper(file)
            except UserError as error:
                refused.append(str(error))
        container[key] = kept
    assert len(refused) > 500
    assert not [line for line in refused if not line.startswith(f"{file}: ") or "\n" in line]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("siger-tabel1", "reproduce siger-tabel1: no such table; did you mean `siger-table1`?"),
        ("none.yaml", "none.yaml: no such file of a table; name a .yaml file, or one of"),
        ("../siger-table1", "no such table"),
    ],
)
def test_an_unknown_name_is_one_line(name: str, said: str) -> None:
    with pytest.raises(UserError) as raised:
        read_paper(name)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("model: BPR", "model: BRP", "row A: model=BRP: Unknown model 'BRP'; did you mean `BPR`?"),
        ("model: BPR", "model: a.b:C", "a file cannot import code"),
        ("learning_rate: 0.01", "learning_rat: 0.01", "row A: unknown key `learning_rat`; did you mean"),
        (
            "learning_rate: 0.01",
            "learning_rate: -1",
            "row A: learning_rate=-1: expected a number in (0, inf)",
        ),
        ("topk: [5]", "topk: [7, 5], metrics: [Recall]", "metrics: 'ndcg@5' is not computed for row A"),
    ],
)
def test_a_model_or_option_that_does_not_exist_is_one_line(
    old: str, new: str, said: str, tmp_path: Path
) -> None:
    file = write(tmp_path, TABLE.replace(old, new, 1))
    with pytest.raises(UserError) as raised:
        plan_rows(read_paper(file), "toy", Request())
    message = str(raised.value)
    assert message.startswith(f"{file}: ")
    assert said in message
    assert "\n" not in message


def test_metrics_of_cold_items_need_a_cold_start(tmp_path: Path) -> None:
    """A metric that no run has would end the command after the first run."""
    text = """
title: T
paper: P
place: Table 1
metrics: ["recall@5[cold]"]
options: {topk: [5], valid_metric: Recall@5}
datasets: {toy: {}}
rows: [{model: BPR}]
"""
    with pytest.raises(UserError, match=r"metrics: 'recall@5\[cold\]' is not computed for row BPR"):
        plan_rows(read_paper(write(tmp_path, text)), "toy", Request())
    cold = text.replace("{topk", "{cold_start: {kind: item}, topk")
    assert plan_rows(read_paper(write(tmp_path, cold)), "toy", Request())


def test_a_dry_run_counts_equal_rows_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two sweeps around one point share its run."""
    text = """
title: T
paper: P
place: Figure 1
metrics: [recall@5]
options: {topk: [5], valid_metric: Recall@5}
datasets: {toy: {}}
sweeps:
  - {axis: L, model: LightGCN, key: n_layers, values: [1, 2], options: {reg_weight: 0.1}}
  - {axis: w, model: LightGCN, key: reg_weight, values: [0.1, 0.2], options: {n_layers: 2}}
"""
    request = Request(runs_dir=str(tmp_path))
    print_plan(plan_rows(read_paper(write(tmp_path, text)), "toy", request), "toy", request)
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "LightGCN w = 0.1 seed 2020: the run of LightGCN L = 2 seed 2020"
    assert lines[-1].startswith("3 runs: 0 finished, 0 to continue, 3 to start; ")


def test_the_command_line_is_stronger_than_the_file(tmp_path: Path) -> None:
    table = read_paper(write(tmp_path, TABLE))
    planned = plan_rows(table, "toy", Request(options={"epochs": "7"}, seeds="3"))
    assert [len(one.specs) for one in planned] == [3] * 6
    spec = planned[0].specs[0]
    assert spec.options == {**table.options, "epochs": "7", "learning_rate": 0.01}
    assert (spec.model, spec.label, spec.seed) == ("BPR", "A", 2020)
    own = plan_rows(table, "toy", Request())
    assert [len(one.specs) for one in own] == [5, 2, 2, 2, 2, 2]


def test_rows_are_chosen_by_label_or_model_and_skipped_rows_have_a_reason(tmp_path: Path) -> None:
    table = read_paper(write(tmp_path, TABLE))
    chosen = plan_rows(table, "shop", Request(models="A, K = 2"))
    asked = [one.row.label for one in chosen if one.why is None]
    assert asked == ["A", "K = 2"]
    by_model = plan_rows(table, "shop", Request(models="BPR"))
    assert [one.row.label for one in by_model if one.why is None] == ["A"]
    skipped = plan_rows(table, "shop", Request(models="LightGCN, K = 2"))
    assert [one.why and one.why[0] for one in skipped][:3] == ["not asked", "skipped", "not asked"]
    every = plan_rows(table, "shop", Request(original_features=True))
    assert all(one.why is None for one in every)
    with pytest.raises(UserError, match="--models=LihtGCN: no row of mine has this name; did you mean"):
        plan_rows(table, "shop", Request(models="LihtGCN"))
    only = TABLE.replace("{shop: no reason}", "{toy: no reason}").split("sweeps:")[0]
    file = write(tmp_path, only)
    with pytest.raises(UserError, match="no row can be run on toy: LightGCN: skipped: no reason; --original"):
        plan_rows(read_paper(file), "toy", Request(models="LightGCN"))


def test_a_label_that_is_also_the_model_of_other_rows_names_its_row() -> None:
    """Table 2 of SIGER has a row SIGER beside its variants, which have the same model."""
    table = read_paper("siger-table2")
    for models, expected in (("SIGER", ["SIGER"]), ("SIGER,SIGER/MP", ["SIGER", "SIGER/MP"])):
        chosen = plan_rows(table, "baby", Request(models=models))
        assert [one.row.label for one in chosen if one.why is None] == expected


def test_a_model_that_this_version_lacks_is_reported_for_a_shipped_table(tmp_path: Path) -> None:
    table = read_paper(write(tmp_path, TABLE.replace("model: BPR", "model: FutureNet")))
    planned = plan_rows(replace(table, shipped=True), "toy", Request())
    assert planned[0].why == ("not available", "this version has no model FutureNet")
    assert planned[0].specs == ()
    assert all(one.why is None for one in planned[1:])


# ---- the files of this package


@pytest.mark.parametrize("name", table_names())
def test_a_shipped_table_names_known_models_and_options(name: str) -> None:
    table = read_paper(name)
    assert {row.model for row in table.rows} <= {*model_names()}
    for dataset in table.datasets:
        for row in table.rows:
            setting = row.settings.get(dataset)
            own = {**table.options, **row.options, **(setting.options if setting else {})}
            Config(row.model, dataset, config_dict={**own, "gpu_id": ""})


@pytest.mark.parametrize("name", table_names())
def test_reconstructed_features_are_named_and_not_read(name: str) -> None:
    """Baby and Sports exist here with published graphs alone; models that read features are skipped."""
    table = read_paper(name)
    for dataset in {"baby", "sports"} & {*table.datasets}:
        assert table.datasets[dataset].note == NOTE
        for row in table.rows:
            assert (dataset in row.skip) == (row.model in READERS), row.label


def test_the_tables_of_the_papers_are_there() -> None:
    figures = {"siger-fig1", "siger-fig3", "siger-fig4", "siger-fig5", "scale-fig4", "scale-fig5"}
    tables = {"siger-table1", "siger-table2", "siger-table3", "scale-table1", "scale-table2"}
    assert {*table_names()} >= figures | tables | {"rlmrec-lightgcn"}


def test_published_numbers_agree_between_tables() -> None:
    """The complete SIGER has the same numbers in each table; a transposed column would differ."""
    rows = [read_paper(f"siger-table{number}").rows[0] for number in (1, 2, 3)]
    assert {row.label for row in rows} == {"SIGER"}
    assert rows[0].published == rows[1].published == rows[2].published
    assert rows[0].published["baby"] == {
        "recall@10": 0.0697,
        "recall@20": 0.1060,
        "ndcg@10": 0.0376,
        "ndcg@20": 0.0469,
    }
    for number, best in ((4, "K = 5"), (5, "layers = 2")):
        (row,) = [row for row in read_paper(f"siger-fig{number}").rows if row.label == best]
        for dataset, values in row.published.items():
            assert values == {key: rows[0].published[dataset][key] for key in ("recall@20", "ndcg@20")}


@pytest.mark.parametrize("name", ["siger-table1", "scale-table1", "scale-table2"])
def test_the_published_lead_is_that_of_the_published_numbers(name: str) -> None:
    table = read_paper(name)
    for dataset, facts in table.datasets.items():
        values = [row.published[dataset][table.metric] for row in table.rows]
        assert facts.gain == pytest.approx(100 * (values[0] / max(values[1:]) - 1), abs=0.015)
