"""The graphs and losses of SCALE (AAAI 2026) as slow loops in NumPy float64, apart from the package."""

from __future__ import annotations

from math import exp, log, sqrt

import numpy as np

Array = np.ndarray
STEP = 2.0**-30


def unit(x: Array) -> Array:
    length = sqrt(sum(float(v) ** 2 for v in x))
    return np.array([float(v) / length for v in x]) if length > 0 else np.zeros(len(x))


def cosine(x: Array, y: Array) -> float:
    return float(sum(a * b for a, b in zip(unit(x), unit(y), strict=True)))


def nearest(queries: Array, atoms: Array, row: int, k: int, same: bool) -> list[int]:
    """The k atoms with the highest cosine to a query, ties by lower id; rows of zeros are none."""
    if not queries[row].any():
        return []
    there = [j for j in range(len(atoms)) if atoms[j].any() and not (same and j == row)]
    return sorted(there, key=lambda j: (-round(cosine(queries[row], atoms[j]) / STEP), j))[:k]


def similarity(queries: Array, atoms: Array, k: int, same: bool) -> Array:
    """G of Eqs. 4-5, ``(A, B)`` 0/1."""
    graph = np.zeros((len(queries), len(atoms)))
    for row in range(len(queries)):
        graph[row, nearest(queries, atoms, row, k, same)] = 1
    return graph


def subspace(queries: Array, atoms: Array, n_candidates: int, sparsity: int, same: bool) -> Array:
    """C of Algorithm 1 by a least-squares solve a step, ``(A, B)`` 0/1."""
    graph = np.zeros((len(queries), len(atoms)))
    for row in range(len(queries)):
        left = sorted(nearest(queries, atoms, row, n_candidates, same))
        x = unit(queries[row])
        support, residual = [], x
        while left and len(support) < sparsity and sqrt(sum(residual**2)) > 1e-6:
            sizes = [round(abs(float(unit(atoms[j]) @ residual)) / STEP) for j in left]
            if max(sizes) == 0:
                break
            j = left.pop(sizes.index(max(sizes)))
            table = np.array([unit(atoms[i]) for i in [*support, j]]).T
            if np.linalg.matrix_rank(table, tol=1e-6) <= len(support):
                continue
            support.append(j)
            residual = x - table @ np.linalg.lstsq(table, x, rcond=None)[0]
        graph[row, support] = 1
    return graph


def relation(anchor: Array, positive: Array, negatives: Array, temperature: float) -> float:
    """Eq. 10, as a mean."""
    terms = []
    for a, b, others in zip(anchor, positive, negatives, strict=True):
        top = exp(cosine(a, b) / temperature)
        terms.append(-log(top / (top + sum(exp(cosine(a, v) / temperature) for v in others))))
    return sum(terms) / len(terms)


def mean_of_items(features: Array, edges: Array, n_users: int) -> Array:
    """What replaces the profile of a user, ``(U, F)``."""
    result = np.zeros((n_users, features.shape[1]))
    for user in range(n_users):
        rows = [features[i] for i in sorted({int(i) for u, i in edges.T if u == user}) if features[i].any()]
        if rows:
            result[user] = sum(rows) / len(rows)
    return result


def combined(graphs: list[Array], how: str) -> Array:
    """Edges that any graph has, or that all have."""
    found = [graph != 0 for graph in graphs]
    return np.array((np.any if how == "union" else np.all)(found, axis=0), dtype=float)


def joined(uu: Array, ui: Array, ii: Array) -> Array:
    """G of Eq. 6, ``(N, N)``."""
    n_users, n_items = ui.shape
    graph = np.zeros((n_users + n_items, n_users + n_items))
    for a in range(n_users):
        for b in range(n_users):
            graph[a, b] = uu[a, b]
        for i in range(n_items):
            graph[a, n_users + i] = graph[n_users + i, a] = ui[a, i]
    for i in range(n_items):
        for j in range(n_items):
            graph[n_users + i, n_users + j] = ii[i, j]
    return graph
