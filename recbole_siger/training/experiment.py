"""One experiment, from a configuration to a run folder: data, model, trainer, test."""

from __future__ import annotations

import hashlib
import logging
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.utils import ModelType, init_seed

from recbole_siger.common.process import return_free_memory
from recbole_siger.config import Config
from recbole_siger.data.dataset import MultimodalDataset
from recbole_siger.data.fingerprint import candidates_of, protocol_facts
from recbole_siger.data.loading import load_with_recbole, split_and_load
from recbole_siger.errors import UserError
from recbole_siger.evaluation.protocol import protocol_id
from recbole_siger.model.acceleration import accelerate
from recbole_siger.registry import check_model_of_file, model_name, short_name
from recbole_siger.runs.folder import CHECKPOINT, RunFolder
from recbole_siger.training.analysis import analyse, chance_of, users_table
from recbole_siger.training.kinds import (
    build_model,
    check_kind,
    check_labels,
    check_tracking,
    missing_package,
)
from recbole_siger.training.memory import check_fits, check_tables_fit
from recbole_siger.training.progress import Progress, peak_memory_mib
from recbole_siger.training.settings import run_settings
from recbole_siger.training.tracking import check_logger, tracking
from recbole_siger.training.trainer import build_trainer
from recbole_siger.training.use_files import write_use_files

__all__ = [
    "Experiment",
    "asks_for_cold_items",
    "build_experiment",
    "config_of_run",
    "format_metrics",
    "load_experiment",
    "ranks_all_items",
    "scores_cold_items",
]

_log = logging.getLogger(__name__)

_VERSIONS = ("recbole-siger", "recbole", "torch", "numpy", "scipy", "pandas")


def load_experiment(
    run_dir: str | Path,
    data_path: str | Path | None = None,
    model: str | type[Any] | None = None,
    **changes: Any,
) -> Experiment:
    """Rebuild a run with its best epoch in the model; nothing is written.

    ``changes`` are those of :func:`config_of_run`.

    Raises:
        UserError: As :func:`evaluate_run`.
    """
    run = RunFolder.open(run_dir)
    experiment = build_experiment(config_of_run(run, data_path, model, prepare=None, **changes), run)
    experiment.check_data()
    experiment.trainer.load_model(run)
    return experiment


def config_of_run(
    run: RunFolder, data_path: str | Path | None, model: str | type[Any] | None = None, **changes: Any
) -> Config:
    """Return the configuration that a run folder keeps.

    Args:
        run: The run folder.
        data_path: Where the datasets are, if not where they were in training.
        model: The model that the folder names. It is needed if the folder names an import path, because a
            file must not import code.
        changes: Keys that replace those of the folder.

    Raises:
        UserError: If ``model`` is not the model of the folder, or is needed and missing, or the folder names
            no known model.
    """
    values, file = run.read_config(), run.file("config.yaml")
    stored = str(values["model"])
    if model is None:
        check_model_of_file(stored, str(file))
    elif stored != (given := model if isinstance(model, str) else model_name(model)):
        raise UserError(f"{file}: model={stored!r}, but --model={given} was given; write --model={stored}")
    moved = {} if data_path is None else {"data_path": str(data_path)}
    named = stored if model is None else model
    # Anybody can be the author of the folder: its names of other outputs have no effect.
    own = {
        "run_dir": None,
        "cache_dir": "none" if values.get("cache_dir") == "none" else None,
        "log_wandb": False,
    }
    return Config(named, config_file_list=[file], config_dict={**own, **moved, **changes})


