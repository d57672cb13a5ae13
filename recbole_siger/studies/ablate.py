"""A model against its own variants.

The variants are the values of the model's option ``ablation``, and each single modality of the dataset if the
model uses item features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from recbole_siger.config import Config, params_from_config
from recbole_siger.errors import UserError
from recbole_siger.model.abstract_recommender import MultimodalRecommender
from recbole_siger.options.params import options
from recbole_siger.registry import short_name
from recbole_siger.report.comparison import TableParams, check_sample_size, compare_entries
from recbole_siger.report.tables import FORMATS, expand_names
from recbole_siger.studies.compare import Study, finish_tables

__all__ = ["ablate_model", "variants"]


def ablate_model(model: str, study: Study, params: TableParams, *, out: Sequence[str] = ()) -> int:
    """Print a table of component variants and a table of modality variants, and write them to files.

    The complete model is the first row and is tested against each variant.

    Returns:
        1 if a run failed, else 0.

    Raises:
        UserError: If the model has no variants, and for bad input.
    """
    paths = expand_names(out, list(FORMATS))
    tables = variants(model, study)
    if params.over == "seeds":
        check_sample_size(len(study.seed_list(model)), params, max(map(len, tables.values())) - 1)
    wanted = [
        (label, study.specs(model, values, label))
        for rows in tables.values()
        for label, values in rows.items()
    ]
    entries = iter(study.finish(wanted, params))
    finished = [
        compare_entries(title, [next(entries) for _ in rows], params, improvement=False)
        for title, rows in tables.items()
    ]
    return finish_tables(finished, paths)


def variants(model: str, study: Study) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the tables of a model's variants, ``{title: {label: options}}``; the complete model is first.

    Raises:
        UserError: If the model has no variants.
    """
    config = Config(model, study.dataset, study.files, command_line=dict(study.options))
    declared = config.model_class
    label = short_name(model)
    whole = {label: dict[str, Any]()}
    tables = {}
    own = options(declared.params_class) if hasattr(declared, "params_class") else []
    for option in own:
        if option.name == "ablation":
            values = get_args(option.type)
            if config["ablation"] != values[0]:
                raise UserError(f"--ablation={config['ablation']}: leave it out; every value is run")
            rows = {f"ablation={value}": {"ablation": value} for value in values[1:]}
            tables[f"Components of {label} on {study.dataset}"] = whole | rows
    if issubclass(declared, MultimodalRecommender) and declared.needs_features(
        params_from_config(declared.params_class, config)
    ):
        names = list(config["modalities"] or config["features"] or ())
        if len(names) > 1:
            rows = {f"{name} only": {"modalities": [name]} for name in names}
            tables[f"Modalities of {label} on {study.dataset}"] = whole | rows
    if not tables:
        raise UserError(
            f"{model} on {study.dataset} has no variants: no option `ablation`, and no two modalities in use"
        )
    return tables
