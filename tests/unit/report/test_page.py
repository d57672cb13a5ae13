"""The page of runs: captions and scopes of tables, means over seeds, best values, examples, escaped texts."""

from __future__ import annotations

import html.parser
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from recbole_siger.report.page import report_page
from tests.unit.report.conftest import finish_run

pytest.importorskip("matplotlib")


@dataclass
class Table:
    """What a browser would show of a table."""

    caption: str = ""
    scopes: list[str | None] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    bold: list[str] = field(default_factory=list)
    box: str = ""

    def row(self, name: str) -> dict[str, str]:
        return next(dict(zip(self.rows[0], row, strict=True)) for row in self.rows if row[0].startswith(name))


class Reader(html.parser.HTMLParser):
    """Collect tables, headings and pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[Table] = []
        self.open: list[str] = []
        self.boxes: list[dict[str, str | None]] = []
        self.images: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("img", "meta"):
            self.images += [dict(attrs)] if tag == "img" else []
            return
        self.open.append(tag)
        if tag == "div":
            self.boxes.append(dict(attrs))
        elif tag == "table":
            self.tables.append(Table(box=str(self.boxes[-1].get("class"))))
        elif tag == "tr":
            self.tables[-1].rows.append([])
        elif tag in ("th", "td"):
            self.tables[-1].rows[-1].append("")
            if tag == "th":
                self.tables[-1].scopes.append(dict(attrs).get("scope"))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, text: str) -> None:
        if "caption" in self.open:
            self.tables[-1].caption += text
        elif "th" in self.open or "td" in self.open:
            self.tables[-1].rows[-1][-1] += text
            if "strong" in self.open:
                self.tables[-1].bold.append(text)


def read(runs: Sequence[Path], tmp_path: Path) -> tuple[Reader, str]:
    file = tmp_path / "page.html"
    report_page([str(run) for run in runs], str(file))
    text = file.read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(text)
    assert reader.open == []  # every element is closed
    return reader, text


def table(reader: Reader, caption: str) -> Table:
    return next(one for one in reader.tables if one.caption.startswith(caption))


def test_every_table_has_a_caption_scopes_and_a_box_that_scrolls(runs: list[Path], tmp_path: Path) -> None:
    reader, text = read(runs, tmp_path)
    assert len(reader.tables) >= 9
    for one in reader.tables:
        assert one.caption
        assert one.box == "wide"
        n_columns = len(one.rows[0])
        assert one.scopes == ["col"] * n_columns + ["row"] * (len(one.rows) - 1)
        assert {len(row) for row in one.rows} == {n_columns}
    assert "overflow-x: auto" in text
    assert "@media (prefers-color-scheme: dark)" in text
    assert all(image["alt"] for image in reader.images)


def test_seeds_are_one_row_and_the_best_is_bold(runs: list[Path], tmp_path: Path) -> None:
    reader, _ = read(runs, tmp_path)
    tests = table(reader, "Test of the best validation epoch; mean ± standard deviation over seeds; the best")
    assert len(tests.rows) == 3
    row = tests.row("LightGCN")
    assert row["Seeds"] == "3, 5"
    assert row["Recall@5"] == "0.3000 ± 0.1414"
    assert tests.row("BPR")["Recall@5"] == "0.1000"
    assert tests.bold == ["0.3000 ± 0.1414", "0.6000 ± 0.1414"]  # of the Gini index the lower value


def test_a_single_row_has_no_best_value(runs: list[Path], tmp_path: Path) -> None:
    reader, _ = read(runs[:1], tmp_path)
    assert table(reader, "Test of the best validation epoch").bold == []
    assert table(reader, "Test of the best validation epoch").caption == "Test of the best validation epoch"


def test_slices_cost_and_dates(runs: list[Path], tmp_path: Path) -> None:
    reader, text = read(runs, tmp_path)
    slices = table(reader, "Test Recall@5 by popularity of the items in training")
    assert slices.rows[0] == ["Model", "head (7 items)", "none (2 items)"]
    assert slices.row("LightGCN")["head (7 items)"] == "0.1500 ± 0.0707"
    assert slices.row("BPR")["none (2 items)"] == ""  # no user to average over
    cost = table(reader, "Cost").row("LightGCN")
    assert cost["Started"] == "2026-03-05 07:11"
    assert cost["Seconds in all"] == "7.5"
    assert cost["Peak memory (MiB)"] == "106"
    assert cost["Trained parameters"] == "221"
    assert re.search(r"3 runs\. Written \d{4}-\d\d-\d\d \d\d:\d\d UTC by recbole_siger \d", text)


def test_curves_of_one_dataset_share_a_picture(runs: list[Path], tmp_path: Path) -> None:
    reader, _ = read(runs, tmp_path)
    texts = [image["alt"] for image in reader.images]
    assert texts[0] == (
        "Validation Recall@5 by epoch, all models; thick: mean over seeds, band: standard deviation, thin: "
        "each seed"
    )
    assert texts[1:] == [
        f"Learning curves of {name} on drawn, seed {seed}"
        for name, seed in (("LightGCN", 3), ("LightGCN", 5), ("BPR", 3))
    ]


def test_examples_have_titles_of_the_same_users(runs: list[Path], tmp_path: Path) -> None:
    reader, text = read(runs, tmp_path)
    examples = [one for one in reader.tables if one.caption.startswith("Recommendations for user u")]
    assert len(examples) == 3
    for one in examples:
        assert one.rows[0] == ["Rank", "In training", "LightGCN", "BPR"]
        assert len(one.rows) == 1 + 5
        known = {row[1] for row in one.rows[1:]} - {""}
        assert not known & {cell for row in one.rows[1:] for cell in row[2:]}
    cells = [cell for one in examples for row in one.rows[1:] for cell in row[1:]]
    assert any(cell.startswith("<b>Thing</b> ") for cell in cells)  # a title is text
    assert "<b>" not in text


def test_a_run_that_cannot_recommend_is_named_with_the_reason(runs: list[Path], tmp_path: Path) -> None:
    (runs[2] / "embeddings.safetensors").unlink()
    reader, text = read(runs, tmp_path)
    example = next(one for one in reader.tables if one.caption.startswith("Recommendations for user u"))
    assert example.rows[0] == ["Rank", "In training", "LightGCN"]
    assert re.search(r"BPR: no examples: .*embeddings\.safetensors", text)


def test_datasets_and_protocols_have_tables_of_their_own(runs: list[Path], tmp_path: Path) -> None:
    other = finish_run(tmp_path / "d", "EASE", 3, 0.3, dataset="elsewhere")
    third = finish_run(tmp_path / "e", "Pop", 3, 0.3, protocol_id="f" * 16)
    reader, text = read([*runs, other, third], tmp_path)
    headings = re.findall(r"<h2>(.*?)</h2>", text)
    assert headings == [
        "drawn, protocol mmrec 0123456789abcdef",
        f"drawn, protocol mmrec {'f' * 16}",
        "elsewhere, protocol mmrec 0123456789abcdef",
    ]
    assert sum(one.caption.startswith("Test of the best") for one in reader.tables) == 3


def test_configurations_of_one_model_are_rows_of_their_own(runs: list[Path], tmp_path: Path) -> None:
    for run, value in zip(runs[:2], (1, "1"), strict=True):
        config = yaml.safe_load((run / "config.yaml").read_text())
        (run / "config.yaml").write_text(yaml.safe_dump({**config, "n_layers": value}))
    reader, _ = read(runs, tmp_path)
    names = [row[0] for row in table(reader, "Test of the best validation epoch").rows[1:]]
    assert names == ["LightGCN (n_layers=1)", "LightGCN (n_layers=1) #2", "BPR"]


def test_slices_of_a_damaged_file_are_left_out(runs: list[Path], tmp_path: Path) -> None:
    damaged: list[Any] = [[1], {"item_popularity": [2]}, {"item_popularity": {"head": "<i>x</i>"}}, {"a": {}}]
    damaged += [{"item_popularity": {"head": {"recall@5": value}}} for value in (10**400, float("nan"))]
    for slices in damaged:
        file = runs[2] / "results.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "slices": slices}))
        reader, text = read(runs[2:], tmp_path)
        assert not [one for one in reader.tables if "popularity" in one.caption]
        assert "<i>" not in text
