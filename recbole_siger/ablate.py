"""A model against its own variants, and one option over several values.

Which variants a model has is read from what it declares: the values of its option ``ablation``, and the
modalities of the dataset if it uses item features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from recbole_siger.compare import Study, finish_tables
from recbole_siger.comparison import Comparison, TableParams, check_sample_size, compare_entries
from recbole_siger.config import Config, parse_value
from recbole_siger.errors import UserError
from recbole_siger.params import options
from recbole_siger.registry import get_model_class
from recbole_siger.report.figures import FIGURES, check_matplotlib, draw_sweep, save_figure
from recbole_siger.report.tables import FORMATS, expand_names

__all__ = ["ablate_model", "sweep_option", "variants"]


def ablate_model(model: str, study: Study, params: TableParams, *, out: Sequence[str] = ()) -> int:
    """Print a table of component variants and one of modality variants, and write them where asked.

    The whole model comes first and is tested against each variant.

    Returns:
        1 if a run failed, else 0.

    Raises:
        UserError: If the model has no variants, and for bad input.
    """
    paths = expand_names(out, list(FORMATS))
    tables = variants(model, study)
    if params.over == "seeds":
        check_sample_size(len(study.seed_list(model)), params)
    wanted = [
        (label, study.specs(model, values)) for rows in tables.values() for label, values in rows.items()
    ]
    entries = iter(study.finish(wanted))
    finished = [
        compare_entries(title, [next(entries) for _ in rows], params, improvement=False)
        for title, rows in tables.items()
    ]
    return finish_tables(finished, paths)


def variants(model: str, study: Study) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the tables of a model's variants, ``{title: {label: options}}``; the whole model is first.

    Raises:
        UserError: If it has none.
    """
    from recbole_siger.model.abstract_recommender import MultimodalRecommender

    config = Config(model, study.dataset, study.files, command_line=dict(study.options))
    declared = get_model_class(model)
    whole = {model: dict[str, Any]()}
    tables = {}
    own = options(declared.params_class) if hasattr(declared, "params_class") else []
    for option in own:
        if option.name == "ablation":
            values = get_args(option.type)
            if config["ablation"] != values[0]:
                raise UserError(f"--ablation={config['ablation']}: leave it out; every value is run")
            rows = {f"ablation={value}": {"ablation": value} for value in values[1:]}
            tables[f"Components of {model} on {study.dataset}"] = whole | rows
    if issubclass(declared, MultimodalRecommender):
        names = list(config["modalities"] or config["features"] or ())
        if len(names) > 1:
            rows = {f"{name} only": {"modalities": [name]} for name in names}
            tables[f"Modalities of {model} on {study.dataset}"] = whole | rows
    if not tables:
        raise UserError(
            f"{model} on {study.dataset} has no variants: no option `ablation`, and no two modalities in use"
        )
    return tables


def sweep_option(
    model: str, key: str, values: str, study: Study, params: TableParams, *, out: Sequence[str] = ()
) -> int:
    """Run a model with each value of one option; print the table, write it and draw the figure where asked.

    Args:
        model: Model name.
        key: The option.
        values: Its values, separated by commas.
        study: Dataset, seeds and other options.
        params: How the table is made; nothing is tested. Without ``columns`` the picture shows the metrics at
            the cut-off that selects epochs.
        out: File names; a table or a figure by its suffix.

    Returns:
        1 if a run failed, else 0.

    Raises:
        UserError: For bad input.
    """
    paths = expand_names(out, [*FORMATS, *FIGURES])
    listed = parse_value(f"[{values}]")
    if not isinstance(listed, list) or not listed or len({str(value) for value in listed}) != len(listed):
        raise UserError(f"--values={values}: write different values, separated by commas")
    if key in ("model", "dataset", "seed"):
        raise UserError(f"--key={key}: not an option to sweep; use `recbole-siger compare` or --seeds")
    if key in study.options:
        raise UserError(f"--{key}={study.options[key]}: --values sets this option; leave it out")
    pictures = [path for path in paths if path.suffix.removeprefix(".") in FIGURES]
    if pictures:
        check_matplotlib()
    entries = study.finish([(f"{key}={value}", study.specs(model, {key: value})) for value in listed])
    title = f"{model} on {study.dataset}: {key}"
    table = compare_entries(title, entries, replace(params, stat=None), improvement=False)
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
    for path in paths:
        save_figure(draw_sweep(key, [value for value, _ in kept], curves), path)
