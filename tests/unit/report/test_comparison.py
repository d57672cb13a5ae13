"""Tables of hand-made run folders: means, places, tests, refusals, and each format."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from recbole.evaluator.register import metrics_dict, smaller_metrics

from recbole_siger import cli
from recbole_siger.errors import UserError
from recbole_siger.evaluation.metrics import bigger_is_better
from recbole_siger.evaluation.significance import compare_paired, holm
from recbole_siger.report.comparison import (
    Comparison,
    Entry,
    TableParams,
    check_sample_size,
    compare_entries,
    table_params,
)
from recbole_siger.report.tables import expand_names, latex, markdown, table_csv, table_json
from recbole_siger.runs.folder import RunFolder
from recbole_siger.studies.compare import entries_of_runs

N_USERS = 41
USERS = np.random.default_rng(1).integers(0, 9, size=N_USERS) / 16
PROTOCOL = "0123456789abcdef"


def write_run(
    folder: Path,
    model: str = "BPR",
    seed: int = 1,
    shift: float = 0.0,
    noise: float = 0.0,
    protocol_id: str | None = PROTOCOL,
    users: Sequence[str] | None = None,
    options: dict[str, Any] | None = None,
    **changes: Any,
) -> RunFolder:
    """Write a finished run whose users have one base value each, plus ``shift`` and seeded noise."""
    run = RunFolder.create(folder)
    config = {
        "model": model,
        "dataset": "toy",
        "seed": seed,
        "valid_metric": "Recall@5",
        "eval_args": {"order": "TO", "mode": "full"},
        "benchmark_filename": None,
        "cold_start": None,
        **(options or {}),
    }
    run.write_config(config)
    values = USERS + shift + noise * np.random.default_rng(seed).integers(-2, 3, size=N_USERS) / 64
    names = list(users or (f"u{i}" for i in range(N_USERS)))
    columns = {"recall@5": values, "ndcg@5": values / 2}
    run.write_users(pd.DataFrame({"user_id": names, "n_train": 1, **columns}))
    test = {name: float(column.mean()) for name, column in columns.items()}
    results = {
        "model": model,
        "dataset": "toy",
        "protocol": "mmrec",
        "protocol_id": protocol_id,
        "protocol_facts": {"masked": {"test": ["train"]}, "topk": [5]},
        "seed": seed,
        "best_epoch": 3,
        "valid": test,
        "test": {**test, "hit@5": 0.5},
        "n_epochs": 4,
        "seconds_per_epoch": 1.0 + seed,
        "peak_memory_mib": 100.0 * seed,
        "n_parameters": 12345,
        "versions": {"python": "3.11"},
        **changes,
    }
    if protocol_id is None:
        del results["protocol_id"]
    run.write_results(results)
    return run


@pytest.fixture
def entries(tmp_path: Path) -> list[Entry]:
    """A subject with two seeds, a strong baseline with two, one that ran once, and one that failed."""
    runs = {
        ("SIGER", 1): 0.25,
        ("SIGER", 2): 0.25,
        ("LightGCN", 1): 0.125,
        ("LightGCN", 2): 0.1875,
        ("EASE", 1): 0.0,
    }
    made = {
        key: write_run(tmp_path / f"{key[0]}{key[1]}", *key, shift=shift, noise=float(key[0] != "EASE"))
        for key, shift in runs.items()
    }
    found = [
        Entry(model, tuple(run for (name, _), run in made.items() if name == model))
        for model in ("SIGER", "LightGCN", "EASE")
    ]
    return [*found, Entry("N_CL", (), ("seed 1: no faiss",))]


@pytest.fixture
def table(entries: list[Entry]) -> Comparison:
    return compare_entries("SIGER & others", entries, TableParams())


def test_runs_without_a_metric_in_common_are_refused(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"k{k}", test={f"recall@{k}": 0.5}) for k in (5, 7)]
    with pytest.raises(UserError, match="runs without a test metric in common"):
        compare_entries("x", [Entry(run.path.name, (run,)) for run in runs], TableParams())


def test_a_validation_metric_that_one_seed_lacks_has_no_mean(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "a", seed=1), write_run(tmp_path / "b", seed=2, valid={"ndcg@5": 0.5})]
    (row,) = compare_entries("x", [Entry("BPR", tuple(runs))], TableParams()).rows
    assert set(row.valid) == {"ndcg@5"}


def test_rows_hold_means_and_costs(table: Comparison, entries: list[Entry]) -> None:
    siger, light, ease, failed = table.rows
    values = [run.read_results()["test"]["recall@5"] for run in entries[1].runs]
    assert light.mean["recall@5"] == pytest.approx(sum(values) / 2)
    assert light.std["recall@5"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    assert (siger.seeds, ease.seeds, ease.std["recall@5"]) == ((1, 2), (1,), None)
    assert (light.seconds_per_epoch, light.peak_memory_mib, light.n_parameters) == (2.5, 200.0, 12345)
    assert failed.failure == "1 of 1 failed: seed 1: no faiss"
    assert table.columns == ("recall@5", "ndcg@5")
    assert table.selection == "recall@5"
    assert [row.label for row in table.ranked("recall@5")] == ["SIGER", "LightGCN", "EASE"]
    strongest = table.strongest("recall@5")
    assert strongest is light


def test_tests_pair_each_users_mean_over_seeds(table: Comparison, entries: list[Entry]) -> None:
    siger, light, ease = (
        pd.concat([run.read_users() for run in e.runs]).groupby("user_id").mean() for e in entries[:3]
    )
    pairs = [
        compare_paired(siger["ndcg@5"].to_numpy(), o["ndcg@5"].to_numpy(), "wilcoxon") for o in (light, ease)
    ]
    tested = [row.tests["ndcg@5"] for row in table.rows[1:3]]
    assert [t.result for t in tested] == pairs
    assert [t.p_corrected for t in tested] == holm(np.array([p.p for p in pairs])).tolist()
    assert table.rows[0].tests == table.rows[3].tests == {}


def test_identical_predictions_give_p_1(tmp_path: Path) -> None:
    same = [Entry(name, (write_run(tmp_path / name, name),)) for name in ("BPR", "Pop")]
    (tested,) = (row.tests["recall@5"] for row in compare_entries("", same, TableParams()).rows[1:])
    assert (tested.result.p, tested.p_corrected, tested.result.difference) == (1.0, 1.0, 0.0)


def test_over_seeds(entries: list[Entry], tmp_path: Path) -> None:
    """Differences of the runs' means; a model that ran once stands for every seed."""
    params = TableParams(stat="t-test", over="seeds")
    _, light, ease, _ = compare_entries("", entries, params).rows
    siger, other, once = (
        np.array([run.read_results()["test"]["recall@5"] for run in e.runs]) for e in entries[:3]
    )
    assert light.tests["recall@5"].result == compare_paired(siger, other, "t-test")
    assert ease.tests["recall@5"].result == compare_paired(siger, np.repeat(once, 2), "t-test")
    different = [entries[0], Entry("BPR", tuple(write_run(tmp_path / f"b{s}", seed=s) for s in (2, 3)))]
    with pytest.raises(UserError, match="SIGER and BPR were evaluated on other seeds; nothing to pair"):
        compare_entries("", different, params)


