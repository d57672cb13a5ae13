"""Histories of users, from training rows only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recbole.utils import init_seed

from recbole_siger.common.tables import open_table
from recbole_siger.config import Config
from recbole_siger.data.dataset import MultimodalDataset
from recbole_siger.data.loading import split_and_load
from recbole_siger.data.settings import interaction_columns
from recbole_siger.errors import UserError
from recbole_siger.options.yaml_values import read_yaml
from recbole_siger.training.experiment import ranks_all_items
from recbole_siger.training.settings import run_settings

__all__ = ["Split", "read_reviews"]

Pair = tuple[str, str]


class Split:
    """The split that a run with the same options trains on.

    Attributes:
        histories: User -> items of training rows in the order of rows; oldest first if rows have times.
        held_out: Pairs of the validation and test rows.
    """

    def __init__(
        self, dataset: str, data_path: str, files: Sequence[str] = (), seed: int | None = None
    ) -> None:
        values = {"data_path": data_path} | ({} if seed is None else {"seed": str(seed)})
        # All models that rank all items have the same split; the files may name a model for its keys.
        named = [read_yaml(Path(file)).get("model") for file in files]
        model = next((one for one in reversed(named) if one is not None), "LightGCN")
        config = Config(model, dataset, files, command_line=values)
        if not ranks_all_items(config):
            raise UserError(
                f"config_files: model={model}: its split is RecBole's own; name a general recommender"
            )
        _load_times(config)
        with run_settings(config):
            init_seed(config.run.seed, config["reproducibility"])
            whole = MultimodalDataset(config)
            train, valid, test = (loader._dataset for loader in split_and_load(config, whole))
        self.histories: dict[str, list[str]] = {}
        for user, item in _pairs(train, whole):
            self.histories.setdefault(user, []).append(item)
        self.held_out = {pair for part in (valid, test) for pair in _pairs(part, whole)}


def _load_times(config: Config) -> None:
    """Load the times of rows if the files have them, even if the dataset's YAML does not load them.

    Times are not loaded if RecBole removes repeated rows. RecBole would then sort by time first, and the
    split would differ from the run's split.
    """
    load, time = config["load_col"], config["TIME_FIELD"]
    if not load or "inter" not in load or time in load["inter"] or config["rm_dup_inter"] is not None:
        return
    if time in interaction_columns(config):
        config["load_col"] = {**load, "inter": [*load["inter"], time]}


def _pairs(part: MultimodalDataset, whole: MultimodalDataset) -> list[Pair]:
    """Return the raw tokens of a part's rows, sorted by time if rows have times."""
    rows = part.inter_feat
    users, items = rows[part.uid_field], rows[part.iid_field]
    if part.time_field in rows:
        order = rows[part.time_field].argsort(stable=True)
        users, items = users[order], items[order]
    names, tokens = whole.user_tokens, whole.item_tokens
    return [(names[u], tokens[i]) for u, i in zip(users.tolist(), items.tolist(), strict=True)]


def read_reviews(path: Path, column: str, split: Split) -> dict[Pair, str]:
    """Read the reviews of training rows; a held-out pair's review is never read, even if in training too.

    Args:
        path: Table with columns ``user_id``, ``item_id`` and ``column``.
        column: Column of the text.
        split: Which pairs are in training.

    Raises:
        UserError: If the table is unreadable, or has no review of a training row.
    """
    trained = {(user, item) for user, items in split.histories.items() for item in items} - split.held_out
    reviews = {}
    for user, row in open_table(path, "user_id", ("item_id", column), unique=False).all_rows():
        pair = (user, row["item_id"])
        if pair in trained and (text := " ".join(row[column].split())):
            reviews[pair] = text
    if not reviews:
        raise UserError(f"{path}: has no review of a training row; check its columns user_id and item_id.")
    return reviews
