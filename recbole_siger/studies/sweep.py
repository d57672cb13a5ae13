"""One option of a model over several values: a table and a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from recbole_siger.errors import UserError
from recbole_siger.options.keys import NO_EFFECT
from recbole_siger.options.yaml_values import parse_value
from recbole_siger.registry import short_name
from recbole_siger.report.comparison import Comparison, TableParams, compare_entries
from recbole_siger.report.figures import FIGURES, check_matplotlib, draw_sweep, save_figure
from recbole_siger.report.tables import FORMATS, expand_names
from recbole_siger.studies.compare import Study, finish_tables

__all__ = ["sweep_option"]


def sweep_option(
    model: str, key: str, values: str, study: Study, params: TableParams, *, out: Sequence[str] = ()
) -> int:
    """Run a model with each value of one option; print the table, and write table and figure to files.

    Args:
        model: Model name.
        key: Name of the option.
        values: Values of the option, separated by commas.
        study: Dataset, seeds and other options.
        params: How the table is made; nothing is tested. Without ``columns`` the figure shows the metrics at
            the cut-off that selects epochs.
        out: File names; the suffix decides between table and figure.

    Returns:
        1 if a run failed, else 0.

    Raises:
        UserError: For bad input.
    """
    paths = expand_names(out, [*FORMATS, *FIGURES])
    listed = parse_value(f"[{values}]", "--values")
    if not isinstance(listed, list) or not listed or len({str(value) for value in listed}) != len(listed):
        raise UserError(f"--values={values}: write different values, separated by commas")
    if key in ("model", "dataset", "seed"):
        raise UserError(f"--key={key}: not an option to sweep; use `recbole-siger compare` or --seeds")
    if key in NO_EFFECT:
        raise UserError(f"--key={key}: the key changes no result; set it once, as --{key}=value")
    if key in study.options:
        raise UserError(f"--{key}={study.options[key]}: --values sets this option; leave it out")
    pictures = [path for path in paths if path.suffix.removeprefix(".") in FIGURES]
    if pictures:
        check_matplotlib()
    wanted = {f"{key}={value}": {key: value} for value in listed}
    specs = [(label, study.specs(model, own, label)) for label, own in wanted.items()]
    entries = study.finish(specs, params)
    title = f"{short_name(model)} on {study.dataset}: {key}"
    table = compare_entries(title, entries, replace(params, stat="none"), improvement=False)
    if pictures:
        _draw(table, key, listed, pictures)
    return finish_tables([table], [path for path in paths if path not in pictures])


def _draw(table: Comparison, key: str, values: Sequence[Any], paths: Sequence[Any]) -> None:
    kept = [(value, row) for value, row in zip(values, table.rows, strict=True) if not row.failure]
    if not kept:
        return
    cut_off = table.selection.partition("@")[2]
    shown = [name for name in table.columns if table.params.columns or name.partition("@")[2] == cut_off]
    curves: Mapping[str, Any] = {
        column: ([row.mean[column] for _, row in kept], [row.std[column] for _, row in kept])
        for column in shown
    }
    place = table.title.partition(": ")[0]  # model and dataset
    for path in paths:
        save_figure(draw_sweep(key, [value for value, _ in kept], curves, place), path)
