"""RecBole's full-ranking loader without its per-user Python objects, and with batches counted in users."""

from __future__ import annotations

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.data.dataloader.abstract_dataloader import AbstractDataLoader
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_siger.config import Config
from recbole_siger.data.dataset import MultimodalDataset
from recbole_siger.evaluation.groups import ColdSet
from recbole_siger.evaluation.ranking import Ids, ItemLists

__all__ = ["FullRankingDataLoader"]


class FullRankingDataLoader(FullSortEvalDataLoader):
    """Batches of users with the items to hide and the items to find, in RecBole's tuple.

    Args:
        config: ``eval_batch_size`` counts users.
        dataset: The split to evaluate.
        seen: Items of each user that are hidden from the ranking. An item to find is never hidden.
        users: Users that may be evaluated; by default all that the split has.
        cold: Who is cold, where results are told for cold and warm ones too.
    """

    def __init__(
        self,
        config: Config,
        dataset: MultimodalDataset,
        seen: list[ItemLists],
        users: Ids | None = None,
        cold: ColdSet | None = None,
    ) -> None:
        self.cold = cold
        n_users, n_items = dataset.user_num, dataset.item_num
        pairs = dataset.train_edges.numpy()
        self.positives = ItemLists.from_pairs(pairs[0], pairs[1], n_users, n_items)
        seen_users = np.concatenate([np.repeat(np.arange(n_users), np.diff(s.indptr)) for s in seen])
        seen_items = np.concatenate([s.items for s in seen])
        history = ItemLists.from_pairs(seen_users, seen_items, n_users, n_items)
        self.history = history.without(self.positives, n_items)
        evaluated = self.positives.users
        if users is not None:
            evaluated = np.intersect1d(evaluated, users)
        self.uid_field, self.iid_field = dataset.uid_field, dataset.iid_field
        self.uid_list = torch.from_numpy(evaluated)
        self.user_df = dataset.join(Interaction({self.uid_field: self.uid_list}))
        self.sample_size = len(evaluated)
        # RecBole's constructor would build a Python set for every user; its parent does the rest.
        AbstractDataLoader.__init__(self, config, dataset, None, shuffle=False)

    def n_candidates(self, users: Ids) -> Ids:
        """Count the items that are ranked for each of ``users``, ``(U,)``."""
        rows, hidden = self.history.of(users)
        if self.cold is None or self.cold.items is None or not self.cold.alone:
            return self._dataset.item_num - 1 - np.bincount(rows, minlength=len(users))
        rows = rows[self.cold.items[hidden]]
        return int(self.cold.items[1:].sum()) - np.bincount(rows, minlength=len(users))

    def _init_batch_size_and_step(self) -> None:
        self.step = self.config["eval_batch_size"]
        self.set_batch_size(self.step)

    def collate_fn(self, index: list[int]) -> tuple[Interaction, tuple[Tensor, Tensor], Tensor, Tensor]:
        """Return users, ``(row, item)`` pairs to hide, and row and item of the pairs to find."""
        users = self.uid_list[torch.as_tensor(index)].numpy()
        hidden = tuple(torch.from_numpy(array) for array in self.history.of(users))
        row, item = (torch.from_numpy(array) for array in self.positives.of(users))
        return self.user_df[np.array(index)], hidden, row, item  # type: ignore[return-value]  # a pair of two