@pytest.mark.parametrize(
    ("n", "params", "message"),
    [
        (
            5,
            {"over": "seeds"},
            "seeds with n=5 cannot give p < 0.05; n=6 can: use --seeds=6 or more, or --over=users",
        ),
        (1, {"over": "seeds", "stat": "t-test"}, "seeds with n=1 cannot give p < 0.05; n=2 can"),
        (5, {}, "users with n=5 cannot give p < 0.05; n=6 can: use a larger dataset"),
        (6, {"over": "seeds", "n_tests": 2}, "n=6 cannot give p < 0.05 for one of 2 rows; n=7 can"),
        (7, {"over": "seeds", "n_tests": 2}, None),
        (7, {"over": "seeds", "n_tests": 4}, "n=8 can: use --seeds=8 or more"),
        (6, {"over": "seeds", "n_tests": 4, "correct": "none"}, None),
        (6, {}, None),
        (2, {"stat": "t-test"}, None),
        (1, {"stat": "none"}, None),
    ],
)
def test_samples_that_are_too_small(n: int, params: dict[str, Any], message: str | None) -> None:
    n_tests = params.pop("n_tests", 1)
    if message is None:
        check_sample_size(n, TableParams(**params), n_tests)
        return
    with pytest.raises(UserError) as caught:
        check_sample_size(n, TableParams(**params), n_tests)
    assert message in str(caught.value)