@dataclass
class Experiment:
    """The parts of one run, built in RecBole's order so that its random streams are RecBole's."""

    config: Config
    run: RunFolder
    dataset: Any
    train_data: Any
    valid_data: Any
    test_data: Any
    model: Any
    trainer: Any

    def begin(self) -> None:
        """Write the files that a run folder contains before the first epoch."""
        self.run.write_ids(*_tokens(self.dataset))
        self.run.write_digests(self.digests())
        self.run.write_config(self.config.effective())

    def check_data(self) -> None:
        """Refuse data that differ from the data of the run folder."""
        self.run.check_ids(*_tokens(self.dataset))
        self.run.check_digests(self.digests())

    def resume(self) -> None:
        """Go back to the run folder's last checkpoint, or to the start where there is none."""
        self.check_data()
        if self.run.file(CHECKPOINT).exists():
            _log.info("resuming %s at epoch %d", self.run.path, self.trainer.resume(self.train_data))
        else:
            self.run.truncate_metrics(0)
            _log.info("%s has no checkpoint yet; starting again", self.run.path)

    def fit(self) -> dict[str, float]:
        """Train; return the validation metrics of the best epoch."""
        check_fits(self)
        try:
            _, valid = self.trainer.fit(self.train_data, self.valid_data)
        except ModuleNotFoundError as error:  # KGIN imports torch_scatter in its first step
            raise missing_package(self.config, error) from error
        except RuntimeError as error:
            if "SparseAdam" not in str(error):
                raise
            raise UserError(
                f"{self.config.origin['learner']}: learner=sparse_adam trains sparse gradients only, and "
                f"{self.config['model']} has others; use adam"
            ) from error
        return {key: float(value) for key, value in (valid or {}).items()}

    def train(self) -> dict[str, Any]:
        """Fit, test the best epoch, and write the run folder; return its results and ``run_dir``."""
        begin = self.trainer.start_epoch
        with run_settings(self.config), tracking(self.config, self.run, begin) as self.trainer.tracker:
            valid, test = self.fit(), self.test()
            peak = self._peak(begin)  # before the analysis, which is not the model's
            results = self._results(valid, test, peak)
            last = {f"test/{name}": value for name, value in test.items()}
            self.trainer.tracker.log(last, self.trainer.n_epochs - 1)
            self._write_use_files()
        self.run.write_results(results)
        _log.info("best epoch %s of %d", self.trainer.best_epoch, self.trainer.n_epochs)
        if doubt := self.trainer.doubts():
            _log.warning("note: %s", doubt)
        for phase in ("valid", "test"):
            _log.info("%s  %s", f"{phase:5}", format_metrics(results[phase]))
        _log.info("run folder: %s", self.run.path)
        return {**results, "run_dir": str(self.run.path)}

    def _peak(self, begin: int) -> float:
        """Return the peak of memory of all sessions, MiB; a session that trained nothing does not count."""
        peaks = [row["peak_memory_mib"] for row in self.run.read_metrics(self.trainer.n_epochs)]
        own = peak_memory_mib(self.config["device"])
        return float(max([*peaks, *([own] if begin < self.trainer.n_epochs or not peaks else [])]))

    def _results(self, valid: dict[str, float], test: dict[str, float], peak: float) -> dict[str, Any]:
        """Return what ``results.json`` holds."""
        config, trainer = self.config, self.trainer
        facts = protocol_facts(config, self.split_digests())
        return {
            "model": short_name(config["model"]),
            "dataset": config["dataset"],
            "protocol": config.run.protocol,
            "protocol_id": protocol_id(facts),
            "protocol_facts": facts,
            "candidates": candidates_of(config),
            "seed": config.run.seed,
            "best_epoch": trainer.best_epoch,
            "valid": valid,
            "test": test,
            **self._details(),
            **({"scores_cold_items": scores_cold_items(self.model)} if asks_for_cold_items(config) else {}),
            "n_epochs": trainer.n_epochs,
            "seconds_per_epoch": round(sum(trainer.seconds) / max(len(trainer.seconds), 1), 4),
            "peak_memory_mib": round(peak, 1),
            "threads": torch.get_num_threads(),
            "n_parameters": sum(p.numel() for p in self.model.parameters() if p.requires_grad),
            "versions": {"python": platform.python_version(), **{name: version(name) for name in _VERSIONS}},
        }

    def _write_use_files(self) -> None:
        """Write the files that recommend without the dataset, for a model that ranks all items."""
        if ranks_all_items(self.config):
            self._seed(self.config.run.seed)  # a model that draws its embeddings draws those of the test
            train, valid = self.train_data._dataset, self.valid_data._dataset
            if (whole := getattr(valid, "whole", None)) is not None:  # items that were no candidates too
                valid = whole
            write_use_files(self.run, self.config, self.model, train, valid, _tokens(self.dataset)[1])

    def loaders(self) -> tuple[Any, Any, Any]:
        """Return the loaders of training, validation and test."""
        return self.train_data, self.valid_data, self.test_data

    def _details(self) -> dict[str, Any]:
        """Analyse the ranking of the last test; write ``users.csv``."""
        ranking, train = self.trainer.ranking, self.train_data._dataset
        if ranking is None:  # value metrics rank no items
            return {"test_beyond": {}, "slices": {}}
        topk = list(self.config["topk"])
        self.run.write_users(users_table(ranking, topk, train))
        details = analyse(ranking, self.config, train, self.dataset)
        if self.config.cold_start is not None:
            details["chance"] = chance_of(ranking, self.test_data, topk)
        return details

    def split_digests(self) -> dict[str, str]:
        """Return a SHA-256 of each split's interactions, in any order."""
        parts = {}
        for name, loader in zip(("train", "valid", "test"), self.loaders(), strict=True):
            split = loader._dataset
            users, items = (split.inter_feat[field].numpy() for field in (split.uid_field, split.iid_field))
            parts[name] = _sha256(np.sort(users * split.item_num + items))
        return parts

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of each split and of each feature matrix in use."""
        found = self.split_digests()
        for noun, attribute in (("features", "raw_features"), ("user features", "raw_user_features")):
            for name, table in getattr(self.model, attribute, {}).items():
                bits = table.cpu().view(torch.int16) if table.dtype == torch.bfloat16 else table.cpu()
                found[f"{noun} of {name}"] = _sha256(bits.numpy())  # numpy has no bfloat16
        return found

    def test(self) -> dict[str, float]:
        """Test the best epoch. A model that draws random numbers for scores draws equal ones each time."""
        return self.evaluate(self.test_data)

    def evaluate(self, loader: Any, seed: int | None = None) -> dict[str, float]:
        """Evaluate the best epoch on a loader, by default with the run's seed."""
        self._seed(self.config.run.seed if seed is None else seed)
        return self.trainer.evaluate(loader)

    def _seed(self, seed: int) -> None:
        """Seed torch, and the model's own generator, which RecBole does not know."""
        init_seed(seed, self.config["reproducibility"])
        generator = getattr(self.model, "generator", None)
        if isinstance(generator, torch.Generator):
            generator.manual_seed(seed)


