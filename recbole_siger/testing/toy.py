"""A generated toy dataset. Every size is its own prime, so that a wrong transpose fails.

With RecBole's padding there are 31 users and 23 items. Features are 11, 13 and 5 wide. The last user and the
last item have no training row. Some items lack a feature, and one item has a row of zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "COLD_ITEM",
    "N_ITEMS",
    "N_USERS",
    "WIDTHS",
    "WITHOUT_FEATURE",
    "Toy",
    "checkerboard",
    "make_toy",
    "permuted",
    "random_features",
]

N_USERS, N_ITEMS = 31, 23
WIDTHS = {"image": 11, "text": 13, "audio": 5}
WITHOUT_FEATURE = {"image": {"i03", "i11"}, "text": {"i05"}, "audio": {"i03", "i07"}}
ZERO_FEATURE = "i09"
OUTSIDE = "elsewhere"
COLD_ITEM = f"i{N_ITEMS - 2:02}"

Pairs = list[tuple[str, str]]
Features = dict[str, tuple[list[str], np.ndarray]]


@dataclass
class Toy:
    """Raw tokens of each split, and ``{modality: (item tokens, features)}`` in the order of the file."""

    train: Pairs
    valid: Pairs
    test: Pairs
    features: Features

    def write(self, folder: Path) -> None:
        """Write atomic files, features and facts into ``folder``."""
        folder.mkdir(parents=True)
        for split in ("train", "valid", "test"):
            lines = ["user_id:token\titem_id:token", *("\t".join(pair) for pair in getattr(self, split))]
            (folder / f"toy.{split}.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
        for name, (ids, array) in self.features.items():
            np.save(folder / f"toy.{name}.npy", array)
            (folder / f"toy.{name}.ids").write_text("".join(f"{one}\n" for one in ids), encoding="utf-8")
        facts = (
            "benchmark_filename: [train, valid, test]",
            "load_col:",
            "  inter: [user_id, item_id]",
            "protocol: mmrec",
            f"features: [{', '.join(self.features)}]",
        )
        (folder / "toy.yaml").write_text("\n".join(facts) + "\n", encoding="utf-8")


def random_features(items: Sequence[str], modalities: Sequence[str], seed: int) -> Features:
    """Draw features in another order of rows than the items, with one row of an item outside the dataset."""
    rng, features = np.random.default_rng(seed), {}
    for name in modalities:
        ids = [item for item in items if item not in WITHOUT_FEATURE[name]] + [OUTSIDE]
        array = rng.normal(size=(len(ids), WIDTHS[name])).astype(np.float32)
        if name == "image":
            array[[one == ZERO_FEATURE for one in ids]] = 0
        order = rng.permutation(len(ids))
        features[name] = [ids[row] for row in order], array[order]
    return features


def make_toy(
    modalities: Sequence[str] = ("image", "text"), *, complete: bool = False, eval_seed: int = 1
) -> Toy:
    """Draw the toy dataset.

    Args:
        modalities: Which features it has.
        complete: Let every user and item occur in training, so that no id depends on the other splits.
        eval_seed: Seed of the validation and test splits; training and features do not depend on it.
    """
    rng, eval_rng = np.random.default_rng(2020), np.random.default_rng(eval_seed)
    users, items = (
        [f"{letter}{i:02}" for i in range(n - 1)] for letter, n in (("u", N_USERS), ("i", N_ITEMS))
    )
    toy = Toy([], [], [], random_features(items, modalities, seed=3))
    for u, user in enumerate(users):
        chosen = rng.choice(len(items) - 1, size=rng.integers(3, 8), replace=False).tolist()
        if complete and u < len(items):
            chosen = [*chosen, u] if u not in chosen else chosen
        if user != users[-1] or complete:
            toy.train += [(user, items[i]) for i in chosen]
        left = [i for i in range(len(items)) if i not in chosen]
        for split, i in zip(
            (toy.valid, toy.test, toy.test), eval_rng.choice(left, 3, replace=False), strict=True
        ):
            split.append((user, items[i]))
    rng.shuffle(toy.train)
    if not complete:
        last = items[-1]
        toy.valid = [pair for pair in toy.valid if pair[1] != last]
        toy.test += [(user, last) for user in users[:3] if (user, last) not in toy.test]
    return toy


def permuted(toy: Toy, *, ids_too: bool) -> Toy:
    """Permute the rows of each feature file, with or without the ids of the rows."""
    features: Features = {}
    for name, (ids, array) in toy.features.items():
        order: Any = np.random.default_rng(5).permutation(len(ids))
        features[name] = ([ids[row] for row in order] if ids_too else ids), array[order]
    return replace(toy, features=features)


def checkerboard(n: int = 29) -> Toy:
    """Make users who like the items of their parity, each user's own item held out; features are noise."""
    users, items = ([f"{letter}{i:02}" for i in range(n)] for letter in "ui")
    train = [(users[u], items[i]) for u in range(n) for i in range(u % 2, n, 2) if i != u]
    diagonal = list(zip(users, items, strict=True))
    return Toy(train, diagonal, diagonal, random_features(items, ("image", "text"), seed=7))
