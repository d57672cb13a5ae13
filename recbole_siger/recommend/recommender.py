"""Recommend from a finished run folder, without its dataset and without RecBole.

The folder may be copied to another machine. Only safetensors, JSON, YAML and text are read, and the sizes and
ids in them are checked, so that a damaged folder gives one line and runs no code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from recbole_siger.errors import UserError
from recbole_siger.evaluation.ranking import ItemLists
from recbole_siger.recommend.explain import Explanation, contributions, neighbor_table
from recbole_siger.recommend.ids import IdTable, OnUnknown
from recbole_siger.recommend.new_items import NewItems
from recbole_siger.recommend.opening import open_run
from recbole_siger.recommend.ranking import Ranked, check_k, join, lists_of, merged, rank_blocks, ranks_of
from recbole_siger.recommend.similar import cosines_of, matrix_rows, similar
from recbole_siger.runs.folder import RunFolder
from recbole_siger.runs.item_texts import read_item_texts
from recbole_siger.runs.scoring import EMBEDDINGS_FILE, ITEMS_FILE, Scoring, open_seen, read_ids

__all__ = ["Embeddings", "Recommender"]

Ids = NDArray[np.int64]
SeenChoice = bool | Literal["train"]


class Embeddings(NamedTuple):
    """Final embeddings of users and items with their raw ids; the padding rows are left out."""

    users: list[str]
    items: list[str]
    user: Tensor  # (n_users, d)
    item: Tensor  # (n_items, d)


class Recommender:
    """The scores of one finished run.

    A score is the model's own: the tensors that it is computed from were compared with the model when the run
    ended. Of equal scores the lower item id comes first. Internal id 0, the padding, is never returned. Make
    one with :meth:`load`.

    Args:
        run: The run folder.
        scoring: What scores are made of.
        users: Raw ids of the users.
        items: Raw ids of the items.
        seen: Training items and validation items of each user, ``train`` and ``valid``.
        n_trained: Number of items of the run, the padding included; items after them were added.

    Attributes:
        new_items: What scores new items, and the stored item graphs.
    """

    def __init__(
        self,
        run: RunFolder,
        scoring: Scoring,
        users: IdTable,
        items: IdTable,
        seen: Mapping[str, ItemLists],
        n_trained: int | None = None,
    ) -> None:
        self.run, self.scoring = run, scoring
        self.users, self.items, self.seen = users, items, dict(seen)
        self.n_trained = scoring.n_items if n_trained is None else n_trained
        self.new_items = NewItems(run, scoring, self.n_trained)
        self._both = cache(partial(merged, self.seen["train"], self.seen["valid"], len(users), len(items)))

    @property
    def n_added(self) -> int:
        """Number of items that were added after training."""
        return len(self.items) - self.n_trained

    @classmethod
    def load(cls, run_dir: str | Path) -> Recommender:
        """Open a finished run folder; the embeddings are mapped into memory and read once to check them.

        Args:
            run_dir: The folder of a finished run.

        Raises:
            UserError: In one line: if the folder is no run, the run is unfinished, its model has no stored
                vectors, or a file is missing or damaged.
        """
        run, scoring = open_run(run_dir)
        users = IdTable(read_ids(run, "users", scoring.n_users), "user")
        items = IdTable(read_ids(run, "items", scoring.n_items), "item")
        return cls(run, scoring, users, items, open_seen(run, scoring.n_users, scoring.n_items))

    # ---- recommendations

    def recommend(
        self,
        users: Iterable[object] | str,
        k: int = 10,
        *,
        exclude_seen: SeenChoice = True,
        candidates: Iterable[object] | None = None,
        with_scores: bool = True,
        on_unknown: OnUnknown = "error",
    ) -> pd.DataFrame:
        """Rank items for users.

        Args:
            users: Raw user ids; ``"all"`` is every user of the run.
            k: Items a user at most, >= 1.
            exclude_seen: True excludes the user's training and validation items, ``"train"`` only the
                training items, False nothing.
            candidates: Raw ids of the items that can be recommended; None: all items.
            with_scores: Whether the table has the column ``score``.
            on_unknown: ``error`` refuses unknown ids, ``skip`` ignores them.

        Returns:
            Columns ``user``, ``item``, ``score`` (float32) and ``rank`` (from 1), by user in the given order,
            best first. A user with fewer than ``k`` possible items has fewer rows.

        Raises:
            UserError: If an id is unknown, or ``k`` is below 1.
        """
        ids = self.user_ids(users, on_unknown)
        blocks = self.rank(ids, k, exclude_seen, self._candidate_ids(candidates, on_unknown))
        return self.frame(ids, join(blocks), with_scores)

    def user_ids(self, users: Iterable[object] | str, on_unknown: OnUnknown | None = None) -> Ids:
        """Return the internal ids of raw user ids, shape ``(n,)``; ``"all"`` is every user of the run."""
        if isinstance(users, str) and users == "all":
            return np.arange(1, len(self.users))
        return self.users.find(users, on_unknown)

    def rank(
        self, users: Ids, k: int, exclude_seen: SeenChoice = True, candidates: Ids | None = None
    ) -> Iterator[Ranked]:
        """Yield rows of ``users``, item ids and scores, a block of users at a time, for bounded memory.

        Args:
            users: Internal user ids, shape ``(n,)``.
            k: Items a user at most.
            exclude_seen: As for :meth:`recommend`.
            candidates: Internal ids of the items that can be recommended, ascending; None: all items.
        """
        k = check_k(k)
        hidden = self._hidden(exclude_seen)

        def score(rows: Ids) -> Tensor:
            return self.scoring.scores(torch.from_numpy(users[rows]), self.seen["train"])

        def seen(rows: Ids) -> tuple[Ids, Ids]:
            assert hidden is not None
            return hidden.of(users[rows])

        return rank_blocks(len(users), len(self.items), score, seen if hidden else None, k, candidates)

    def frame(self, users: Ids, ranked: Ranked, with_scores: bool = True) -> pd.DataFrame:
        """Return ranked items by raw id, see :meth:`recommend`."""
        table = _frame(self.users.array[users], self.items.array, ranked)
        return table if with_scores else table.drop(columns="score")

    def _hidden(self, exclude_seen: SeenChoice) -> ItemLists | None:
        if exclude_seen not in (True, False, "train"):
            raise ValueError(f"exclude_seen must be True, False or 'train', got {exclude_seen!r}")
        if exclude_seen == "train":
            return self.seen["train"]
        return self._both() if exclude_seen else None

    def _candidate_ids(self, candidates: Iterable[object] | None, on_unknown: OnUnknown) -> Ids | None:
        return None if candidates is None else np.unique(self.items.find(candidates, on_unknown))

    # ---- new users

    def fold_in(
        self,
        history: Iterable[object] | Mapping[str, Iterable[object]],
        k: int = 10,
        *,
        exclude_seen: bool = True,
        candidates: Iterable[object] | None = None,
        on_unknown: OnUnknown = "error",
    ) -> pd.DataFrame:
        """Rank items for users who are not in the run, from lists of items.

        The rule: the vector of the user is the mean of the final embeddings of the items. With an item-item
        matrix the score is the model's own, the sum of the rows of the items; for such models a user of the
        run gets the same scores from the same list. A popularity score does not depend on the list.

        Args:
            history: Raw item ids of one user, or ``{name: item ids}`` of several users.
            k: Items a user at most, >= 1.
            exclude_seen: Whether the items of the list are left out.
            candidates: Raw ids of the items that can be recommended; None: all items.
            on_unknown: ``error`` refuses unknown ids, ``skip`` ignores them.

        Returns:
            As :meth:`recommend`; the user of a plain list is called ``new``.

        Raises:
            UserError: If an id is unknown, or a list has no known item.
        """
        k = check_k(k)
        lists = dict(history) if isinstance(history, Mapping) else {"new": history}
        found = [self.items.find(items, on_unknown) for items in lists.values()]
        for name, items in zip(lists, found, strict=True):
            if not len(items):
                raise UserError(f"history of {name!r}: no item of the run; give at least one known item")
        histories = lists_of(found)
        chosen = self._candidate_ids(candidates, on_unknown)
        ranked = join(
            rank_blocks(
                len(found),
                len(self.items),
                lambda rows: self._scores_of_lists(histories, rows),
                histories.of if exclude_seen else None,
                k,
                chosen,
            )
        )
        return _frame(np.array(list(lists), dtype=object), self.items.array, ranked)

    def _scores_of_lists(self, histories: ItemLists, rows: Ids) -> Tensor:
        """Score all items for lists of items, the rule of :meth:`fold_in`: ``(B, n_items)``."""
        place, items = histories.of(rows)
        if self.scoring.kind == "item_score":
            return self.scoring.tensors["score"].expand(len(rows), -1).clone()
        if self.scoring.kind == "item_item":
            return self.scoring.scores_of_lists(place, items, len(rows))
        table = self.scoring.tensors["item"]
        offsets = torch.from_numpy(np.searchsorted(place, np.arange(len(rows))))
        vectors = torch.nn.functional.embedding_bag(torch.from_numpy(items), table, offsets, mode="mean")
        return self.scoring.scores_of_vectors(vectors)

    # ---- similarity

    def similar_items(
        self, items: Iterable[object] | str, k: int = 10, *, on_unknown: OnUnknown | None = None
    ) -> pd.DataFrame:
        """Rank items by the cosine of final embeddings; with an item-item matrix, by its entries.

        Returns:
            Columns ``item``, ``similar``, ``score`` and ``rank``; an item is not similar to itself.

        Raises:
            UserError: If an id is unknown, or the model has neither embeddings nor an item-item matrix.
        """
        ids = self.items.find(items, on_unknown)
        if self.scoring.kind == "item_item":
            return similar(self.items, ids, k, partial(matrix_rows, self.scoring))
        return similar(self.items, ids, k, self._item_cosines)

    def similar_users(
        self, users: Iterable[object] | str, k: int = 10, *, on_unknown: OnUnknown | None = None
    ) -> pd.DataFrame:
        """Rank users by the cosine of final embeddings.

        Returns:
            Columns ``user``, ``similar``, ``score`` and ``rank``; a user is not similar to itself.

        Raises:
            UserError: If an id is unknown, or the model has no embeddings.
        """
        ids = self.users.find(users, on_unknown)
        return similar(self.users, ids, k, cosines_of(self._table("user")))

    @cached_property
    def _item_cosines(self) -> Callable[[Ids], Tensor]:
        """Cosines with all items, computed once for many calls."""
        return cosines_of(self._table("item"))

    def _table(self, name: str) -> Tensor:
        """Return the final embeddings of ``user`` or ``item``, padding first."""
        if self.scoring.kind != "embeddings":
            raise UserError(
                f"{self.run.file(EMBEDDINGS_FILE)}: {self.scoring.model} has no embeddings of {name}s; "
                "use a model with embeddings, such as SIGER or LightGCN"
            )
        return self.scoring.tensors[name]

    # ---- scores

    def score(self, pairs: Iterable[tuple[object, object]] | pd.DataFrame) -> pd.DataFrame:
        """Score pairs of users and items, seen pairs too.

        Args:
            pairs: Pairs of raw ids, or a table with the columns ``user`` and ``item``.

        Returns:
            Columns ``user``, ``item`` and ``score``, in the given order.

        Raises:
            UserError: If an id is unknown.
        """
        both = pairs[["user", "item"]].to_numpy().tolist() if isinstance(pairs, pd.DataFrame) else list(pairs)
        users, items = self.users.find(u for u, _ in both), self.items.find(i for _, i in both)
        columns = {"user": self.users.array[users], "item": self.items.array[items]}
        return pd.DataFrame({**columns, "score": self._pair_scores(users, items)})

    def _pair_scores(self, users: Ids, items: Ids) -> NDArray[np.float32]:
        pairs = torch.from_numpy(users), torch.from_numpy(items)
        return self.scoring.pair_scores(*pairs, self.seen["train"]).numpy()

    def explain(self, user: object, item: object, k: int = 10) -> Explanation:
        """Show which training items of the user carry the score of an item.

        With an item-item matrix the contributions are the model's own terms. With embeddings the score is
        divided over the training items in proportion to the positive part of the cosine between their final
        embeddings and that of the item: a share by similarity, not a cause. Contributions sum to the score;
        if no training item is similar, all contributions are zero.

        Args:
            user: Raw user id.
            item: Raw item id.
            k: Training items and semantic neighbours at most, >= 1.

        Raises:
            UserError: If an id is unknown, or the model's score does not depend on the training items.
        """
        k = check_k(k)
        (u,), (i,) = self.users.find([user]), self.items.find([item])
        _, history = self.seen["train"].of(np.array([u]))
        score = float(self._pair_scores(np.array([u]), np.array([i]))[0])
        items = contributions(self.scoring, history, int(i), score)
        items["item"] = self.items.array[items["item"]]
        neighbors = neighbor_table(self.new_items.neighbors_of(int(i)), self.items.array, history, k)
        return Explanation(str(user), str(item), score, items.head(k), neighbors)

    # ---- content of the folder

    def embeddings(self) -> Embeddings:
        """Return the final embeddings and the raw ids of their rows, without the padding rows.

        Raises:
            UserError: If the model has no embeddings.
        """
        user, item = self._table("user"), self._table("item")
        return Embeddings(self.users.tokens[1:], self.items.tokens[1:], user[1:], item[1:])

    def item_texts(self, items: Iterable[object] | str) -> pd.DataFrame:
        """Return the stored texts of items: ``item`` and the columns of ``items.tsv``, "" where unknown.

        Raises:
            UserError: If an id is unknown, or the file is damaged.
        """
        tokens = self.items.array[self.items.find(items)].tolist()
        texts = read_item_texts(self.run.file(ITEMS_FILE), dict.fromkeys(tokens, 0))
        return pd.DataFrame([{"item": token, **texts.get(token, {})} for token in tokens]).fillna("")

    # ---- new items

    def add_items(
        self,
        features: Mapping[str, Any],
        ids: Sequence[object],
        *,
        id_embedding: Literal["zero", "mean"] = "zero",
    ) -> Recommender:
        """Return a recommender that also knows new items, by their content and without training.

        A new item has no training row. Its final embedding is what the model computes for an item of its
        catalogue with these features, with an edge to itself and to its nearest trained items. No edge leads
        from a trained item to a new item, so the scores of trained items do not change; no edge joins two new
        items, so the result does not depend on which items are added together.

        Args:
            features: ``{modality: (n, F_m)}``, arrays or tensors, rows in the order of ``ids``. A row of
                zeros means that the item has no such feature.
            ids: Raw ids of the new items, length n.
            id_embedding: The ID embedding of a new item: ``zero``, the mean of the untrained rows of RecBole,
                or ``mean``, the mean of the trained items.

        Raises:
            UserError: If the model does not score items by content, a file is missing, an id is known
                already, or a feature has another shape or a value that is not finite.
        """
        tokens = [str(one) for one in ids]
        items = self.items.extended(tokens)
        rows = self.new_items.embed(features, len(tokens), id_embedding)
        table = torch.cat([self._table("item"), rows])
        tensors = {"user": self._table("user"), "item": table}
        scoring = replace(self.scoring, tensors=tensors, n_items=len(items))
        return Recommender(self.run, scoring, self.users, items, self.seen, self.n_trained)


def _frame(users: NDArray[np.object_], items: NDArray[np.object_], ranked: Ranked) -> pd.DataFrame:
    """Return ranked items as a table; ``users`` names each row of the ranking, ``items`` each item id."""
    rows, found, scores = ranked
    columns = {"user": users[rows], "item": items[found], "score": scores, "rank": ranks_of(rows)}
    return pd.DataFrame(columns)
