"""RecBole's trainers with an epoch hook, honest selection, and checkpoints without pickle."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.trainer import Trainer
from recbole.trainer.trainer import PretrainTrainer
from recbole.utils import get_trainer
from torch import Tensor

from recbole_siger.config import Config
from recbole_siger.errors import UserError
from recbole_siger.evaluation.groups import ColdSet
from recbole_siger.evaluation.metrics import Ranking
from recbole_siger.evaluation.protocol import PROTOCOLS
from recbole_siger.parallel.shares import (
    average_gradients,
    current_share,
    losses_of_share,
    mean_over_processes,
)
from recbole_siger.runs.checkpoint import (
    State,
    pack,
    pack_optimizer,
    pack_random,
    select,
    unpack,
    unpack_optimizer,
    unpack_random,
)
from recbole_siger.runs.folder import CHECKPOINT, RunFolder
from recbole_siger.training.evaluator import RankingCollector, RankingEvaluator, count_hits
from recbole_siger.training.loss_watch import LossWatch
from recbole_siger.training.progress import EpochRecord, Progress, peak_memory_mib

__all__ = ["RunTrainer", "build_trainer"]

# Far below any difference between two scores, and no denormal, which a run takes for zero.
_HAIR = 1e-12


def build_trainer(
    config: Config, model: Any, run: RunFolder | None, progress: Progress | None = None
) -> RunTrainer:
    """Make the trainer that RecBole has for a model, with :class:`RunTrainer` on top.

    Raises:
        UserError: If the model is trained outside torch, as decision trees are.
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
    """What every run has, whichever of RecBole's trainers lies below.

    The best validation epoch is kept in memory and is the one tested. A gain is a strictly better score.
    Losses are checked term by term. With a run folder, epochs, best model and checkpoints are written to it.
    """

    def __init__(self, config: Config, model: Any, run: RunFolder | None, progress: Progress) -> None:
        config["checkpoint_dir"] = str(run.path) if run else "."  # RecBole makes the folder that it names
        self.share = current_share()
        super().__init__(config, model)
        self.run, self.progress = run, progress
        self.eval_collector, self.evaluator = RankingCollector(config), RankingEvaluator(config)
        self.start_epoch: int
        self.best_valid_score: float
        self.best_epoch: int | None = None
        self.n_epochs = 0
        self.seconds: list[float] = []
        self.best: tuple[State, dict[str, Any]] | None = None
        self.ranking: Ranking | None = None
        self._cold: ColdSet | None = None
        self._record: EpochRecord | None = None
        self._train_data: Any = None
        self._epoch = 0
        self._validates = self._is_watched = False
        self._checkpoint_at = time.monotonic()
        self._built_with = dict(vars(model))

    def _build_optimizer(self, **kwargs: Any) -> Any:
        optimizer = super()._build_optimizer(**kwargs)
        if type(optimizer) in (torch.optim.Adam, torch.optim.AdamW):
            for group in optimizer.param_groups:
                group["fused"], group["foreach"] = True, None
        if self.share.size > 1:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            optimizer.register_step_pre_hook(lambda *_: average_gradients(parameters))
        return optimizer

    # ---- training

    def fit(self, train_data: Any, valid_data: Any = None, **_: Any) -> tuple[float, dict[str, float] | None]:
        """Train, validate after each epoch, stop early; return the best validation score and result."""
        self._train_data = train_data
        self._validates = bool(valid_data) and self.eval_step > 0
        if self.start_epoch and self.cur_step > self.stopping_step:
            self.start_epoch = self.epochs  # the checkpoint is of the epoch that stopped
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
        if hasattr(self.model, "on_epoch_start"):
            self.model.on_epoch_start(epoch_idx)
        if hasattr(self.model, "learning_rate_factor"):
            for group in self.optimizer.param_groups:  # from the epoch alone, so that resuming is exact
                group["lr"] = self.learning_rate * self.model.learning_rate_factor(epoch_idx)
        self._epoch, self._record = epoch_idx, EpochRecord(epoch_idx)
        start, loss_func = time.perf_counter(), loss_func or self.model.calculate_loss
        watch = LossWatch(epoch_idx, self._names, self.device)
        with self.progress.epoch(epoch_idx, len(train_data)) as update:

            def watched(interaction: Interaction) -> Any:
                losses = watch.add(losses_of_share(self.model, loss_func, interaction))
                self._is_watched = True
                update(watch.last)
                return losses

            total = super()._train_epoch(train_data, epoch_idx, watched, show_progress=False)
            watch.fetch()
        if self.share.size > 1:
            watch.sums = mean_over_processes(watch.sums, self.device)
        if watch.sums:  # but for trainers of RecBole that bring their own loss
            total = tuple(watch.sums[: len(total)]) if isinstance(total, tuple) else watch.sums[0]
        terms = total if isinstance(total, tuple) else (total,)
        names = self._names(len(terms))
        self._record.loss = {n: t / len(train_data) for n, t in zip(names, terms, strict=True)}
        self._record.seconds_train = time.perf_counter() - start
        if not (self._validates and (epoch_idx + 1) % self.eval_step == 0):
            self._finish_epoch()
        return total

    def _names(self, n_terms: int) -> tuple[str, ...]:
        names = getattr(self.model, "loss_names", ())
        if len(names) == n_terms:
            return names
        return ("loss",) if n_terms == 1 else tuple(f"loss_{i + 1}" for i in range(n_terms))

    def _check_nan(self, loss: Tensor) -> None:
        if self._is_watched:  # term by term, and without a transfer
            self._is_watched = False
        elif not torch.isfinite(loss).all():
            raise UserError(f"training stopped in epoch {self._epoch}: the loss is {loss.item()}")

    def _valid_epoch(self, valid_data: Any, show_progress: bool = False) -> tuple[float, dict[str, float]]:
        start = time.perf_counter()
        score, result = super()._valid_epoch(valid_data, show_progress=False)
        decimals = PROTOCOLS[self.config.run.protocol].selection_decimals
        score = float(score if decimals is None else round(score, decimals))
        better = score > self.best_valid_score if self.valid_metric_bigger else score < self.best_valid_score
        if better:
            self.best_epoch = self._epoch
        elif score == self.best_valid_score:
            # RecBole takes an equal score for a gain; a hair worse, it is none.
            score += -_HAIR if self.valid_metric_bigger else _HAIR
        if self._epoch < self.config.run.min_epochs:
            self.cur_step = -1  # whatever comes of this epoch, patience starts at 0
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
            if time.monotonic() - self._checkpoint_at >= self.config.run.checkpoint_interval:
                self.save_run_checkpoint()
        best = None if self.best_epoch is None else float(self.best_valid_score)
        self.progress.finished(record, self.valid_metric, best)

    # ---- the best epoch

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        """Keep the best epoch, where RecBole pickles it."""
        if epoch < 0:
            return
        if not self._validates:
            self.best_epoch = epoch
        state = {key: value.detach().cpu().clone() for key, value in self.model.state_dict().items()}
        self.best = state, self._other_parameter()
        if self.run and self.config.run.saved:
            self.save_model()

    def _other_parameter(self) -> dict[str, Any]:
        # What RecBole calls restore_* are caches of embeddings.
        other = self.model.other_parameter()
        return {key: value for key, value in other.items() if not key.startswith("restore_")}

    def save_model(self) -> None:
        """Write the best epoch to ``model.safetensors``."""
        assert self.run is not None
        assert self.best is not None
        state, other = self.best
        tensors, kinds = pack(other)
        named = {f"model.{key}": value for key, value in state.items()}
        named |= {f"other.{key}": value for key, value in tensors.items()}
        self.run.write_tensors("model.safetensors", named, model=self.config["model"], other=kinds)

    def load_model(self, run: RunFolder) -> None:
        """Load ``model.safetensors`` of a run folder into the model.

        Raises:
            UserError: If it belongs to another model or another shape.
        """
        state, metadata = run.read_tensors("model.safetensors")
        file = run.file("model.safetensors")
        if metadata.get("model") != self.config["model"]:
            raise UserError(
                f"{file}: holds a {metadata.get('model')}, config.yaml says {self.config['model']}"
            )
        try:
            self.best = select(state, "model."), unpack(select(state, "other."), metadata["other"])
            self._restore_best()
        except (RuntimeError, KeyError, ValueError, TypeError) as error:
            raise _misfit(file, error) from None

    def _restore_best(self) -> None:
        if self.best is None:
            raise UserError("no epoch had a validation score better than none; look into metrics.jsonl")
        state, other = self.best
        self.model.load_state_dict(state)
        device = {
            key: value.to(self.device) if isinstance(value, Tensor) else value for key, value in other.items()
        }
        self.model.load_other_parameter(device)
        for key in self.model.other_parameter():
            if key.startswith("restore_"):
                setattr(self.model, key, None)

    @torch.no_grad()
    def evaluate(
        self,
        eval_data: Any,
        load_best_model: bool = True,
        model_file: Any = None,
        show_progress: bool = False,
    ) -> dict[str, float]:
        """Evaluate a loader; with ``load_best_model`` on the best validation epoch.

        With ``load_best_model``, :attr:`ranking` is then what was ranked. Where the loader knows who is cold,
        each metric of users comes again as ``recall@20[cold]`` and ``recall@20[warm]``; one without a member
        is absent.
        """
        if load_best_model:
            self._restore_best()
        self._cold = getattr(eval_data, "cold", None)
        self.eval_collector.forget()
        result = super().evaluate(eval_data, load_best_model=False, show_progress=False)
        # Epochs that are only compared need no ranking, but for its cold part.
        self.ranking = (
            self.eval_collector.take_ranking() if load_best_model or self._cold is not None else None
        )
        found = {key: float(value) for key, value in result.items()}
        if self._cold is not None and self.ranking is not None:
            for name, part in self._cold.split(self.ranking).items():
                found |= {f"{key}[{name}]": value for key, value in count_hits(self.evaluator, part).items()}
        return found

    def _full_sort_batch_eval(self, batched_data: Any) -> Any:
        interaction, scores, *positives = super()._full_sort_batch_eval(batched_data)
        if self._cold is not None and self._cold.items is not None and self._cold.alone:
            scores[:, torch.from_numpy(~self._cold.items)] = -torch.inf
        return interaction, scores, *positives

    # ---- resuming

    def save_run_checkpoint(self) -> None:
        """Write all that an exact continuation needs to ``checkpoint.safetensors``."""
        assert self.run is not None
        self._checkpoint_at = time.monotonic()
        best_state, best_other = self.best or ({}, {})
        counters = {
            "epoch": self._epoch,
            "cur_step": self.cur_step,
            "best_epoch": self.best_epoch,
            "best_valid_score": float(self.best_valid_score),
            "best_valid_result": self.best_valid_result and _floats(self.best_valid_result),
            "seconds": self.seconds,
        }
        captured = {
            "model": (self.model.state_dict(), {}),
            "plain": pack(self._rebound_attributes()),
            "best": (best_state, {}),
            "other": pack(best_other),
            "random": pack_random(self._generators(), self.device),
        }
        captured |= {name: pack_optimizer(optimizer) for name, optimizer in self._optimizers().items()}
        state = {f"{part}.{key}": value for part, (s, _) in captured.items() for key, value in s.items()}
        kinds = {part: kinds for part, (_, kinds) in captured.items()}
        self.run.write_tensors(CHECKPOINT, state, model_name=self.config["model"], counters=counters, **kinds)

    def resume(self, train_data: Any) -> int:
        """Continue from the run folder's checkpoint; return the first epoch to train.

        Raises:
            UserError: If the checkpoint is missing, damaged, or of another model.
        """
        assert self.run is not None
        self._train_data = train_data
        state, metadata = self.run.read_tensors(CHECKPOINT)
        try:
            self._load_checkpoint(state, metadata)
        except (RuntimeError, KeyError, ValueError, TypeError) as error:
            raise _misfit(self.run.file(CHECKPOINT), error) from None
        if self.best and self.config.run.saved:
            self.save_model()  # the file may be of an epoch that is trained again
        self.run.truncate_metrics(self.start_epoch)
        return self.start_epoch

    def _load_checkpoint(self, state: State, metadata: dict[str, Any]) -> None:
        if metadata["model_name"] != self.config["model"]:
            raise ValueError(f"it is of {metadata['model_name']}, config.yaml says {self.config['model']}")
        self.model.load_state_dict(select(state, "model."))
        for name, value in unpack(select(state, "plain."), metadata["plain"]).items():
            setattr(self.model, name, value.to(self.device) if isinstance(value, Tensor) else value)
        if best := select(state, "best."):
            self.best = best, unpack(select(state, "other."), metadata["other"])
        for name, optimizer in self._optimizers().items():
            if name not in metadata:
                continue
            unpack_optimizer(optimizer, select(state, f"{name}."), metadata[name])
        unpack_random(self._generators(), self.device, select(state, "random."), metadata["random"])
        counters = metadata["counters"]
        self.cur_step, self.best_epoch = counters["cur_step"], counters["best_epoch"]
        self.best_valid_score = counters["best_valid_score"]
        self.best_valid_result = counters["best_valid_result"]
        self.seconds, self.start_epoch = counters["seconds"], counters["epoch"] + 1
        self.n_epochs = self.start_epoch

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        found = {
            name: value for name, value in vars(self).items() if isinstance(value, torch.optim.Optimizer)
        }
        if any(value is self.optimizer for name, value in found.items() if name != "optimizer"):
            del found["optimizer"]  # RecVAE lets it point to that of the part in training
        return found

    def _rebound_attributes(self) -> dict[str, Any]:
        """Return what training keeps outside the state dict, such as NCL's clusters or an annealing step."""
        return {
            name: value
            for name, value in vars(self.model).items()
            if value is not self._built_with.get(name)
            and isinstance(value, int | float | np.ndarray | Tensor)
            and getattr(value, "layout", torch.strided) == torch.strided  # SGL draws its graphs each epoch
            and not name.startswith(("_", "restore_"))
            and name != "training"
        }

    def _generators(self) -> dict[str, torch.Generator]:
        owners = {"model": self.model, "loader": self._train_data}
        found = {name: getattr(owner, "generator", None) for name, owner in owners.items()}
        return {name: generator for name, generator in found.items() if generator is not None}


def _misfit(file: Path, error: Exception) -> UserError:
    return UserError(f"{file}: does not fit the model: {' '.join(str(error).split())}; train again")


def _floats(result: Any) -> dict[str, float]:
    return {key: float(value) for key, value in result.items()}