def test_mixed_protocols_are_refused_or_marked(tmp_path: Path) -> None:
    facts = {"masked": {"test": ["train", "valid"]}, "topk": [5]}
    other = write_run(tmp_path / "b", "Pop", shift=1.0, protocol_id="f" * 16, protocol_facts=facts)
    mixed = [Entry("BPR", (write_run(tmp_path / "a"),)), Entry("Pop", (other,))]
    with pytest.raises(UserError) as caught:
        compare_entries("", mixed, TableParams())
    text = str(caught.value)
    assert text.startswith("BPR and Pop are evaluated under different protocols (masked: {'test': ['train']}")
    assert text.endswith("--allow_mixed puts them into one table, marked")
    table = compare_entries("", mixed, TableParams(allow_mixed=True))
    assert [row.mixed for row in table.rows] == [False, True]
    assert table.rows[1].tests == {}
    assert [row.label for row in table.ranked("recall@5")] == ["BPR"]
    text = markdown([table])
    assert "| Pop * | 1 | 1." in text
    assert "**" not in text
    assert f"* another protocol, not comparable, not ranked, not tested: Pop ({'f' * 16})." in text


def test_splits_drawn_with_the_seed(tmp_path: Path) -> None:
    """The id differs from seed to seed then; the seeds must be the same for all."""

    def entry(model: str, seeds: Sequence[int]) -> Entry:
        runs = [write_run(tmp_path / f"{model}{s}", model, s, protocol_id=f"{s:016}") for s in seeds]
        return Entry(model, tuple(runs))

    table = compare_entries("", [entry("BPR", [1, 2]), entry("Pop", [1, 2])], TableParams())
    assert table.rows[1].tests["recall@5"].result.n == N_USERS
    with pytest.raises(UserError, match="drawn with the seed, and the seeds are not the same"):
        compare_entries("", [entry("EASE", [1, 2]), entry("NGCF", [1])], TableParams())


@pytest.mark.parametrize(
    ("changes", "params", "message"),
    [
        ({"protocol_id": None}, {}, "a run without protocol_id, made by an older version; run it again"),
        ({"dataset": "other"}, {}, "runs on different datasets (other, toy) do not share a table"),
        ({"users": [f"x{i}" for i in range(N_USERS)]}, {}, "were evaluated on other users"),
        ({}, {"columns": ("recal@5",)}, "'recal@5' is not a metric of every run; did you mean `recall@5`?"),
    ],
)
def test_refusals(tmp_path: Path, changes: dict[str, Any], params: dict[str, Any], message: str) -> None:
    one, two = write_run(tmp_path / "a"), write_run(tmp_path / "b", "Pop", **changes)
    with pytest.raises(UserError) as caught:
        compare_entries("", [Entry("BPR", (one,)), Entry("Pop", (two,))], TableParams(**params))
    assert message in str(caught.value)


def test_only_a_model_without_seeds_is_repeated_for_a_test_over_seeds(tmp_path: Path) -> None:
    seven = Entry("SIGER", tuple(write_run(tmp_path / f"s{s}", "SIGER", s, noise=1.0) for s in range(7)))
    ease, light = (Entry(m, (write_run(tmp_path / m, m, 0, shift=-1.0),)) for m in ("EASE", "LightGCN"))
    table = compare_entries("", [seven, ease], TableParams(over="seeds"))
    assert table.rows[1].tests["recall@5"].result.n == 7
    assert "A model that draws no random number needs one seed" in markdown([table])
    with pytest.raises(UserError, match="were evaluated on other seeds"):
        compare_entries("", [seven, light], TableParams(over="seeds"))
    shown = compare_entries("", [seven, light], TableParams())
    assert "needs one seed" not in markdown([shown])


