"""A loaded dataset on its way to other processes: read once, and its features never copied."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from recbole_siger.config import Config
from recbole_siger.data.dataset import MultimodalDataset

__all__ = ["SharedDataset"]


class SharedDataset:
    """A dataset without its configuration, features as arrays: what Ray puts into its object store.

    A process that takes it out maps the arrays; they are shared memory and may only be read.

    Args:
        dataset: Loaded, not yet split.
    """

    def __init__(self, dataset: MultimodalDataset) -> None:
        left_out = ("config", "_item_features", "_user_features")
        self._rest = {key: value for key, value in vars(dataset).items() if key not in left_out}
        self._features = [
            {name: table.numpy() for name, table in tables.items()}
            for tables in (dataset._item_features, dataset._user_features)
        ]

    def with_config(self, config: Config) -> MultimodalDataset:
        """Return the dataset for one run; splitting it leaves what is shared as it was."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            items, users = (
                {name: torch.from_numpy(table) for name, table in tables.items()} for tables in self._features
            )
        dataset: Any = MultimodalDataset.__new__(MultimodalDataset)  # nothing is loaded again
        dataset.__dict__.update(self._rest, config=config, _item_features=items, _user_features=users)
        return dataset
