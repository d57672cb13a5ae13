"""A table of a paper as one command: partial tables, interrupts, runs from elsewhere, figures."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any
from xml.etree import ElementTree

import pytest

from recbole_siger import cli
from recbole_siger.report import figures
from recbole_siger.reproduce import run as module
from recbole_siger.studies.children import Children
from tests.integration.conftest import Settings

Commands = list[list[str]]

TABLE = """
title: LightGCN and others
paper: A paper
place: Table 7
metrics: [recall@5, ndcg@5]
seeds: 2
protocol: mmrec
options: {epochs: 1, topk: [3, 5], valid_metric: Recall@5, train_batch_size: 64, embedding_size: 8}
datasets:
  toy: {note: "drawn at random", gain: 5.0}
rows:
  - label: LGN
    model: LightGCN
    options: {n_layers: 1}
    published: {toy: [0.2, 0.1]}
  - model: BPR
    source: chosen here
    published: {toy: [0.1, 0.05]}
  - model: SIGER
    skip: {toy: no reason}
    published: {toy: [0.3, 0.2]}
claims:
  - {text: graphs help, better: LGN, than: [BPR]}
  - {text: graphs harm, better: BPR, than: [LGN]}
"""


@pytest.fixture
def words(settings: Settings) -> list[str]:
    """The command for a table of the toy data; the runs lie in the working folder."""
    values = settings()
    Path("mine.yaml").write_text(TABLE)
    shared = [f"--{key}={values[key]}" for key in ("data_path", "gpu_id", "seed") if key != "seed"]
    return ["reproduce", "mine.yaml", "--dataset=toy", *shared]


OUT = Path("runs/toy/reproduce-mine")


def content() -> dict[str, Any]:
    return json.loads((OUT / "mine.json").read_text())


def states() -> dict[str, tuple[str, int, int]]:
    return {row["label"]: (row["state"], row["n_runs"], row["wanted"]) for row in content()["rows"]}


def test_published_and_ours_stand_side_by_side(
    words: list[str], in_process: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 0
    out, err = capsys.readouterr()
    assert [command[0] for command in in_process] == ["run"] * 4
    names = ["mine.json", "mine.md", "mine.png", "mine.svg", "mine.tex"]
    assert sorted(path.name for path in OUT.iterdir()) == names
    page = (OUT / "mine.md").read_text()
    assert out == page
    assert page.startswith("# Table 7: LightGCN and others, on toy (drawn at random)\n")
    assert "Complete: 4 of 4 runs are finished." in page
    ElementTree.parse(OUT / "mine.svg")  # as we wrote it ourselves
    assert f"written: {OUT}/mine.md" in err

    whole = content()
    assert states() == {"LGN": ("finished", 2, 2), "BPR": ("finished", 2, 2), "SIGER": ("skipped", 0, 0)}
    for row in whole["rows"][:2]:
        results = [json.loads((Path(run) / "results.json").read_text()) for run in row["folders"]]
        assert sorted(one["seed"] for one in results) == [2020, 2021]
        for metric, cell in row["cells"].items():
            values = [one["test"][metric] for one in results]
            assert cell["ours"] == pytest.approx(fmean(values), rel=1e-12)
            assert cell["std"] == pytest.approx(stdev(values), rel=1e-9, abs=1e-12)
            assert cell["difference"] == pytest.approx(100 * (cell["ours"] / cell["published"] - 1))
    first, second, third = whole["rows"]
    assert first["cells"]["recall@5"]["p"] is None  # the first row is tested against the others
    assert 0 < second["cells"]["recall@5"]["p"] <= 1
    assert third["cells"]["recall@5"]["ours"] is None
    better = first["cells"]["recall@5"]["ours"] > second["cells"]["recall@5"]["ours"]
    assert whole["claims"][0]["holds"] is better
    # A statement about another row has a test of its own; of two rows, it is the same test.
    p_value = second["cells"]["recall@5"]["p"]
    assert [one["p"] for one in whole["claims"]] == [{"BPR": p_value}, {"LGN": p_value}]
    assert whole["order"]["recall@5"]["as_published"] is (
        first["cells"]["recall@5"]["ours"] >= second["cells"]["recall@5"]["ours"]
    )
    assert "| LGN against | R@5 | Difference | 95 % interval | Effect | p | p (Holm) |" in page

    assert cli.main(words) == 0
    assert len(in_process) == 4
    assert capsys.readouterr().out == out


def interrupting(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Let the command after some finished ones be interrupted, as Ctrl-C does."""
    run, calls = Children.run, []

    def interrupted(self: Children, command: Sequence[str], report: Any) -> tuple[int, str]:
        calls.append(command)
        if len(calls) > after:
            raise KeyboardInterrupt
        return run(self, command, report)

    monkeypatch.setattr(Children, "run", interrupted)