def test_the_first_metric_with_tests_is_printed(tmp_path: Path) -> None:
    test = {"recall@5": 0.25, "itemcoverage@5": 0.5, "ndcg@5": 0.125}
    runs = [Entry(name, (write_run(tmp_path / name, name, test=test),)) for name in ("BPR", "Pop")]
    table = compare_entries("", runs, TableParams(columns=("itemcoverage@5", "ndcg@5")))
    assert table.selection == "ndcg@5"


def test_a_table_of_failures_has_no_improvement() -> None:
    entries = [Entry(name, (), (f"seed 1: {name}",)) for name in ("BPR", "Pop")]
    assert "Improvement" not in markdown([compare_entries("", entries, TableParams())])


def test_a_metric_without_values_a_user_is_shown_and_not_tested(tmp_path: Path) -> None:
    test = {"recall@5": 0.25, "recall@5[cold]": 0.125, "hit@5": 0.5}
    runs = [Entry(name, (write_run(tmp_path / name, name, test=test),)) for name in ("BPR", "Pop")]
    assert compare_entries("", runs, TableParams()).columns == ("recall@5",)
    asked = TableParams(columns=("recall@5[cold]", "recall@5"))
    table = compare_entries("", runs, asked)
    assert table.rows[1].mean["recall@5[cold]"] == 0.125
    assert list(table.rows[1].tests) == ["recall@5"]
    assert table.selection == "recall@5"
    assert "R@5[cold]" in markdown([table])


def test_of_some_metrics_less_is_better(tmp_path: Path) -> None:
    values = {"SIGER": 0.5, "BPR": 0.25, "Pop": 1.0}
    runs = [
        Entry(name, (write_run(tmp_path / name, name, test={"giniindex@5": value}),))
        for name, value in values.items()
    ]
    table = compare_entries("", runs, TableParams(columns=("giniindex@5",)))
    assert [row.label for row in table.ranked("giniindex@5")] == ["BPR", "SIGER", "Pop"]
    text = markdown([table])
    assert "**0.2500**" in text
    assert "<u>0.5000</u>" in text
    assert "| -100.00 % (BPR) |" in text
    assert {name for name in metrics_dict if not bigger_is_better(name)} == set(smaller_metrics)


def test_a_failed_first_row_leaves_the_others(entries: list[Entry]) -> None:
    table = compare_entries("t", [entries[3], *entries[:2]], TableParams())
    assert table.strongest("recall@5") is None
    text = markdown([table])
    assert "**" in text
    assert "Improvement" not in text
    everything_failed = compare_entries("t", [entries[3]], TableParams())
    assert "N_CL: 1 of 1 failed: seed 1: no faiss" in markdown([everything_failed])
    for render in (latex, table_csv, table_json):
        assert "faiss" in render([everything_failed])


def test_parameters_from_the_command_line() -> None:
    params = table_params({"stat": "t-test", "columns": ["ndcg@5"]})
    assert (params.stat, params.correct, params.columns) == ("t-test", "holm", ("ndcg@5",))
    with pytest.raises(UserError, match=r"command line: stat='wilcoxn': expected one of.*did you mean"):
        table_params({"stat": "wilcoxn"})
    assert table_params({"stat": "none"}).stat == "none"
    with pytest.raises(UserError, match=r"ndcg@5 is given twice; keep one"):
        table_params({"columns": ["ndcg@5", "recall@5", "NDCG@5"]})


# ---- formats


