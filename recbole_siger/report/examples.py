"""Examples of recommendations for a report: the same users for each model, with titles of the items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from recbole_siger.errors import UserError
from recbole_siger.recommend.recommender import Recommender
from recbole_siger.report.comparison import Entry
from recbole_siger.report.html import element, table

__all__ = ["example_section"]

N_USERS, N_ITEMS, N_SHOWN = 3, 5, 5


def example_section(entries: Sequence[Entry]) -> str:
    """Return one table a user: the items of training, and the best new items of the first run of each entry.

    An entry whose run cannot recommend is named with the reason. The users are drawn, the same each time.
    """
    recommenders: dict[str, Recommender] = {}
    reasons = []
    for entry in entries:
        try:
            recommenders[entry.label] = Recommender.load(entry.runs[0].path)
        except UserError as error:
            reasons.append(element("p", f"{entry.label}: no examples: {error}", "quiet"))
    parts = []
    if recommenders:
        first = next(iter(recommenders.values()))
        titles = _titles(first)
        parts = [_user_table(user, recommenders, titles) for user in _users(first)]
        note = (
            "Users drawn at random, the same for each model; items of training and validation are left out."
        )
        parts.insert(0, element("p", note, "quiet"))
    return "\n".join([element("h3", "Examples of recommendations"), *parts, *reasons])


def _users(recommender: Recommender) -> list[str]:
    """Draw users who have a training item."""
    counts = np.diff(recommender.seen["train"].indptr)
    active = np.flatnonzero(counts)
    drawn = np.random.default_rng(0).permutation(active)[:N_USERS]
    return recommender.users.array[np.sort(drawn)].tolist()


def _titles(recommender: Recommender) -> dict[str, str]:
    """Return the first text of each item that has one."""
    texts = recommender.item_texts(recommender.items.tokens[1:])
    columns = [name for name in texts.columns if name != "item"]
    if not columns:
        return {}
    return {item: text for item, text in zip(texts["item"], texts[columns[0]], strict=True) if text}


def _user_table(user: str, recommenders: Mapping[str, Recommender], titles: Mapping[str, str]) -> str:
    first = next(iter(recommenders.values()))
    _, items = first.seen["train"].of(first.users.find([user]))
    known = [titles.get(item, item) for item in first.items.array[items].tolist()]
    columns = {"In training": known[:N_SHOWN]}
    for label, recommender in recommenders.items():
        found = recommender.recommend([user], N_ITEMS, on_unknown="skip")["item"].tolist()
        columns[label] = [titles.get(item, item) for item in found]
    rows = [
        [str(rank + 1), *(column[rank] if rank < len(column) else "" for column in columns.values())]
        for rank in range(max(N_ITEMS, N_SHOWN))
    ]
    more = f" ({len(known):,} in training, the first {N_SHOWN} shown)" if len(known) > N_SHOWN else ""
    return table(f"Recommendations for user {user}{more}", ["Rank", *columns], rows, "words")
