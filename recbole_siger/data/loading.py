"""Split a dataset and make its loaders, as the protocol and the other options ask."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
from recbole.data.dataloader import TrainDataLoader
from recbole.data.interaction import cat_interactions
from recbole.data.utils import create_samplers, data_preparation, get_dataloader

from recbole_siger.common.locks import scratch_folder
from recbole_siger.common.sorted_keys import contains, distinct
from recbole_siger.config import Config
from recbole_siger.data.dataset import MultimodalDataset
from recbole_siger.data.exact import dataset_class
from recbole_siger.data.failures import explain_recbole
from recbole_siger.data.loaders import FullRankingDataLoader, TrainLoader
from recbole_siger.data.sampler import NegativeSampler
from recbole_siger.errors import UserError
from recbole_siger.evaluation.cold_start import assign_parts, draw_cold_items
from recbole_siger.evaluation.groups import ColdSet
from recbole_siger.evaluation.protocol import PROTOCOLS, Protocol
from recbole_siger.evaluation.ranking import ItemLists

__all__ = ["load_with_recbole", "resolve_protocol", "split_and_load"]

_log = logging.getLogger(__name__)


def resolve_protocol(config: Config) -> Protocol:
    """Return the named protocol as the other options change it.

    A redrawn split (``cold_start: {kind: item}``) brings LATTICE's rules: training items alone are hidden,
    users left without a training row stay, and a cold item is never a negative.
    """
    protocol, where = PROTOCOLS[config.run.protocol], config.run.train_negatives
    if config.cold_start is None or not config.cold_start.redraws:
        return replace(protocol, train_negatives=where or protocol.train_negatives)
    if where == "all":
        source = config.origin["train_negatives"]
        raise UserError(f"{source}: train_negatives='all' would draw cold items; leave it out")
    return replace(
        protocol, masks_validation=False, keeps_users_without_training=True, train_negatives="train_items"
    )


def _train_sampler(config: Config, splits: list[MultimodalDataset], dataset: MultimodalDataset) -> Any:
    """Make the sampler of training negatives; it sees the training split alone, popularity included."""
    where = resolve_protocol(config).train_negatives
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
    protocol = resolve_protocol(config)
    _check_repeatable(config)
    splits, cold = _cold_start(config, dataset.build())
    if not config["repeatable"]:
        _warn_of_repeats(config, splits)
    loader = get_dataloader(config, "train")
    train = (TrainLoader if loader is TrainDataLoader else loader)(
        config, splits[0], _train_sampler(config, splits, dataset), shuffle=config["shuffle"]
    )
    if set(config["eval_args"]["mode"].values()) != {"full"}:
        if config.run.protocol == "mmrec" or cold:
            what = "cold_start" if cold else "protocol mmrec"
            raise UserError(
                f"eval_args: mode={config['eval_args']['mode']}: {what} ranks all items; use `full`"
            )
        _check_popularity(config, splits)
        with explain_recbole(f"eval_args: mode={config['eval_args']['mode']}", "see RecBole's documentation"):
            samplers = create_samplers(config, dataset, splits)
            return train, *(
                get_dataloader(config, phase)(config, split, sampler, shuffle=False)
                for phase, split, sampler in zip(("valid", "test"), splits[1:], samplers[1:], strict=True)
            )
    trained, validated, _ = (_item_lists(split) for split in splits)
    users = None if protocol.keeps_users_without_training else trained.users
    seen = [trained, validated] if protocol.masks_validation else [trained]
    if config["repeatable"]:
        nothing = np.empty(0, dtype=np.int64)
        seen = [ItemLists.from_pairs(nothing, nothing, dataset.user_num, dataset.item_num)]
    valid = FullRankingDataLoader(config, splits[1], seen[:1], users, cold)
    test = FullRankingDataLoader(config, splits[2], seen, users, cold)
    for part, loader in (("validation", valid if config.run.eval_step else test), ("test", test)):
        if not loader.sample_size:
            raise UserError(
                f"dataset {config['dataset']!r}: no user of the {part} split has a training row, so protocol "
                f"{config.run.protocol} evaluates nobody; change the split, or set --protocol=recbole"
            )
    return train, valid, test


def _check_repeatable(config: Config) -> None:
    """Refuse ``repeatable``, which hides no item from the ranking, under rules that hide training items."""
    if not config["repeatable"]:
        return
    if config.cold_start is not None:
        rules, fix = "cold_start", "leave one of them out"
    elif config.run.protocol != "recbole":
        rules, fix = f"protocol {config.run.protocol}", "use --protocol=recbole"
    else:
        return
    source = config.origin["repeatable"]
    raise UserError(f"{source}: repeatable=True ranks training items too, and {rules} hides them; {fix}")


def load_with_recbole(config: Config) -> tuple[Any, tuple[Any, Any, Any]]:
    """Load a dataset and its three loaders for a model that is no general recommender.

    The dataset and the loaders are RecBole's, with the exact data of :class:`ExactDataset`.
    """
    dataset = dataset_class(config)(config)
    what = f"dataset {config['dataset']!r} cannot be prepared for {config['model']}"
    with (
        scratch_folder() as empty,
        explain_recbole(what, "see eval_args and the model's options"),
    ):
        config["checkpoint_dir"] = str(empty)  # RecBole would unpickle loaders that it finds there
        return dataset, data_preparation(config, dataset)


def _warn_of_repeats(config: Config, splits: list[MultimodalDataset]) -> None:
    """Say how many pairs of validation and test are training pairs too: they are known to the model."""
    keys = [split.train_edges[0] * split.item_num + split.train_edges[1] for split in splits]
    known = distinct(keys[0].numpy())
    for part, held_out in zip(("validation", "test"), keys[1:], strict=True):
        n_repeats = int(contains(known, held_out.numpy()).sum())
        if n_repeats:
            fix = "remove them from the files" if config["benchmark_filename"] else "set --rm_dup_inter=first"
            _log.warning(
                "%d of %d %s rows repeat a pair of a user and an item in training, which inflates the "
                "metrics; %s",
                n_repeats,
                len(held_out),
                part,
                fix,
            )


def _check_popularity(config: Config, splits: list[MultimodalDataset]) -> None:
    """Refuse sampled candidates by popularity where a user has all items that can be drawn."""
    if not any(str(mode).startswith("pop") for mode in config["eval_args"]["mode"].values()):
        return
    edges = np.unique(np.concatenate([split.train_edges.numpy() for split in splits], axis=1), axis=1)
    counts = np.bincount(edges[0])
    if counts.max() >= len(np.unique(edges[1])):
        user = splits[0].user_tokens[int(counts.argmax())]
        raise UserError(
            f"eval_args: mode={config['eval_args']['mode']}: user {user!r} has all items that occur, so no "
            "candidate can be drawn by popularity; use `full`"
        )


def _cold_start(
    config: Config, splits: list[MultimodalDataset]
) -> tuple[list[MultimodalDataset], ColdSet | None]:
    """Return the splits that ``cold_start`` asks for, and who is cold in them."""
    settings = config.cold_start
    if settings is None:
        return splits, None
    if settings.redraws:
        splits, cold_items = _redraw(config, splits)
        return splits, ColdSet(cold_items, None, settings.candidates == "cold")
    axis, size = (0, splits[0].user_num) if settings.kind == "user" else (1, splits[0].item_num)
    counts = np.bincount(splits[0].train_edges[axis].numpy(), minlength=size)
    few = counts <= settings.max_train
    few[0] = False
    if settings.kind == "user":
        if not resolve_protocol(config).keeps_users_without_training:
            few &= counts > 0
        cold = ColdSet(None, few, alone=False)
    else:
        cold = ColdSet(few, None, settings.candidates == "cold")
    asked = {"test": splits[2], **({"valid": splits[1]} if cold.alone else {})}
    for name, split in asked.items():
        if not cold.holds(*split.train_edges.numpy()).any():
            source, noun = config.origin["cold_start"], settings.kind.partition("_")[0]
            raise UserError(
                f"{source}: cold_start: max_train={settings.max_train}: no {noun} with so few training rows "
                f"is evaluated in {name}; raise it"
            )
    if cold.alone:
        kept = [split.copy(split.inter_feat[few[split.train_edges[1]]]) for split in splits[1:]]
        for part, whole in zip(kept, splits[1:], strict=True):
            part.whole = whole
        splits = [splits[0], *kept]
    return splits, cold


def _redraw(
    config: Config, splits: list[MultimodalDataset]
) -> tuple[list[MultimodalDataset], np.ndarray[Any, np.dtype[np.bool_]]]:
    """Pool the interactions and split them by item."""
    settings, source = config.cold_start, config.origin["cold_start"]
    assert settings is not None
    pooled = cat_interactions([split.inter_feat for split in splits])
    items = pooled[splits[0].iid_field].numpy()
    present = np.unique(items)
    tokens = [splits[0].item_tokens[item] for item in present]
    try:
        valid, test = (
            present[positions] for positions in draw_cold_items(tokens, settings.ratio, settings.seed)
        )
    except ValueError as error:
        raise UserError(f"{source}: cold_start: ratio={settings.ratio}: {error}") from None
    masks = assign_parts(items, valid, test)
    cold = np.zeros(splits[0].item_num, dtype=bool)
    cold[valid], cold[test] = True, True
    return [splits[0].copy(pooled[np.flatnonzero(mask)]) for mask in masks], cold


def _item_lists(split: MultimodalDataset) -> ItemLists:
    users, items = split.train_edges.numpy()
    return ItemLists.from_pairs(users, items, split.user_num, split.item_num)
