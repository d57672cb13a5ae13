"""Training steps as a CUDA graph: forward pass, loss, backward pass and optimizer in one launch.

A step of eager training issues hundreds of kernels, and the processor issues them more slowly than the GPU
computes them. A CUDA graph records the kernels of one step and issues all of them in one call. A graph reads
and writes fixed addresses, so a batch is copied into fixed buffers first.

Source: the section "CUDA Graphs" of PyTorch's notes on CUDA semantics.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_siger.config import Config
from recbole_siger.errors import UserError
from recbole_siger.model.abstract_recommender import MultimodalRecommender
from recbole_siger.parallel.shares import Share

__all__ = ["CudaGraphs", "GraphBackend", "Recorded", "StepGraph", "build_step_graph", "why_eager"]

_log = logging.getLogger(__name__)

N_EAGER = 2
"""Batches that are trained eagerly before the step is captured."""

TOLERANCE = 1e-5
"""Largest difference of a loss term between the captured and the eager step, relative above 1."""


class GraphBackend(Protocol):
    """What records a function once and repeats its work later."""

    def warm_up(self, step: Callable[[], Tensor], n_steps: int) -> list[Tensor]:
        """Call ``step`` as often as asked, as it will be recorded; return what the calls returned.

        Raises:
            RuntimeError: If the step waits for the device, which a graph cannot do.
        """

    def capture(self, step: Callable[[], Tensor], generators: Sequence[torch.Generator]) -> Recorded:
        """Record ``step``; the recorded work draws from ``generators`` and the default generator."""

    def random_state(self) -> Tensor:
        """Return the state of the device's default generator."""

    def set_random_state(self, state: Tensor) -> None:
        """Restore what :meth:`random_state` returned."""


@dataclass(frozen=True)
class Recorded:
    """A recorded step.

    Attributes:
        replay: Repeats the work of the step.
        output: What the step returned; each replay writes it again.
    """

    replay: Callable[[], None]
    output: Tensor


class CudaGraphs:
    """Record steps with ``torch.cuda.CUDAGraph``.

    Args:
        device: The CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)

    def warm_up(self, step: Callable[[], Tensor], n_steps: int) -> list[Tensor]:
        """Call the step on the stream of later captures, while torch reports waiting as an error."""
        mode, outer = torch.cuda.get_sync_debug_mode(), torch.cuda.current_stream(self._device)
        self._stream.wait_stream(outer)
        with warnings.catch_warnings(), torch.cuda.stream(self._stream):
            warnings.filterwarnings("ignore", message="Synchronization debug mode is a prototype")
            torch.cuda.set_sync_debug_mode("error")
            try:
                return [step() for _ in range(n_steps)]
            finally:
                torch.cuda.set_sync_debug_mode(mode)
                outer.wait_stream(self._stream)  # also after an error

    def capture(self, step: Callable[[], Tensor], generators: Sequence[torch.Generator]) -> Recorded:
        """Record the step; nothing is computed until the first replay."""
        graph = torch.cuda.CUDAGraph()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # newer versions of torch register at the first use
            for generator in generators:
                graph.register_generator_state(generator)
        # The outer block restores the current stream, which a capture that fails does not.
        with torch.cuda.stream(self._stream), torch.cuda.graph(graph, stream=self._stream):
            output = step()
        return Recorded(graph.replay, output)

    def random_state(self) -> Tensor:
        """Return the state of the device's default generator."""
        return torch.cuda.get_rng_state(self._device)

    def set_random_state(self, state: Tensor) -> None:
        """Restore what :meth:`random_state` returned."""
        torch.cuda.set_rng_state(state, self._device)


def why_eager(config: Config, model: Any, optimizer: Any, share: Share) -> str | None:
    """Return why a training on a GPU cannot have a captured step, or None if it can.

    Args:
        config: The configuration of the run.
        model: The model.
        optimizer: Its optimizer.
        share: The part of this process in the training.
    """
    if not isinstance(model, MultimodalRecommender):
        return f"{config['model']} is a model of RecBole, whose step may wait for the GPU"
    if type(model).auxiliary_losses is not MultimodalRecommender.auxiliary_losses:
        return f"{config['model']} takes auxiliary steps"
    if type(optimizer) not in (torch.optim.Adam, torch.optim.AdamW):
        return f"learner={config['learner']}; use adam or adamw"
    for key in ("enable_scaler", "enable_amp", "clip_grad_norm"):
        if config[key]:
            return f"{key}={config[key]}"
    return None if share.size == 1 else f"nproc={share.size}"


