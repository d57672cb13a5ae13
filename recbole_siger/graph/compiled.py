"""Loops that tensor operations do slowly, compiled by numba at the first call.

Importing this module imports numba, so import it only where a loop is used. A kernel is compiled once in each
process, in one or two seconds, and is not stored. Callers use a kernel only for large inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

__all__ = ["Pursuer", "co_occurrences", "dot_products", "keep_nearest"]

Array = np.ndarray[Any, Any]

# Python runs between the parts of a long loop, so that progress is shown and Ctrl-C works.
N_PARTS = 256
ATOM_LIMIT = 127  # of an integer with 8 bits


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


@numba.njit(nogil=True, fastmath={"reassoc", "contract"})
def _keep_nearest(
    above: Array, words: Array, signs: int, query: Array, self_place: Array, first: int, n_columns: int,
    left: Array, right: Array, shift: int, best: Array, place: Array,
) -> None:  # fmt: skip
    last, in_group = best.shape[1] - 1, 8 * above.shape[1] // words.shape[1]
    for a in range(len(query)):
        q = query[a]
        for group in range(-(-n_columns // in_group)):
            # Few groups have a number that is not negative; eight words hold the signs of all of them.
            sign = signs
            for word in range(8 * group, 8 * group + 8):
                sign &= words[a, word]
            if sign == signs:
                continue
            for c in range(group * in_group, min((group + 1) * in_group, n_columns)):
                if above[a, c] < 0 or first + c == self_place[q]:
                    continue
                cosine = np.float32(0.0)
                for f in range(left.shape[1]):
                    cosine += left[q, f] * np.int32(np.int32(right[c, f]) << shift).view(np.float32)
                if cosine <= best[q, last]:
                    continue
                at = last
                while at > 0 and best[q, at - 1] < cosine:
                    best[q, at], place[q, at] = best[q, at - 1], place[q, at - 1]
                    at -= 1
                best[q, at], place[q, at] = cosine, first + c


def keep_nearest(
    above: Array, query: Array, self_place: Array, first: int, n_columns: int, left: Array, right: Array,
    best: Array, place: Array,
) -> None:  # fmt: skip
    """Update the nearest rows of some queries with the products of one block.

    Args:
        above: Bits of products of few bits minus a number just below ``best[:, -1]``, ``(>= n, m)``, int16
            of bfloat16 or int32 of float32, m a multiple of 32; a pair is looked at unless it is negative.
        query: Query of each row of ``above``, ``(n,)``, int64.
        self_place: Place of each query among the rows, which is skipped, ``(Q,)``, int64.
        first: Place of the first column of ``above``.
        n_columns: Columns of ``above`` that are rows, <= m.
        left: Queries, ``(Q, F)``, float32.
        right: Bits of the rows of the block, ``(m, >= F)``, of the type of ``above``; products of ``left``
            and these rows decide.
        best: Products of the nearest rows, descending, ``(Q, C)``, float32; updated.
        place: Places of the nearest rows, ``(Q, C)``, int64; updated.
    """
    words = above.view(np.int64)
    signs = np.full(8 // above.itemsize, np.iinfo(above.dtype).min, above.dtype).view(np.int64)[0]
    shift = 32 - 8 * above.itemsize
    _keep_nearest(above, words, signs, query, self_place, first, n_columns, left, right, shift, best, place)


@numba.njit(nogil=True)
def _transpose(user_start: Array, items: Array, place: Array, users: Array) -> None:
    for user in range(len(user_start) - 1):
        for at in range(user_start[user], user_start[user + 1]):
            users[place[items[at]]] = user
            place[items[at]] += 1


@numba.njit(nogil=True)
def _co_occurrences(
    start: int, stop: int, user_start: Array, items: Array, item_start: Array, users: Array, state: Array,
    min_count: int, neighbour: Array, best: Array,
) -> None:  # fmt: skip
    # ``state`` has an item's counter, 0, beside its tie key, so that one memory access fetches both.
    n_items, k = neighbour.shape
    seen, kept_tie = np.empty(n_items, np.int32), np.empty(k, np.int32)
    for i in range(start, stop):
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
    user_start: Array, items: Array, item_start: Array, tie: Array, k: int, min_count: int,
    done: Callable[[int], None],
) -> tuple[Array, Array]:  # fmt: skip
    """Count the common users of each item with other items, and keep the ``k`` best items.

    Args:
        user_start: Start of each user's entries in ``items``, and the end, ``(U + 1,)``, int64.
        items: Distinct items of each user, ``(E,)``, int32.
        item_start: Start of each item's users in the order of items, and the end, ``(I + 1,)``, int64.
        tie: Among items with equally many common users, the item with the lower number is better, ``(I,)``,
            within 32 bits; then the item with the lower id.
        k: Number of neighbours, >= 1.
        min_count: Smallest number of common users.
        done: Called with the number of items of each part, about ``N_PARTS`` times.

    Returns:
        Neighbours, best first, -1 if there are fewer, and numbers of common users, both ``(I, k)``, int32.
    """
    n_items = len(item_start) - 1
    neighbour = np.full((n_items, k), -1, np.int32)
    best = np.zeros_like(neighbour)
    users = np.empty(len(items), np.int32)
    _transpose(user_start, items, item_start[:-1].copy(), users)
    state = np.zeros((len(tie), 2), np.int32)
    state[:, 1] = tie
    size = -(-n_items // N_PARTS)
    for start in range(0, n_items, size):
        stop = min(start + size, n_items)
        _co_occurrences(start, stop, user_start, items, item_start, users, state, min_count, neighbour, best)
        done(stop - start)
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


@numba.njit(nogil=True, fastmath={"reassoc", "contract", "nnan", "nsz"})
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
    limit: int, residuals: Array, candidates: Array, first: Array, step: float, nothing: float, chosen: Array,
) -> None:  # fmt: skip
    n_queries, n_candidates = candidates.shape
    n_features, sparsity = features.shape[1], chosen.shape[1]
    basis, atom = np.empty((sparsity, n_features)), np.empty(n_features)
    near, score = np.empty((n_candidates, n_features), np.int8), np.empty(n_candidates, np.int32)
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
            at = first[query]
            if left < n:  # the search has found the first atom
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

    Products of integers only propose atoms: an atom has 8 bits, a residual up to 16. The error of a product
    is bounded, and float64 decides among the atoms that may be the best.

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
        # No sum of F products with an atom's integers exceeds 32 bits.
        self.limit = min(2**15 - 1, (2**31 - 1) // (ATOM_LIMIT * features.shape[1]))
        self.few = np.empty((len(index), features.shape[1]), np.int8)
        self.few_step, lost = np.empty(len(index)), 0.0
        for a in range(len(index)):
            unit = features[index[a]].astype(np.float64) * inverse_norm[a]
            self.few_step[a], one = _round_to_integers(unit, ATOM_LIMIT, self.few[a])
            lost = max(lost, one)
        self.lost = 1.01 * lost

    def pursue(self, queries: Array, candidates: Array, first: Array, nothing: float) -> Array:
        """Choose atoms for a few queries.

        Args:
            queries: Rows of length 1, shape ``(n, F)``, float64; overwritten by their residuals.
            candidates: Positions of atoms, ascending, shape ``(n, k)``, int64; V for none.
            first: Places of the first atoms among the candidates, shape ``(n,)``, int64, -1 for none.
            nothing: Squared length up to which a residual, or the contribution of an atom, counts as zero.

        Returns:
            Positions of the chosen atoms in order, shape ``(n, sparsity)``, int64, -1 for none.
        """
        chosen = np.full((len(queries), self.sparsity), -1)
        _pursue(*self.table, self.few, self.few_step, self.lost, self.limit, queries, candidates, first,
                self.step, nothing, chosen)  # fmt: skip
        return chosen
