"""RecBole's trainers with an epoch hook, losses checked by term, and the selected epoch tested."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.model.loss import BPRLoss
from recbole.trainer import Trainer
from recbole.trainer.trainer import KGATTrainer, MKRTrainer, PretrainTrainer
from recbole.utils import get_trainer
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from recbole_siger.common.processor import fast_products
from recbole_siger.config import Config
from recbole_siger.errors import UserError
from recbole_siger.evaluation.groups import ColdSet
from recbole_siger.evaluation.metrics import Ranking
from recbole_siger.parallel.shares import (
    average_gradients,
    current_share,
    losses_of_share,
    mean_over_processes,
)
from recbole_siger.runs.folder import RunFolder
from recbole_siger.training.evaluator import RankingCollector, RankingEvaluator, count_hits
from recbole_siger.training.loss_watch import LossWatch
from recbole_siger.training.progress import EpochRecord, Progress, Schedule, Standing, peak_memory_mib
from recbole_siger.training.resuming import Checkpoints, Parts, generators_of, optimizers_of
from recbole_siger.training.selection import MODEL_FILE, ModelState, Selection, does_not_fit, doubts
from recbole_siger.training.settings import run_settings, unmoved
from recbole_siger.training.step_graph import StepGraph, build_step_graph
from recbole_siger.training.tracking import Tracker, scalars

__all__ = ["RunTrainer", "build_trainer"]


def build_trainer(
    config: Config, model: Any, run: RunFolder | None, progress: Progress | None = None
) -> RunTrainer:
    """Make the trainer that RecBole has for a model, with :class:`RunTrainer` on top.

    Raises:
        UserError: If the model is trained outside torch, such as decision trees.
    """
    base = get_trainer(config["MODEL_TYPE"], config["model"])
    if issubclass(base, PretrainTrainer):
        raise UserError(
            f"model {config['model']!r}: RecBole pickles its pre-trained stage; choose another model"
        )
    if not issubclass(base, Trainer):
        raise UserError(
            f"model {config['model']!r}: decision-tree models do not rank; choose a general recommender"
        )
    return type(f"Run{base.__name__}", (RunTrainer, base), {})(config, model, run, progress or Progress())


class RunTrainer(Trainer):
    """RecBole's training loop with the features of every run, on top of RecBole's trainer for the model.

    Losses are checked term by term. :class:`Selection` decides which validation epoch is the best; that epoch
    is tested. With a run folder, epochs, the best model and checkpoints are written to the folder.
    """

    def __init__(self, config: Config, model: Any, run: RunFolder | None, progress: Progress) -> None:
        config["checkpoint_dir"] = str(run.path) if run else "."  # RecBole makes this folder
        self.share = current_share()
        super().__init__(config, model)
        self.run, self.progress, self.tracker = run, progress, Tracker()
        self.eval_collector, self.evaluator = RankingCollector(config), RankingEvaluator(config)
        self.selection = Selection(config, getattr(model, "untrained_bpr", None))
        self.checkpoints = Checkpoints(config["model"], model, config.run.checkpoint_interval)
        self.start_epoch: int
        self.cur_step: int
        self.best_valid_score: float
        self.n_epochs = 0
        self.seconds: list[float] = []
        self.scores: dict[int, float] = {}
        self.ranking: Ranking | None = None
        self._cold: ColdSet | None = None
        self._unranked: Tensor | None = None  # items that are no candidates
        self._record: EpochRecord | None = None
        self._train_data: Any = None
        self._epoch = 0
        self._previous: float | None = None
        self._validates = self._is_watched = False
        self.step_graph: StepGraph | None = None

    @property
    def best_epoch(self) -> int | None:
        """The best epoch so far; without validation the last epoch."""
        return self.selection.epoch

    def _build_optimizer(self, **kwargs: Any) -> Any:
        optimizer = super()._build_optimizer(**kwargs)
        if type(optimizer) in (torch.optim.Adam, torch.optim.AdamW):
            for group in optimizer.param_groups:
                group["fused"], group["foreach"] = True, None
        if self.share.size > 1:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            # RecBole would clip the gradient of a share, before the shares are averaged.
            clip, self.clip_grad_norm = self.config["clip_grad_norm"], None
            optimizer.register_step_pre_hook(lambda *_: average_gradients(parameters, clip))
        return optimizer

    # ---- training

    def fit(self, train_data: Any, valid_data: Any = None, **_: Any) -> tuple[float, dict[str, float] | None]:
        """Train, validate after each epoch, stop early; return the best validation score and result."""
        self._train_data = train_data
        self._validates = bool(valid_data) and self.eval_step > 0
        if self.start_epoch and self.cur_step > self.stopping_step:
            self.start_epoch = self.epochs  # the checkpoint is from the epoch at which training stopped
        self.step_graph = build_step_graph(self.config, self.model, self.optimizer, self.share)
        with run_settings(self.config):
            return super().fit(
                train_data,
                valid_data,
                verbose=False,
                saved=True,
                show_progress=False,
                callback_fn=self._after_validation,
            )

    def _train_epoch(
        self,
        train_data: Any,
        epoch_idx: int,
        loss_func: Callable[..., Any] | None = None,
        show_progress: bool = False,
    ) -> Any:
        self._start_epoch(epoch_idx)
        assert self._record is not None
        start, loss_func = time.perf_counter(), loss_func or self.model.calculate_loss
        watch = LossWatch(epoch_idx, self._names, self.device)
        with self.progress.epoch(epoch_idx, len(train_data)) as update:
            self._take_auxiliary_steps(update)

            def watched(interaction: Interaction) -> Any:
                losses = watch.add(losses_of_share(self.model, loss_func, interaction))
                self._is_watched = True
                update(watch.last)
                return losses

            if self.step_graph is None:
                total = super()._train_epoch(train_data, epoch_idx, watched, show_progress=False)
                watch.fetch()
            else:
                total = self._replay_epoch(self.step_graph, train_data, watch, update)
        if self.share.size > 1:
            watch.sums = mean_over_processes(watch.sums, self.device)
        if watch.sums:  # empty for trainers of RecBole with their own loss
            total = tuple(watch.sums[: len(total)]) if isinstance(total, tuple) else watch.sums[0]
        terms = total if isinstance(total, tuple) else (total,)
        columns = zip(self._names(len(terms)), terms, self._n_batches(train_data, len(terms)), strict=True)
        losses = {name: value / n_batches for name, value, n_batches in columns}
        self.selection.plateau.add(epoch_idx, self._bpr(losses))
        self._record.loss |= losses
        self._record.seconds_train = time.perf_counter() - start
        if not self._validates:  # the last epoch is the best, also in its checkpoint
            self.selection.epoch = epoch_idx
            self._keep_model()
        if not (self._validates and (epoch_idx + 1) % self.eval_step == 0):
            self._finish_epoch()
        return total

    def _replay_epoch(
        self, steps: StepGraph, train_data: Any, watch: LossWatch, update: Callable[..., None]
    ) -> tuple[float, ...]:
        """Train an epoch with a captured step; return the sum of each loss term."""

        def add(values: Tensor) -> None:
            watch.add_values(values)
            update(watch.last)

        self.model.train()
        steps.train_epoch((batch.to(self.device) for batch in train_data), add)
        watch.fetch()
        return tuple(watch.sums)

    def _start_epoch(self, epoch: int) -> None:
        if hasattr(self.model, "on_epoch_start"):
            self.model.on_epoch_start(epoch)
        if hasattr(self.model, "learning_rate_factor"):
            for group in self.optimizer.param_groups:  # a function of the epoch, so that resuming is exact
                group["lr"] = self.learning_rate * self.model.learning_rate_factor(epoch)
        self._epoch, self._record = epoch, EpochRecord(epoch)

    def _take_auxiliary_steps(self, update: Callable[..., None]) -> None:
        """Take a step of the optimizer for each auxiliary loss of the model; record the means of terms."""
        assert self._record is not None
        if not hasattr(self.model, "auxiliary_losses"):
            return
        self.model.train()
        names: tuple[str, ...] = ()
        watch, n_steps = LossWatch(self._epoch, lambda _: names, self.device), 0
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.enable_scaler)
        steps = self.model.auxiliary_losses(self._epoch)
        while True:
            with torch.autocast(self.device.type, enabled=self.enable_amp):
                terms = next(steps, None)
            if terms is None:
                break
            names, n_steps = tuple(terms), n_steps + 1
            watch.add(tuple(terms.values()))
            update(watch.last, auxiliary=True)
            self.optimizer.zero_grad()
            scaler.scale(torch.stack(list(terms.values())).sum()).backward()
            if self.clip_grad_norm:
                clip_grad_norm_(self.model.parameters(), **self.clip_grad_norm)
            scaler.step(self.optimizer)
            scaler.update()
        if not n_steps:
            return
        watch.fetch()
        sums = mean_over_processes(watch.sums, self.device) if self.share.size > 1 else watch.sums
        self._record.loss |= {name: total / n_steps for name, total in zip(names, sums, strict=True)}

    def _names(self, n_terms: int) -> tuple[str, ...]:
        names = getattr(self.model, "loss_names", ())
        if len(names) == n_terms:
            return names
        return ("loss",) if n_terms == 1 else tuple(f"loss_{i + 1}" for i in range(n_terms))

    def _n_batches(self, train_data: Any, n_terms: int) -> tuple[int, ...]:
        if isinstance(self, KGATTrainer | MKRTrainer):  # RecBole returns a sum over rows and one over triples
            return len(train_data.general_dataloader), len(train_data.kg_dataloader)
        return (len(train_data) * getattr(self, "n_dec_epochs", 1),) * n_terms  # passes of RecVAE's decoder

    def _bpr(self, losses: Mapping[str, float]) -> float | None:
        """Return the BPR loss among an epoch's losses; RecBole's models return it first."""
        is_bpr = any(isinstance(module, BPRLoss) for module in self.model.modules())
        return losses.get("bpr", next(iter(losses.values())) if is_bpr else None)

    def _check_nan(self, loss: Tensor) -> None:
        if self._is_watched:  # LossWatch checks each term without a transfer
            self._is_watched = False
        elif not torch.isfinite(loss).all():
            raise UserError(f"training stopped in epoch {self._epoch}: the loss is {loss.item()}")

    def _valid_epoch(self, valid_data: Any, show_progress: bool = False) -> tuple[float, dict[str, float]]:
        start = time.perf_counter()
        with unmoved(getattr(self.model, "generator", None)):
            score, result = super()._valid_epoch(valid_data, show_progress=False)
        score = self.selection.judge(score, self.best_valid_score, self._epoch)
        self.scores[self._epoch] = score
        self.cur_step = self.selection.steps_before(self._epoch, self.cur_step)
        assert self._record is not None
        self._record.valid = {key: float(value) for key, value in result.items()}
        self._record.seconds_valid = time.perf_counter() - start
        return score, result

    def _after_validation(self, epoch_idx: int, valid_score: float) -> None:
        self._finish_epoch()

    def _finish_epoch(self) -> None:
        record = self._record
        assert record is not None
        record.best_epoch, record.peak_memory_mib = self.best_epoch, round(peak_memory_mib(self.device), 1)
        self.n_epochs = record.epoch + 1
        self.seconds.append(record.seconds_train + record.seconds_valid)
        if self.run:
            self.run.append_metrics(vars(record))
            self.tracker.log(scalars(vars(record)), record.epoch)
            if self.checkpoints.due:
                self.save_run_checkpoint()
        self.progress.finished(record, self._standing(record))

    def _standing(self, record: EpochRecord) -> Standing:
        options, seconds = self.config.run, sum(self.seconds) / len(self.seconds)
        if not self._validates:
            left = seconds * (self.epochs - self.n_epochs)
            return Standing(self.valid_metric, seconds_left=(left, left))
        schedule = Schedule(self.epochs, self.eval_step, self.stopping_step, options.min_epochs)
        few, most = schedule.epochs_left(record.epoch, self.cur_step)
        change = None
        if record.valid is not None:
            score = record.valid[self.valid_metric]
            change = None if self._previous is None else score - self._previous
            self._previous = score
        best = None if self.best_epoch is None else float(self.best_valid_score)
        patience = (max(self.cur_step, 0), self.stopping_step)
        return Standing(self.valid_metric, change, best, patience, (few * seconds, most * seconds))

    # ---- the best epoch, and resuming

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        """Store the model's state where RecBole would pickle it: after an improvement."""
        if epoch >= 0 and self._validates:
            self._keep_model()

    def _keep_model(self) -> None:
        self.selection.state = ModelState.of(self.model)
        self._write_model()

    def _write_model(self) -> None:
        if self.run and self.config.run.saved and self.selection.state:
            self.selection.state.write(self.run, self.config["model"])

    def doubts(self) -> str | None:
        """Return why the best epoch is probably not the best that training can reach, or None."""
        if self.best_epoch is None or not self.scores:
            return None
        stopped = self.n_epochs < self.epochs
        return doubts(self.scores, self.best_epoch, bigger=self.valid_metric_bigger, stopped=stopped)

    def load_model(self, run: RunFolder) -> None:
        """Load ``model.safetensors`` of a run folder into the model.

        Raises:
            UserError: If the file belongs to another model or another shape.
        """
        try:
            self.selection.state = ModelState.read(run, self.config["model"])
            self.selection.restore(self.model, self.device)
        except (RuntimeError, KeyError, ValueError, TypeError) as error:
            raise does_not_fit(run.file(MODEL_FILE), error) from None

    def save_run_checkpoint(self) -> None:
        """Write everything that an exact continuation requires to ``checkpoint.safetensors``."""
        assert self.run is not None
        valid = self.best_valid_result
        counters = {
            "epoch": self._epoch,
            "cur_step": self.cur_step,
            "best_epoch": self.best_epoch,
            "best_valid_score": float(self.best_valid_score),
            "best_valid_result": valid and {key: float(value) for key, value in valid.items()},
            "seconds": self.seconds,
        }
        self.checkpoints.write(self.run, self._parts(), self.selection.state, counters)

    def resume(self, train_data: Any) -> int:
        """Continue from the run folder's checkpoint; return the first epoch to train.

        Raises:
            UserError: If the checkpoint is missing, damaged, or of another model, or metrics.jsonl lacks an
                epoch of the checkpoint. Nothing is written then.
        """
        assert self.run is not None
        self._train_data = train_data
        self.selection.state, counters = self.checkpoints.read(self.run, self._parts())
        rows = self.run.read_metrics(counters["epoch"] + 1, self.valid_metric)
        self.cur_step, self.selection.epoch = counters["cur_step"], counters["best_epoch"]
        self.best_valid_score = counters["best_valid_score"]
        self.best_valid_result = counters["best_valid_result"]
        self.seconds, self.start_epoch = counters["seconds"], counters["epoch"] + 1
        self.n_epochs = self.start_epoch
        self._write_model()  # the file may be from an epoch that is trained again
        self.run.truncate_metrics(self.start_epoch)
        for row in rows:
            self.selection.plateau.add(row["epoch"], self._bpr(row["loss"]))
        self.scores = {row["epoch"]: row["valid"][self.valid_metric] for row in rows if row["valid"]}
        self._previous = list(self.scores.values())[-1] if self.scores else None
        return self.start_epoch

    def _parts(self) -> Parts:
        generators = generators_of(self.model, self._train_data)
        return Parts(self.model, optimizers_of(self), generators, self.device)

    # ---- evaluation

    @torch.no_grad()
    def evaluate(self, eval_data: Any, load_best_model: bool = True, *_: Any, **__: Any) -> dict[str, float]:
        """Evaluate a loader; with ``load_best_model`` on the best validation epoch.

        With ``load_best_model``, :attr:`ranking` is the ranking of the loader afterwards. If the loader knows
        which items or users are cold, each metric of users is also returned as ``recall@20[cold]`` and
        ``recall@20[warm]``, except for a group without members.
        """
        if load_best_model:
            self.selection.restore(self.model, self.device)
        self._cold, self._unranked = getattr(eval_data, "cold", None), None
        if self._cold is not None and self._cold.items is not None and self._cold.alone:
            self._unranked = torch.from_numpy(np.flatnonzero(~self._cold.items)).to(self.device)
        self.eval_collector.forget()
        with run_settings(self.config):
            result = super().evaluate(eval_data, load_best_model=False, show_progress=False)
        # Epochs that are only compared require no ranking, except for cold and warm metrics.
        self.ranking = (
            self.eval_collector.take_ranking() if load_best_model or self._cold is not None else None
        )
        found = {key: float(value) for key, value in result.items()}
        if self._cold is not None and self.ranking is not None:
            for name, part in self._cold.split(self.ranking).items():
                found |= {f"{key}[{name}]": value for key, value in count_hits(self.evaluator, part).items()}
        return found

    def _full_sort_batch_eval(self, batched_data: Any) -> Any:
        with fast_products():
            interaction, scores, *positives = super()._full_sort_batch_eval(batched_data)
        if self._unranked is not None:
            scores.index_fill_(1, self._unranked, -torch.inf)
        return interaction, scores, *positives