def build_step_graph(config: Config, model: Any, optimizer: Any, share: Share) -> StepGraph | None:
    """Return what trains with a captured step, or None to train eagerly; with ``compile: auto`` log why.

    On CPU there is nothing to capture, so ``auto`` is the same as ``none``.

    Args:
        config: The key ``compile`` and the device are read.
        model: The model, on its device.
        optimizer: Its optimizer.
        share: The part of this process in the training.
    """
    if config.run.compile == "none" or config["device"].type != "cuda":
        return None
    if reason := why_eager(config, model, optimizer, share):
        _log.info("compile=auto: steps are trained eagerly: %s", reason)
        return None
    return StepGraph(model, optimizer, CudaGraphs(config["device"]))


class StepGraph:
    """Train epochs with a captured step.

    The first two batches of a training are trained eagerly, and so are the first two batches of each epoch of
    a model with :meth:`~MultimodalRecommender.on_epoch_start`: a model may build tensors at the first batch,
    and at the second batch what a product by those tensors needs. The step is captured at the next batch. If
    the model has ``on_epoch_start``, or if the learning rate has changed, the step is captured again in each
    epoch. A batch of another size, usually the last, is trained eagerly.

    Before a captured step is used, its losses are compared with eager steps from the same state. If a loss
    differs, or if the step cannot be captured, the training continues eagerly and logs one line.

    Args:
        model: A model for which :func:`why_eager` returns None.
        optimizer: Its Adam or AdamW.
        backend: Records steps.
    """

    def __init__(self, model: MultimodalRecommender, optimizer: Any, backend: GraphBackend) -> None:
        self.model, self.optimizer, self.backend = model, optimizer, backend
        self.changes_by_epoch = type(model).on_epoch_start is not MultimodalRecommender.on_epoch_start
        self.reason: str | None = None
        self.n_captures = 0
        self._recorded: Recorded | None = None
        self._buffers: dict[str, Tensor] = {}
        self._rates: list[float] = []
        self._n_eager = 0  # batches since the model's graphs changed

    def train_epoch(self, batches: Iterable[Interaction], add: Callable[[Tensor], Any]) -> None:
        """Train an epoch.

        Args:
            batches: Batches on the device of the model.
            add: Called after each step with the loss terms, shape ``(n_terms,)``.
        """
        if self.changes_by_epoch or self._rates != self._learning_rates():
            self._recorded, self._buffers = None, {}
        self._n_eager = 0 if self.changes_by_epoch else self._n_eager
        size: int | None = None
        for batch in batches:
            size = len(batch) if size is None else size
            if self.reason is not None or self._n_eager < N_EAGER or len(batch) != size:
                values = self._step(batch)
                self._n_eager += 1
            else:
                values = self._replay(batch)
            add(values)

    # ---- a step

    def _step(self, batch: Interaction) -> Tensor:
        """Train a batch eagerly; return its loss terms. No gradient of the step before is alive."""
        self.optimizer.zero_grad()
        terms = torch.stack([term.reshape(()) for term in self.model.calculate_loss(batch)])
        terms.sum().backward()
        self.optimizer.step()
        return terms.detach()

    def _replay(self, batch: Interaction) -> Tensor:
        """Train a batch with the captured step, which is captured first if there is none."""
        columns = batch.interaction
        if self._recorded is not None and not _fits(columns, self._buffers):
            self._recorded = None
        if self._recorded is None:
            self._buffers = {name: column.clone() for name, column in columns.items()}
            self._recorded = self._captured()
            if self._recorded is None:
                return self._step(batch)
        for name, column in columns.items():
            self._buffers[name].copy_(column)
        self._recorded.replay()
        return self._recorded.output.clone()

    # ---- capturing

    def _captured(self) -> Recorded | None:
        """Capture the step; None, with the reason in :attr:`reason`, if it cannot be used.

        Raises:
            UserError: If the state cannot be restored, so that no further step can be trained.
        """
        state, recorded = _State.of(self.model, self.optimizer, self.backend), None
        try:
            recorded = self._compared(state)
        except RuntimeError as error:
            self.reason = _first_line(error)
        try:
            state.restore()
            if self.reason is not None:  # a generator can refuse to draw after a capture that failed
                for generator in (self.model.generator, None):
                    torch.rand(1, generator=generator, device=self.model.generator.device)
                state.restore()
        except RuntimeError as error:  # a capture that fails can leave the device unusable
            why = self.reason or _first_line(error)
            raise UserError(
                f"compile=auto: the device is not usable after a capture: {why}; train with --compile=none"
            ) from error
        if self.reason is not None:
            _log.info("compile=auto: steps are trained eagerly: %s", self.reason)
        if recorded is not None:
            self._say_captured()
            self.n_captures, self._rates = self.n_captures + 1, self._learning_rates()
        return recorded

    def _compared(self, state: _State) -> Recorded:
        """Capture the step and compare it with eager steps from the same state.

        Raises:
            RuntimeError: If the step cannot be captured, or a loss differs.
        """
        batch = Interaction(dict(self._buffers))
        n_steps = 1 if self.n_captures else 2  # the second step sees the update of the first
        attributes = _plain_attributes(self.model)
        eager = self.backend.warm_up(lambda: self._step(batch), n_steps)
        if changed := _changed(attributes, _plain_attributes(self.model)):
            raise RuntimeError(f"a step assigns {changed}, which a graph cannot repeat")
        state.restore()
        with _capturable(self.optimizer):
            recorded = self.backend.capture(lambda: self._step(batch), [self.model.generator])
        captured = []
        for _ in range(n_steps):
            recorded.replay()
            captured.append(recorded.output.clone())
        if problem := _difference(eager, captured, self.model.loss_names):
            raise RuntimeError(problem)
        return recorded

    def _say_captured(self) -> None:
        if not self.n_captures:
            often = "captured in each epoch" if self.changes_by_epoch else "captured once"
            _log.info("compile=auto: the training step is a CUDA graph, %s", often)

    def _learning_rates(self) -> list[float]:
        return [float(group["lr"]) for group in self.optimizer.param_groups]


