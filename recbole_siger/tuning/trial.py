"""One trial, in a worker of Ray: train, report each validated epoch, store a run folder as the checkpoint.

A trial never tests. The test split is ranked once, for the winner, after the search.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_siger.common.files import write_text
from recbole_siger.common.locks import scratch_folder
from recbole_siger.common.log import logging_to
from recbole_siger.config import Config
from recbole_siger.errors import UserError
from recbole_siger.runs.folder import CHECKPOINT, RunFolder
from recbole_siger.training.experiment import build_experiment
from recbole_siger.training.progress import EpochRecord, Progress, Standing
from recbole_siger.training.resuming import read_checkpoint
from recbole_siger.tuning.shared import SharedDataset
from recbole_siger.tuning.space import Point, point_id

__all__ = ["SCORE", "TRIAL_FILE", "Plan", "run_trial", "usable_checkpoint"]

SCORE = "score"
"""Ray's name of the best validation score so far."""

TRIAL_FILE = "trial.json"
"""File in a run folder that marks a finished training."""


@dataclass(frozen=True)
class Plan:
    """Values that all trials share, sent to each worker once.

    Attributes:
        values: Effective configuration with absolute paths.
        metric: The validation metric, as named in results.
        seed: Seed of trials that name no seed.
        earlier: Trial id -> run folder of an earlier session.
    """

    values: Mapping[str, Any]
    metric: str
    seed: int
    earlier: Mapping[str, str] = field(default_factory=dict)

    def of(self, sampled: Mapping[str, Any]) -> tuple[Point, int]:
        """Return the point and the seed of Ray's configuration of a trial."""
        trial = sampled.get("trial") or {"point": sampled, "seed": self.seed}
        return dict(trial["point"]), int(trial["seed"])


def run_trial(sampled: Mapping[str, Any], plan: Plan, shared: SharedDataset) -> None:
    """Train one point; Ray calls this in a worker.

    Args:
        sampled: ``{trial: {point: {key: value}, seed: }}``, or the point alone if a searcher draws points.
        plan: Values that all trials share.
        shared: The loaded dataset, from Ray's object store.
    """
    point, seed = plan.of(sampled)
    values = {**plan.values, **point, "seed": seed, **_device()}
    config = Config(plan.values["model"], config_dict=values)
    with scratch_folder() as scratch:
        run = RunFolder(scratch / "run")
        reporter = _Reporter(plan.metric, run)
        taken = _take_over(plan, point_id(point, seed), reporter)
        if run.file(TRIAL_FILE).exists():
            return
        run.path.mkdir(exist_ok=True)
        with logging_to(run.file("run.log")):
            experiment = build_experiment(config, run, shared.with_config(config), reporter)
            experiment.resume() if taken else experiment.begin()
            experiment.fit()
            experiment.trainer.save_run_checkpoint()
        write_text(run.file(TRIAL_FILE), json.dumps({"values": point, "seed": seed}) + "\n")
        reporter.tell(run)


def _device() -> dict[str, Any]:
    """Return the keys that select the GPUs that Ray assigned to the trial, or no GPU."""
    import ray

    given = ",".join(str(gpu) for gpu in ray.get_gpu_ids())
    return {"gpu_id": given, "use_gpu": bool(given)}


def _take_over(plan: Plan, trial: str, reporter: _Reporter) -> bool:
    """Restore the trial's last checkpoint, from this session (Ray restarted the trial) or an earlier session.

    Ray has no record of the epochs of an earlier session, so the trial reports those epochs again.
    """
    from ray import tune

    checkpoint, run = tune.get_checkpoint(), reporter.run
    if checkpoint is not None:
        checkpoint.to_directory(run.path)
    elif earlier := plan.earlier.get(trial):
        shutil.copytree(earlier, run.path)
    else:
        return False
    for row in run.read_metrics():
        if reporter.hear(EpochRecord(**row)) and checkpoint is None:
            reporter.tell()
    if checkpoint is None:
        reporter.tell(run)  # Ray then has a complete checkpoint again
    return True


class _Reporter(Progress):
    """Report each validated epoch to Ray, with the run folder when its checkpoint is new."""

    def __init__(self, metric: str, run: RunFolder) -> None:
        super().__init__()
        self.metric, self.run = metric, run
        self._scores: dict[int, float] = {}
        self._seconds = 0.0
        self._facts: dict[str, Any] = {}
        self._sent: float | None = None

    def finished(self, record: EpochRecord, standing: Standing) -> None:
        """Log a finished epoch, and report it if it was validated."""
        super().finished(record, standing)
        if self.hear(record):
            file = self.run.file(CHECKPOINT)
            written = file.stat().st_mtime if file.exists() else None
            self.tell(self.run if written != self._sent else None)
            self._sent = written

    def hear(self, record: EpochRecord) -> bool:
        """Record an epoch; return whether it was validated."""
        self._seconds += record.seconds_train + record.seconds_valid
        if record.valid is None or record.best_epoch is None:
            return False
        self._scores[record.epoch] = record.valid[self.metric]
        self._facts = {
            SCORE: self._scores[record.best_epoch],
            "best_epoch": record.best_epoch,
            "epochs": record.epoch + 1,
            "seconds": self._seconds,
            **{f"valid_{name}": value for name, value in record.valid.items()},
        }
        return True

    def tell(self, run: RunFolder | None = None) -> None:
        """Report the last validated epoch, with a checkpoint if ``run`` is given."""
        import ray
        from ray import tune

        if not self._facts:
            raise UserError("no epoch was validated; check eval_step")
        node = ray.get_runtime_context().get_node_id()
        checkpoint = None if run is None else tune.Checkpoint.from_directory(run.path)
        finished = run is not None and run.file(TRIAL_FILE).exists()
        tune.report({**self._facts, "finished": finished, "node": node}, checkpoint=checkpoint)


def usable_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint in a trial's folder, or None."""
    for path in sorted(folder.glob("checkpoint_*"), reverse=True):
        with contextlib.suppress(UserError):
            run = RunFolder.open(path)
            _, metadata = read_checkpoint(run)
            if len(run.read_metrics()) == metadata["counters"]["epoch"] + 1:
                return path
    return None