def _sha256(array: np.ndarray[Any, Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def build_experiment(
    config: Config, run: RunFolder, dataset: Any = None, progress: Progress | None = None
) -> Experiment:
    """Load the data, split it, build model and trainer, under :func:`run_settings`.

    Args:
        config: The configuration.
        run: Where the trainer writes.
        dataset: A dataset of this configuration that is loaded but not yet split; by default it is loaded.
        progress: Shows the batches of an epoch and logs each finished epoch; by default :class:`Progress`.

    Raises:
        UserError: For bad data or options.
    """
    with run_settings(config):
        return _build(config, run, dataset, progress)


def _build(config: Config, run: RunFolder, dataset: Any, progress: Progress | None) -> Experiment:
    check_tracking(config)
    check_logger(config)
    init_seed(config.run.seed, config["reproducibility"])
    dataset, (train_data, valid_data, test_data) = _load(config, dataset)
    check_labels(config, dataset)
    if max(config["topk"]) >= dataset.item_num:
        n_items = dataset.item_num - 1
        raise UserError(f"topk={config['topk']}: the dataset has {n_items} items; ask for no more")
    sizes = f"{dataset.user_num - 1} users, {dataset.item_num - 1} items, {dataset.inter_num} interactions"
    _log.info(
        "%s on %s, protocol %s, seed %d: %s (%d in training)",
        config["model"],
        config["dataset"],
        config.run.protocol,
        config.run.seed,
        sizes,
        train_data._dataset.inter_num,
    )
    check_tables_fit(config, dataset.user_num, dataset.item_num)
    init_seed(config.run.seed, config["reproducibility"])
    model = build_model(config, train_data._dataset)
    accelerate(model)
    if asks_for_cold_items(config) and not scores_cold_items(model):
        _log.info(
            "%s cannot score an item without training rows: what it says of one is chance or item order",
            config["model"],
        )
    trainer = build_trainer(config, model, run, progress)
    return_free_memory()  # reading tables and building graphs leaves gaps of tens of MiB
    return Experiment(config, run, dataset, train_data, valid_data, test_data, model, trainer)


def ranks_all_items(config: Config) -> bool:
    """Return whether the model is a general recommender, whose data this package loads."""
    return config["MODEL_TYPE"] in (ModelType.GENERAL, ModelType.TRADITIONAL)


def _load(config: Config, loaded: Any = None) -> tuple[Any, tuple[Any, Any, Any]]:
    """Load a dataset and its three loaders: ours for models that rank all items, else RecBole's."""
    if ranks_all_items(config):
        dataset = MultimodalDataset(config) if loaded is None else loaded
        return dataset, split_and_load(config, dataset)

    protocol = config.run.protocol
    if config.cold_start is not None:
        raise UserError(
            f"{config.origin['cold_start']}: cold_start is for general recommenders; leave it out"
        )
    if protocol != "recbole":
        raise UserError(f"protocol={protocol!r} ranks for general recommenders; use --protocol=recbole")
    check_kind(config)
    return load_with_recbole(config)


def asks_for_cold_items(config: Config) -> bool:
    """Return whether the results have a part for cold items."""
    return config.cold_start is not None and config.cold_start.kind != "user"


def scores_cold_items(model: Any) -> bool:
    """Return whether a model can rank an item without training rows.

    Our models declare it. RecBole's do not: its general recommenders see no item content, so such an item
    keeps an untrained embedding (BPR, LightGCN) or a constant score (EASE, ItemKNN, Pop).
    """
    return bool(getattr(model, "scores_cold_items", False))


def _tokens(dataset: Any) -> tuple[list[str], list[str]]:
    """Return the raw tokens of users and items by id, padding first, of any RecBole dataset."""
    users, items = (dataset.field2id_token[field] for field in (dataset.uid_field, dataset.iid_field))
    return users.tolist(), items.tolist()


def format_metrics(metrics: Mapping[str, float]) -> str:
    """Write metrics in one line with all digits."""
    return "  ".join(f"{name} {value!r}" for name, value in metrics.items())
