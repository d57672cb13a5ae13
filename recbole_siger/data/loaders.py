"""RecBole's loaders of training rows and of users to rank, with whole batches instead of lists of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader, TrainDataLoader
from recbole.data.dataloader.abstract_dataloader import AbstractDataLoader
from recbole.data.interaction import Interaction
from torch import Tensor
from torch.utils.data import RandomSampler, SequentialSampler

from recbole_siger.common.sorted_keys import contains, distinct
from recbole_siger.config import Config
from recbole_siger.data.dataset import MultimodalDataset
from recbole_siger.evaluation.groups import ColdSet
from recbole_siger.evaluation.ranking import Ids, ItemLists
from recbole_siger.parallel.shares import current_share

__all__ = ["FullRankingDataLoader", "TrainLoader"]

# Bytes of the scores of one block of users. On CPU, the last cache holds a block while it is made, masked and
# ranked; a smaller block has more calls.
_BLOCK = {"cpu": 8 << 20, "cuda": 256 << 20}

# Rows that are moved to a GPU at a time, and pairs that an evaluation loader keeps on a GPU: 24 and 256 MiB.
_ROWS_A_MOVE = 1 << 20
_PAIRS_KEPT = 1 << 24


class _WholeBatches(AbstractDataLoader):
    """Pass ``collate_fn`` a tensor of row numbers; torch's loader makes a Python list of them, one by one.

    Worker processes and distributed samplers keep torch's loader.
    """

    def __iter__(self) -> Iterator[Any]:
        if self.num_workers or type(self.sampler) not in (RandomSampler, SequentialSampler):
            return super().__iter__()
        return self._batches()

    def _batches(self) -> Iterator[Any]:
        # The draws equal those of torch's loader, so that a seed gives the same batches as in RecBole:
        # first a seed for workers, and at the end an unused order.
        torch.empty((), dtype=torch.int64).random_(generator=self.generator)
        n_rows, shuffle = self.sample_size, self.shuffle
        order = torch.randperm(n_rows, generator=self.generator) if shuffle else torch.arange(n_rows)
        yield from self.made(self.own(order.split(self.step)))
        if shuffle:
            torch.randperm(n_rows, generator=self.generator)

    def own(self, batches: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the batches of this process: all batches."""
        return batches

    def made(self, batches: Sequence[Tensor]) -> Iterator[Any]:
        """Make the batches of these rows, one when it is needed."""
        return map(self.collate_fn, batches)

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return torch.device(self.config["device"])

    @property
    def moves_ahead(self) -> bool:
        """Whether batches are moved to the device before they are needed; on CPU there is nothing to move."""
        return self.device.type != "cpu"


def _take(interaction: Interaction, rows: Tensor) -> Interaction:
    """Return some rows; ``Interaction`` itself would make a list of row numbers for each column."""
    columns = interaction.interaction
    return Interaction({name: column.index_select(0, rows) for name, column in columns.items()})


def _moved(batches: Sequence[Interaction], device: torch.device) -> Iterator[Interaction]:
    """Move batches to a device, each column of all batches in one transfer; yield them cut again."""
    lengths, names = [len(batch) for batch in batches], batches[0].interaction
    columns = {name: torch.cat([batch[name] for batch in batches]).to(device) for name in names}
    parts = {name: column.split(lengths) for name, column in columns.items()}
    for number in range(len(batches)):
        yield Interaction({name: parts[name][number] for name in names})


