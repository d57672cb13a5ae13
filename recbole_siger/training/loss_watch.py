"""The loss terms of an epoch: summed, checked for NaN, and rarely fetched from the device."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from recbole_siger.errors import UserError

__all__ = ["LossWatch"]

# Batches between two fetches. From another device than the CPU, values are fetched by time: a fetch waits for
# the device, which then has no work until the next batch is issued.
_BATCHES = {"cpu": 1}
_SECONDS = 1.0


class _Term(Tensor):
    """A loss term whose ``item()``, which RecBole's loop calls for each batch, makes no transfer."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # torch's own way
    value: float

    def item(self) -> float:
        """Return the value if it was fetched already, else 0; the watch has the sums of the epoch."""
        return self.value


class LossWatch:
    """Sum the terms of one epoch.

    On CPU, the terms are read after each batch. On another device, they are read once a second and at the
    end of the epoch.

    Args:
        epoch: Number of the epoch, for the message.
        names: Names of the terms, by their number.
        device: Device of the losses.
    """

    def __init__(self, epoch: int, names: Callable[[int], tuple[str, ...]], device: torch.device) -> None:
        self.epoch, self.names = epoch, names
        self.every = _BATCHES.get(device.type)
        self.sums: list[float] = []
        self.last: dict[str, float] = {}
        self._waiting: list[Tensor] = []
        self._fetched_at = time.monotonic()

    def add(self, losses: Any) -> Any:
        """Add a batch's losses; return them for RecBole's loop.

        Raises:
            UserError: If a term of this batch, or of the batches not yet fetched, is not finite.
        """
        terms = losses if isinstance(losses, tuple) else (losses,)
        values = self.add_values(torch.stack([term.detach().reshape(()) for term in terms]))
        known = tuple(_with_value(term, value) for term, value in zip(terms, values, strict=True))
        return known if isinstance(losses, tuple) else known[0]

    def add_values(self, values: Tensor) -> list[float]:
        """Add a batch's terms as one tensor ``(n,)``; return their values if fetched now, else zeros.

        Raises:
            UserError: As :meth:`add`.
        """
        self._waiting.append(values)
        return self.fetch() if self._is_due() else [0.0] * len(values)

    def _is_due(self) -> bool:
        if self.every is not None:
            return len(self._waiting) >= self.every
        return time.monotonic() - self._fetched_at >= _SECONDS

    def fetch(self) -> list[float]:
        """Fetch the values that are still on the device; return the last batch's values."""
        batches: list[list[float]] = torch.stack(self._waiting).tolist() if self._waiting else []
        self._waiting, self._fetched_at = [], time.monotonic()
        for values in batches:
            self.last = dict(zip(self.names(len(values)), values, strict=True))
            for name, value in self.last.items():
                if not math.isfinite(value):
                    raise UserError(
                        f"training stopped in epoch {self.epoch}: loss term `{name}` is {value}; "
                        "lower --learning_rate or the term's weight, or raise its temperature"
                    )
            self.sums = [a + b for a, b in zip(self.sums or [0.0] * len(values), values, strict=True)]
        return batches[-1] if batches else []


def _with_value(term: Tensor, value: float) -> _Term:
    known = term.as_subclass(_Term)
    known.value = value
    return known
