"""Compare full-ranking evaluation with RecBole's, at its default batch (one user) and a larger batch.

The metrics are compared too. The product of a vector and a matrix is rounded differently from the product of
two matrices, so RecBole's default may order two nearly equal scores differently. With batches of users, all
digits are equal.

    python -m benchmarks.evaluation --quick
    python -m benchmarks.evaluation --data_path=dataset --dataset=baby --out=results/evaluation.jsonl
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.loader import arguments, data, interleave, report
from recbole_siger.config import Config
from recbole_siger.data.dataset import MultimodalDataset
from recbole_siger.data.loading import split_and_load
from recbole_siger.training.trainer import build_trainer

# isort: split
from recbole.data import data_preparation
from recbole.trainer import Trainer
from recbole.utils import init_seed

SENSIBLE = 512  # users in a batch
RECBOLE_DEFAULT = 4096  # of properties/overall.yaml: scores in a batch
METRICS = ["Recall", "NDCG", "Hit", "Precision"]


class Contestant:
    """A model, a trainer and a validation loader; the models of all contestants are equal."""

    def __init__(self, dataset: str, values: dict[str, Any], users: int | None, ours: bool = False) -> None:
        config = Config("BPR", dataset, config_dict={**values, "metrics": METRICS, "topk": [10, 20]})
        whole = MultimodalDataset(config)
        if users is not None:
            config["eval_batch_size"] = users * whole.item_num if users else RECBOLE_DEFAULT
        train, self.valid, _ = (split_and_load if ours else data_preparation)(config, whole)
        init_seed(2020, True)
        model = config.model_class(config, train._dataset).to(config["device"])
        self.trainer = build_trainer(config, model, None) if ours else Trainer(config, model)
        self.trainer.eval_collector.data_collect(train)
        self.metrics: dict[str, float] = {}

    def run(self) -> None:
        """Evaluate all users."""
        found = self.trainer.evaluate(self.valid, load_best_model=False)
        self.metrics = {name: float(value) for name, value in found.items()}


def main() -> None:
    """Print the comparison."""
    options = arguments(__doc__ or "")
    rounds = options.rounds or (2 if options.quick else 7)
    with data(options) as values:
        ours = Contestant(options.dataset, values, None, ours=True)
        sensible = Contestant(options.dataset, values, SENSIBLE)
        default = Contestant(options.dataset, values, 0)
        # The default takes seconds, so it has fewer rounds.
        times = interleave(rounds, {"ours": ours.run, f"RecBole, {SENSIBLE} users": sensible.run})
        times |= interleave(1 if options.quick else 3, {"RecBole, default": default.run, "again": ours.run})
        times["ours"] += times.pop("again")
    for other, name in ((sensible, f"RecBole with {SENSIBLE} users"), (default, "RecBole's default")):
        worst = max(abs(other.metrics[key] - value) for key, value in ours.metrics.items())
        said = "identical" if other.metrics == ours.metrics else f"differ by at most {worst:.1e}"
        print(f"{len(ours.metrics)} metrics, 16 decimals, ours and {name}: {said}")
    facts = {"users": ours.valid.sample_size, "users_a_batch": ours.valid.step, "torch": torch.__version__}
    report("evaluation", times, options.out, **facts, threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