class TrainLoader(_WholeBatches, TrainDataLoader):
    """Batches of training rows with their negatives, equal to those of RecBole's ``TrainDataLoader``.

    For a model on a GPU, many batches are made at a time, moved together and cut on the GPU. Rows and
    negatives are drawn on the CPU, so that a seed gives the same batches for every device.
    """

    def _init_batch_size_and_step(self) -> None:
        super()._init_batch_size_and_step()
        n_processes = current_share().size  # each process draws the whole batch and uses its share
        self.step *= n_processes
        self.set_batch_size(self._batch_size * n_processes)

    def made(self, batches: Sequence[Tensor]) -> Iterator[Interaction]:
        """Make the batches on the device of the model."""
        is_dynamic = self.neg_sample_args.get("dynamic", False)  # the model of the moment chooses negatives
        if not self.moves_ahead or is_dynamic:
            yield from super().made(batches)
            return
        n_batches = max(1, _ROWS_A_MOVE // self._batch_size)
        for first in range(0, len(batches), n_batches):
            yield from _moved(
                [self.collate_fn(rows) for rows in batches[first : first + n_batches]], self.device
            )

    def collate_fn(self, index: Tensor | Sequence[int]) -> Interaction:
        """Return the rows, with negatives as the model's input type requires."""
        dataset = self._dataset
        rows = dataset.join(_take(dataset.inter_feat, torch.as_tensor(index)))
        return self._neg_sampling(self.transform(dataset, rows))

    def _neg_sample_by_pair_wise_sampling(self, inter_feat: Interaction, neg_item_ids: Tensor) -> Interaction:
        if self.times > 1 or self._dataset.item_feat is not None:
            return super()._neg_sample_by_pair_wise_sampling(inter_feat, neg_item_ids)
        inter_feat[self.neg_item_id] = neg_item_ids  # one negative for each row: nothing is copied or joined
        return inter_feat


class FullRankingDataLoader(_WholeBatches, FullSortEvalDataLoader):
    """Batches of users with the hidden items and the relevant items, in RecBole's tuple.

    For a model on a GPU, the batches are moved once and stay there, unless they have too many pairs.

    Args:
        config: ``eval_batch_size`` is the largest number of users in a batch. A batch is smaller if its
            scores would exceed the processor's cache.
        dataset: The split to evaluate.
        seen: Items of each user that are hidden from the ranking. A relevant item is never hidden.
        users: Users that may be evaluated; by default all users of the split.
        cold: The cold items or users, if results are also reported for cold and warm pairs.
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
            evaluated = evaluated[contains(distinct(users), evaluated)]
        self.uid_field, self.iid_field = dataset.uid_field, dataset.iid_field
        self.uid_list = torch.from_numpy(evaluated)
        self.user_df = dataset.join(Interaction({self.uid_field: self.uid_list}))
        self.sample_size = len(evaluated)
        self._kept: list[Any] | None = None
        # RecBole's constructor would build a Python set for every user; its parent class is sufficient.
        AbstractDataLoader.__init__(self, config, dataset, None, shuffle=False)

    def own(self, batches: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return this process's share of the users."""
        share = current_share()
        return batches[share.rank :: share.size]

    def made(self, batches: Sequence[Tensor]) -> Iterator[Any]:
        """Make the batches on the device of the model; the same batches return in each epoch."""
        if not self.moves_ahead:
            return super().made(batches)
        if self._kept is None:
            moved = (_to_device(batch, self.device) for batch in super().made(batches))
            if len(self.history.items) + len(self.positives.items) > _PAIRS_KEPT:
                return moved
            self._kept = list(moved)
        return iter(self._kept)

    def n_candidates(self, users: Ids) -> Ids:
        """Count the ranked items of each of ``users``, ``(U,)``."""
        rows, hidden = self.history.of(users)
        if self.cold is None or self.cold.items is None or not self.cold.alone:
            return self._dataset.item_num - 1 - np.bincount(rows, minlength=len(users))
        rows = rows[self.cold.items[hidden]]
        return int(self.cold.items[1:].sum()) - np.bincount(rows, minlength=len(users))

    def _init_batch_size_and_step(self) -> None:
        block = _BLOCK[self.device.type]
        fitting = max(1, block // (4 * self._dataset.item_num))
        share = max(1, self.sample_size // current_share().size)  # each process ranks a batch or more
        self.step = min(self.config["eval_batch_size"], fitting, share)
        self.set_batch_size(self.step)

    def collate_fn(
        self, index: Tensor | Sequence[int]
    ) -> tuple[Interaction, tuple[Tensor, Tensor], Tensor, Tensor]:
        """Return users, ``(row, item)`` pairs to hide, and row and item of the relevant pairs."""
        rows = torch.as_tensor(index)
        users = self.uid_list[rows].numpy()
        hidden = tuple(torch.from_numpy(array) for array in self.history.of(users))
        row, item = (torch.from_numpy(array) for array in self.positives.of(users))
        return _take(self.user_df, rows), hidden, row, item  # type: ignore[return-value]  # a pair of two


def _to_device(batch: Any, device: torch.device) -> Any:
    """Move users, hidden pairs and relevant pairs of a batch."""
    users, hidden, row, item = batch
    return users.to(device), tuple(ids.to(device) for ids in hidden), row.to(device), item.to(device)
