"""RecBole's baselines through our data path, compared with scores that are computed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_siger.testing.experiments import score_table
from tests.conftest import make_experiment


def _matrix(experiment: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the training rows as a dense matrix, users by items, padding included."""
    split = experiment.train_data._dataset
    matrix = np.zeros((split.user_num, split.item_num))
    np.add.at(matrix, tuple(split.train_edges.numpy()), 1)
    return matrix


@pytest.mark.parametrize("batch", [5, 11, 4099])
def test_pop_ranks_by_the_number_of_training_rows(batch: int, tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, "Pop", train_batch_size=batch)
    for rows in experiment.train_data:
        experiment.model.calculate_loss(rows)
    counts = _matrix(experiment).sum(axis=0)
    assert len(set(counts)) > 5
    expected = np.broadcast_to(counts / counts.max(), (experiment.model.n_users, len(counts)))
    np.testing.assert_array_equal(score_table(experiment), expected)


def test_random_draws_for_each_user(tmp_path: Path) -> None:
    scores = score_table(make_experiment(tmp_path, "Random")).numpy()
    orders = {tuple(row) for row in scores.argsort(axis=1).tolist()}
    assert len(orders) == len(scores)


@pytest.mark.parametrize("shrink", [0.0, 3.0])
def test_item_knn_with_all_neighbours_is_cosine(shrink: float, tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, "ItemKNN", k=100, shrink=shrink)
    rows = _matrix(experiment)
    norms = np.sqrt((rows**2).sum(axis=0))
    similarity = rows.T @ rows / (np.outer(norms, norms) + shrink + 1e-6)
    np.fill_diagonal(similarity, 0)
    np.testing.assert_allclose(score_table(experiment), rows @ similarity, atol=1e-5)


def test_item_knn_keeps_the_k_most_similar_items(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, "ItemKNN", k=3)
    rows = _matrix(experiment)
    norms = np.sqrt((rows**2).sum(axis=0))
    similarity = rows.T @ rows / (np.outer(norms, norms) + 1e-6)
    np.fill_diagonal(similarity, 0)
    kept = experiment.model.w.toarray()  # column j: the neighbours of item j
    for item in range(len(similarity)):
        best = np.sort(similarity[:, item])[::-1][:3]
        np.testing.assert_allclose(np.sort(kept[:, item])[::-1][:3], best, atol=1e-6)
        assert (kept[:, item] != 0).sum() <= 3


def test_ease_is_the_closed_form(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, "EASE", reg_weight=7.0)
    rows = _matrix(experiment)
    inverse = np.linalg.inv(rows.T @ rows + 7.0 * np.eye(rows.shape[1]))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    np.testing.assert_allclose(score_table(experiment), rows @ weights, atol=1e-4)


def test_slim_is_an_elastic_net_for_each_item(tmp_path: Path) -> None:
    from sklearn.linear_model import ElasticNet

    experiment = make_experiment(tmp_path, "SLIMElastic", alpha=0.01, l1_ratio=0.1)
    rows = _matrix(experiment)
    weights = np.zeros((rows.shape[1],) * 2)
    for item in range(rows.shape[1]):
        others = rows.copy()
        others[:, item] = 0
        net = ElasticNet(
            alpha=0.01, l1_ratio=0.1, positive=True, fit_intercept=False, tol=1e-9, max_iter=9999
        )
        weights[:, item] = net.fit(others, rows[:, item]).coef_
    np.testing.assert_allclose(score_table(experiment), rows @ weights, atol=2e-3)


def test_nceplrec_is_a_projection_and_a_ridge(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, "NCEPLRec", rank=5, beta=0.5, reg_weight=7.0)
    rows = _matrix(experiment)
    popularity = np.where(rows.sum(axis=0) > 0, rows.sum(axis=0), 1)
    weighted = np.where(rows > 0, np.maximum(np.log(len(rows) / popularity**0.5), 0), 0)
    _, sigma, right = np.linalg.svd(weighted, full_matrices=False)
    users = rows @ right[:5].T * np.sqrt(sigma[:5])
    items = np.linalg.solve(users.T @ users + 7.0 * np.eye(5), users.T @ rows)
    np.testing.assert_allclose(score_table(experiment), users @ items, atol=1e-3)
