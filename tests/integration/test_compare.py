"""The commands compare, ablate, sweep and report on small runs."""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_siger import cli
from recbole_siger.report import figures
from recbole_siger.report.curves import draw_curves
from recbole_siger.report.overlap import count_overlap
from recbole_siger.report.page import item_vectors
from recbole_siger.studies.ablate import variants
from recbole_siger.studies.compare import Study
from tests.integration.conftest import Settings

Commands = list[list[str]]


@pytest.fixture
def options(settings: Settings) -> list[str]:
    """Options of quick runs on the toy data, as typed."""
    values = settings(epochs=2)
    del values["embedding_size"]
    return ["--dataset=toy", *(f"--{key}={value}" for key, value in values.items())]


@pytest.fixture
def study(settings: Settings) -> Study:
    values = settings()
    return Study("toy", options={key: values[key] for key in ("data_path", "topk", "valid_metric")})


def rows_of(file: str) -> list[dict[str, str]]:
    with Path(file).open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_compare_from_nothing_then_from_what_is_there(
    options: list[str], in_process: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "compare",
        "--models=BPR,EASE,SIGER",
        *options,
        "--seeds=2",
        "--set=SIGER.n_semantic_neighbors=5",
    ]
    words += ["--set=BPR.embedding_size=8", "--out", "t.md", "t.tex", "t.json,t.csv"]
    assert cli.main(words) == 0
    first = capsys.readouterr()
    assert [word[1] for word in in_process] == [
        *("--model=BPR", "--model=BPR"),
        "--model=EASE",
        *("--model=SIGER", "--model=SIGER"),
    ]
    assert "BPR seed 7 | epoch    1" in first.err
    rows = rows_of("t.csv")
    assert [row["seeds"] for row in rows] == ["7 8", "7", "7 8"]
    assert 0 < float(rows[1]["recall@5_p_corrected"]) <= 1
    assert Path("t.md").read_text() == first.out
    whole = json.loads(Path("t.json").read_text())["tables"][0]
    assert [len(row["runs"]) for row in whole["rows"]] == [2, 1, 2]
    for row in whole["rows"]:
        assert {re.sub(r"-\w{8}-seed\d", "", Path(run).name) for run in row["runs"]} == {row["label"]}

    assert cli.main(words) == 0
    second = capsys.readouterr()
    assert len(in_process) == 5
    assert second.out == first.out
    assert "[1/5] BPR seed 7: finished before, runs/toy/BPR-" in second.err


