"""Loops that tensor operations do slowly, compiled by numba at the first call.

Importing this module imports numba, so import it only where a loop is used. A kernel is compiled once in each
process, in one or two seconds, and is not stored. Callers use a kernel only for large inputs.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

__all__ = ["Pursuer", "co_occurrences", "dot_products"]

Array = np.ndarray[Any, Any]


@numba.njit(nogil=True, fastmath={"reassoc", "contract"})
def _dot_products(x: Array, i: Array, j: Array, out: Array) -> None:
    for pair in range(len(i)):
        a, b = x[i[pair]], x[j[pair]]
        total = 0.0
        for f in range(x.shape[1]):
            total += np.float64(a[f]) * np.float64(b[f])
        out[pair] = total


def dot_products(x: Array, i: Array, j: Array) -> Array:
    """Return the inner products of rows ``i`` and ``j`` of ``x``, each ``(n,)``, summed in float64."""
    out = np.empty(len(i))
    _dot_products(x, i, j, out)
    return out


@numba.njit(nogil=True)
def _transpose(user_start: Array, items: Array, place: Array, users: Array) -> None:
    for user in range(len(user_start) - 1):
        for at in range(user_start[user], user_start[user + 1]):
            users[place[items[at]]] = user
            place[items[at]] += 1


@numba.njit(nogil=True)
def _co_occurrences(
    user_start: Array, items: Array, item_start: Array, users: Array, state: Array, min_count: int,
    neighbour: Array, best: Array,
) -> None:  # fmt: skip
    # ``state`` has an item's counter, 0, beside its tie key, so that one memory access fetches both.
    n_items, k = neighbour.shape
    seen, kept_tie = np.empty(n_items, np.int32), np.empty(k, np.int32)
    for i in range(n_items):
        n_seen = 0
        for edge in range(item_start[i], item_start[i + 1]):
            user = users[edge]
            for place in range(user_start[user], user_start[user + 1]):
                j = items[place]
                if state[j, 0] == 0:
                    seen[n_seen] = j
                    n_seen += 1
                state[j, 0] += 1
        n_kept = 0
        for place in range(n_seen):
            j = seen[place]
            c, tie = state[j, 0], state[j, 1]
            state[j, 0] = 0
            if j == i or c < min_count:
                continue
            # Shift the stored neighbours that are worse by one place, starting at the last.
            at = n_kept
            while at > 0:
                other, d, t = neighbour[i, at - 1], best[i, at - 1], kept_tie[at - 1]
                if d > c or (d == c and (t < tie or (t == tie and other < j))):
                    break
                if at < k:
                    neighbour[i, at], best[i, at], kept_tie[at] = other, d, t
                at -= 1
            if at < k:
                neighbour[i, at], best[i, at], kept_tie[at] = j, c, tie
                n_kept = min(n_kept + 1, k)


def co_occurrences(
    user_start: Array, items: Array, item_start: Array, tie: Array, k: int, min_count: int
) -> tuple[Array, Array]:
    """Count the common users of each item with other items, and keep the ``k`` best items.

    Args:
        user_start: Start of each user's entries in ``items``, and the end, ``(U + 1,)``, int64.
        items: Distinct items of each user, ``(E,)``, int32.
        item_start: Start of each item's users in the order of items, and the end, ``(I + 1,)``, int64.
        tie: Among items with equally many common users, the item with the lower number is better, ``(I,)``,
            within 32 bits; then the item with the lower id.
        k: Number of neighbours, >= 1.
        min_count: Smallest number of common users.

    Returns:
        Neighbours, best first, -1 if there are fewer, and numbers of common users, both ``(I, k)``, int32.
    """
    neighbour = np.full((len(item_start) - 1, k), -1, np.int32)
    best = np.zeros_like(neighbour)
    users = np.empty(len(items), np.int32)
    _transpose(user_start, items, item_start[:-1].copy(), users)
    state = np.zeros((len(tie), 2), np.int32)
    state[:, 1] = tie
    _co_occurrences(user_start, items, item_start, users, state, min_count, neighbour, best)
    return neighbour, best


@numba.njit(nogil=True, fastmath={"reassoc", "contract"})
def _dot(a: Array, b: Array) -> float:
    total = 0.0
    for f in range(len(a)):
        total += np.float64(a[f]) * b[f]
    return total


@numba.njit(nogil=True)
def _integer_products(few: Array, vector: Array, out: Array) -> None:
    for row in range(len(out)):
        total = np.int32(0)
        for f in range(few.shape[1]):
            total += np.int32(few[row, f]) * np.int32(vector[f])
        out[row] = total


@numba.njit(nogil=True)
def _round_to_integers(x: Array, limit: int, out: Array) -> tuple[float, float]:
    """Write x in whole steps; return the step and the length of the rounding error."""
    largest = 0.0
    for f in range(len(x)):
        largest = max(largest, abs(x[f]))
    step, lost = largest / limit, 0.0
    for f in range(len(x)):
        out[f] = np.round(x[f] / step) if step > 0 else 0
        lost += (x[f] - out[f] * step) ** 2
    return step, np.sqrt(lost)


@numba.njit(nogil=True)
def _pursue(
    features: Array, index: Array, inverse_norm: Array, few: Array, few_step: Array, few_lost: float,
    limit: int, residuals: Array, candidates: Array, step: float, nothing: float, chosen: Array,
) -> None:  # fmt: skip
    n_queries, n_candidates = candidates.shape
    n_features, sparsity = features.shape[1], chosen.shape[1]
    basis, atom = np.empty((sparsity, n_features)), np.empty(n_features)
    near, score = np.empty((n_candidates, n_features), np.int16), np.empty(n_candidates, np.int32)
    vector, free = np.empty(n_features, np.int16), np.empty(n_candidates, np.bool_)
    size = np.empty(n_candidates)
    for query in range(n_queries):
        n = 0
        while n < n_candidates and candidates[query, n] < len(index):
            a = candidates[query, n]
            for f in range(n_features):
                near[n, f] = few[a, f]
            free[n] = True
            n += 1
        residual, count, left = residuals[query], 0, n
        while count < sparsity and left > 0 and _dot(residual, residual) > nothing:
            length = np.sqrt(_dot(residual, residual))
            vector_step, vector_lost = _round_to_integers(residual, limit, vector)
            _integer_products(near[:n], vector, score[:n])
            off, top = few_lost * length + 1.01 * vector_lost, 0.0
            for place in range(n):
                size[place] = abs(score[place]) * vector_step * few_step[candidates[query, place]]
                if free[place]:
                    top = max(top, size[place])
            best, at = 0.0, -1
            for place in range(n):
                if free[place] and size[place] >= top - 2 * off - step:
                    a = candidates[query, place]
                    exact = np.round(abs(_dot(features[index[a]], residual)) * inverse_norm[a] / step)
                    if exact > best:
                        best, at = exact, place
            if at < 0:
                break
            free[at] = False
            left -= 1
            a = candidates[query, at]
            for f in range(n_features):
                atom[f] = features[index[a], f] * inverse_norm[a]
            for _ in range(2):
                for s in range(count):
                    along = _dot(basis[s], atom)
                    for f in range(n_features):
                        atom[f] -= along * basis[s, f]
            grown = _dot(atom, atom)
            if grown <= nothing:
                continue
            for f in range(n_features):
                basis[count, f] = atom[f] / np.sqrt(grown)
            along = _dot(basis[count], residual)
            for f in range(n_features):
                residual[f] -= along * basis[count, f]
            chosen[query, count] = a
            count += 1


class Pursuer:
    """Orthogonal matching pursuit over the atoms of one table, query by query.

    Products of 12-bit integers only propose atoms. The error of a product is bounded, and float64 decides
    among the atoms that may be the best.

    Args:
        features: Table of the atoms, shape ``(M, F)``, float32 or float64.
        index: Rows of the table that are atoms, ascending, shape ``(V,)``, int64.
        inverse_norm: Inverse lengths of the atoms, shape ``(V,)``, float64.
        sparsity: Atoms to choose for a query, >= 1.
        step: Correlations are equal if they are equal in whole steps.
    """

    def __init__(
        self, features: Array, index: Array, inverse_norm: Array, sparsity: int, step: float
    ) -> None:
        self.table = features, index, inverse_norm
        self.sparsity, self.step = sparsity, step
        # No sum of F products exceeds 32 bits.
        self.limit = int(min(2047, np.sqrt((2**31 - 1) / features.shape[1])))
        self.few = np.empty((len(index), features.shape[1]), np.int16)
        self.few_step, lost = np.empty(len(index)), 0.0
        for a in range(len(index)):
            unit = features[index[a]].astype(np.float64) * inverse_norm[a]
            self.few_step[a], one = _round_to_integers(unit, self.limit, self.few[a])
            lost = max(lost, one)
        self.lost = 1.01 * lost

    def pursue(self, queries: Array, candidates: Array, nothing: float) -> Array:
        """Choose atoms for a few queries.

        Args:
            queries: Rows of length 1, shape ``(n, F)``, float64; overwritten by their residuals.
            candidates: Positions of atoms, ascending, shape ``(n, k)``, int64; V for none.
            nothing: Squared length up to which a residual, or the contribution of an atom, counts as zero.

        Returns:
            Positions of the chosen atoms in order, shape ``(n, sparsity)``, int64, -1 for none.
        """
        chosen = np.full((len(queries), self.sparsity), -1)
        _pursue(*self.table, self.few, self.few_step, self.lost, self.limit, queries, candidates, self.step,
                nothing, chosen)  # fmt: skip
        return chosen
