"""The time of a run, estimated from a few training steps and a part of a validation.

The trainer itself runs two short epochs, so that all work that happens once an epoch is counted: graphs that
are drawn again, auxiliary losses, clusters. The first epoch is a warm-up. The second epoch is timed, and its
steps and batches of users are scaled to a whole epoch. The cost of the first three batches of an epoch is
counted once: some models build a graph in the first, and a CUDA graph is captured in the third.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from recbole_siger.common.machine import processor_name
from recbole_siger.training.processes import check_shares, n_processes, threads_of_process
from recbole_siger.training.progress import EpochRecord, Progress, Schedule, Standing, peak_memory_mib
from recbole_siger.training.settings import run_settings
from recbole_siger.training.step_graph import N_EAGER

__all__ = ["Timing", "time_run"]

_ONCE = N_EAGER + 1  # batches at the start of an epoch that can take longer
_WARMUP_STEPS = _ONCE + 1
_VALID_BATCHES = 64


@dataclass(frozen=True)
class Timing:
    """Measured times of a run.

    Attributes:
        device: Name of the processor or of the GPU.
        threads: Threads of torch on the processor; None on a GPU.
        steps: Seconds of each timed training step, the loading of its batch included, >= 1 entry.
        steps_per_epoch: Number of training steps of an epoch.
        seconds_train: Seconds of the training of an epoch.
        seconds_valid: Seconds of one validation; 0 without validation.
        schedule: The end of training; its ``eval_step`` is 0 without validation.
        peak_mib: Peak of memory: of the GPU, else of this process.
    """

    device: str
    threads: int | None
    steps: tuple[float, ...]
    steps_per_epoch: int
    seconds_train: float
    seconds_valid: float
    schedule: Schedule
    peak_mib: float

    @property
    def seconds_step(self) -> float:
        """Median of the timed steps, in seconds."""
        return median(self.steps)

    @property
    def seconds_epoch(self) -> float:
        """Mean seconds of an epoch, validation included."""
        every = self.schedule.eval_step
        return self.seconds_train + (self.seconds_valid / every if every else 0.0)

    @property
    def seconds_run(self) -> tuple[float, float]:
        """Seconds of the shortest and of the longest training, without construction and test."""
        every = self.schedule.eval_step
        least, most = (
            n * self.seconds_train + (n // every * self.seconds_valid if every else 0.0)
            for n in self.schedule.all_epochs
        )
        return least, most


def time_run(experiment: Any, n_steps: int) -> Timing:
    """Time a few training steps and a part of a validation of a built experiment.

    Model, optimizer, loaders and random generators change, and the trainer writes to the experiment's run
    folder. Build another experiment for a training. With ``nproc``, this process does the work of one of the
    processes with ``train_batch_size`` rows; the exchange of gradients is not included.

    Args:
        experiment: Result of :func:`recbole_siger.training.experiment.build_experiment`.
        n_steps: Number of timed steps, >= 1; an epoch with fewer steps is timed as a whole.

    Raises:
        UserError: If the model cannot be trained with these options.
    """
    config, trainer = experiment.config, experiment.trainer
    n, device = n_processes(config), torch.device(config["device"])
    if n > 1:
        check_shares(config, experiment.train_data)
    schedule = Schedule(
        trainer.epochs,
        max(trainer.eval_step, 0) if experiment.valid_data else 0,
        trainer.stopping_step,
        config.run.min_epochs,
    )
    with _settings_of_process(config, n):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        clock = _run_two_epochs(experiment, n_steps, device, validates=schedule.eval_step > 0)
        return Timing(
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name(),
            threads=None if device.type == "cuda" else torch.get_num_threads(),
            steps=tuple(clock.train.typical_seconds),
            steps_per_epoch=sum(clock.train.whole(n)),
            seconds_train=clock.seconds_train(n),
            seconds_valid=clock.seconds_valid(n),
            schedule=schedule,
            peak_mib=peak_memory_mib(device),
        )


@contextmanager
def _settings_of_process(config: Any, n: int) -> Iterator[None]:
    """Set the state of a run, and with several processes the threads of each."""
    with ExitStack() as after:
        if n > 1:
            after.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(threads_of_process())
        after.enter_context(run_settings(config))
        yield


def _run_two_epochs(experiment: Any, n_steps: int, device: torch.device, *, validates: bool) -> _Clock:
    trainer, valid_data = experiment.trainer, experiment.valid_data
    train = _first_batches(experiment.train_data, _WARMUP_STEPS, device)
    # Groups of cold and warm users need all users.
    limit = len(valid_data) if getattr(valid_data, "cold", None) is not None else _VALID_BATCHES
    valid = _first_batches(valid_data, limit, device) if validates else None
    clock = trainer.progress = _Clock(train, valid, n_steps + _ONCE)
    trainer.epochs, trainer.eval_step = 2, int(validates)
    trainer.fit(train, valid)
    return clock


class _FirstBatches:
    """The first batches of a loader; notes the seconds of each batch from its request to the next request.

    The next base class is the loader's own class.
    """

    limit: int
    clock_device: torch.device
    passes: list[tuple[int, list[float]]]  # for each pass: batches of a whole pass, seconds of each batch

    def __len__(self) -> int:
        return min(self.limit, super().__len__())  # type: ignore[misc]  # the loader's class follows

    def __iter__(self) -> Iterator[Any]:
        seconds: list[float] = []
        self.passes.append((super().__len__(), seconds))  # type: ignore[misc]
        start = _now(self.clock_device)
        batches = super().__iter__()  # type: ignore[misc]  # of a knowledge-aware model the loader itself
        for _ in range(self.limit):
            if (batch := next(batches, None)) is None:
                return
            yield batch
            end = _now(self.clock_device)
            seconds.append(end - start)
            start = end

    @property
    def typical_seconds(self) -> list[float]:
        """Seconds of each batch, without the first batches of a pass where others follow."""
        return [value for _, seconds in self.passes for value in _typical(seconds)]

    @property
    def measured(self) -> float:
        """Sum of the seconds of all batches."""
        return sum(sum(seconds) for _, seconds in self.passes)

    def whole(self, n: int) -> list[int]:
        """Return the number of batches of each whole pass, divided among ``n`` processes."""
        return [-(-batches // n) for batches, _ in self.passes]

    def scaled(self, n: int) -> float:
        """Return the seconds of whole passes, divided among ``n`` processes."""
        pairs = zip(self.whole(n), self.passes, strict=True)
        return sum(_scaled(seconds, batches) for batches, (_, seconds) in pairs)


def _typical(seconds: Sequence[float]) -> Sequence[float]:
    return seconds[_ONCE:] or seconds


def _scaled(seconds: Sequence[float], batches: int) -> float:
    """Scale the seconds of some batches to a number of batches; the first three batches count once.

    >>> _scaled([5.0, 7.0, 4.0, 1.0, 2.0], 5), _scaled([5.0, 7.0, 4.0, 1.0, 2.0], 13), _scaled([5.0, 6.0], 3)
    (19.0, 31.0, 16.5)
    """
    if not seconds or batches == len(seconds):
        return sum(seconds)
    once = seconds[: min(_ONCE, batches)]
    return sum(once) + (batches - len(once)) * median(_typical(seconds))


def _first_batches(loader: Any, limit: int, device: torch.device) -> Any:
    """Return a copy of a loader that ends after ``limit`` batches."""
    kind: Any = type(f"First{type(loader).__name__}", (_FirstBatches, type(loader)), {})
    part = kind.__new__(kind)
    vars(part).update(vars(loader), limit=limit, clock_device=device, passes=[])
    return part


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class _Clock(Progress):
    """Show nothing; note the end of both epochs, and change the loaders between them."""

    def __init__(self, train: Any, valid: Any, n_steps: int) -> None:
        super().__init__()
        self.train, self.valid, self._n_steps = train, valid, n_steps
        self._ends: list[float] = []
        self._last = EpochRecord(0)

    @contextmanager
    def epoch(self, epoch: int, n_batches: int) -> Iterator[Any]:
        """Yield a function that shows nothing."""
        yield lambda terms, auxiliary=False: None

    def finished(self, record: EpochRecord, standing: Standing) -> None:
        """Note the end of an epoch; after the warm-up, forget its batches."""
        self._ends.append(_now(self.train.clock_device))
        self._last = record
        if len(self._ends) == 1:
            self.train.limit = self._n_steps
            self.train.passes.clear()
            if self.valid is not None:
                self.valid.passes.clear()

    def seconds_train(self, n: int) -> float:
        """Return the seconds of the training of a whole epoch, divided among ``n`` processes."""
        once = self._ends[1] - self._ends[0] - self._last.seconds_valid - self.train.measured
        return max(once, 0.0) + self.train.scaled(n)

    def seconds_valid(self, n: int) -> float:
        """Return the seconds of a whole validation, divided among ``n`` processes."""
        if self.valid is None or not self.valid.measured:
            return 0.0
        timed = sum(len(seconds) for _, seconds in self.valid.passes)
        metrics = self._last.seconds_valid - self.valid.measured  # grow with the users
        return max(metrics, 0.0) * sum(self.valid.whole(n)) / timed + self.valid.scaled(n)