def test_markdown(table: Comparison) -> None:
    lines = markdown([table]).splitlines()
    assert lines[0] == "## SIGER & others"
    assert lines[2] == "| Model | Seeds | R@5 | N@5 | Parameters | s/epoch | MiB |"
    siger, light, ease, failed, gain = lines[4:9]
    recall = table.rows[0].mean["recall@5"]
    assert siger.startswith(f"| SIGER | 2 | **{recall:.4f} ± ")
    assert light.startswith("| LightGCN | 2 | <u>")
    assert re.match(r"\| EASE \| 1 \| 0\.\d{4} \| 0\.\d{4} \| 12,345 \| 2\.00 \| 100 \|", ease)
    assert failed == "| N_CL | failed |  |  |  |  |  |"
    best = table.rows[1].mean["recall@5"]
    assert gain.startswith(f"| Improvement |  | {100 * (recall / best - 1):+.2f} % (LightGCN) |")
    tests = lines[10:14]
    assert tests[0] == "| SIGER against | R@5 | Difference | 95 % interval | Effect | p | p (Holm) |"
    result = table.rows[1].tests["recall@5"].result
    interval = f"[{result.low:+.4f}, {result.high:+.4f}]"
    assert f"| {result.difference:+.4f} | {interval} | {result.effect:+.2f} | <0.0001 |" in tests[2]
    text = "\n".join(lines[14:])
    for part in (
        "N_CL: 1 of 1 failed: seed 1: no faiss",
        f"protocol mmrec ({PROTOCOL})",
        "over 41 users, each with the mean over its seeds",
        "Holm over the 2 rows",
        "A model that draws no random number needs one seed",
    ):
        assert part in text
    assert {line.count("|") for line in lines[2:9]} == {8}


def test_latex_balances(table: Comparison) -> None:
    text = latex([table, table])
    lines = [re.sub(r"(?<!\\)%.*", "", line) for line in text.splitlines()]
    code = "\n".join(lines)
    plain = re.sub(r"\\[&%$#_{}]", "", code)
    assert plain.count("{") == plain.count("}") > 0
    assert plain.count("$") % 2 == 0
    open_environments = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", code):
        if kind == "begin":
            open_environments.append(name)
        else:
            assert open_environments.pop() == name
    assert open_environments == []
    for tabular in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", code, flags=re.S):
        rows = [line for line in tabular[1].splitlines() if line.endswith(r"\\")]
        assert rows
        assert all(len(re.findall(r"(?<!\\)&", row)) == len(tabular[0]) - 1 for row in rows)
    assert r"\textbf{" in code
    assert r"\underline{" in code
    assert r"\caption{SIGER \& others}" in code
    assert r"N\_CL" in code
    assert not re.search(r"(?<!\\)_", plain)


def test_latex_compiles(table: Comparison, tmp_path: Path) -> None:
    if not shutil.which("pdflatex") or subprocess.run(["kpsewhich", "booktabs.sty"]).returncode:
        pytest.skip("no LaTeX with booktabs on this machine")
    head = r"\documentclass{article}\usepackage{booktabs}\begin{document}"
    (tmp_path / "table.tex").write_text(
        f"{head}\n{latex([table, table])}\n\\end{{document}}\n", encoding="utf-8"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "table.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "table.pdf").exists()


def test_csv_and_json_hold_everything(table: Comparison, entries: list[Entry]) -> None:
    rows = list(csv.DictReader(io.StringIO(table_csv([table]))))
    assert [row["model"] for row in rows] == ["SIGER", "LightGCN", "EASE", "N_CL"]
    tested = table.rows[1].tests["ndcg@5"]
    assert float(rows[1]["ndcg@5"]) == table.rows[1].mean["ndcg@5"]
    assert float(rows[1]["ndcg@5_p_corrected"]) == tested.p_corrected
    assert (rows[0]["ndcg@5_p"], rows[2]["recall@5_std"], rows[3]["recall@5"]) == ("", "", "")
    assert rows[3]["failure"] == "1 of 1 failed: seed 1: no faiss"
    whole = json.loads(table_json([table]))
    (plain,) = whole["tables"]
    assert whole["schema"] == 1
    assert plain["rows"][1]["tests"]["ndcg@5"]["p"] == tested.result.p
    assert plain["rows"][0]["runs"] == [str(run.path) for run in entries[0].runs]
    assert plain["protocol"]["protocol_facts"]["topk"] == [5]
    assert plain["params"]["stat"] == "wilcoxon"


def test_runs_of_other_features_are_other_rows(tmp_path: Path) -> None:
    """A file of features that changed between two seeds has another digest and the same name."""
    runs = [write_run(tmp_path / str(seed), "SIGER", seed) for seed in range(3)]
    for run, digest in zip(runs, ("one", "one", "two"), strict=True):
        run.write_digests({"train": str(run.path), "features of image": digest})
    entries = entries_of_runs([str(run.path) for run in runs])
    assert [(entry.label, len(entry.runs)) for entry in entries] == [("SIGER", 2), ("SIGER #2", 1)]


def test_an_infinite_effect_is_text_in_json(tmp_path: Path) -> None:
    shifted = [Entry(n, (write_run(tmp_path / n, n, shift=s),)) for n, s in (("BPR", 0.25), ("Pop", 0.0))]
    table = compare_entries("", shifted, TableParams(stat="t-test"))
    (tables,) = json.loads(table_json([table]))["tables"]
    assert tables["rows"][1]["tests"]["recall@5"]["effect"] == "inf"


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["t.{md,tex}"], ["t.md", "t.tex"]),
        (["t.md", "t.tex"], ["t.md", "t.tex"]),
        (["t.md,u.tex", "t.md"], ["t.md", "u.tex"]),
        (["{a,b}.json"], ["a.json", "b.json"]),
        (["x/t.{md,csv},u.json"], ["x/t.md", "x/t.csv", "u.json"]),
        ([], []),
    ],
)
def test_output_names(words: list[str], names: list[str]) -> None:
    assert [str(path) for path in expand_names(words, ["md", "tex", "csv", "json"])] == names


