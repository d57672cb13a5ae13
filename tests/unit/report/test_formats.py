"""Tables on a terminal, and labels that are hostile to each format."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from recbole_siger.report.comparison import Comparison, Entry, TableParams, compare_entries
from recbole_siger.report.tables import latex, markdown, print_tables, table_csv, table_json
from recbole_siger.report.terminal import show_tables
from tests.unit.report.test_comparison import write_run

LABELS = ("a[/x]b [bold]c", "=1+2|3", "@n\nm\x1b[2J", "[x] 5 % \\ _{")


@pytest.fixture
def table(tmp_path: Path) -> Comparison:
    runs = [
        Entry(label, (write_run(tmp_path / str(n), "BPR", shift=n / 8, noise=1.0),))
        for n, label in enumerate(LABELS)
    ]
    failed = Entry("-failed", (), ("seed 1: [/y] no\nfaiss\x07",))
    return compare_entries("Title [/z] of a\ntable", [*runs, failed], TableParams())


def shown(table: Comparison, width: int, *, color: bool = False) -> str:
    out = io.StringIO()
    system = "standard" if color else None
    console = Console(file=out, width=width, force_terminal=True, color_system=system)  # type: ignore[arg-type]
    show_tables([table], console)
    return out.getvalue()


def cells_of(text: str) -> str:
    """Return the letters in the cells of all tables, in the order of the columns of each table."""
    columns: dict[tuple[int, int], str] = {}
    number = 0
    for line in text.splitlines():
        number += line.startswith("┏")
        for place, cell in enumerate(re.split(r"[│┃]", line)[1:-1]):
            columns[number, place] = columns.get((number, place), "") + cell.replace(" ", "")
    return "\n".join(columns.values())


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_a_terminal_shows_all_that_markdown_has(table: Comparison, width: int) -> None:
    text = shown(table, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert "\x1b" not in text
    found = cells_of(text)
    for row in table.rows[:4]:
        label = row.label.replace("\n", r"\n").replace("\x1b", r"\x1b").replace(" ", "")
        assert label in found
        for column in table.columns:
            assert f"{row.mean[column]:.4f}" in found
        for tested in row.tests.values():
            if tested is row.tests.get("recall@5"):
                assert f"{tested.result.difference:+.4f}" in found
                assert f"[{tested.result.low:+.4f},{tested.result.high:+.4f}]" in found
    words = re.sub(r"\s", "", text)
    assert r"-failed:1of1failed:seed1:[/y]no\nfaiss\x07" in words
    assert r"Title[/z]ofa\ntable" in words
    for part in ("Wilcoxon'ssigned-ranktest", "Holmoverthe3rowsofonemetric", "R@5", "Improvement", "s/epoch"):
        assert part in words


def test_the_best_value_is_bold_and_the_second_underlined(table: Comparison) -> None:
    text = shown(table, 200, color=True)
    best, second = table.ranked("recall@5")[:2]
    assert best.label == LABELS[3]
    assert re.search(rf"\x1b\[1m{best.mean['recall@5']:.4f}\x1b\[0m", text)
    assert re.search(rf"\x1b\[4m{second.mean['recall@5']:.4f}\x1b\[0m", text)
    assert len(re.findall(rf"\x1b\[1m{best.mean['recall@5']:.4f}", text)) == 1


def test_another_protocol_is_marked_on_a_terminal_too(tmp_path: Path) -> None:
    entries = [
        Entry(name, (write_run(tmp_path / name, name, protocol_id=one * 16),))
        for name, one in (("BPR", "a"), ("Pop", "b"))
    ]
    text = shown(compare_entries("t", entries, TableParams(allow_mixed=True)), 80)
    assert "Pop *" in text
    assert f"({'b' * 16})" in re.sub(r"\n", " ", text)


def test_a_pipe_gets_markdown(table: Comparison, capsys: pytest.CaptureFixture[str]) -> None:
    print_tables([table])
    assert capsys.readouterr().out == markdown([table])


def test_a_terminal_gets_tables(
    table: Comparison, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_tables([table])
    out = capsys.readouterr().out
    assert out.count("┏") == 2
    assert "| Model" not in out


def test_markdown_keeps_its_rows_and_columns(table: Comparison) -> None:
    lines = markdown([table]).splitlines()
    assert lines[0] == r"## Title [/z] of a\ntable"
    rows = [line for line in lines if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {8}
    assert sum(row.startswith(r"| =1+2\|3 |") for row in rows) == 2
    assert any(row.startswith(r"| @n\nm\x1b[2J |") for row in rows)
    assert r"-failed: 1 of 1 failed: seed 1: [/y] no\nfaiss\x07" in lines


def test_csv_holds_no_formula(table: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(table_csv([table]))))
    assert [row["model"] for row in rows] == [
        LABELS[0],
        f"'{LABELS[1]}",
        f"'{LABELS[2]}",
        LABELS[3],
        "'-failed",
    ]
    difference = min(float(row["recall@5_difference"]) for row in rows[1:4])
    assert difference < 0  # a number keeps its sign
    for row in rows:
        for text in (row["table"], row["model"], row["failure"]):
            assert not text.startswith(("=", "+", "-", "@"))


def test_latex_comments_are_one_line_and_labels_are_literal(table: Comparison, tmp_path: Path) -> None:
    text = latex([table])
    assert all(
        line == "" or line.startswith(("%", "\\")) or line.endswith(r"\\") for line in text.splitlines()
    )
    assert r"\{[}x{]} 5 \% \textbackslash{} \_\{ &" not in text
    assert r"{[}x{]} 5 \% \textbackslash{} \_\{ &" in text
    if shutil.which("pdflatex") and not subprocess.run(["kpsewhich", "booktabs.sty"]).returncode:
        head = r"\documentclass{article}\usepackage{booktabs}\begin{document}"
        (tmp_path / "t.tex").write_text(f"{head}\n{text}\n\\end{{document}}\n", encoding="utf-8")
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "t.tex"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout


def test_facts_and_a_reference_stand_beside_the_rows(table: Comparison) -> None:
    rows = (
        *(replace(row, facts={"Best epoch": "3"}) for row in table.rows),
        replace(table.rows[0], label="chance", mean={"recall@5": 99.0}, std={}, tests={}, reference=True),
    )
    whole = replace(table, rows=rows, facts=("Best epoch",), remarks=("A remark.",))
    assert whole.ranked("recall@5") == [
        replace(row, facts={"Best epoch": "3"}) for row in table.ranked("recall@5")
    ]
    lines = markdown([whole]).splitlines()
    assert lines[2] == "| Model | Seeds | Best epoch | R@5 | N@5 | Parameters | s/epoch | MiB |"
    assert "| chance |  |  | 99.0000 |  |  |  |  |" in lines
    assert "A remark." in lines
    record = list(csv.DictReader(io.StringIO(table_csv([whole]))))[-1]
    assert (record["model"], record["recall@5"], record["ndcg@5"], record["best_epoch"]) == (
        "chance",
        "99.0",
        "",
        "",
    )
    assert json.loads(table_json([whole]))["tables"][0]["rows"][0]["facts"] == {"Best epoch": "3"}
