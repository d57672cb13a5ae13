"""Answers of the server as plain values, without HTTP: recommendations, similar items, new items, reload."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_siger.common.files import real_path
from recbole_siger.errors import UserError
from recbole_siger.recommend.ranking import join
from recbole_siger.serve.params import ServeParams
from recbole_siger.serve.source import Loaded, find_run, identity_of, load_run

__all__ = ["RefusedError", "Service"]

Ids = NDArray[np.int64]
Answer = dict[str, Any]

N_EXAMPLES = 20

_log = logging.getLogger(__name__)


class RefusedError(Exception):
    """A request that cannot be answered, with the HTTP status and one line for the client."""

    def __init__(self, status: int, message: str) -> None:
        self.status, self.message = status, message
        super().__init__(message)


class Service:
    """A run in memory and the answers that it gives.

    Requests read ``loaded`` once and then work with that run, so a reload or new items never mix two runs in
    an answer. Only one thread at a time changes ``loaded``.

    Args:
        source: A run folder, or a folder of runs.
        params: Options and limits.

    Raises:
        UserError: If no run can be loaded.
    """

    def __init__(self, source: str | Path, params: ServeParams) -> None:
        self.source, self.params = Path(source), params
        self._images = None if params.images is None else Path(params.images)
        self._changes = threading.Lock()
        self.loaded: Loaded = load_run(find_run(self.source), self._images)
        self.loaded_at = time.time()
        self.last_reload: Answer | None = None

    # ---- recommendations

    def recommend(
        self,
        user: str | None,
        k: int,
        history: Sequence[str] = (),
        candidates: Sequence[str] | None = None,
        *,
        exclude_seen: bool = True,
        details: bool = False,
    ) -> Answer:
        """Recommend items to one user.

        A user of the run gets the scores of the model. Any other user gets the scores of
        :meth:`~recbole_siger.recommend.recommender.Recommender.fold_in` for the items of ``history``, and
        without a known item in ``history`` the items with the most training rows.

        Args:
            user: Raw user id; None for a user without an id.
            k: Items at most.
            history: Raw item ids that the user has had since training, or at all.
            candidates: Raw ids of the items that can be recommended; None: all items.
            exclude_seen: Whether training items, validation items and the items of ``history`` are left out.
            details: Whether each item has its title and whether it has a picture.

        Returns:
            ``user``, ``source`` (``user``, ``history`` or ``popular``), ``items`` and ``ignored``, the ids of
            ``history`` and ``candidates`` that are not in the run.

        Raises:
            RefusedError: If a limit is exceeded.
        """
        loaded = self.loaded
        self._check(k, user=[user or ""], history=history, candidates=candidates or ())
        known, chosen = _known(loaded, history), None if candidates is None else _known(loaded, candidates)
        allowed = None if chosen is None else np.unique(np.array(chosen, dtype=np.int64))
        ignored = [one for one in (*history, *(candidates or ())) if one not in loaded.items]
        if user is not None and user in loaded.users:
            source, ranked = "user", _of_user(loaded, user, k, known, allowed, exclude_seen)
        elif known:
            source, ranked = "history", _of_history(loaded, k, known, allowed, exclude_seen)
        else:
            source, ranked = "popular", _of_popularity(loaded, k, allowed)
        items = self._listed(loaded, *ranked, details=details)
        return {"user": user, "source": source, "items": items, "ignored": ignored}

    def similar(self, item: str, k: int, *, details: bool = False) -> Answer:
        """Return the items that are most similar to an item.

        Raises:
            RefusedError: If the item is unknown, or the model has no similar items.
        """
        loaded = self.loaded
        self._check(k, item=[item])
        if item not in loaded.items:
            raise RefusedError(404, f"item={item!r}: is not in the run")
        try:
            found = loaded.recommender.similar_items([item], k)
        except UserError as error:
            raise RefusedError(409, _for_client(error, loaded)) from None
        ids = np.array([loaded.items[one] for one in found["similar"]], dtype=np.int64)
        return {"item": item, "items": self._listed(loaded, ids, found["score"].to_numpy(), details=details)}

    def _listed(self, loaded: Loaded, ids: Ids, scores: Any, *, details: bool) -> list[Answer]:
        tokens = loaded.recommender.items.tokens
        rows = [
            {"item": tokens[number], "score": score, "rank": rank}
            for rank, (number, score) in enumerate(zip(ids.tolist(), scores.tolist(), strict=True), start=1)
        ]
        if details:
            for row in rows:
                row["title"] = loaded.titles.get(row["item"])
                row["image"] = row["item"] in loaded.images
        return rows

    def _check(self, k: int, **lists: Sequence[str]) -> None:
        """Refuse numbers and lists beyond the limits of the server."""
        if not 1 <= k <= self.params.max_k:
            raise RefusedError(422, f"k={k}: expected an integer in [1, {self.params.max_k}]")
        for name, ids in lists.items():
            if len(ids) > self.params.max_ids:
                raise RefusedError(422, f"{name}: {len(ids):,} ids; at most {self.params.max_ids:,}")
            if any(len(one) > self.params.max_id_length for one in ids):
                raise RefusedError(422, f"{name}: an id has more than {self.params.max_id_length} characters")

    # ---- new items

    def add_items(self, ids: Sequence[str], features: Mapping[str, Sequence[Sequence[float]]]) -> Answer:
        """Add new items by their features, in memory only; trained items keep their scores.

        Args:
            ids: Raw ids.
            features: ``{modality: rows}``, a row for each id in the order of ``ids``.

        Returns:
            ``added`` and ``n_new_items``, the number of all new items in memory.

        Raises:
            RefusedError: If the model cannot score new items, an id is known, a row has another width or a
                number that is not finite, or a limit is exceeded.
        """
        self._check(1, ids=ids)
        for one in ids:
            if not one.strip() or not one.isprintable():
                raise RefusedError(422, f"ids: {one!r}: an id needs printable characters")
        with self._changes:
            loaded = self.loaded
            total = loaded.recommender.n_added + len(ids)
            if total > self.params.max_new_items:
                limit = f"at most {self.params.max_new_items:,} new items"
                raise RefusedError(409, f"ids: {total:,} new items would be in memory; {limit}")
            try:
                rows = {name: _rows(name, table) for name, table in features.items()}
                recommender = loaded.recommender.add_items(rows, ids)
            except UserError as error:
                taken = any(one in loaded.items for one in ids)
                raise RefusedError(409 if taken else 422, _for_client(error, loaded)) from None
            self.loaded = loaded.with_items(recommender)
        _log.info("added %d new items", len(ids))
        return {"added": list(ids), "n_new_items": total}

    # ---- reload

    def reload(self) -> Answer:
        """Load the newest complete run beside the run in memory, then replace the run in memory.

        If the newest run is the run in memory, nothing changes. If the newest run cannot be loaded, the run
        in memory stays.

        Returns:
            ``status`` (``reloaded``, ``unchanged`` or ``failed``), ``run``, ``error`` and
            ``new_items_dropped``, the number of new items that the newer run does not know.
        """
        with self._changes:
            before, dropped, error = self.loaded, 0, None
            try:
                folder = find_run(self.source)
                status = "unchanged" if identity_of(folder) == before.identity else "reloaded"
                if status == "reloaded":
                    self.loaded, dropped = load_run(folder, self._images), before.recommender.n_added
                    self.loaded_at = time.time()
            except UserError as refused:
                status, error = "failed", str(refused)
            except Exception as unexpected:  # a damaged run can raise anything; the server keeps its run
                _log.exception("reload failed")
                status, error = "failed", f"{type(unexpected).__name__}: {unexpected}"
            run = self.loaded.folder.name
            self.last_reload = {"status": status, "run": run, "error": error, "new_items_dropped": dropped}
        return self.last_reload

    # ---- facts

    def facts(self) -> Answer:
        """Return what is served: run, sizes, limits, examples of ids, the last reload."""
        loaded, params = self.loaded, self.params
        recommender = loaded.recommender
        limits = ("max_k", "max_ids", "max_id_length", "max_body_bytes", "max_new_items", "max_requests")
        return {
            "run": loaded.folder.name,
            "model": loaded.model,
            "dataset": loaded.dataset,
            "n_users": len(loaded.users),
            "n_items": len(loaded.items),
            "n_new_items": recommender.n_added,
            "n_titles": len(loaded.titles),
            "n_images": len(loaded.images),
            "example_users": recommender.users.tokens[1 : N_EXAMPLES + 1],
            "loaded_at": self.loaded_at,
            "last_reload": _public(self.last_reload, self.source),
            "limits": {name: getattr(params, name) for name in limits},
        }


def _known(loaded: Loaded, ids: Sequence[str]) -> list[int]:
    return [loaded.items[one] for one in ids if one in loaded.items]


Ranked = tuple[Ids, Any]


def _of_user(
    loaded: Loaded, user: str, k: int, history: list[int], allowed: Ids | None, exclude_seen: bool
) -> Ranked:
    if history and exclude_seen:
        every = np.arange(1, len(loaded.recommender.items)) if allowed is None else allowed
        allowed = np.setdiff1d(every, history)
    if allowed is not None and not len(allowed):
        return allowed, np.empty(0, np.float32)
    row = np.array([loaded.users[user]])
    _, items, scores = join(loaded.recommender.rank(row, k, exclude_seen, allowed))
    return items, scores


def _of_history(
    loaded: Loaded, k: int, history: list[int], allowed: Ids | None, exclude_seen: bool
) -> Ranked:
    tokens = loaded.recommender.items.tokens
    chosen = None if allowed is None else [tokens[number] for number in allowed.tolist()]
    if chosen == []:
        return np.empty(0, np.int64), np.empty(0, np.float32)
    names = [tokens[number] for number in history]
    found = loaded.recommender.fold_in(names, k, exclude_seen=exclude_seen, candidates=chosen)
    ids = np.array([loaded.items[one] for one in found["item"]], dtype=np.int64)
    return ids, found["score"].to_numpy()


def _of_popularity(loaded: Loaded, k: int, allowed: Ids | None) -> Ranked:
    order = loaded.popular if allowed is None else loaded.popular[np.isin(loaded.popular, allowed)]
    return order[:k], loaded.counts[order[:k]].astype(np.float32)


def _rows(name: str, rows: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    if len({len(row) for row in rows}) > 1:
        raise UserError(f"new items: features of {name!r} have rows of different lengths")
    return np.array(rows, dtype=np.float64)


def _for_client(error: UserError, loaded: Loaded) -> str:
    """Return a message without the path of the run folder."""
    return str(error).replace(str(loaded.folder), loaded.folder.name)


def _public(report: Answer | None, source: Path) -> Answer | None:
    """Return a report of a reload without the path of the folder of runs."""
    if report is None or report["error"] is None:
        return report
    error = report["error"]
    for path in (real_path(source), source.absolute()):
        error = error.replace(str(path), path.name)
    return {**report, "error": error}
