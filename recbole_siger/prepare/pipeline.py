"""Source to dataset folder: read, filter, split, write; the folder appears complete or not at all."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from recbole_siger.data.features import coverage_text
from recbole_siger.errors import UserError
from recbole_siger.options.params import bounded
from recbole_siger.options.resources import regular_file
from recbole_siger.prepare.filters import first_of_pairs, k_core
from recbole_siger.prepare.folder import (
    SPLITS,
    check_target,
    dataset_yaml,
    new_dataset,
    report_dataset,
    write_interactions,
)
from recbole_siger.prepare.interactions import Interactions
from recbole_siger.prepare.item_table import ItemTable
from recbole_siger.prepare.manifest import Counts, compare_published, describe_inputs, manifest_text
from recbole_siger.prepare.records import Rejected
from recbole_siger.prepare.split import Labels, leave_one_out, split_random, split_temporal

__all__ = ["PrepareParams", "Source", "prepare_dataset"]


@dataclass(frozen=True, kw_only=True)
class PrepareParams:
    """Options of filter and split; ``properties/prepare.yaml`` documents them and sets their defaults."""

    k_core: int = bounded("[0, inf)")
    split: Literal["random", "leave_one_out", "temporal"]
    ratios: str
    seed: int = bounded("[0, inf)")

    def shares(self) -> tuple[int, int, int]:
        """Return ``ratios`` as numbers.

        Raises:
            UserError: If the ratios are not three integers >= 1.
        """
        if not re.fullmatch(r"[1-9][0-9]{0,5}(:[1-9][0-9]{0,5}){2}", self.ratios):
            raise UserError(f"ratios={self.ratios!r}: expected three integers from 1, for example 8:1:1")
        train, valid, test = map(int, self.ratios.split(":"))
        return train, valid, test


class Source(ABC):
    """Raw data of one kind. The constructor finds the files; the methods read them."""

    @abstractmethod
    def folder(self) -> Path:
        """The folder of the files; names in the manifest are relative to this folder."""

    @abstractmethod
    def facts(self) -> dict[str, str]:
        """Facts of the source for the manifest: kind, edition, category, unit of time."""

    @abstractmethod
    def inputs(self) -> list[Path]:
        """Return the files to read, interactions first."""

    @abstractmethod
    def interactions(self, rejected: Rejected) -> Interactions:
        """Read all interactions."""

    def items(self, kept: set[str], rejected: Rejected) -> ItemTable | None:
        """Read the texts of the items in ``kept``; None if the source has no item texts."""
        return None

    def users(self, kept: set[str], rejected: Rejected) -> ItemTable | None:
        """Read the texts of the users in ``kept``; None if the source has no user texts."""
        return None

    def write_features(self, stem: Path, tokens: Sequence[str], rejected: Rejected) -> dict[str, Any]:
        """Write the features of ``tokens`` that the source contains; return the facts of each modality."""
        return {}

    def published(self, k: int) -> str | None:
        """Return the name of the published counts for a ``k``-core of this source."""
        return None


def prepare_dataset(
    source: Source,
    name: str,
    params: PrepareParams,
    *,
    data_path: Path,
    overwrite: bool = False,
    report: Callable[[str], None],
) -> Path:
    """Write a source as RecBole's atomic files, feature files, YAML, manifest and list of rejected records.

    Equal input, options and seed give equal bytes. The folder appears complete or not at all.

    Args:
        source: The raw data.
        name: Name of the dataset.
        params: Options of filter and split.
        data_path: RecBole's folder of datasets; ``<data_path>/<name>`` is written.
        overwrite: Whether to replace an existing dataset folder.
        report: Called with each line for the user.

    Returns:
        The folder ``<data_path>/<name>``.

    Raises:
        UserError: If the input has another format, no row or an empty split remains, or the folder exists.
    """
    inputs = [regular_file(path, "file of raw data", "replace it") for path in source.inputs()]
    target = check_target(name, Path(data_path), inputs, overwrite=overwrite)
    shares, rejected = params.shares(), Rejected()
    report(f"reading {', '.join(path.name for path in inputs)}")
    raw = source.interactions(rejected)
    if not len(raw):
        raise UserError(
            f"{inputs[0]}: has no usable interaction ({rejected.first(inputs[0])}); check the file."
        )
    report(f"read: {raw.n_users:,} users, {raw.n_items:,} items, {len(raw):,} interactions")
    rows, filters, removed = _filter(inputs[0], raw, params)
    labels = _split(inputs[0], rows, params, shares)
    counts = Counts(rows.n_users, rows.n_items, len(rows), *_sizes(labels))
    manifest: dict[str, Any] = {
        "name": name,
        "format": 1,
        "source": source.facts(),
        "inputs": describe_inputs(source.folder(), inputs),
        "counts_before": {"users": raw.n_users, "items": raw.n_items, "interactions": len(raw)},
        "filters": filters,
        "split": _split_facts(params, shares),
        "counts": asdict(counts),
        "sparsity": counts.sparsity,
        "published": compare_published(source.published(params.k_core), counts),
    }
    with new_dataset(target, overwrite=overwrite) as folder:
        write_interactions(folder / name, rows.table(), labels)
        manifest |= _write_content(source, folder / name, rows, rejected)
        (folder / "manifest.json").write_text(manifest_text(manifest), encoding="utf-8")
    _report_filters(report, target, manifest, removed)
    coverage = {
        modality: coverage_text(modality, one["rows"], counts.items, one["dim"])
        for modality, one in manifest["features"].items()
    }
    report_dataset(report, name, target, counts, coverage, manifest["published"])
    return target


def _write_content(source: Source, stem: Path, rows: Interactions, rejected: Rejected) -> dict[str, Any]:
    """Write the texts, the features, the YAML and the list of rejected records; return their facts."""
    tokens, user_tokens = rows.item_tokens(), rows.user_tokens()
    items = source.items(set(tokens), rejected)
    if items is not None:
        items.write(stem, tokens)
    users = source.users(set(user_tokens), rejected)
    if users is not None:
        users.write(stem, user_tokens)
    features = source.write_features(stem, tokens, rejected)
    settings = dataset_yaml(stem.name, f"prepared from {source.facts()['kind']}", list(features))
    stem.with_name(f"{stem.name}.yaml").write_text(settings, encoding="utf-8")
    rejected.write(stem.with_name("rejected.csv"))
    return {
        "items": None if items is None else items.facts(tokens),
        **({} if users is None else {"users": users.facts(user_tokens)}),
        "features": features,
        "rejected": len(rejected.rows),
    }


def _report_filters(
    report: Callable[[str], None], target: Path, manifest: Mapping[str, Any], removed: str
) -> None:
    if manifest["rejected"]:
        report(f"note: {manifest['rejected']:,} broken records skipped; see {target / 'rejected.csv'}")
    if manifest["filters"]["repeated_pairs"]:
        repeated = manifest["filters"]["repeated_pairs"]
        report(f"note: {repeated:,} rows repeat a user-item pair; the earliest row of a pair is kept")
    if removed:
        report(removed)


def _filter(
    where: Path, raw: Interactions, params: PrepareParams
) -> tuple[Interactions, dict[str, int], str]:
    """Return the remaining rows, facts for the manifest, and a line about the k-core, "" without a k-core."""
    unique = raw.keep(first_of_pairs(raw.user, raw.item, raw.timestamp))
    rows = unique.keep(k_core(unique.user, unique.item, params.k_core))
    if not len(rows):
        raise UserError(
            f"{where}: no interaction remains with k_core={params.k_core} (of {len(raw):,}); choose a lower "
            "--k_core; 0 keeps all interactions."
        )
    facts = {"repeated_pairs": len(raw) - len(unique), "k_core": params.k_core}
    return rows, facts, _core_line(unique, rows, params.k_core) if params.k_core > 1 else ""


def _core_line(before: Interactions, after: Interactions, k: int) -> str:
    """Word what the k-core removed."""
    if len(before) == len(after):
        return f"k_core={k}: removed nothing"
    return (
        f"k_core={k}: {before.n_users:,} -> {after.n_users:,} users, {before.n_items:,} -> "
        f"{after.n_items:,} items, {len(before):,} -> {len(after):,} interactions"
    )


def _split(where: Path, rows: Interactions, params: PrepareParams, shares: tuple[int, int, int]) -> Labels:
    if params.split == "random":
        labels = split_random(rows.user, shares, params.seed)
    elif rows.timestamp is None:
        raise UserError(
            f"{where}: has no timestamps, but split={params.split} requires them; use --split=random."
        )
    elif params.split == "leave_one_out":
        labels = leave_one_out(rows.user, rows.timestamp)
    else:
        labels = split_temporal(rows.timestamp, shares)
    for label, size in enumerate(_sizes(labels)):
        if not size:
            raise UserError(
                f"{where}: split={params.split} gives {SPLITS[label]} no row ({len(rows):,} rows in all); "
                "choose another split or other ratios, or keep more rows with a lower --k_core."
            )
    return labels


def _sizes(labels: Labels) -> list[int]:
    return np.bincount(labels, minlength=len(SPLITS)).tolist()


def _split_facts(params: PrepareParams, shares: tuple[int, int, int]) -> dict[str, Any]:
    """Return the options that affect the split."""
    facts: dict[str, Any] = {"kind": params.split}
    if params.split != "leave_one_out":
        facts["ratios"] = list(shares)
    if params.split == "random":
        facts["seed"] = params.seed
    return facts
