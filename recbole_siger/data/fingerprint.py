"""The definition of an evaluation, as readable facts and as one short id.

Results with equal ``protocol_id`` have the same rows, ranked and counted in the same way, so they may share a
table. The model and the seed are not part of the id.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole.utils import ModelType

from recbole_siger.config import Config
from recbole_siger.data.loading import resolve_protocol

__all__ = ["candidates_of", "protocol_facts"]


def protocol_facts(config: Config, digests: Mapping[str, str]) -> dict[str, Any]:
    """Return the facts that decide an evaluation, as values of JSON.

    Args:
        config: The configuration of a run.
        digests: Checksums of the parts ``train``, ``valid`` and ``test``, as in ``digests.json``.

    Returns:
        Split, masking, candidates, users, metrics, cut-offs, negatives, seed policy and cold start.
    """
    protocol = resolve_protocol(config)
    mode, order = (config["eval_args"][key] for key in ("mode", "order"))
    ours = config["MODEL_TYPE"] in (ModelType.GENERAL, ModelType.TRADITIONAL)
    given = config["benchmark_filename"] or order != "RO" or (config.cold_start and config.cold_start.redraws)
    hidden = {"valid": ["train"], "test": ["train", "valid"] if protocol.masks_validation else ["train"]}
    if config["repeatable"]:
        hidden = {"valid": [], "test": []}
    return {
        "split": {part: digests[part] for part in ("train", "valid", "test")},
        "masked": hidden if ours else f"RecBole's for {config['MODEL_TYPE'].name.lower()} models",
        "candidates": candidates_of(config),
        "users": "with an item to find"
        + ("" if protocol.keeps_users_without_training or not ours else " and a training row"),
        "metrics": sorted({name.lower() for name in config["metrics"]}),
        "topk": sorted({int(k) for k in config["topk"]}),
        "train_negatives": _negatives(config, protocol.train_negatives),
        "seed_policy": "the seed draws the run" if given else "the seed draws the split and the run",
        "cold_start": None if config.cold_start is None else config.cold_start.facts(),
        **({} if set(mode.values()) == {"full"} else {"mode": dict(mode)}),
    }


def candidates_of(config: Config) -> str:
    """Return which items are ranked: ``all``, ``cold``, or RecBole's way of sampling, such as ``uni100``."""
    mode = config["eval_args"]["mode"]["test"]
    if mode != "full":
        return str(mode)
    return "all" if config.cold_start is None else config.cold_start.candidates


def _negatives(config: Config, where: str) -> str:
    # A model without negatives gets the protocol's fact, so that a table may have models with and without.
    distribution = config["train_neg_sample_args"]["distribution"]
    return where if distribution in ("none", "uniform") else str(distribution)
