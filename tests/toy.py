"""A data set in the form that ``recbole_siger/data/mmrec.py`` writes, small enough to work out by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Pairs = Sequence[tuple[str, str]]

N_USERS, N_ITEMS = 23, 31  # primes, so that a wrong transpose fails

QUIET: dict[str, Any] = {"gpu_id": "", "seed": 7}
"""What every test run sets: no GPU, one seed."""


def write_dataset(
    root: Path,
    name: str,
    splits: Mapping[str, Pairs],
    features: Mapping[str, tuple[Any, Sequence[str]]] | None = None,
    *,
    protocol: str = "mmrec",
) -> Path:
    """Write ``<root>/<name>``: benchmark splits, feature files ``{modality: (rows, ids)}`` and the facts."""
    folder = root / name
    folder.mkdir(parents=True)
    for split in ("train", "valid", "test"):
        rows = "".join(f"{user}\t{item}\n" for user, item in splits[split])
        (folder / f"{name}.{split}.inter").write_text("user_id:token\titem_id:token\n" + rows)
    facts = [
        f"# {name}, imported from MMRec's layout",
        "benchmark_filename: [train, valid, test]  # (list) The given split, one file a part.",
        "load_col:  # (dict) The suffix of atomic files: (list) field names to be loaded.",
        "  inter: [user_id, item_id]",
        f"protocol: {protocol}  # (str) Only training items are masked.",
    ]
    for modality, (rows, ids) in (features or {}).items():
        np.save(folder / f"{name}.{modality}.npy", np.asarray(rows, dtype=np.float32))
        (folder / f"{name}.{modality}.ids").write_text("".join(f"{token}\n" for token in ids))
    if features:
        facts.append(f"features: [{', '.join(features)}]")
    (folder / f"{name}.yaml").write_text("\n".join([*facts, ""]))
    return folder


def random_splits(seed: int = 3, per_user: tuple[int, int, int] = (7, 2, 2)) -> dict[str, list[Any]]:
    """Draw distinct items for each user: ``per_user`` of them for train, valid and test."""
    rng = np.random.default_rng(seed)
    splits: dict[str, list[Any]] = {"train": [], "valid": [], "test": []}
    for user in range(N_USERS):
        items = rng.permutation(N_ITEMS)[: sum(per_user)]
        parts = np.split(items, np.cumsum(per_user)[:-1])
        for split, part in zip(splits, parts, strict=True):
            splits[split] += [(f"u{user}", f"i{item}") for item in part]
    return splits


def random_features(modalities: Mapping[str, int], seed: int = 5) -> dict[str, tuple[Any, list[str]]]:
    """Draw features ``{modality: width}`` for every item, rows in another order than the items."""
    rng = np.random.default_rng(seed)
    return {
        name: (rng.normal(size=(N_ITEMS, width)), [f"i{item}" for item in rng.permutation(N_ITEMS)])
        for name, width in modalities.items()
    }


def tastes(
    seed: int, n_users: int = 60, n_items: int = 200, n_tastes: int = 10
) -> tuple[np.ndarray, np.ndarray]:
    """Draw users with 25 items, most of one taste, ``(n_items, n_users)``, and content that shows it."""
    rng = np.random.default_rng(seed)
    taste = np.arange(n_items) % n_tastes
    table = np.zeros((n_items, n_users), dtype=np.float32)
    for user in range(n_users):
        odds = np.where(taste == user % n_tastes, 12.0, 1.0)
        table[rng.choice(n_items, 25, replace=False, p=odds / odds.sum()), user] = 1
    return table, np.eye(n_tastes)[taste] + rng.normal(scale=0.05, size=(n_items, n_tastes))


def write_toy(root: Path, name: str = "toy", **options: Any) -> Path:
    """Write the random toy data set with an image and a text modality."""
    return write_dataset(root, name, random_splits(), random_features({"image": 5, "text": 11}), **options)
