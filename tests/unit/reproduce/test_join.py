"""Published numbers and ours: differences, verdicts, order, statements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from recbole_siger.evaluation.significance import PairedResult
from recbole_siger.report.comparison import Comparison, Row, RowTest, TableParams
from recbole_siger.reproduce.join import Reproduction, RowRuns, State, exchanged_pairs, join, verdict_of
from recbole_siger.reproduce.paper import Claim, OnDataset, PaperRow, PaperTable, Setting
from recbole_siger.reproduce.writing import _places, as_json, as_latex, as_markdown, sections_of

METRIC = "recall@5"
PUBLISHED = {"A": 0.50, "B": 0.40, "C": 0.30, "D": 0.30}


def paper(panel: str = "", published: Mapping[str, float | None] = PUBLISHED, **facts: Any) -> PaperTable:
    rows = tuple(
        PaperRow(
            label,
            f"Model{label}",
            options={"n_layers": number},
            published={"toy": {} if value is None else {METRIC: value}},
            settings={"toy": Setting({"reg_weight": 0.1}, f"appendix {label}")},
            panel=panel,
            value=str(number),
        )
        for number, (label, value) in enumerate(published.items(), start=1)
    )
    claims = facts.pop("claims", (Claim("A is best", "A", ("B", "C", "D"), METRIC, ("toy",)),))
    values = {
        "name": "mine",
        "file": "mine.yaml",
        "shipped": False,
        "title": "A and the others",
        "paper": "A paper",
        "place": "Table 7",
        "kind": "runs",
        "metrics": (METRIC,),
        "metric": METRIC,
        "tolerance": 3.0,
        "seeds": 2,
        "options": {"protocol": "mmrec"},
        "datasets": {"toy": OnDataset("drawn at random", 25.0), "shop": OnDataset()},
        "rows": rows,
        "claims": claims,
        "remarks": ("A remark.",),
    }
    return PaperTable(**{**values, **facts})


def runs(table: PaperTable, label: str, *values: float, wanted: int | None = None, **facts: Any) -> RowRuns:
    (row,) = [row for row in table.rows if row.label == label]
    results = [{"test": {METRIC: value}} for value in values]
    n = len(values) if wanted is None else wanted
    return RowRuns(row, n, results, [f"runs/{label}-{i}" for i in range(len(values))], **facts)


def joined(**ours: tuple[float, ...]) -> Reproduction:
    table = paper()
    return join(table, "toy", [runs(table, label, *ours.get(label, ()), wanted=2) for label in PUBLISHED])


def test_mean_deviation_difference_and_verdict() -> None:
    line = joined(A=(0.52, 0.50)).lines[0]
    cell = line.cells[METRIC]
    assert (line.state, line.n_runs, line.wanted) == ("finished", 2, 2)
    assert cell.ours == pytest.approx(0.51)
    assert cell.std == pytest.approx(0.0141421356)
    assert cell.difference == pytest.approx(2.0)
    assert cell.verdict == "within"
    assert line.options == {"n_layers": 1, "reg_weight": 0.1}
    assert line.source == "appendix A"
    assert line.folders == ("runs/A-0", "runs/A-1")


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [(0.103, "within"), (0.097, "within"), (0.1031, "above"), (0.0969, "below"), (None, "")],
)
def test_the_tolerance_is_relative_and_its_ends_belong_to_it(ours: float | None, verdict: str) -> None:
    assert verdict_of(0.1, ours, 3.0)[1] == verdict


def test_no_published_number_no_verdict() -> None:
    assert verdict_of(None, 0.5, 3.0) == (None, "")
    assert verdict_of(0.0, 0.5, 3.0) == (None, "")


def test_states() -> None:
    table = paper()
    states: dict[str, State] = {
        "finished": "finished",
        "partial": "partial",
        "missing": "missing",
        "failed": "failed",
    }
    rows = {
        "finished": runs(table, "A", 0.5, 0.5),
        "partial": runs(table, "A", 0.5, wanted=2, failures=["seed 3: no"]),
        "missing": runs(table, "A", wanted=2),
        "failed": runs(table, "A", wanted=2, failures=["seed 3: no", "seed 4: no"]),
    }
    assert {name: row.state for name, row in rows.items()} == states
    assert RowRuns(table.rows[0], why=("skipped", "a reason")).state == "skipped"


def test_the_order_of_rows_is_compared_pair_by_pair() -> None:
    same = joined(A=(0.6,), B=(0.5,), C=(0.1,), D=(0.2,))
    assert same.exchanged[METRIC] == ()  # C and D are equal in the paper
    other = joined(A=(0.45,), B=(0.5,), C=(0.1,))
    assert other.exchanged[METRIC] == (("A", "B"),)
    assert joined(A=(0.45,)).exchanged[METRIC] is None


def test_a_smaller_value_is_better_for_some_metrics() -> None:
    table = paper(metrics=("rmse",), metric="rmse", claims=())
    rows = []
    for row, ours in zip(table.rows, (0.5, 0.4, 0.3, 0.2), strict=True):
        stated = PaperRow(row.label, row.model, published={"toy": {"rmse": PUBLISHED[row.label]}})
        rows.append(RowRuns(stated, 1, [{"test": {"rmse": ours}}]))
    found = join(table, "toy", rows)
    assert found.exchanged["rmse"] == ()
    assert found.gain == pytest.approx(-100 * (0.5 / 0.2 - 1))  # the worst of four
    assert found.published_gain == pytest.approx(-100 * (0.5 / 0.3 - 1))
    assert _places(found.lines, "rmse") == {"A": "4 → 4", "B": "3 → 3", "C": "1 → 2", "D": "1 → 1"}


def test_rows_of_different_panels_have_no_order() -> None:
    table = paper(panel="K")
    lines = join(table, "toy", [runs(table, "A", 0.1), runs(table, "B", 0.2)]).lines
    assert exchanged_pairs(lines, METRIC) == (("A", "B"),)
    moved = [lines[0], *join(paper(panel="L"), "toy", [runs(paper(panel="L"), "B", 0.2)]).lines]
    assert exchanged_pairs(moved, METRIC) is None


@pytest.mark.parametrize(
    ("ours", "holds"),
    [
        ({"A": (0.6,), "B": (0.5,), "C": (0.1,), "D": (0.2,)}, True),
        ({"A": (0.6,), "B": (0.6,), "C": (0.1,), "D": (0.2,)}, False),  # equal is not better
        ({"A": (0.6,), "B": (0.7,)}, False),  # one better row is enough against it
        ({"A": (0.6,), "B": (0.5,)}, None),
        ({"B": (0.5,)}, None),
    ],
)
def test_a_statement_holds_or_not_or_is_not_decided(
    ours: dict[str, tuple[float, ...]], holds: bool | None
) -> None:
    ((_, found),) = joined(**ours).claims
    assert found.holds is holds


def test_skipped_rows_do_not_keep_a_statement_open() -> None:
    table = paper()
    rows = [runs(table, "A", 0.6), runs(table, "B", 0.5)]
    rows += [RowRuns(row, why=("skipped", "a reason")) for row in table.rows[2:]]
    assert join(table, "toy", rows).claims[0][1].holds is True
    rows[3] = RowRuns(table.rows[3], why=("not asked", ""))
    assert join(table, "toy", rows).claims[0][1].holds is None


Test = tuple[float, float]
"""p, and the effect of the first row against another row."""


def compared(first: str, **others: Test) -> Comparison:
    rows = [
        Row(label, tests={METRIC: RowTest(PairedResult(9, 0.0, 0.0, 0.0, effect, p), p)})
        for label, (p, effect) in others.items()
    ]
    return Comparison("", "toy", (Row(first), *rows), (METRIC,), METRIC, TableParams(), {})


@pytest.mark.parametrize(
    ("means", "tests", "here"),
    [
        ((0.5, 0.4, 0.3), {"B": (0.01, 0.3), "C": (0.049, 0.2)}, "holds | 0.0490"),
        (
            (0.5, 0.4, 0.3),
            {"B": (0.05, 0.3), "C": (0.01, 0.2)},
            "order holds, not significant against B | 0.0500",
        ),
        (
            (0.5, 0.4, 0.3),
            {"B": (0.01, -0.3), "C": (0.01, 0.2)},
            "order holds, not significant against B | 0.0100",
        ),
        ((0.5, 0.4, 0.3), {"B": (0.01, 0.3)}, "order holds, not tested against C | 0.0100"),
        ((0.5, 0.6, 0.3), {"B": (0.01, -0.3), "C": (0.9, 0.0)}, "does not hold | 0.0100"),
        (
            (0.5, 0.6, 0.3),
            {"B": (0.3, -0.3), "C": (0.01, 0.2)},
            "order does not hold, not significant | 0.3000",
        ),
        # One row that a test shows to be better is enough.
        ((0.5, 0.6, 0.7), {"B": (0.3, -0.3), "C": (0.01, -0.3)}, "does not hold | 0.3000"),
        ((0.5, 0.4, 0.3), {}, "order holds, not tested"),
    ],
)
def test_a_statement_claims_no_more_than_its_tests_show(
    means: tuple[float, ...], tests: dict[str, Test], here: str
) -> None:
    """A test shows an order if p < .05 and its effect has the direction of the means."""
    table = paper(
        published=dict.fromkeys("ABC", 0.4), claims=(Claim("A", "A", ("B", "C"), METRIC, ("toy",)),)
    )
    rows = [runs(table, label, mean) for label, mean in zip("ABC", means, strict=True)]
    assert here_of(join(table, "toy", rows, compared("A", **tests))) == [here]


def test_a_statement_about_another_row_has_tests_of_its_own() -> None:
    """The tests of the table are of its first row."""
    claims = tuple(Claim("B", "B", (label,), METRIC, ("toy",)) for label in ("A", "C"))
    table = paper(published=dict.fromkeys("ABC", 0.4), claims=claims)
    rows = [runs(table, label, mean) for label, mean in zip("ABC", (0.5, 0.4, 0.3), strict=True)]
    of_table = compared("A", B=(0.01, 0.3), C=(0.01, 0.3))
    untested = ["order does not hold, not tested", "order holds, not tested"]
    assert here_of(join(table, "toy", rows, of_table)) == untested
    of_claim = {claims[1]: compared("B", C=(0.02, 0.3))}
    found = join(table, "toy", rows, of_table, claim_tests=of_claim)
    assert here_of(found) == [f"{untested[0]} | ", "holds | 0.0200"]
    assert [one.p for _, one in found.claims] == [{}, {"C": 0.02}]


def here_of(found: Reproduction) -> list[str]:
    page = as_markdown(sections_of(found)).partition("## Statements of the paper")[2].partition("##")[0]
    return [line.split(" | ", 2)[2].removesuffix("|")[:-1] for line in page.strip().splitlines()[2:]]


def test_a_row_without_hits_leaves_the_lead_of_the_paper_out_of_the_page() -> None:
    """The lead over 0 has no number."""
    page = texts(joined(A=(0.6, 0.6), B=(0.0, 0.0)))[0]
    assert "None" not in page
    assert "Lead of A over the best other row that has runs" not in page


def test_text_is_not_markdown() -> None:
    table = paper(title="a <b> | c", remarks=("<class 'x'> and `y`",))
    page = texts(join(table, "toy", [runs(table, label, 0.1) for label in PUBLISHED]))[0]
    assert page.startswith("# Table 7: a \\<b> \\| c, on toy")
    assert "\n\\<class 'x'> and \\`y\\`\n" in page


def test_the_lead_is_over_the_best_other_row() -> None:
    assert joined(A=(0.6,), B=(0.5,), C=(0.55,)).gain == pytest.approx(100 * (0.6 / 0.55 - 1))
    assert joined(B=(0.5,), C=(0.55,)).gain is None


def test_the_lead_in_the_paper_is_over_the_same_rows() -> None:
    """A row without runs, the best baseline of the paper among them, does not count."""
    found = joined(A=(0.6,), C=(0.1,), D=(0.2,))
    assert found.published_gain == pytest.approx(100 * (0.5 / 0.3 - 1))
    page = texts(found)[0]
    assert "Lead of A over the best other row that has runs: +66.67 % in the paper, +200.00 % here." in page
    assert "Lead of A over the best other row of all rows in the paper: +25.00 %." in page


def test_a_statement_about_some_rows_says_so() -> None:
    table = paper()
    rows = [runs(table, "A", 0.6), runs(table, "B", 0.5)]
    rows += [RowRuns(row, why=("skipped", "a reason")) for row in table.rows[2:]]
    assert "| order holds for 1 of 3 rows, not tested |" in texts(join(table, "toy", rows))[0]


def texts(found: Reproduction) -> tuple[str, str, str]:
    sections = sections_of(found)
    return as_markdown(sections, found), as_latex(sections, found), as_json(found)


def test_a_partial_table_says_what_is_missing() -> None:
    table = paper()
    rows = [
        runs(table, "A", 0.51, 0.53),
        runs(table, "B", 0.2, wanted=2),
        RowRuns(table.rows[2], why=("skipped", "it reads features")),
        runs(table, "D", wanted=2, failures=["seed 3: out of memory"]),
    ]
    found = join(table, "toy", rows, changed={"epochs": "3"}, file_values={"learning_rate": 0.01})
    page, tex, content = texts(found)
    title = "Table 7: A and the others, on toy (drawn at random)"
    assert page.startswith(f"# {title}\n")
    assert "Data: drawn at random." in page
    assert "Partial: 3 of 6 runs are finished. Missing runs: B (1 of 2), D (2 of 2)." in page
    assert "Recall@5 of 0 of 2 rows with both numbers is within 3 % of the paper." in page
    assert "C: skipped: it reads features." in page
    assert "D: failed: seed 3: out of memory." in page
    assert "Options of the command line, for every run: epochs=3." in page
    files = "Values of configuration files, for every row that does not state them: learning_rate=0.01."
    assert files in page
    assert "| A | 0.5000 | 0.5200 ± 0.0141 | 2 | +4.0 % | above by more than 3 % | 1 → 1 |" in page
    assert "| B | 0.4000 | 0.2000 | 1 of 2 | -50.0 % | below by more than 3 %, preliminary | 2 → 2 |" in page
    assert "| C | 0.3000 |  |  |  | skipped |  |" in page
    assert "| D | 0.3000 |  | 0 of 2 |  | failed |  |" in page
    assert "Order of the rows: as in the paper." in page
    assert "Lead of A over the best other row that has runs: +25.00 % in the paper, +160.00 % here." in page
    assert "| A is best | Recall@5 | not decided: a row is missing |" in page
    assert "| A | ModelA | n_layers=1, reg_weight=0.1 | appendix A |" in page
    assert "A remark." in page
    assert r"\caption{" + title in tex
    assert r"0.5200 $\pm$ 0.0141" in tex
    assert r"1 $\rightarrow$ 1" in tex
    assert '"missing": [\n    "B",\n    "D"\n  ]' in content
    assert '"complete": false' in content
    assert '"note": "drawn at random"' in content


def test_a_complete_table_says_so_and_original_features_need_no_note() -> None:
    table = paper()
    rows = [runs(table, label, 0.45 if label == "A" else value) for label, value in PUBLISHED.items()]
    rows[1] = runs(table, "B", 0.48)
    page, _, content = texts(join(table, "toy", rows, original_features=True))
    assert page.startswith("# Table 7: A and the others, on toy\n")
    assert "drawn at random" not in page + content
    assert "Complete: 4 of 4 runs are finished." in page
    assert "Recall@5 of 2 of 4 rows with both numbers is within 3 % of the paper." in page
    assert "Order of the rows: not as in the paper: B is better than A here." in page
    assert "| A is best | Recall@5 | order does not hold, not tested |" in page
    assert '"exchanged": [\n        [\n          "A",\n          "B"\n        ]\n      ]' in content


def test_a_row_without_published_number_has_no_verdict() -> None:
    table = paper(published={"A": None, "B": 0.4})
    page = texts(join(table, "toy", [runs(table, "A", 0.5), runs(table, "B", 0.4)]))[0]
    assert "| A |  | 0.5000 | 1 |  | not published |" in page
    assert "Order of the rows" not in page


def test_a_table_without_published_numbers_has_no_columns_for_them() -> None:
    table = paper(published={"A": None, "B": None})
    page = texts(join(table, "toy", [runs(table, "A", 0.5), runs(table, "B", 0.4)]))[0]
    assert "| Row | Ours | Runs |" in page
    assert "| A | 0.5000 | 1 |" in page
    assert "ublished" not in page.partition("## Settings")[0]
    page = texts(join(table, "toy", [runs(table, "A", 0.5), runs(table, "B", wanted=1)]))[0]
    assert "| B |  | 0 of 1 | missing |" in page
