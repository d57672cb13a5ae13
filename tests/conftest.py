"""A toy dataset as `import-mmrec` would write it, and experiments on it. Every size is its own prime.

With RecBole's padding there are 31 users and 23 items; embeddings are 7 wide, features 11, 13 and 5, and
batches have 17 rows. The last user has no training row, the last item neither; some items lack a feature, and
one has a row of zeros.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recbole_siger import cli
from recbole_siger.config import Config
from recbole_siger.registry import MODELS, get_model_class
from recbole_siger.runs.folder import RunFolder
from recbole_siger.studies.children import Children
from recbole_siger.training.experiment import Experiment, build_experiment
from recbole_siger.training.settings import flushes_denormals, run_settings

N_USERS, N_ITEMS, BATCH = 31, 23, 17
WIDTHS = {"image": 11, "text": 13, "audio": 5}
WITHOUT_FEATURE = {"image": {"i03", "i11"}, "text": {"i05"}, "audio": {"i03", "i07"}}
ZERO_FEATURE = "i09"
FOREIGN = "elsewhere"

# What a model needs beside the values below to be small and fast; a model without an entry needs nothing.
MODEL_OPTIONS: dict[str, dict[str, Any]] = {
    "SIGER": {"n_semantic_neighbors": 5, "n_co_neighbors": 3},
    "LATTICE": {"n_semantic_neighbors": 5},
    "FREEDOM": {"n_semantic_neighbors": 5},
    "MGCN": {"n_semantic_neighbors": 5},
    "SCALE": {
        "n_semantic_neighbors": 3,
        "n_candidates": 11,
        **dict.fromkeys(("user_sparsity", "item_sparsity", "user_item_sparsity"), 3),
    },
}

Pairs = list[tuple[str, str]]


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run the whole suite in two processes, and tests that the command line names in this process.

    ``-n N`` sets another number. Each process spends seconds on its imports, too much for a few tests.
    """
    return 0 if config.args_source is pytest.Config.ArgsSource.ARGS else 2


def pytest_configure() -> None:
    """Hear interrupts, and let what tests start hear them: a shell has its background jobs ignore them."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass
class Toy:
    """Raw tokens of each split, and ``{modality: (item tokens, features)}`` in the order of the file."""

    train: Pairs
    valid: Pairs
    test: Pairs
    features: dict[str, tuple[list[str], np.ndarray]]

    def write(self, folder: Path) -> None:
        """Write atomic files, features and facts into ``folder``."""
        folder.mkdir(parents=True)
        for split in ("train", "valid", "test"):
            lines = ["user_id:token\titem_id:token", *("\t".join(pair) for pair in getattr(self, split))]
            (folder / f"toy.{split}.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
        for name, (ids, array) in self.features.items():
            np.save(folder / f"toy.{name}.npy", array)
            (folder / f"toy.{name}.ids").write_text("".join(f"{one}\n" for one in ids), encoding="utf-8")
        facts = (
            "benchmark_filename: [train, valid, test]",
            "load_col:",
            "  inter: [user_id, item_id]",
            "protocol: mmrec",
            f"features: [{', '.join(self.features)}]",
        )
        (folder / "toy.yaml").write_text("\n".join(facts) + "\n", encoding="utf-8")


def random_features(items: list[str], modalities: tuple[str, ...], seed: int) -> dict[str, Any]:
    """Draw features in an order of rows that is not the items' order, a foreign row among them."""
    rng, features = np.random.default_rng(seed), {}
    for name in modalities:
        ids = [item for item in items if item not in WITHOUT_FEATURE[name]] + [FOREIGN]
        array = rng.normal(size=(len(ids), WIDTHS[name])).astype(np.float32)
        if name == "image":
            array[[one == ZERO_FEATURE for one in ids]] = 0
        order = rng.permutation(len(ids))
        features[name] = [ids[row] for row in order], array[order]
    return features


def make_toy(
    modalities: tuple[str, ...] = ("image", "text"), *, complete: bool = False, eval_seed: int = 1
) -> Toy:
    """Draw the toy dataset.

    Args:
        modalities: Which features it has.
        complete: Let every user and item occur in training, so that no id depends on the other splits.
        eval_seed: Seed of the validation and test splits; training and features do not depend on it.
    """
    rng, eval_rng = np.random.default_rng(2020), np.random.default_rng(eval_seed)
    users, items = (
        [f"{letter}{i:02}" for i in range(n - 1)] for letter, n in (("u", N_USERS), ("i", N_ITEMS))
    )
    toy = Toy([], [], [], random_features(items, modalities, seed=3))
    for u, user in enumerate(users):
        chosen = rng.choice(len(items) - 1, size=rng.integers(3, 8), replace=False).tolist()
        if complete and u < len(items):
            chosen = [*chosen, u] if u not in chosen else chosen
        if user != users[-1] or complete:
            toy.train += [(user, items[i]) for i in chosen]
        left = [i for i in range(len(items)) if i not in chosen]
        for split, i in zip(
            (toy.valid, toy.test, toy.test), eval_rng.choice(left, 3, replace=False), strict=True
        ):
            split.append((user, items[i]))
    rng.shuffle(toy.train)
    if not complete:
        last = items[-1]
        toy.valid = [pair for pair in toy.valid if pair[1] != last]
        toy.test += [(user, last) for user in users[:3] if (user, last) not in toy.test]
    return toy


