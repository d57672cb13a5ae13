"""Evaluation protocols: what is masked, who is evaluated, where negatives come from.

Both rank all items. On the same scores they give different numbers, so every result names its protocol.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recbole.data.dataloader import TrainDataLoader
from recbole.data.utils import create_samplers, get_dataloader

from recbole_siger.config import Config
from recbole_siger.data.dataloader import FullRankingDataLoader, TrainLoader
from recbole_siger.data.dataset import MultimodalDataset
from recbole_siger.data.sampler import NegativeSampler
from recbole_siger.errors import UserError
from recbole_siger.evaluation.ranking import ItemLists

__all__ = ["PROTOCOLS", "Protocol", "split_and_load"]


@dataclass(frozen=True)
class Protocol:
    """One way to evaluate a full ranking.

    Attributes:
        masks_validation: Whether validation items are hidden from the test ranking.
        keeps_users_without_training: Whether users without a training row are evaluated.
        train_negatives: Items that training negatives are drawn from.
        selection_decimals: Places that the validation metric is rounded to before epochs are compared.
    """

    masks_validation: bool
    keeps_users_without_training: bool
    train_negatives: str
    selection_decimals: int | None


PROTOCOLS = {
    "recbole": Protocol(True, True, "all", None),
    "mmrec": Protocol(False, False, "train_items", 4),
}


def _train_sampler(config: Config, splits: list[MultimodalDataset], dataset: MultimodalDataset) -> Any:
    """Make the sampler of training negatives; it sees the training split alone, popularity included."""
    where = config.run.train_negatives or PROTOCOLS[config.run.protocol].train_negatives
    distribution, alpha = (config["train_neg_sample_args"][key] for key in ("distribution", "alpha"))
    if config.run.train_negatives and (distribution != "uniform" or config["repeatable"]):
        source = config.origin["train_negatives"]
        raise UserError(f"{source}: train_negatives={where!r} is for uniform negatives; leave it out")
    try:
        if distribution == "none" or config["repeatable"]:
            return create_samplers(config, dataset, splits)[0]
        train_items = distribution == "uniform" and where == "train_items"
        return NegativeSampler(splits[0], distribution, alpha, train_items=train_items)
    except ValueError as error:
        raise UserError(f"dataset {config['dataset']!r}: {error}") from None


def split_and_load(config: Config, dataset: MultimodalDataset) -> tuple[Any, Any, Any]:
    """Split a dataset and make its training, validation and test loaders under ``config.run.protocol``."""
    protocol = PROTOCOLS[config.run.protocol]
    try:
        splits = dataset.build()
    except (NotImplementedError, ValueError, AssertionError) as error:
        where = config.origin.get("eval_args", "configuration")
        raise UserError(
            f"{where}: eval_args={config['eval_args']}: {error or 'cannot be split so'}"
        ) from None
    loader = get_dataloader(config, "train")
    train = (TrainLoader if loader is TrainDataLoader else loader)(
        config, splits[0], _train_sampler(config, splits, dataset), shuffle=config["shuffle"]
    )
    if set(config["eval_args"]["mode"].values()) != {"full"}:
        if config.run.protocol == "mmrec":
            raise UserError(
                f"eval_args: mode={config['eval_args']['mode']}: protocol mmrec ranks all items; use `full`"
            )
        samplers = create_samplers(config, dataset, splits)
        return train, *(
            get_dataloader(config, phase)(config, split, sampler, shuffle=False)
            for phase, split, sampler in zip(("valid", "test"), splits[1:], samplers[1:], strict=True)
        )
    trained, validated, _ = (_item_lists(split) for split in splits)
    users = None if protocol.keeps_users_without_training else trained.users
    valid = FullRankingDataLoader(config, splits[1], [trained], users)
    seen = [trained, validated] if protocol.masks_validation else [trained]
    return train, valid, FullRankingDataLoader(config, splits[2], seen, users)


def _item_lists(split: MultimodalDataset) -> ItemLists:
    users, items = split.train_edges.numpy()
    return ItemLists.from_pairs(users, items, split.user_num, split.item_num)