def test_an_output_of_no_known_format() -> None:
    with pytest.raises(UserError, match=r"--out: 't.doc': the name must end in .md, .tex"):
        expand_names(["t.{md,doc}"], ["md", "tex"])


# ---- the command, on folders that exist


def test_runs_are_compared_without_starting_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, options in (("a", {}), ("b", {"ablation": "mp", "cache_dir": "none"})):
        for seed in (1, 2):
            write_run(tmp_path / f"{name}{seed}", "SIGER", seed, shift=float(name == "a"), options=options)
    write_run(tmp_path / "c", "EASE", 1)
    twice = ["a1/", str(tmp_path / "a2")]  # the folders of two runs again
    words = ["compare", "--runs", "a1", "a2", *twice, "b2", "b1", "c", "--out", "t.md", "t.csv"]
    assert cli.main(words) == 0
    printed = capsys.readouterr().out
    assert Path("t.md").read_text() == printed
    rows = re.findall(r"^\| (\S.*?) \| (\d) \|", printed, flags=re.M)
    assert rows == [("SIGER (ablation=None)", "2"), ("SIGER (ablation=mp)", "2"), ("EASE", "1")]
    assert sorted(path.name for path in tmp_path.glob("t.*")) == ["t.csv", "t.md"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--runs", "nowhere"], "nowhere: not a run folder"),
        (["--runs", "a1", "copy"], "copy: has configuration and seed of a1; leave one of them out"),
        (["--runs", "unfinished"], "unfinished/results.json: missing; the run is unfinished"),
        (["--runs", "a1", "a2", "--over=seeds"], None),
        (["--runs", "a1", "a2", "c", "--over=seeds"], "seeds with n=2 cannot give p < 0.05; n=6 can"),
        (["--runs", "a1", "--epochs=3"], "--epochs starts runs, --runs does not; keep one"),
        (["--runs", "a1", "--out=t.doc"], "the name must end in .md"),
        (["--runs", "a1", "old"], "without protocol_id"),
        (["--stat=sign", "--runs", "a1"], "stat='sign': expected one of"),
        (["--runs", "a1", "away"], "runs on different datasets (elsewhere, toy) do not share a table"),
    ],
)
def test_bad_runs_are_one_line_and_a_2(
    words: list[str],
    message: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, seed in (("a1", 1), ("a2", 2), ("copy", 1)):
        write_run(Path(name), seed=seed)
    write_run(Path("c"), "Pop")
    write_run(Path("away"), options={"dataset": "elsewhere"}, dataset="elsewhere")
    write_run(Path("old"), "EASE", protocol_id=None)
    RunFolder.create("unfinished").write_config({"model": "BPR", "dataset": "toy", "seed": 3})
    assert cli.main(["compare", *words]) == (2 if message else 0)
    out, err = capsys.readouterr()
    if message:
        assert out == ""
        assert err.count("\n") == 1
        assert message in err
    assert not list(tmp_path.glob("t.*"))