def make_experiment(tmp_path: Path, model: str, toy: Toy | None = None, **options: Any) -> Experiment:
    """Build the parts of one small run on the CPU; the dataset is written at the first call for a folder.

    Args:
        tmp_path: Where ``dataset/toy`` and the run folders are.
        model: Model name.
        toy: The dataset; by default :func:`make_toy`'s.
        options: Configuration over the small values below.
    """
    folder = tmp_path / "dataset" / "toy"
    if not folder.exists():
        (toy or make_toy()).write(folder)
    else:
        assert toy is None, f"{folder} holds another toy already"
    values: dict[str, Any] = {
        "data_path": str(tmp_path / "dataset"),
        "gpu_id": "",
        "epochs": 2,
        "train_batch_size": BATCH,
        "eval_batch_size": 13,
        "learning_rate": 0.01,
        "topk": [2, 3, 5],
        "valid_metric": "Recall@3",
    }
    if model in MODELS:
        values |= small_options(model)
    config = Config(model, "toy", config_dict=values | options)
    n_runs = sum(1 for _ in tmp_path.glob("runs/*"))
    return build_experiment(config, RunFolder.create(tmp_path / "runs" / str(n_runs)))


def small_options(model: str) -> dict[str, Any]:
    """Return what makes a model of the registry small."""
    names = {field.name for field in fields(get_model_class(model).params_class)}
    return {**({"embedding_size": 7} if "embedding_size" in names else {}), **MODEL_OPTIONS.get(model, {})}


def first_batch(experiment: Experiment) -> Any:
    """Return one training batch with its negatives, on the model's device."""
    return next(iter(experiment.train_data)).to(experiment.config["device"])


def start_epoch(experiment: Experiment) -> None:
    """Do what the trainer does before an epoch's first batch."""
    experiment.model.train()
    experiment.model.on_epoch_start(0)


def train_steps(experiment: Experiment, n_steps: int) -> list[dict[str, float]]:
    """Train on the first batches of the first epoch; return each step's loss terms, before its update."""
    model, optimizer = experiment.model, experiment.trainer.optimizer
    start_epoch(experiment)
    steps: list[dict[str, float]] = []
    for batch in experiment.train_data:
        with run_settings(experiment.config):
            optimizer.zero_grad()
            terms = model.calculate_loss(batch.to(experiment.config["device"]))
            torch.stack(terms).sum().backward()
            optimizer.step()
        steps.append(dict(zip(model.loss_names, (term.item() for term in terms), strict=True)))
        if len(steps) == n_steps:
            return steps
    raise AssertionError(f"the toy has {len(steps)} batches, not {n_steps}")


def score_table(experiment: Experiment) -> Tensor:
    """Score every item, padding too, for every user, padding too: ``(n_users, n_items)`` on the CPU.

    Between two calls the model stays in its mode, so that what it caches stays cached.
    """
    from recbole.data.interaction import Interaction

    model = experiment.model
    users = Interaction({model.USER_ID: torch.arange(model.n_users)}).to(experiment.config["device"])
    if model.training:
        model.eval()
    with torch.no_grad():
        return model.full_sort_predict(users).reshape(model.n_users, model.n_items).cpu()


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep graphs in a folder of this session and never in the user's, in other processes too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def process_settings() -> dict[str, Any]:
    """Return what a run sets for the whole process."""
    return {
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "CUBLAS_WORKSPACE_CONFIG": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        "deterministic": torch.get_deterministic_debug_mode(),
        "fill": torch.utils.deterministic.fill_uninitialized_memory,
        "flush": flushes_denormals(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "threads": torch.get_num_threads(),
    }


@pytest.fixture(autouse=True)
def _process_is_left_as_it_was() -> Iterator[None]:
    """Fail a test after which a setting of a run is still set."""
    before = process_settings()
    yield
    assert process_settings() == before


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Let a campaign's commands run in this process, which spares seconds each; returns them as they come."""
    commands: list[list[str]] = []

    def run(_: Any, words: Sequence[str], report: Callable[[str], None]) -> tuple[int, str]:
        commands.append(list(words))
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main(words)
        for line in out.getvalue().splitlines():
            report(line)
        return code, err.getvalue()

    monkeypatch.setattr(Children, "run", run)
    return commands
