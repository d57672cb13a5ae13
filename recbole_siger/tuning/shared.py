"""A loaded dataset for other processes: read once, features shared without copies."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from recbole_siger.config import Config
from recbole_siger.data.dataset import MultimodalDataset

__all__ = ["SharedDataset"]


class SharedDataset:
    """A dataset without its configuration and with features as arrays, for Ray's object store.

    A worker that gets the dataset maps the arrays. The arrays are shared memory and read-only.

    Args:
        dataset: The loaded dataset, not yet split.
    """

    def __init__(self, dataset: MultimodalDataset) -> None:
        left_out = ("config", "_item_features", "_user_features")
        self._rest = {key: value for key, value in vars(dataset).items() if key not in left_out}
        self._features = [
            {name: _to_array(table) for name, table in tables.items()}
            for tables in (dataset._item_features, dataset._user_features)
        ]

    def with_config(self, config: Config) -> MultimodalDataset:
        """Return the dataset for one run; splitting the returned dataset does not change the shared one."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            items, users = (
                {name: _to_tensor(table) for name, table in tables.items()} for tables in self._features
            )
        dataset: Any = MultimodalDataset.__new__(MultimodalDataset)  # nothing is loaded again
        dataset.__dict__.update(self._rest, config=config, _item_features=items, _user_features=users)
        return dataset


def _to_array(table: Tensor) -> NDArray[Any]:
    """Return a table as an array on the same memory; bfloat16, which numpy lacks, as the bits in int16."""
    array: NDArray[Any] = (table.view(torch.int16) if table.dtype == torch.bfloat16 else table).numpy()
    return array


def _to_tensor(array: NDArray[Any]) -> Tensor:
    table = torch.from_numpy(array)
    return table.view(torch.bfloat16) if table.dtype == torch.int16 else table
