"""Rank items by popularity, and by their similarity to a user's training items in one modality.

These scores need no training. They are lower bounds for a multimodal model, under the same protocol and
evaluator. RecBole's own Pop is no such bound, because it counts an item once in each batch, however often:

    python benchmarks/content_knn.py --dataset=lfm2k
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_siger.config import Config
from recbole_siger.data.dataset import MultimodalDataset
from recbole_siger.data.loading import split_and_load
from recbole_siger.graph.knn import semantic_graph
from recbole_siger.graph.user_item import interaction_matrix
from recbole_siger.runs.folder import RunFolder
from recbole_siger.training.trainer import build_trainer


class Fixed(GeneralRecommender):
    """Scores that need no training, from a function of a batch of users."""

    input_type = InputType.PAIRWISE

    def __init__(self, config: Config, dataset: MultimodalDataset, score: Callable[[Tensor], Tensor]) -> None:
        super().__init__(config, dataset)
        self.unused = nn.Parameter(torch.zeros(1))  # RecBole's trainer requires an optimizer
        self.score = score

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Score all items for each user, shape ``(B * n_items,)``."""
        return self.score(interaction[self.USER_ID]).flatten()


def scorers(train: MultimodalDataset, features: dict[str, Tensor], k: int) -> Iterator[tuple[str, Any]]:
    """Yield a name and a function from users ``(B,)`` to scores ``(B, n_items)``."""
    history = interaction_matrix(train.train_edges, train.user_num, train.item_num)
    counts = torch.sparse.sum(history, dim=0).to_dense()
    yield "popularity", lambda users: counts.expand(len(users), -1)
    for modality, table in features.items():
        # An item's score: the sum of the cosines of the training items that have it among their k nearest.
        graph = semantic_graph(table, k)
        cosine = torch.sparse_coo_tensor(graph.indices(), 2 * graph.values() - 1, graph.shape)
        scores = torch.sparse.mm(history, cosine).coalesce()
        yield modality, lambda users, scores=scores: scores.index_select(0, users).to_dense()


def main(arguments: list[str]) -> None:
    """Print popularity, then a line for each modality."""
    values: dict[str, Any] = dict(word.removeprefix("--").split("=", 1) for word in arguments)
    dataset_name, k = values.pop("dataset"), int(values.pop("k", 20))
    config = Config("BPR", dataset_name, command_line=values)
    dataset = MultimodalDataset(config)
    train_data, _, test_data = split_and_load(config, dataset)
    features = dataset.item_features() if dataset.feature_files() else {}
    for name, score in scorers(train_data._dataset, features, k):
        with tempfile.TemporaryDirectory() as folder:
            trainer = build_trainer(config, Fixed(config, train_data._dataset, score), RunFolder(folder))
            trainer.eval_collector.data_collect(train_data)
            result = trainer.evaluate(test_data, load_best_model=False)
        print(
            f"{dataset_name} {name:18} " + "  ".join(f"{name} {value:.4f}" for name, value in result.items())
        )


if __name__ == "__main__":
    main(sys.argv[1:])
