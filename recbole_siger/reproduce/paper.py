"""Tables and figures of papers, read from ``properties/reproduce/*.yaml`` or from a file of the user.

A file lists the rows of a table: a model with options, the settings of each dataset, and published numbers.
Every error is one line with the file, the key, the value and the fix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_siger.errors import UserError
from recbole_siger.options.names import check_dataset_name
from recbole_siger.options.params import did_you_mean
from recbole_siger.options.resources import find_resource, regular_file
from recbole_siger.options.yaml_values import read_yaml
from recbole_siger.reproduce.entries import Entries

__all__ = [
    "BETWEEN",
    "Claim",
    "MapSpec",
    "OnDataset",
    "PaperRow",
    "PaperTable",
    "Setting",
    "read_paper",
    "table_names",
]


@dataclass(frozen=True)
class Setting:
    """Options of a row on one dataset, and where the options come from."""

    options: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""


@dataclass(frozen=True)
class PaperRow:
    """One row of a table, or one point of a figure.

    Attributes:
        label: Name of the row in the paper.
        model: Model name.
        options: Options of the row on every dataset.
        seeds: Number of seeds; None for the number of the table.
        source: Where options and numbers come from, for all datasets.
        settings: ``{dataset: setting}``.
        published: ``{dataset: {metric: value}}``.
        skip: ``{dataset: reason}`` for datasets on which the row is not run.
        panel: Name of the panel of a figure; empty in a table.
        value: Value on the axis of the panel; None in a table.
    """

    label: str
    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    seeds: int | None = None
    source: str = ""
    settings: Mapping[str, Setting] = field(default_factory=dict)
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    skip: Mapping[str, str] = field(default_factory=dict)
    panel: str = ""
    value: Any = None


@dataclass(frozen=True)
class Claim:
    """A statement of the paper: one row is better than others on a metric.

    Attributes:
        text: The statement.
        better: Label of the better row.
        than: Labels of the other rows.
        metric: Metric on which the rows are compared.
        datasets: Datasets of the statement.
    """

    text: str
    better: str
    than: tuple[str, ...]
    metric: str
    datasets: tuple[str, ...]


@dataclass(frozen=True)
class OnDataset:
    """What a file states about one dataset.

    Attributes:
        note: Nature of the data that are at hand, printed with the table.
        gain: Published lead of the first row over the best other row on the main metric, in percent.
    """

    note: str = ""
    gain: float | None = None


@dataclass(frozen=True)
class MapSpec:
    """A picture of item embeddings by category, drawn from finished runs.

    Attributes:
        rows: Labels of rows, one panel each.
        columns: ``{dataset: column of the item table with the categories}``.
        separator: What separates several categories of an item; the first counts. Empty: the whole text.
    """

    rows: tuple[str, ...]
    columns: Mapping[str, str]
    separator: str


@dataclass(frozen=True)
class PaperTable:
    """A table or figure of a paper.

    Attributes:
        name: Name of the file.
        file: The file, for errors.
        shipped: Whether the file belongs to this package.
        title: What the table shows.
        paper: Title and address of the paper.
        place: Table or figure in the paper.
        kind: ``runs``, or ``overlap`` for a figure of the item graphs, which needs no run.
        metrics: Metrics of the table, as in ``results.json``.
        metric: The metric of the verdict and of the tests.
        tolerance: Largest difference, in percent, that counts as reproduced.
        seeds: Number of seeds of a row.
        options: Options of every run.
        datasets: ``{dataset: facts}``.
        rows: The first row is tested against the others.
        claims: Statements of the paper.
        remarks: Notes that are printed with the table.
        item_map: The picture of item embeddings; None for a table without such a picture.
    """

    name: str
    file: str
    shipped: bool
    title: str
    paper: str
    place: str
    kind: str
    metrics: tuple[str, ...]
    metric: str
    tolerance: float
    seeds: int
    options: Mapping[str, Any]
    datasets: Mapping[str, OnDataset]
    rows: tuple[PaperRow, ...]
    claims: tuple[Claim, ...]
    remarks: tuple[str, ...]
    item_map: MapSpec | None = None


def table_names() -> list[str]:
    """Return the names of the tables that this package brings, sorted."""
    folder = find_resource("properties/reproduce")
    return sorted(path.stem for path in folder.glob("*.yaml")) if folder else []


def read_paper(name: str) -> PaperTable:
    """Read a table by its name, or from a file of the user.

    Args:
        name: A name of :func:`table_names`, or the path of a YAML file.

    Raises:
        UserError: If there is no such table, or the file is malformed.
    """
    if not name.endswith((".yaml", ".yml")):
        if name not in table_names():
            hint = did_you_mean(name, table_names()) or f"; there are {', '.join(table_names())}"
            raise UserError(f"command line: reproduce {name}: no such table{hint}; or name a .yaml file")
        path = find_resource(f"properties/reproduce/{name}.yaml")
        assert path is not None
        return _read(path, f"properties/reproduce/{name}.yaml", shipped=True)
    regular_file(Path(name), "file of a table", "name a .yaml file, or one of " + ", ".join(table_names()))
    return _read(Path(name), name, shipped=False)


_KEYS = (
    *("title", "paper", "place", "kind", "metrics", "metric", "tolerance", "seeds", "protocol", "options"),
    *("datasets", "rows", "sweeps", "claims", "remarks", "map"),
)
_KINDS = ("runs", "overlap")


def _read(path: Path, label: str, *, shipped: bool) -> PaperTable:
    top = Entries(label, "", read_yaml(path), _KEYS)
    kind = top.choice("kind", _KINDS, "runs")
    metrics = tuple(name.lower() for name in top.texts("metrics", needed=kind == "runs"))
    if len(set(metrics)) != len(metrics):
        top.fail("metrics", "name each metric once")
    metric = top.text("metric", metrics[0] if metrics else "-").lower()
    if metrics and metric not in metrics:
        top.fail("metric", f"name one of {', '.join(metrics)}")
    datasets = _read_datasets(top)
    options = top.options("options")
    if protocol := top.text("protocol", ""):
        options = {"protocol": protocol, **options}
    rows = [_read_row(entry, metrics, datasets) for entry in top.list_of("rows", _ROW_KEYS)]
    for entry in top.list_of("sweeps", _SWEEP_KEYS):
        rows += _read_sweep(entry, metrics, datasets)
    if not rows and kind == "runs":
        top.fail("rows", "write at least one row, or a sweep")
    labels = [row.label for row in rows]
    if cut := next((one for one in labels if "," in one), None):
        raise UserError(f"{label}: rows: label={cut!r}: --models=A,B separates rows by commas; leave it out")
    if twice := next((one for one in labels if labels.count(one) > 1), None):
        raise UserError(f"{label}: rows: label={twice!r}: two rows have this label; change one of them")
    return PaperTable(
        name=path.stem,
        file=label,
        shipped=shipped,
        title=top.text("title"),
        paper=top.text("paper"),
        place=top.text("place"),
        kind=kind,
        metrics=metrics,
        metric=metric,
        tolerance=top.number("tolerance", 3.0),
        seeds=top.whole("seeds", 1),
        options=options,
        datasets=datasets,
        rows=tuple(rows),
        claims=tuple(_read_claim(entry, rows, metrics, metric, datasets) for entry in _claims_of(top)),
        remarks=tuple(top.texts("remarks")),
        item_map=_read_map(top, labels, datasets),
    )


def _read_map(top: Entries, labels: Sequence[str], datasets: Mapping[str, OnDataset]) -> MapSpec | None:
    if top.values.get("map") is None:
        return None
    entry = Entries(top.file, "map.", top.values["map"], ("rows", "columns", "separator"))
    columns, separator = entry.named("columns", datasets), entry.values.get("separator", "")
    if not isinstance(separator, str):  # a blank is a separator
        entry.fail("separator", 'write text, such as " "')
    return MapSpec(
        rows=tuple(entry.one_of("rows", name, labels) for name in entry.texts("rows", needed=True)),
        columns={name: entry.as_text(f"columns.{name}", value) for name, value in columns.items()},
        separator=separator,
    )


def _read_datasets(top: Entries) -> dict[str, OnDataset]:
    found = {}
    for name, entry in top.mapping_of("datasets", ("note", "gain")).items():
        check_dataset_name(name, f"{top.file}: datasets")
        gain = None if entry.values.get("gain") is None else entry.number("gain", 0.0)
        found[name] = OnDataset(entry.text("note", ""), gain)
    if not found:
        top.fail("datasets", "write a mapping such as {baby: {}}")
    return found


BETWEEN = " x "
"""Between two values of a row of a sweep, in its label and its value."""

_ROW_KEYS = ("label", "model", "options", "seeds", "source", "settings", "published", "skip")


def _read_row(entry: Entries, metrics: Sequence[str], datasets: Mapping[str, OnDataset]) -> PaperRow:
    model = entry.text("model")
    settings = {
        name: Setting(one.options("options"), one.text("source", ""))
        for name, one in entry.mapping_of("settings", ("options", "source"), known=datasets).items()
    }
    published = {
        name: entry.numbers(f"published.{name}", value, metrics)
        for name, value in entry.named("published", datasets).items()
    }
    skip = {
        name: entry.as_text(f"skip.{name}", value) for name, value in entry.named("skip", datasets).items()
    }
    return PaperRow(
        label=entry.text("label", model),
        model=model,
        options=entry.options("options"),
        seeds=None if entry.values.get("seeds") is None else entry.whole("seeds", 1),
        source=entry.text("source", ""),
        settings=settings,
        published=published,
        skip=skip,
    )


_SWEEP_KEYS = ("panel", "model", "key", "axis", "values", "options", "source", "published", "skip", "seeds")


def _read_sweep(entry: Entries, metrics: Sequence[str], datasets: Mapping[str, OnDataset]) -> list[PaperRow]:
    """Return a row for each value of an option; ``key`` may list several options that share the values."""
    model = entry.text("model")
    keys = entry.texts("key", needed=True)
    values = entry.values.get("values")
    if not isinstance(values, list) or not values or len({str(value) for value in values}) != len(values):
        entry.fail("values", "write a list of different values, such as [2, 3, 5]")
    assert isinstance(values, list)
    axis = entry.text("axis", keys[0])
    panel = entry.text("panel", axis)
    skip = {
        name: entry.as_text(f"skip.{name}", value) for name, value in entry.named("skip", datasets).items()
    }
    seeds = None if entry.values.get("seeds") is None else entry.whole("seeds", 1)
    curves = _read_curves(entry, metrics, datasets, len(values))
    rows = []
    for place, value in enumerate(values):
        parts = value if isinstance(value, list) and len(keys) > 1 else [value] * len(keys)
        if len(parts) != len(keys):
            entry.fail("values", f"write {len(keys)} numbers for the keys {', '.join(keys)}")
        options = {**entry.options("options"), **dict(zip(keys, parts, strict=True))}
        published = {
            name: {metric: points[place] for metric, points in curve.items() if points[place] is not None}
            for name, curve in curves.items()
        }
        shown = BETWEEN.join(map(str, parts)) if isinstance(value, list) else str(value)
        label, source = f"{axis} = {shown}", entry.text("source", "")
        rows.append(PaperRow(label, model, options, seeds, source, {}, published, skip, panel, shown))
    return rows


def _read_curves(
    entry: Entries, metrics: Sequence[str], datasets: Mapping[str, OnDataset], n: int
) -> dict[str, dict[str, list[Any]]]:
    """Return ``{dataset: {metric: values}}``; a value that the paper does not state is None."""
    curves: dict[str, dict[str, list[Any]]] = {}
    for name, value in entry.named("published", datasets).items():
        inner = Entries(entry.file, f"{entry.place}published.{name}.", value, metrics)
        curves[name] = {}
        for metric, points in inner.values.items():
            if not isinstance(points, list) or len(points) != n:
                inner.fail(metric, f"write a list of {n} numbers, ~ for a number that is not published")
            curves[name][metric] = [
                None if point is None else inner.as_number(metric, point) for point in points
            ]
    return curves


def _claims_of(top: Entries) -> list[Entries]:
    return top.list_of("claims", ("text", "better", "than", "metric", "datasets"))


def _read_claim(
    entry: Entries,
    rows: Sequence[PaperRow],
    metrics: Sequence[str],
    metric: str,
    datasets: Mapping[str, OnDataset],
) -> Claim:
    labels = [row.label for row in rows]
    better = entry.one_of("better", entry.text("better"), labels)
    others = [label for label in labels if label != better]
    than = [entry.one_of("than", name, others) for name in entry.texts("than")] or others
    on = [entry.one_of("datasets", name, list(datasets)) for name in entry.texts("datasets")] or [*datasets]
    compared = entry.one_of("metric", entry.text("metric", metric).lower(), metrics)
    return Claim(entry.text("text"), better, tuple(than), compared, tuple(on))