@contextmanager
def _capturable(optimizer: Any) -> Iterator[None]:
    """Allow the capture of ``optimizer.step`` in the block; outside, torch warns of the flag."""
    for group in optimizer.param_groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group in optimizer.param_groups:
            group["capturable"] = False


@dataclass(frozen=True)
class _State:
    """What a step changes, to be restored in place."""

    backend: GraphBackend
    tensors: Sequence[tuple[Tensor, Tensor]]
    generator: torch.Generator
    generator_state: Tensor
    random_state: Tensor

    @classmethod
    def of(cls, model: Any, optimizer: Any, backend: GraphBackend) -> _State:
        changed = list(model.state_dict().values())
        for entries in optimizer.state.values():
            changed += [value for value in entries.values() if isinstance(value, Tensor)]
        copies = [(tensor, tensor.detach().clone()) for tensor in changed]
        generator = model.generator
        return cls(backend, copies, generator, generator.get_state(), backend.random_state())

    @torch.no_grad()
    def restore(self) -> None:
        for tensor, copy in self.tensors:
            tensor.copy_(copy)
        self.generator.set_state(self.generator_state)
        self.backend.set_random_state(self.random_state)


def _plain_attributes(model: torch.nn.Module) -> dict[str, Any]:
    """Return the attributes that a step could replace: numbers, tensors and modules of each module."""
    found: dict[str, Any] = {}
    for prefix, module in model.named_modules():
        for name, value in {**vars(module), **module._modules, **module._buffers}.items():
            if value is None or isinstance(value, bool | int | float | Tensor | torch.nn.Module):
                found[f"{prefix}.{name}".lstrip(".")] = value
    return found


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> str | None:
    """Return the name of an attribute that was replaced, or None."""
    for name in sorted(before.keys() | after.keys()):
        one, other = before.get(name), after.get(name)
        if one is not other and not (isinstance(one, int | float) and one == other):
            return name
    return None


def _first_line(error: BaseException) -> str:
    """Return the first line of the first error: the end of a failed capture raises a second error."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error).strip().partition("\n")[0]


def _fits(columns: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> bool:
    return columns.keys() == buffers.keys() and all(
        column.shape == buffers[name].shape and column.dtype == buffers[name].dtype
        for name, column in columns.items()
    )


def _difference(eager: Sequence[Tensor], captured: Sequence[Tensor], names: Sequence[str]) -> str | None:
    """Return which loss term of a captured step differs from the eager step, or None."""
    for step, (one, other) in enumerate(zip(eager, captured, strict=True)):
        for name, expected, value in zip(names, one.tolist(), other.tolist(), strict=True):
            if not math.isclose(value, expected, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
                return f"loss term `{name}` of step {step + 1} is {value:.8g} captured, {expected:.8g} eager"
    return None
