"""Analysis of a run's test ranking beyond the means: users, catalogue, and slices."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_siger.data.features import has_feature, load_features
from recbole_siger.errors import UserError
from recbole_siger.evaluation.groups import by_activity, by_coverage, by_popularity, slice_items, slice_users
from recbole_siger.evaluation.metrics import (
    USER_METRICS,
    Mask,
    Ranking,
    beyond_accuracy,
    chance,
    user_metrics,
)
from recbole_siger.evaluation.ranking import Ids

__all__ = ["analyse", "chance_of", "users_table"]

_log = logging.getLogger(__name__)


def train_counts(train: Any) -> tuple[Ids, Ids]:
    """Count the training rows of each user ``(n_users,)`` and each item ``(n_items,)``, padding included."""
    users, items = (train.inter_feat[field].numpy() for field in (train.uid_field, train.iid_field))
    return np.bincount(users, minlength=train.user_num), np.bincount(items, minlength=train.item_num)


def users_table(ranking: Ranking, topk: list[int], train: Any) -> pd.DataFrame:
    """Tabulate the metrics of each evaluated user, by internal id.

    Args:
        ranking: The test ranking.
        topk: Cut-offs.
        train: The training split, a RecBole dataset.

    Returns:
        Columns ``user_id`` (raw token), ``n_train`` (training rows), and every metric of
        :data:`~recbole_siger.evaluation.metrics.USER_METRICS` at every cut-off.
    """
    user_counts, _ = train_counts(train)
    tokens = train.field2id_token[train.uid_field]
    columns = {"user_id": tokens[ranking.users], "n_train": user_counts[ranking.users]}
    return pd.DataFrame({**columns, **user_metrics(ranking, topk)})


def analyse(ranking: Ranking, config: Any, train: Any, dataset: Any) -> dict[str, Any]:
    """Compute the values of ``test_beyond`` and ``slices`` in ``results.json``.

    Slices are by item popularity, user activity and modality coverage, see
    :mod:`recbole_siger.evaluation.groups`. Coverage requires the features of the dataset.
    """
    user_counts, item_counts = train_counts(train)
    topk = list(config["topk"])
    names = [name.lower() for name in config["metrics"] if name.lower() in USER_METRICS]
    slices = {
        "item_popularity": slice_items(ranking, by_popularity(item_counts), topk, names),
        "user_activity": slice_users(ranking, by_activity(user_counts, ranking.users), topk, names),
    }
    if has := _coverage(config, dataset):
        slices["modality_coverage"] = slice_items(ranking, by_coverage(has), topk, names)
    beyond = beyond_accuracy(
        ranking.items, topk, item_counts, max(int((user_counts > 0).sum()), 1), config["tail_ratio"] or 0.1
    )
    return {"test_beyond": beyond, "slices": slices}


def chance_of(ranking: Ranking, loader: Any, topk: list[int]) -> dict[str, float]:
    """Return the expected metrics of a random order, for the cold and the warm pairs, by metric."""
    parts = {"": ranking, **{f"[{name}]": part for name, part in loader.cold.split(ranking).items()}}
    return {
        f"{key}{name}": value
        for name, part in parts.items()
        for key, value in chance(loader.n_candidates(part.users), part.n_relevant, topk).items()
    }


def _coverage(config: Any, dataset: Any) -> dict[str, Mask]:
    """Return which items have a feature in each modality of the run; empty if the files are missing."""
    if not hasattr(dataset, "feature_files") or not config["features"]:
        return {}
    run = config.run
    try:
        files: dict[str, Path] = {name: dataset.feature_files()[name] for name in dataset.modalities()}
        if not all(file.is_file() for file in files.values()):
            return {}
        options = {"strict_ids": run.strict_ids, "assume_order": run.assume_order}
        found = {}
        for name, file in files.items():
            table = dataset.loaded_features(name)  # a model without features has loaded none
            if table is None:
                table = load_features(file, dataset.item_tokens, **options)
            found[name] = has_feature(table).numpy()
        return found
    except UserError as error:  # the model was trained, so a missing file is no reason to lose its results
        _log.warning("no slices by modality coverage: %s", error)
        return {}
