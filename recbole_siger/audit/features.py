"""Check the features of a dataset: rows that repeat, gaps, and rows that belong to other items."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from recbole_siger.audit.graphs import Finding, pairs_of
from recbole_siger.evaluation.groups import by_coverage
from recbole_siger.training.experiment import Experiment

__all__ = ["Kinship", "feature_findings", "kinship"]

N_QUERIES, N_CANDIDATES, N_DRAWS = 2000, 20_000, 50
BLOCK = 256
FEWEST_ITEMS = 50
CLEAR = 4.0
"""Deviations above chance. 12 modalities of real datasets have 6 to 81; with exchanged rows at most 2.4."""


class Kinship(NamedTuple):
    """Users whom an item and its nearest item have in common, on average, beside pairs at random."""

    nearest: float
    random: float
    deviation: float
    """Of the average of random pairs, over draws."""

    @property
    def clear(self) -> bool:
        """Whether the nearest items have more users in common than random pairs ever have by chance."""
        return self.nearest > self.random + CLEAR * self.deviation


def kinship(users: sp.csr_array, features: np.ndarray[Any, Any], seed: int = 0) -> Kinship:
    r"""Compare the users of an item and of its nearest item with the users of two random items.

    .. math::
        \operatorname{mean}_{i} |U_i \cap U_{n(i)}| \quad\text{against}\quad
        \operatorname{mean}_{i} |U_i \cap U_{n(\pi(i))}|

    where n(i) is the item with the highest cosine to i and π a random permutation, so that both sides have
    the same items equally often. At most 20,000 items are drawn, and 2,000 of them are compared.

    Args:
        users: 0/1 matrix of items and users, shape ``(n, U)``, n >= 2.
        features: Features of the same items, shape ``(n, F)``; no row is zero.
        seed: Of the items that are drawn and of the permutations.

    Example:
        >>> pairs = np.repeat(np.eye(30), 2, axis=0)  # items 2 k and 2 k + 1 have one user in common
        >>> found = kinship(sp.csr_array(pairs), pairs)
        >>> found.nearest, found.random < 0.2, found.clear
        (1.0, True, True)
    """
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(users.shape[0])[:N_CANDIDATES]
    users, unit = users[chosen], features[chosen].astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    query = np.arange(min(N_QUERIES, len(chosen)))
    nearest = np.concatenate([_nearest(unit, some) for some in np.split(query, query[BLOCK::BLOCK])])

    def in_common(other: np.ndarray[Any, Any]) -> float:
        return float(users[query].multiply(users[other]).sum() / len(query))

    drawn = [in_common(rng.permutation(nearest)) for _ in range(N_DRAWS)]
    return Kinship(in_common(nearest), float(np.mean(drawn)), float(np.std(drawn)))


def _nearest(unit: np.ndarray[Any, Any], rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the row with the highest inner product with each of some rows, apart from the row itself."""
    product = unit[rows] @ unit.T
    product[np.arange(len(rows)), rows] = -np.inf
    return product.argmax(axis=1)


def feature_findings(experiment: Experiment) -> Iterator[Finding]:
    """Check every table of features that the model reads."""
    model = experiment.model
    for noun, attribute in (("item", "raw_features"), ("user", "raw_user_features")):
        tables = {name: table.cpu().float().numpy() for name, table in getattr(model, attribute, {}).items()}
        yield from _rows(tables, noun)
        if noun == "item":
            yield from _kin(experiment, tables)


def _rows(tables: Mapping[str, np.ndarray[Any, Any]], noun: str) -> Iterator[Finding]:
    for name, table in tables.items():
        rows = table[1:]
        rows = rows[(rows != 0).any(axis=1)]
        if not len(rows):
            yield Finding("FAIL", "features", f"{name}: no {noun} has a feature")
            continue
        _, counts = np.unique(rows, axis=0, return_counts=True)
        if len(counts) == 1 and len(rows) > 1:
            yield Finding("FAIL", "features", f"{name}: all {len(rows)} rows are the same")
        elif len(counts) == len(rows):
            yield Finding("PASS", "features", f"{name}: {len(rows)} rows, all different")
        else:
            text = f"{len(rows) - len(counts)} of {len(rows)} rows repeat an earlier row"
            text += f"; the most frequent row occurs {counts.max()} times"
            yield Finding("INFO", "features", f"{name}: {text}")
    if tables:
        has = {name: (table != 0).any(axis=1) for name, table in tables.items()}
        groups = {name: int(mask.sum()) for name, mask in by_coverage(has).items()}
        text = f"{groups['complete']} {noun}s have all of {', '.join(has)}"
        yield Finding("INFO", "features", f"{text}, {groups['partial']} some, {groups['none']} none")


def _kin(experiment: Experiment, tables: Mapping[str, np.ndarray[Any, Any]]) -> Iterator[Finding]:
    """State whether items with similar features have users in common; if not, rows may be exchanged."""
    shape = experiment.dataset.item_num, experiment.dataset.user_num
    user, item = np.divmod(np.unique(pairs_of(experiment)["train"]), shape[0])
    users = sp.csr_array((np.ones(len(item), dtype=np.float32), (item, user)), shape=shape)
    trained = np.diff(users.indptr) > 0
    for name, table in tables.items():
        there = np.flatnonzero(trained & (table != 0).any(axis=1))
        if len(there) < FEWEST_ITEMS:
            continue
        found = kinship(users[there], table[there])
        text = f"an item and its nearest item have {found.nearest:.3g} training users in common on average, "
        text += f"two random items {found.random:.3g}"
        if found.clear:
            yield Finding("PASS", "features", f"{name}: {text}")
        else:
            hint = "the rows may belong to other items: compare some ids; or this feature says nothing here"
            yield Finding("INFO", "features", f"{name}: {text}; {hint}")
