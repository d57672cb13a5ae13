"""The equations of SIGER (arXiv 2508.06154) as slow, obvious loops in NumPy float64.

Nothing here is shared with the package: dense arrays, one scalar at a time, sums written out.
"""

from __future__ import annotations

from fractions import Fraction
from math import exp, log, sqrt

import numpy as np

Array = np.ndarray


def interactions(edges: Array, n_users: int, n_items: int) -> Array:
    """R, ``(U, I)`` 0/1."""
    matrix = np.zeros((n_users, n_items))
    for user, item in edges.T:
        matrix[user, item] = 1
    return matrix


def bipartite_adjacency(matrix: Array) -> Array:
    """G of Eq. 1, ``(N, N)``."""
    n_users, n_items = matrix.shape
    adjacency = np.zeros((n_users + n_items, n_users + n_items))
    for user in range(n_users):
        for item in range(n_items):
            adjacency[user, n_users + item] = matrix[user, item]
            adjacency[n_users + item, user] = matrix[user, item]
    return adjacency


def normalized(adjacency: Array) -> Array:
    """D^-1/2 A D^-1/2 with D = row sums, Eqs. 1 and 5."""
    n = len(adjacency)
    degree = [sum(adjacency[i]) for i in range(n)]
    result = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            if degree[i] > 0 and degree[j] > 0:
                result[i, j] = adjacency[i, j] / (sqrt(degree[i]) * sqrt(degree[j]))
    return result


def normalized_bipartite(matrix: Array) -> Array:
    """D_U^-1/2 R D_I^-1/2, Eq. 11."""
    result = np.zeros(matrix.shape)
    for user in range(matrix.shape[0]):
        for item in range(matrix.shape[1]):
            if matrix[user, item]:
                result[user, item] = 1 / sqrt(sum(matrix[user]) * sum(matrix[:, item]))
    return result


def product(matrix: Array, x: Array) -> Array:
    """Matrix times table, entry by entry."""
    result = np.zeros((matrix.shape[0], x.shape[1]))
    for i in range(matrix.shape[0]):
        for j in range(matrix.shape[1]):
            for c in range(x.shape[1]):
                result[i, c] += matrix[i, j] * x[j, c]
    return result


def lightgcn(edges: Array, n_users: int, n_items: int, x: Array, n_layers: int) -> Array:
    """Eqs. 1-2: the mean of layers 0 to L."""
    adjacency = normalized(bipartite_adjacency(interactions(edges, n_users, n_items)))
    layers = [x]
    for _ in range(n_layers):
        layers.append(product(adjacency, layers[-1]))
    return sum(layers) / (n_layers + 1)


def co_occurrence(
    edges: Array, n_users: int, n_items: int, k: int, min_count: int = 1, tie_break: str = "cosine"
) -> Array:
    """Eqs. 3-4, with the cosine of the tie rule taken literally (squared, as a fraction)."""
    users_of: list[set[int]] = [set() for _ in range(n_items)]
    for user, item in edges.T.tolist():
        users_of[item].add(user)
    result = np.zeros((n_items, n_items))
    for i in range(n_items):
        ranking = []
        for j in range(n_items):
            count = len(users_of[i] & users_of[j])
            if j == i or count < min_count:
                continue
            tie = {
                "cosine": Fraction(count**2, len(users_of[i]) * len(users_of[j])),
                "popularity": Fraction(len(users_of[j])),
                "id": Fraction(0),
            }[tie_break]
            ranking.append((-count, -tie, j))
        for negative_count, _, j in sorted(ranking)[:k]:
            result[i, j] = 1 / (1 + exp(-log(-negative_count)))
    return result


def cosine(x: Array, y: Array) -> float:
    """s(x, y); 0 where one of them is zero."""
    dot = sum(a * b for a, b in zip(x.tolist(), y.tolist(), strict=True))
    square_x = sum(a * a for a in x.tolist())
    square_y = sum(b * b for b in y.tolist())
    return dot / sqrt(square_x) / sqrt(square_y) if square_x and square_y else 0.0


def semantic(features: Array, k: int) -> Array:
    """Eq. 6 and the top-K below it: self first, then higher cosine, then lower id."""
    n_items = len(features)
    result = np.zeros((n_items, n_items))
    for i in range(n_items):
        ranking = []
        for j in range(n_items):
            if features[i].any() and features[j].any():
                ranking.append((j != i, -round(cosine(features[i], features[j]), 9), j))
        for _, negative_cosine, j in sorted(ranking)[:k]:
            result[i, j] = (1 - negative_cosine) / 2
    return result


def eisg(co_graph: Array, semantic_graph: Array, co_weight: float) -> Array:
    """Eq. 7."""
    return co_weight * normalized(co_graph) + (1 - co_weight) * normalized(semantic_graph)


