"""Which training items and which semantic neighbours carry a score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from recbole_siger.errors import UserError
from recbole_siger.runs.scoring import Scoring

__all__ = ["Explanation", "contributions", "neighbor_table"]


@dataclass(frozen=True)
class Explanation:
    """Why an item has its score for a user.

    Attributes:
        user: Raw user id.
        item: Raw item id.
        score: The score.
        items: Training items of the user: ``item``, ``similarity``, ``contribution``; greatest first.
        neighbors: Semantic neighbours of the item in the model's item graphs: ``graph``, ``item``, ``weight``
            and whether the user has the neighbour in training, ``seen``; empty if there is no such graph.
    """

    user: str
    item: str
    score: float
    items: pd.DataFrame
    neighbors: pd.DataFrame


def contributions(scoring: Scoring, history: NDArray[np.int64], item: int, score: float) -> pd.DataFrame:
    """Divide a score over the training items of the user.

    Args:
        scoring: What scores are made of.
        history: Training items of the user, shape ``(n,)``.
        item: Item id.
        score: The score that is divided.

    Returns:
        Columns ``item`` (internal id), ``similarity`` and ``contribution``, greatest contribution first.

    Raises:
        UserError: If the score does not depend on the training items.

    Example:
        >>> table = torch.tensor([[0.0, 0.0], [1.0, 0.0], [3.0, 4.0], [0.0, -1.0]])
        >>> scoring = Scoring("embeddings", "X", {"user": table, "item": table}, 4, 4)
        >>> contributions(scoring, np.array([1, 3]), 2, 3.0)["contribution"].tolist()
        [3.0, 0.0]
    """
    if scoring.kind == "item_score":
        raise UserError(f"{scoring.model} gives every user the same score; there is nothing to explain")
    if scoring.kind == "item_item":
        rows = scoring.matrix[history]
        similarity = np.asarray(rows[:, [item]].todense() if hasattr(rows, "todense") else rows[:, [item]])
        similarity = similarity.ravel()
        share = similarity
    else:
        vectors = torch.nn.functional.normalize(scoring.tensors["item"][[*history.tolist(), item]], dim=1)
        similarity = (vectors[:-1] @ vectors[-1]).numpy()
        positive = np.maximum(similarity, 0)
        share = score * positive / positive.sum() if positive.sum() > 0 else np.zeros_like(positive)
    order = np.argsort(-np.abs(share), kind="stable")
    columns = {"item": history, "similarity": similarity, "contribution": share}
    return pd.DataFrame({name: values[order] for name, values in columns.items()})


def neighbor_table(
    found: dict[str, tuple[NDArray[np.int64], NDArray[np.float32]]],
    tokens: NDArray[np.object_],
    history: NDArray[np.int64],
    k: int,
) -> pd.DataFrame:
    """Return the ``k`` heaviest neighbours of each graph as a table.

    Args:
        found: ``{graph: (item ids, weights)}``.
        tokens: Raw token of each item id.
        history: Training items of the user.
        k: Neighbours a graph at most.
    """
    parts = []
    for name, (items, weights) in found.items():
        order = np.argsort(-weights, kind="stable")[:k]
        part = {"item": tokens[items[order]], "weight": weights[order]}
        parts.append(pd.DataFrame({"graph": name, **part, "seen": np.isin(items[order], history)}))
    columns = ["graph", "item", "weight", "seen"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