def test_an_interrupted_table_names_what_is_missing_and_is_continued(
    words: list[str],
    in_process: Commands,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        interrupting(patch, after=3)
        assert cli.main(words) == 130
    assert states()["BPR"] == ("partial", 1, 2)
    assert content()["complete"] is False
    assert content()["missing"] == ["BPR"]
    page = (OUT / "mine.md").read_text()
    assert "Partial: 3 of 4 runs are finished. Missing runs: BPR (1 of 2)." in page
    assert ", preliminary" in page
    before = [Path(run) for row in content()["rows"] for run in row["folders"]]
    times = {run: (run / "results.json").stat().st_mtime_ns for run in before}
    capsys.readouterr()

    assert cli.main([*words, "--dry_run"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "SIGER: skipped: no reason"
    assert [line.split(": ")[1].split(" ")[0] for line in told[1:-1]] == [*["finished"] * 3, "to"]
    assert re.fullmatch(r"4 runs: 3 finished, 0 to continue, 1 to start; .* \d+ s", told[-1])
    assert len(in_process) == 3

    assert cli.main(words) == 0
    assert len(in_process) == 4
    assert states()["BPR"] == ("finished", 2, 2)
    assert {run: (run / "results.json").stat().st_mtime_ns for run in before} == times


def test_a_partial_table_is_written_after_each_run(
    words: list[str], in_process: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    write = module.write_text

    def watching(path: Path, text: str) -> None:
        write(path, text)
        if path.suffix == ".json":
            seen.append(sum(row["n_runs"] for row in json.loads(text)["rows"]))

    monkeypatch.setattr(module, "write_text", watching)
    assert cli.main(words) == 0
    assert seen == [1, 2, 3, 4, 4]  # the last one with tests


def test_runs_from_elsewhere_count_if_their_whole_configuration_is_equal(
    words: list[str], in_process: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    equal = ["--epochs=1", "--topk=[3,5]", "--valid_metric=Recall@5", "--train_batch_size=64"]
    plain = ["run", "--model=BPR", "--dataset=toy", *words[3:], *equal, "--embedding_size=8"]
    assert cli.main([*plain, "--seed=2021", "--run_dir=elsewhere/deep/equal"]) == 0
    assert cli.main([*plain, "--seed=2020", "--learning_rate=0.5", "--run_dir=elsewhere/deep/other"]) == 0
    unfinished = Path("elsewhere/deep/unfinished")
    shutil.copytree("elsewhere/deep/equal", unfinished)
    (unfinished / "results.json").unlink()
    assert cli.main([*words, "--models=BPR", "--runs=elsewhere"]) == 0
    assert [command[0] for command in in_process] == ["evaluate", "run"]  # evaluate compares the data
    (row,) = [row for row in content()["rows"] if row["label"] == "BPR"]
    assert "elsewhere/deep/equal" in row["folders"]
    assert len(row["folders"]) == 2
    assert states()["LGN"][0] == "not asked"
    assert content()["rows"][1]["cells"]["recall@5"]["p"] is None  # its first row was not asked for

    assert cli.main([*words, "--runs=nowhere"]) == 2
    assert "--runs=nowhere: no such folder" in capsys.readouterr().err


def test_a_failed_run_is_told_and_the_others_go_on(words: list[str], in_process: Commands) -> None:
    text = TABLE.replace("skip: {toy: no reason}", "options: {modalities: [smell]}")
    Path("mine.yaml").write_text(text)
    assert cli.main(words) == 1
    assert states()["SIGER"] == ("failed", 0, 2)
    page = (OUT / "mine.md").read_text()
    assert "SIGER: failed: seed 2020: " in page
    assert "'smell' is not a feature of 'toy'" in page
    assert "Missing runs: SIGER (2 of 2)." in page


def test_nothing_is_written_if_every_run_failed(
    words: list[str], in_process: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = [word for word in words if not word.startswith("--data_path=")]
    assert cli.main([*moved, "--data_path=nowhere"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: no run finished: ")
    assert not OUT.exists()


def test_a_figure_is_a_sweep_with_a_curve(
    words: list[str], in_process: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = (
        "sweeps:\n  - {axis: L, model: LightGCN, key: n_layers, values: [1, 2], published: "
        "{toy: {recall@5: [0.2, ~]}}}\nclaims:\n  - {text: two layers, better: L = 2}\n"
    )
    Path("mine.yaml").write_text(TABLE.split("rows:")[0].replace("seeds: 2", "seeds: 1") + sweep)
    drawn = []
    save = module.save_figure
    monkeypatch.setattr(
        module, "save_figure", lambda figure, path: drawn.append(figure) or save(figure, path)
    )
    assert cli.main(words) == 0
    assert [row["label"] for row in content()["rows"]] == ["L = 1", "L = 2"]
    assert [row["cells"]["recall@5"]["published"] for row in content()["rows"]] == [0.2, None]
    assert content()["claims"][0]["holds"] in (True, False)
    assert 0 < content()["claims"][0]["p"]["L = 1"] <= 1
    (axis,) = drawn[0].axes
    assert [label.get_text() for label in axis.get_xticklabels()] == ["1", "2"]
    ours = [row["cells"]["recall@5"]["ours"] for row in content()["rows"]]
    curves = [list(line.get_ydata()) for line in axis.get_lines()]
    assert pytest.approx(ours) in [[float(value) for value in curve] for curve in curves]


def test_a_map_shows_the_items_of_two_rows_by_category(
    words: list[str],
    in_process: Commands,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kinds = ["toy car", "book", "", "toy train"]
    lines = ["item_id\ttitle\tkind", *(f"i{n}\tname {n}\t{kinds[n % 4]}" for n in range(31))]
    (tmp_path / "data" / "toy" / "items.tsv").write_text("\n".join([*lines, ""]))
    spec = "map: {rows: [BPR, LGN], columns: {toy: kind}, separator: ' '}\n"
    Path("mine.yaml").write_text(TABLE.replace("seeds: 2", "seeds: 1") + spec)
    drawn = []
    save = module.save_figure
    monkeypatch.setattr(
        module, "save_figure", lambda figure, path: drawn.append(figure) or save(figure, path)
    )
    assert cli.main(words) == 0
    assert {path.name for path in OUT.iterdir()} >= {"mine-map.png", "mine-map.svg"}
    figure = drawn[-1]
    assert [axis.get_title() for axis in figure.axes] == ["BPR", "LGN"]
    for axis in figure.axes:
        points = {one.get_label(): len(one.get_offsets()) for one in axis.collections}
        assert points == {"toy": 8 + 7, "book": 8}  # items without a category are left out

    assert cli.main([*words, "--models=BPR"]) == 0
    assert "no map: mine: no finished run of LGN" in capsys.readouterr().err
    Path("mine.yaml").write_text(Path("mine.yaml").read_text().replace("toy: kind", "toy: colour"))
    assert cli.main(words) == 0
    assert "items.tsv has no column 'colour' (columns: title, kind)" in capsys.readouterr().err
    assert len(in_process) == 2


def test_a_figure_of_graphs_needs_no_run(
    words: list[str], in_process: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.yaml").write_text(
        "title: Overlap\npaper: A paper\nplace: Figure 7\nkind: overlap\n"
        "options: {n_co_neighbors: 3, n_semantic_neighbors: 5}\ndatasets:\n  toy: {note: drawn at random}\n"
    )
    assert cli.main([*words, "--dry_run"]) == 0
    assert "no run is needed" in capsys.readouterr().out
    assert cli.main(words) == 0
    assert in_process == []
    shares = content()["shares"]
    assert list(shares) == ["image", "text"]
    for series in shares.values():
        assert list(series) == ["semantic graph", "EISG"]
        for shown in series.values():
            assert sum(shown) == pytest.approx(100.0)
            assert len(shown) == 4
        assert series["EISG"][3] > series["semantic graph"][3]
    page = capsys.readouterr().out
    assert page.startswith("# Figure 7: Overlap, on toy (drawn at random)\n")
    assert "| image | semantic graph | " in page
    assert cli.main([*words, "--n_semantic_neighbors=4"]) == 0
    assert "Options of the command line, for every run:" in (page := capsys.readouterr().out)
    assert "n_semantic_neighbors=4" in page
    assert content()["options"]["n_semantic_neighbors"] == "4"
    assert cli.main([*words, "--seeds=2"]) == 2
    assert (
        "--seeds: mine counts edges of item graphs and needs no run; leave it out" in capsys.readouterr().err
    )


def test_without_matplotlib_there_is_a_table_and_a_hint(
    words: list[str],
    in_process: Commands,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(figures, "find_spec", lambda name: None)
    assert cli.main([*words, "--models=BPR", "--seeds=1", "--out=out"]) == 0
    assert "pip install 'recbole-siger[figures]'" in capsys.readouterr().err
    assert sorted(path.name for path in Path("out").iterdir()) == ["mine.json", "mine.md", "mine.tex"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--dataset=toys"], "--dataset=toys: not in mine.yaml; did you mean `toy`?"),
        (["--jobs=0"], "--jobs=0: expected a number in [1, inf)"),
        (["--cpus_per_run=0"], "--cpus_per_run=0: expected a number in (0, inf)"),
        (["--gpus_per_run=x"], "--gpus_per_run=x: expected a number in [0, inf)"),
        (["--gpus_per_run=1"], "--gpus_per_run is for a cluster; add --address"),
        (["--seeds=0"], "--seeds=0: write a number of seeds"),
        (["--run_dir=x"], "--run_dir=x: reproduce sets this key"),
        (["--models=,"], "--models=: name rows or models"),
        (["--epoch=1"], "unknown key `epoch`; did you mean `epochs`"),
    ],
)
def test_bad_input_is_one_line_and_starts_nothing(
    more: list[str],
    said: str,
    words: list[str],
    in_process: Commands,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kept = [word for word in words if not (word.startswith("--dataset") and more[0].startswith("--dataset"))]
    assert cli.main([*kept, *more]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert in_process == []
    assert not Path("runs").exists()


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.usefixtures("ray_here")
def test_runs_are_tasks_of_ray(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--models=BPR", "--address=local", "--seeds=2"]
    assert cli.main([*words, *more]) == 0
    err = capsys.readouterr().err
    assert "Ray: 1 node, 2 CPU, 0 GPU" in err
    assert states()["BPR"] == ("finished", 2, 2)
    for run in content()["rows"][1]["folders"]:
        assert json.loads((Path(run) / "results.json").read_text())["model"] == "BPR"
    assert cli.main([*words, *more, "--cpus_per_run=3"]) == 2
    assert "--cpus_per_run=3 --gpus_per_run=0: a process requires 3 CPU" in capsys.readouterr().err