def test_a_failed_model_is_a_row_and_a_1(
    options: list[str], in_process: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("own.yaml").write_text("SIGER:\n  modalities: [smell]\n")
    words = ["compare", "--models=BPR,SIGER,Pop", *options, "--model_config=own.yaml", "--out=t.csv"]
    assert cli.main(words) == 1
    out = capsys.readouterr().out
    assert "SIGER: 1 of 1 failed: seed 7: " in out
    assert "'smell' is not a feature of 'toy'" in out
    assert [row["recall@5"] != "" for row in rows_of("t.csv")] == [True, False, True]


def test_a_folder_holds_each_models_options(options: list[str], in_process: Commands) -> None:
    Path("tuned").mkdir()
    Path("tuned/BPR.yaml").write_text("learning_rate: 0.5\n")
    Path("tuned/Pop.yaml").write_text("")
    words = ["compare", "--models=BPR,Pop", *options, "--learning_rate=0.25", "--model_config=tuned"]
    assert cli.main(words) == 0
    assert ["--learning_rate=0.5" in word for word in in_process] == [True, False]


BPR = ["compare", "--models=BPR", "--dataset=toy"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compare", "--dataset=toy"], "command line: compare requires --models"),
        (["compare", "--models=BPR"], "command line: --dataset=NAME is missing"),
        (["compare", "--models=BPR,BPR", "--dataset=toy"], "--models=BPR,BPR: name each model once"),
        (["compare", "--models=BRP", "--dataset=toy"], "Unknown model 'BRP'; did you mean `BPR`?"),
        ([*BPR, "--epoch=1"], "unknown key `epoch`; did you mean"),
        (
            [*BPR, "--seeds=0"],
            "--seeds=0: write a number of seeds, or a list",
        ),
        (
            [*BPR, "--seeds=3,3"],
            "--seeds=3,3: write a number of seeds, or a list",
        ),
        (
            [*BPR, "--seeds=two"],
            "--seeds=two: write a number of seeds, or a list",
        ),
        (
            [*BPR, "--seeds=99999999999"],
            "--seeds=99999999999: at most 1,000 seeds are counted",
        ),
        (
            [*BPR, "--set=BPR.epochs=1", "BPR.epochs=2"],
            "command line: --set BPR.epochs is given twice; keep one",
        ),
        (
            [*BPR, "--columns=recall@5,Recall@5"],
            "command line: --columns=recall@5,recall@5: recall@5 is given twice; keep one",
        ),
        (
            ["compare", "--models=BPR,Pop", "--dataset=toy", "--columns=recal@20"],
            "--columns: 'recal@20' is not a metric of every run; did you mean `recall@20`?",
        ),
        (
            ["compare", "--models=BPR,Pop", "--dataset=toy", "--topk=[20]", "--columns=recall@20[cold]"],
            "--columns: 'recall@20[cold]' is not a metric of every run",
        ),
        (["ablate", "--model=SIGER", "--dataset=toy", "--columns=foo@5"], "'foo@5' is not a metric of every"),
        (
            ["sweep", "--model=BPR", "--dataset=toy", "--key=epochs", "--values=1,2", "--columns=foo@5"],
            "'foo@5' is not a metric of every run",
        ),
        ([*BPR, "--model_config=no"], "check --model_config"),
        (
            [*BPR, "--run_dir=x"],
            "command line: run_dir='x': each run gets its own folder; use --runs_dir",
        ),
        (
            ["ablate", "--model=SIGER", "--dataset=toy", "--run_dir=x"],
            "command line: run_dir='x': each run gets its own folder; use --runs_dir",
        ),
        ([*BPR, "--jobs=0"], "--jobs=0: expected a number in [1, inf)"),
        ([*BPR, "--set=EASE.x=1"], "--set EASE.x=1: 'EASE' is not"),
        ([*BPR, "--set=x=1"], "write --set MODEL.key=value"),
        ([*BPR, "--set=BPR.seed=7"], "--set BPR.seed=7: every row has the same seed; use --seeds"),
        ([*BPR, "--set=BPR.model=Pop"], "every row has the same model; use --models"),
        ([*BPR, "--model_config=no.yaml"], "no.yaml: no such"),
        (
            [*BPR, "--model_config=."],
            "BPR.yaml: no such file; tune this",
        ),
        (
            ["compare", "--models=BPR,Pop", "--dataset=toy", "--over=seeds"],
            "n=1 cannot give p < 0.05; n=6 can",
        ),
        (["compare", "BPR"], "cannot place 'BPR'"),
        (["ablate", "--dataset=toy"], "command line: ablate requires --model"),
        (["ablate", "--model=BPR", "--dataset=toy"], "BPR on toy has no variants: no option `ablation`"),
        (["ablate", "--model=SIGER", "--dataset=toy", "--ablation=mp"], "--ablation=mp: leave it out"),
        (["ablate", "--model=SIGER", "--dataset=toy", "--set=SIGER.x=1"], "ablate has no option --set"),
        (["sweep", "--model=BPR", "--dataset=toy", "--key=epochs"], "command line: sweep requires --values"),
        (["sweep", "--model=BPR", "--dataset=toy", "--stat=t-test"], "sweep has no option --stat"),
        (
            ["sweep", "--model=BPR", "--dataset=toy", "--key=epochs", "--values=1,1"],
            "--values=1,1: write diff",
        ),
        (
            ["sweep", "--model=BPR", "--dataset=toy", "--key=epochs", "--values=1,2", "--epochs=3"],
            "--epochs=3: --values sets this option; leave it out",
        ),
        (
            ["sweep", "--model=BPR", "--dataset=toy", "--key=seed", "--values=1,2"],
            "--key=seed: not an option",
        ),
        (
            ["sweep", "--model=BPR", "--dataset=toy", "--key=threads", "--values=1,2"],
            "--key=threads: the key changes no result; set it once, as --threads=value",
        ),
        (["report"], "command line: write `recbole-siger report RUN_DIR"),
        (["report", "nowhere"], "nowhere: not a run folder"),
        (["report", "nowhere", "--out=a.pdf"], "--out: 'a.pdf': the name must end in .html"),
        (["report", "curves", "nowhere"], "write `recbole-siger report curves RUN_DIR --out=NAME.pdf`"),
        (["report", "curves", "nowhere", "--out=a.doc"], "--out: 'a.doc': the name must end in .png, .svg"),
        (["report", "overlap"], "command line: report overlap requires --dataset"),
    ],
)
def test_bad_input_is_one_line_and_a_2(
    words: list[str],
    message: str,
    workdir: Path,
    in_process: Commands,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n"), in_process) == ("", 1, [])
    assert message in err
    assert list(workdir.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x: 1\n", "unknown key `x`"),
        ("learning_rate: -1\n", "learning_rate=-1: expected a number in (0, inf)"),
    ],
)
def test_an_error_in_a_models_own_options_names_the_file(
    content: str, message: str, workdir: Path, in_process: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("tuned").mkdir()
    Path("tuned/BPR.yaml").write_text(content)
    Path("own.yaml").write_text("BPR:\n  " + content)
    words = ["compare", "--models=BPR", "--dataset=toy", "--learning_rate=0.5"]
    for file, source in (("tuned", "tuned/BPR.yaml"), ("own.yaml", "own.yaml: BPR")):
        assert cli.main([*words, f"--model_config={file}"]) == 2
        assert f"error: {source}: {message}" in capsys.readouterr().err
    assert in_process == []


@pytest.mark.parametrize(
    "words",
    [
        ["compare", "--models=BPR"],
        ["ablate", "--model=SIGER"],
        ["sweep", "--model=BPR", "--key=epochs", "--values=1,2"],
        ["cold-start", "--models=BPR"],
        ["tune", "--model=BPR", "--set=epochs=1,2"],
    ],
)
def test_a_file_names_no_folder_of_several_runs(
    words: list[str], workdir: Path, in_process: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("own.yaml").write_text("run_dir: one\n")
    assert cli.main([*words, "--dataset=toy", "--config_files=own.yaml"]) == 2
    assert "error: own.yaml: run_dir='one': each run gets its own folder; use --" in capsys.readouterr().err
    assert (in_process, [path.name for path in workdir.iterdir()]) == ([], ["own.yaml"])


def test_a_model_is_named_once_in_a_file(workdir: Path, in_process: Commands, capsys: Any) -> None:
    model = "recbole_siger.model.general_recommender.layergcn:LayerGCN"
    Path("own.yaml").write_text(f"LayerGCN: {{epochs: 1}}\n{model}: {{epochs: 2}}\n")
    assert cli.main(["compare", f"--models={model}", "--dataset=toy", "--model_config=own.yaml"]) == 2
    assert "is given twice; write its options in one place" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (["compare", "--models=BPR", "--dataset=toy", "--out=t.csv,x.md"], "x.md is a folder, not a file"),
        (["compare", "--models=BPR", "--dataset=toy", "--out=f/t.md"], "f is a file, not a folder"),
        (["ablate", "--model=SIGER", "--dataset=toy", "--out=x.md"], "x.md is a folder"),
        (
            ["sweep", "--model=BPR", "--dataset=toy", "--key=epochs", "--values=1,2", "--out=x.png"],
            "x.png is a folder",
        ),
        (["report", "nowhere", "--out=x.html"], "x.html is a folder"),
        (["report", "curves", "nowhere", "--out=x.png"], "x.png is a folder"),
        (["cold-start", "--models=BPR", "--dataset=toy", "--out=f"], "f is a file, not a folder"),
        (["cold-start", "--models=BPR", "--dataset=toy", "--out=s"], "s/cold_start.svg is a folder"),
        (
            ["tune", "--model=BPR", "--dataset=toy", "--set=epochs=1,2", "--out=f"],
            "f is a file, not a folder",
        ),
        (
            ["reproduce", "siger-table1", "--dataset=baby", "--out=f", "--dry_run"],
            "f is a file, not a folder",
        ),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_any_work(
    words: list[str], place: str, workdir: Path, in_process: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("x.md", "x.png", "x.html", "s/cold_start.svg"):
        Path(name).mkdir(parents=True)
    Path("f").write_text("mine")
    before = sorted(workdir.rglob("*"))
    assert cli.main(words) == 2
    assert capsys.readouterr().err.startswith(f"error: command line: --out: {place}")
    assert (in_process, sorted(workdir.rglob("*"))) == ([], before)


@pytest.mark.parametrize("command", ["compare", "cold-start"])
def test_a_file_in_place_of_the_folder_of_runs(
    command: str, workdir: Path, in_process: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("f").write_text("mine")
    assert cli.main([command, "--models=BPR", "--dataset=toy", "--runs_dir=f"]) == 2
    assert capsys.readouterr().err.startswith("error: command line: --runs_dir: f is a file, not a folder;")
    assert (in_process, Path("f").read_text()) == ([], "mine")


def test_variants_come_from_what_a_model_declares(study: Study) -> None:
    components, modalities = variants("SIGER", study).values()
    assert components == {
        "SIGER": {},
        **{f"ablation={name}": {"ablation": name} for name in ("eisg", "mp", "da", "mp_weight", "anchor")},
    }
    assert modalities == {
        "SIGER": {},
        "image only": {"modalities": ["image"]},
        "text only": {"modalities": ["text"]},
    }


def test_ablate(options: list[str], in_process: Commands, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["ablate", "--model=SIGER", *options, "--n_semantic_neighbors=5", "--epochs=1", "--out=t.csv"]
    words.remove("--epochs=2")
    assert cli.main(words) == 0
    assert len(in_process) == 8  # the whole model stands in both tables and runs once
    rows = rows_of("t.csv")
    assert [row["model"] for row in rows if row["table"] == "Modalities of SIGER on toy"] == [
        "SIGER",
        "image only",
        "text only",
    ]
    assert len(rows) == 9
    assert rows[0]["recall@5"] == rows[6]["recall@5"]
    out, err = capsys.readouterr()
    assert "[1/8] SIGER seed 7: runs/toy/SIGER-" in err
    assert re.search(
        r"^\[\d/8\] SIGER ablation=mp_weight seed 7: runs/toy/SIGER-\w{8}-seed7$", err, flags=re.M
    )
    assert "SIGER image only seed 7 | epoch    0" in err
    assert out.count("| SIGER against |") == 2
    assert "Improvement" not in out


def test_sweep(options: list[str], in_process: Commands, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sweep", "--model=BPR", *options, "--key=embedding_size", "--values=3,7", "--seeds=2"]
    assert cli.main([*words, "--columns=recall@5,ndcg@3", "--out=s.{svg,csv}"]) == 0
    rows = rows_of("s.csv")
    assert [row["model"] for row in rows] == ["embedding_size=3", "embedding_size=7"]
    assert all(row["recall@5_std"] for row in rows)
    out, err = capsys.readouterr()
    assert "embedding_size=3" in out
    for size in (3, 7):
        assert f" BPR embedding_size={size} seed 8: runs/toy/BPR-" in err
        assert f"BPR embedding_size={size} seed 7 | epoch    1" in err
    assert Path("s.svg").read_text().startswith("<?xml")
    sizes = [word for words in in_process for word in words if word.startswith("--embedding_size")]
    assert sizes == ["--embedding_size=3"] * 2 + ["--embedding_size=7"] * 2


def test_report_page_and_pictures(
    options: list[str], in_process: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    for model, seed in (("SIGER", 7), ("EASE", 8)):
        extra = ["--n_semantic_neighbors=5"] if model == "SIGER" else []
        words = [*options, *extra, f"--run_dir={model}", f"--seed={seed}"]
        words.remove("--seed=7" if seed == 8 else "--epochs=2")
        assert cli.main(["run", f"--model={model}", *words, *(["--epochs=2"] if seed == 7 else [])]) == 0
    assert cli.main(["report", "SIGER", "EASE", "--out=page.html"]) == 0
    page = Path("page.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == 3  # both models, and each run
    assert not re.search(r"(src|href)=\"(?!data:)|https?://|url\(", page)
    assert "SIGER on toy, seed 7" in page
    assert "n_semantic_neighbors: 5" in page
    for tag in ("table", "details", "pre", "p", "div", "h2", "th", "figure"):
        assert len(re.findall(rf"<{tag}[ >]", page)) == page.count(f"</{tag}>")
    kept = json.loads(Path("SIGER/results.json").read_text())
    assert re.search(rf"<td>(<strong>)?{kept['test']['recall@5']:.4f}<", page)
    assert page.count('<th scope="col">Best epoch</th>') == 1
    Path("SIGER/results.json").write_text(json.dumps({**kept, "protocol_id": "f" * 16}))
    assert cli.main(["report", "SIGER", "EASE", "--out=page.html"]) == 0
    page = Path("page.html").read_text()  # no table holds two protocols
    assert page.count('<th scope="col">Best epoch</th>') == 2
    assert f"<h2>toy, protocol mmrec {'f' * 16}</h2>" in page

    assert cli.main(["report", "curves", "SIGER", "--out", "c.png", "c.pdf"]) == 0
    assert Path("c.png").read_bytes().startswith(b"\x89PNG")
    assert Path("c.pdf").read_bytes().startswith(b"%PDF")
    assert cli.main(["report", "vectors", "SIGER", "--out=v.svg"]) == 0
    capsys.readouterr()
    assert cli.main(["report", "vectors", "EASE", "--out=w.svg"]) == 2
    assert "EASE has no vectors of items" in capsys.readouterr().err
    assert not Path("w.svg").exists()

    vectors, counts, _ = item_vectors("SIGER")
    assert vectors.shape[0] == len(counts) == 32
    assert counts.sum() == 23 * 7
    assert np.isfinite(vectors).all()


def test_report_overlap(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = [word for word in options if word.startswith(("--dataset", "--data_path", "--topk", "--valid"))]
    assert cli.main(["report", "overlap", *words, "--n_co_neighbors=3", "--out=o.pdf"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 2 * 2
    for line in lines[2:]:
        shares = [float(share) for share in re.findall(r"\d: +([\d.]+)", line)]
        assert len(shares) == 4
        assert sum(shares) == pytest.approx(100, abs=0.3)
        if " EISG " in line:
            assert shares[3] > 90
    assert Path("o.pdf").is_file()


def test_overlap_by_sets() -> None:
    generator = torch.Generator().manual_seed(3)
    co, other = (torch.rand(17, 17, generator=generator) * (torch.rand(17, 17) < 0.3) for _ in range(2))
    co[5] = 0
    slow = [len({j for j in range(17) if co[i, j] and other[i, j]}) for i in range(17) if any(co[i].tolist())]
    assert count_overlap(co.to_sparse(), other.to_sparse()).tolist() == slow
    assert len(slow) <= 16


def test_figures_say_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(figures, "find_spec", lambda name: None)
    assert cli.main(["report", "overlap", "--dataset=toy", "--out=o.png"]) == 2
    assert capsys.readouterr().err == (
        "error: figures need matplotlib; pip install 'recbole-siger[figures]'\n"
    )


def test_the_same_numbers_draw_the_same_file(tmp_path: Path) -> None:
    def draw(path: Path) -> bytes:
        bars: dict[str, Any] = {"SIGER": [0.1, None], "BPR": [0.05, 0.02]}
        figures.save_figure(
            figures.draw_bars(["cold", "warm"], bars, "Recall@20", {"BPR": [0.01, 0.0]}), path
        )
        return path.read_bytes()

    for kind in figures.FIGURES:
        assert draw(tmp_path / f"a.{kind}") == draw(tmp_path / f"b.{kind}")
    assert "matplotlib.pyplot" not in sys.modules


def test_a_sweep_over_names_stands_side_by_side() -> None:
    figure = figures.draw_sweep("co_tie_break", ["cosine", "id"], {"recall@20": ([0.1, 0.2], [None, None])})
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_xticklabels()] == ["cosine", "id"]
    assert axis.get_xlabel() == "co_tie_break"
    assert axis.get_ylabel() == "Recall@20"


def test_a_run_of_one_epoch_shows_its_loss() -> None:
    figure = draw_curves([0], {"loss": [0.5]}, "recall@20", [0.25], 0)
    figure.draw_without_rendering()
    bottom = figure.axes[1]
    assert [line.get_marker() for line in bottom.lines] == ["o"]
    low, high = bottom.get_xlim()
    assert [tick for tick in bottom.get_xticks() if low <= tick <= high] == [0]


def test_values_too_close_for_their_labels_stand_side_by_side() -> None:
    rates = [0.0001, 0.001, 0.01, 0.1]
    for values, places in ((rates, [0, 1, 2, 3]), ([2, 3, 5, 8, 10], [2, 3, 5, 8, 10])):
        n = len(values)
        (axis,) = figures.draw_sweep("rate", values, {"recall@20": ([0.1] * n, [None] * n)}).axes
        assert list(axis.get_xticks()) == places
        assert [label.get_text() for label in axis.get_xticklabels()] == [str(value) for value in values]


def test_a_dataset_that_is_not_there_is_one_line_and_a_2(
    workdir: Path, in_process: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["compare", "--models=BPR,Pop", "--dataset=nowhere", "--seeds=2"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "error: no run finished: dataset/nowhere/nowhere.inter: no such dataset file" in err
