"""Tune a model with Ray Tune: selection on validation, early pruning, resumable searches."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from recbole_siger.common.files import check_output, real_path, write_text
from recbole_siger.common.json_files import read_json
from recbole_siger.common.locks import LOCK, locked
from recbole_siger.common.log import following, logging_to
from recbole_siger.config import Config, params_from_config
from recbole_siger.data.dataset import MultimodalDataset
from recbole_siger.data.files import DataFiles
from recbole_siger.errors import UserError
from recbole_siger.model.abstract_recommender import MultimodalRecommender
from recbole_siger.options.keys import NO_EFFECT
from recbole_siger.options.seeds import seed_list
from recbole_siger.parallel.ray import check_room, connected, interruptible
from recbole_siger.registry import short_name
from recbole_siger.runs.claim import names_in
from recbole_siger.training.experiment import ranks_all_items
from recbole_siger.training.processes import n_processes
from recbole_siger.training.settings import visible_gpus
from recbole_siger.tuning.ledger import NEW_SEARCH, Ledger, Trial
from recbole_siger.tuning.outcome import write_outcome
from recbole_siger.tuning.request import Request, SearchParams, check_searcher, search_params
from recbole_siger.tuning.shared import SharedDataset
from recbole_siger.tuning.space import Range, draw_points, n_points, point_id, read_space
from recbole_siger.tuning.trial import SCORE, Plan, run_trial, usable_checkpoint

__all__ = ["SearchParams", "check_searcher", "search_params", "tune_model"]

_log = logging.getLogger(__name__)


def tune_model(
    model: str,
    dataset: str,
    *,
    files: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    space_file: str | Path | None = None,
    space: Sequence[str] = (),
    seeds: int | str | Sequence[int] = 1,
    out: str | Path | None = None,
    resume: bool = False,
    **search: Any,
) -> dict[str, Any]:
    """Search a model's hyper-parameters, choose by validation, and test the winner once.

    Each trial trains in a worker of Ray and reports validation metrics each epoch. The score of a point is
    the best validation score, averaged over seeds. The winner is the point with the best score among the
    points whose trials all finished.

    Args:
        model: Registered name or import path ``package.module:Class`` of a general recommender.
        dataset: Dataset name.
        files: Configuration files of every trial.
        options: Configuration of every trial; values or text.
        space_file: YAML with ``key: [values]`` or ``key: {low: , high: , log: }``; by default
            ``properties/search/<Model>.yaml``, or ``<Class>.search.yaml`` beside the module of an imported
            model.
        space: ``key=value,value``; overrides ``space_file`` and replaces the default space.
        seeds: Seeds of each point: their number, counted up from the key ``seed``, or a list.
        out: Folder of the search; by default ``runs/<dataset>/tune-<Model>``.
        resume: Continue the search in ``out``; the other arguments must equal those of the first session.
        **search: Keys of ``properties/tune.yaml``.

    Returns:
        The content of ``search.json``.

    Raises:
        UserError: If the input is invalid, ``out`` has a search, Ray is missing, or no trial finished.
        KeyboardInterrupt: If the search was interrupted; the tables are written.
    """
    wanted = Request(
        model, dataset, tuple(files), dict(options or {}), space_file, tuple(space), seeds, out, search
    )
    one = _Search(wanted)
    with one.held:
        one.plan(resume)
        one.fit()
        return one.finish()


class _Search:
    """One search: its request, trials and results."""

    def __init__(self, wanted: Request) -> None:
        self.wanted, self.params = wanted, search_params(wanted.search)
        self.config = self._configuration()
        self.config.refuse_run_dir("--out")
        if not ranks_all_items(self.config):
            raise UserError(f"{wanted.model}: tune supports general recommenders only; choose another model")
        if n_processes(self.config) > 1:
            raise UserError(f"{self.config.origin['nproc']}: nproc: a trial is one process; remove nproc")
        check_searcher(self.params.search)
        self.space = read_space(self.config, wanted.space_file, wanted.space)
        self.seeds = seed_list(wanted.seeds, self.config.run.seed)
        if self.params.search == "bayes" and len(self.seeds) > 1:
            raise UserError(
                "--seeds: --search=bayes accepts one seed; repeat its winner with other seeds in `compare`"
            )
        eval_step, epochs = self.config["eval_step"], self.config["epochs"]
        if not 1 <= eval_step <= epochs:
            raise UserError(
                f"{self.config.origin['eval_step']}: eval_step={eval_step}: a trial is judged by its "
                f"validations; set it to a number from 1 to {epochs}, the number of epochs"
            )
        self.folder = Path(wanted.out or Path("runs") / wanted.dataset / f"tune-{short_name(wanted.model)}")
        check_output(self._file)
        metric, bigger = str(self.config["valid_metric"]).lower(), bool(self.config["valid_metric_bigger"])
        self.ledger = Ledger(self.folder, metric, bigger)
        self._resumes, self._prunes = False, True
        self.held = ExitStack()  # the lock of the folder
        self._data_files = DataFiles()  # which reads a file once

    def _configuration(self) -> Config:
        """Return the configuration that all trials share; metric names ignore upper and lower case."""
        model, dataset, files = self.wanted.model, self.wanted.dataset, self.wanted.files
        config = Config(model, dataset, files, command_line=self.wanted.options)
        metric = self.params.metric
        if metric is None or metric.lower() == config["valid_metric"].lower():
            return config
        chosen = Config(model, dataset, files, command_line={**self.wanted.options, "valid_metric": metric})
        if (other := self.wanted.options.get("valid_metric")) is not None:
            raise UserError(f"command line: --metric={metric} replaces --valid_metric={other}; keep one")
        return chosen

    # ---- the folder

    @property
    def _file(self) -> Path:
        return self.folder / "request.json"

    def _hold(self) -> None:
        """Keep other processes out of the folder, until :attr:`held` is closed."""
        busy = f"{self.folder}: another process runs this search; wait until the process ends"
        self.held.enter_context(locked(self.folder / LOCK, busy))

    def plan(self, resume: bool, *, holds: bool = True) -> None:
        """List the trials, those of an earlier session first; write nothing but the lock of a search."""
        if resume:
            if holds and self._file.exists():
                self._hold()
            self._check_request()
            self.ledger.load(retry=True)
            self.ledger.drop_seeds(self.seeds[0])
        else:
            self._check_unused()
        self._resumes = resume
        if self.params.search != "bayes":
            n, grid = self.params.num_samples, self.params.search == "grid"
            defaults = self.config.effective()
            for point in draw_points(self.space, n, seed=self.seeds[0], grid=grid, defaults=defaults):
                for seed in self.seeds:
                    self.ledger.add(point, seed)

    def _check_unused(self) -> None:
        if self._file.exists():
            raise UserError(
                f"{self.folder}: has a search; continue it with --resume, or choose another --out"
            )
        if names := names_in(self.folder):
            raise UserError(
                f"{self.folder}: has files that are not of a search, such as {min(names)}; "
                "choose another --out"
            )

    def _request(self) -> dict[str, Any]:
        """Return the values that decide the trials; ``resume`` requires equal values."""
        kept = ("search", "num_samples", "scheduler", "grace_epochs", "reduction_factor")
        asked = {key: value for key, value in asdict(self.params).items() if key in kept}
        space = {key: asdict(v) if isinstance(v, Range) else v for key, v in self.space.items()}
        config = {key: v for key, v in self.config.effective().items() if key not in NO_EFFECT}
        request = {"space": space, "seeds": self.seeds, **asked, "config": config}
        request |= {"version": version("recbole-siger"), "data": self._data_files.digests(self.config)}
        return dict(json.loads(json.dumps(request, default=str)))

    def _check_request(self) -> None:
        try:
            earlier = read_json(self._file, {"config": dict}, NEW_SEARCH)
            before, now = ({**one, **one["config"]} for one in (earlier, self._request()))
        except FileNotFoundError:
            raise UserError(f"{self.folder}: has no search to resume; remove --resume") from None
        old, new = (dict(one.get("data") or {}) for one in (before, now))
        if changed := sorted(name for name in {*old, *new} if old.get(name) != new.get(name)):
            raise UserError(
                f"{self.folder}: the data changed since the first session: {', '.join(changed)}; restore the "
                "data, or choose another --out"
            )
        for key in [*now, *before]:
            if key not in NO_EFFECT | {"config", "data"} and before.get(key) != now.get(key):
                raise UserError(
                    f"{self.folder}: the search has {key}={before.get(key)!r}, not {now.get(key)!r}; "
                    "resume with the values of the first session, or choose another --out"
                )

    # ---- the search

    def fit(self) -> None:
        """Run the remaining trials, here or on a cluster; write nothing before Ray answers."""
        if not self._left() and len(self.ledger.trials) >= self._total():
            if self.ledger.ranked() or not self.ledger.revive():
                return
            self._prunes = False
        dataset = self._dataset()
        with visible_gpus(self.config), connected(self.params.address, "tune") as (is_client, about):
            cpus, gpus = self.params.cpus_per_trial, self.params.gpus_per_trial
            asked = f"--cpus_per_trial={cpus:g} --gpus_per_trial={gpus:g}"
            check_room(1, {"CPU": cpus, "GPU": gpus}, asked, "lower them")
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self._resumes:
                self._hold()
                self._check_unused()  # again: another process may have started a search
            write_text(self._file, json.dumps(self._request(), indent=2) + "\n")
            self.ledger.write()
            told = f"{about}; {self.folder / 'trials.csv'}"
            self._fit_on_head(told) if is_client else self.fit_here(dataset, told)

    def _total(self) -> int:
        """Return the total number of trials, including those that a searcher has not drawn yet."""
        if self.params.search == "bayes":
            return int(min(self.params.num_samples or 0, n_points(self.space)))
        return len(self.ledger.trials)

    def _left(self) -> list[Trial]:
        return [trial for trial in self.ledger.trials.values() if not trial.ended]

    def _fit_on_head(self, told: str) -> None:
        """Run the search on the cluster's head, because Ray's client receives no events of trials."""
        import ray

        wanted = replace(
            self.wanted,
            files=tuple(str(real_path(file)) for file in self.wanted.files),
            options={**self.wanted.options, "data_path": self.config.portable()["data_path"]},
            space_file=self.wanted.space_file and str(real_path(self.wanted.space_file)),
            out=str(self.folder.resolve()),
        )
        with following(self.folder / "tune.log"):
            ray.get(ray.remote(num_cpus=0)(_fit_remotely).remote(wanted, told))
        self.ledger.load(retry=False)

    def fit_here(self, dataset: MultimodalDataset, told: str) -> None:
        """Run the remaining trials from this process."""
        start, before = time.monotonic(), self.ledger.seconds
        with logging_to(self.folder / "tune.log"), interruptible():
            _log.info("%s", told)
            try:
                self._train(dataset)
                if not self.ledger.ranked() and self.ledger.revive():
                    _log.info("no point finished with every seed; training the best pruned point to its end")
                    self._prunes = False
                    self._tune(dataset, self._left())
            finally:
                self.ledger.seconds = before + time.monotonic() - start
                self.ledger.write()

    def _train(self, dataset: MultimodalDataset) -> None:
        """Train the remaining trials; with ASHA, the first seed of a point decides for all its seeds.

        ASHA compares trials of the first seed only. A point that it stops gets no other seed, and the other
        points train their other seeds to the end, so that no point is stopped with some of its seeds.
        """
        # Finished trials are reported to ASHA and Optuna again, and are not trained again.
        known = [trial for trial in self.ledger.trials.values() if trial.state == "finished"]
        if len(self.seeds) == 1 or self._scheduler() is None:
            self._tune(dataset, [*known, *self._left()])
            return
        first = self.seeds[0]
        if left := [trial for trial in self._left() if trial.seed == first]:
            self._tune(dataset, [*(trial for trial in known if trial.seed == first), *left])
        n_dropped = self.ledger.drop_seeds(first)
        if left := self._left():
            _log.info("seed %d is done; %d trials with other seeds are left", first, len(left))
            _log.info("%d trials are skipped: seed %d of their point did not finish", n_dropped, first)
            self._prunes = False
            self._tune(dataset, left)

    def _tune(self, dataset: MultimodalDataset, trials: Sequence[Trial]) -> None:
        from ray import tune

        from recbole_siger.tuning.watch import Watch

        parts = sorted((self.folder / "ray").glob("session-*"), key=lambda part: int(part.name[8:]))
        earlier: dict[str, str] = {}
        for part in parts:
            found = {trial.id: usable_checkpoint(part / trial.id) for trial in trials}
            earlier |= {name: str(path.resolve()) for name, path in found.items() if path is not None}
        plan = Plan(self.config.portable(), self.ledger.metric, self.seeds[0], earlier)
        watch = Watch(self.ledger, plan, self._total())
        trainable = tune.with_resources(
            tune.with_parameters(run_trial, plan=plan, shared=SharedDataset(dataset)),
            {"cpu": self.params.cpus_per_trial, "gpu": self.params.gpus_per_trial},
        )
        tuner = tune.Tuner(
            trainable,
            param_space=self._param_space(trials),
            tune_config=tune.TuneConfig(
                metric=SCORE,
                mode=self._mode,
                scheduler=self._scheduler(),
                search_alg=self._searcher(trials),
                num_samples=self._n_samples(trials),
                max_concurrent_trials=self.params.max_concurrent,
                reuse_actors=True,  # a worker imports torch once
                trial_dirname_creator=lambda trial: point_id(*plan.of(trial.config)),
            ),
            run_config=tune.RunConfig(
                name=f"session-{len(parts) + 1}",
                storage_path=str((self.folder / "ray").resolve()),
                callbacks=[watch],
                checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        finally:
            watch.close()

    def _dataset(self) -> MultimodalDataset:
        """Load the dataset once; trials map its features from Ray's object store."""
        dataset = MultimodalDataset(self.config)
        model_class = self.config.model_class
        if issubclass(model_class, MultimodalRecommender):
            params = params_from_config(model_class.params_class, self.config)
            if model_class.needs_features(params):
                dtype = torch.float32 if "feature_dtype" in self.space else None  # a trial can round them
                dataset.item_features(dtype)
            listed = tuple(dataset.user_feature_files())
            dataset.user_features(model_class.user_feature_names(params, listed))
        return dataset

    @property
    def _mode(self) -> str:
        return "max" if self.ledger.bigger else "min"

    def _param_space(self, trials: Sequence[Trial]) -> dict[str, Any]:
        from ray import tune

        if self.params.search == "bayes":
            return {}
        return {"trial": tune.grid_search([{"point": one.values, "seed": one.seed} for one in trials])}

    def _n_samples(self, trials: Sequence[Trial]) -> int:
        """Return how many configurations Ray requests from the searcher, or 1 for a list of trials."""
        if self.params.search != "bayes":
            return 1
        over = sum(trial.ended for trial in self.ledger.trials.values())
        known = sum(trial.ended for trial in trials)  # the searcher is asked for ended trials again
        return self._total() - over + known

    def _scheduler(self) -> Any:
        from ray import tune

        grace, last = self.params.grace_epochs, self.config.run.epochs - 1
        if self.params.scheduler == "none" or grace > last or not self._prunes:
            return None
        return tune.schedulers.ASHAScheduler(
            time_attr="epochs",
            grace_period=grace,
            reduction_factor=self.params.reduction_factor,
            max_t=last,  # no rung at the last epoch, where stopping saves nothing
            stop_last_trials=False,  # a trial ends by itself
        )

    def _searcher(self, trials: Sequence[Trial]) -> Any:
        if self.params.search != "bayes":
            return None
        from recbole_siger.tuning.bayes import Sampler

        first = [trial.values for trial in trials]
        tried = [t.values for t in self.ledger.trials.values() if t.ended and t.values not in first]
        return Sampler(self.space, first, tried, SCORE, self._mode, self.seeds[0])

    def finish(self) -> dict[str, Any]:
        """Test the winner, once for each seed, and write the results of the search."""
        return write_outcome(self.config, self.ledger, self._request())


def _fit_remotely(wanted: Request, told: str) -> None:
    """Continue a search on the head of a cluster; the folder of the search has just been made."""
    search = _Search(wanted)
    search.plan(resume=True, holds=False)  # the client holds the folder
    search.fit_here(search._dataset(), told)