def gate(features: Array, w1: Array, b1: Array, w2: Array, b2: Array) -> Array:
    """f_m of Eq. 9, item by item."""
    result = np.zeros((len(features), len(b2)))
    for i, x in enumerate(features):
        hidden = [sum(w1[r] * x) + b1[r] for r in range(len(b1))]
        for c in range(len(b2)):
            result[i, c] = 1 / (1 + exp(-(sum(w2[c] * hidden) + b2[c])))
    return result


def item_semantics(graph: Array, x: Array, n_layers: int) -> Array:
    """Eq. 10: the last layer."""
    for _ in range(n_layers):
        x = product(graph, x)
    return x


def length(x: Array) -> float:
    """Euclidean length of one row."""
    return sqrt(sum(a * a for a in x.tolist()))


def perturbed(x: Array, eps: float, delta: Array, order: Array, modulus: bool = True) -> Array:
    """Eq. 12 with given noise and permutation."""
    longest = max(length(row) for row in x)
    weight = [length(row) / longest if modulus else 1.0 for row in x]
    directions = []
    for i, row in enumerate(x):
        noisy = row + eps * weight[i] * np.sign(row) * (delta[i] / length(delta[i]))
        directions.append(noisy / length(noisy) if length(noisy) else noisy)
    return np.stack([row + eps * weight[i] * directions[order[i]] for i, row in enumerate(x)])


def info_nce(query: Array, key: Array, temperature: float, target: Array) -> float:
    """Eqs. 13 and 16, by exp and divide."""
    total = 0.0
    for i in range(len(query)):
        terms = [exp(cosine(query[i], key[j]) / temperature) for j in range(len(key))]
        total -= log(terms[target[i]] / sum(terms))
    return total / len(query)


def anchor_info_nce(a: Array, b: Array, anchor: Array, temperature: float, target: Array) -> float:
    """Eq. 14, by exp and divide."""
    total = 0.0
    for i in range(len(a)):
        agreement = cosine(a[i], anchor[i]) + cosine(b[target[i]], anchor[i])
        positive = exp(agreement / (2 * temperature))
        others = [exp(cosine(a[i], b[j]) / temperature) for j in range(len(b)) if j != target[i]]
        total -= log(positive / (positive + sum(others)))
    return total / len(a)


def bpr(pos: Array, neg: Array) -> float:
    """The first term of Eq. 19."""
    return sum(log(1 + exp(-(p - n))) for p, n in zip(pos, neg, strict=True)) / len(pos)


def l2(*tables: Array) -> float:
    """The last term of Eq. 19."""
    return sum(length(row) ** 2 for table in tables for row in table) / (2 * len(tables[0]))


# ---- what the baselines share


def knn(features: Array, k: int, weight: str) -> Array:
    """The top-K of :func:`semantic` with weights max(cos, 0) or 1."""
    result = np.zeros((len(features), len(features)))
    for i in range(len(features)):
        ranking = []
        for j in range(len(features)):
            if features[i].any() and features[j].any():
                ranking.append((j != i, -round(cosine(features[i], features[j]), 9), j))
        for _, _, j in sorted(ranking)[:k]:
            result[i, j] = 1 if weight == "one" else max(cosine(features[i], features[j]), 0)
    return result


def row_normalized(matrix: Array) -> Array:
    """D^-1 A with D = row sums."""
    result = np.zeros(matrix.shape)
    for i, row in enumerate(matrix):
        for j, value in enumerate(row):
            if value:
                result[i, j] = value / sum(row)
    return result


def layer_mean(matrix: Array, x: Array, n_layers: int) -> Array:
    """The mean of layers 0 to L, on any matrix."""
    layers = [x]
    for _ in range(n_layers):
        layers.append(product(matrix, layers[-1]))
    return sum(layers) / (n_layers + 1)


def linear(x: Array, weight: Array, bias: Array) -> Array:
    """W x + b for each row of ``x``."""
    result = np.zeros((len(x), len(bias)))
    for i, row in enumerate(x):
        for c in range(len(bias)):
            result[i, c] = sum(weight[c] * row) + bias[c]
    return result


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), entry by entry."""
    return np.array([[1 / (1 + exp(-value)) for value in row] for row in x.tolist()])


def unit(x: Array) -> Array:
    """Each row divided by its length; a zero row stays."""
    return np.stack([row / length(row) if length(row) else row for row in x])


def norms(*tables: Array) -> float:
    """The lengths of whole tables, over the rows of the last."""
    return sum(length(table.flatten()) for table in tables) / len(tables[-1])


def distance(query: Array, target: Array) -> float:
    """Mean of 1 - cos."""
    return sum(1 - cosine(q, t) for q, t in zip(query, target, strict=True)) / len(query)
