"""One training in several processes: each process has a share of a batch's rows and of the users to rank.

All processes draw the same batches, negatives and noise, because they start from the same seed. Therefore all
processes have the same parameters after every step, independent of their shares of the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = [
    "ALONE",
    "Share",
    "average_gradients",
    "current_share",
    "gather_rows",
    "losses_of_share",
    "mean_over_processes",
]


@dataclass(frozen=True)
class Share:
    """Every ``size``-th row, beginning at ``rank``.

    >>> Share(1, 3).of(torch.arange(8)).tolist()
    [1, 4, 7]
    """

    rank: int
    size: int

    def of(self, rows: Tensor) -> Tensor:
        """Return the rows of this process: ``(n, ...)`` to ``(<= ceil(n / size), ...)``."""
        return rows if self.size == 1 else rows[self.rank :: self.size]

    def weight(self, n: int) -> float:
        """Return the weight of a mean over this share of ``n`` rows; the processes then average to the whole.

        >>> [Share(rank, 2).weight(5) for rank in (0, 1)]  # of 3 and of 2 rows
        [1.2, 0.8]
        """
        return len(range(self.rank, n, self.size)) * self.size / n


ALONE = Share(0, 1)


def current_share() -> Share:
    """Return the share of this process: all rows, unless the process belongs to a process group."""
    if not dist.is_available() or not dist.is_initialized():
        return ALONE
    return Share(dist.get_rank(), dist.get_world_size())


def average_gradients(parameters: Iterable[nn.Parameter], clip: Mapping[str, Any] | None = None) -> None:
    """Replace each gradient by its mean over the processes; a missing gradient counts as zero.

    A parameter without a gradient in all processes, which the step does not train, stays without one. All
    gradients are one message. A second message has the number of gradients of each parameter.

    Args:
        parameters: Parameters of an optimizer. Frozen parameters are not sent.
        clip: Arguments of ``clip_grad_norm_`` for the means; None to clip nothing.
    """
    shared = [parameter for parameter in parameters if parameter.requires_grad]
    if not shared:
        return
    n_gradients = torch.tensor([int(p.grad is not None) for p in shared], device=shared[0].device)
    dist.all_reduce(n_gradients)
    shared = [parameter for parameter, n in zip(shared, n_gradients.tolist(), strict=True) if n]
    if not shared:
        return
    for parameter in shared:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([parameter.grad.flatten() for parameter in shared if parameter.grad is not None])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for parameter, mean in zip(shared, flat.split([p.numel() for p in shared]), strict=True):
        parameter.grad = mean.view_as(parameter)
    if clip:
        nn.utils.clip_grad_norm_(shared, **clip)


def losses_of_share(model: Any, loss_func: Callable[[Any], Any], interaction: Any) -> Any:
    """Compute this process's contribution to a batch's losses.

    Args:
        model: A model with ``shares_batches`` gets all rows and counts its ``share``; other models get a
            share.
        loss_func: The model's loss, means over rows: one tensor or several.
        interaction: The batch, equal in all processes.
    """
    share = current_share()
    if len(interaction) < share.size:
        share = ALONE  # each process counts all rows
    if getattr(model, "shares_batches", False):
        model.share = share
        return loss_func(interaction)
    if share.size == 1:
        return loss_func(interaction)
    losses = loss_func(interaction[share.of(torch.arange(len(interaction)))])
    weight = share.weight(len(interaction))
    return tuple(weight * term for term in losses) if isinstance(losses, tuple) else weight * losses


def mean_over_processes(values: list[float], device: torch.device) -> list[float]:
    """Return the mean of each number over the processes."""
    total = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return (total / dist.get_world_size()).tolist()


def gather_rows(rows: Tensor) -> Tensor:
    """Return the rows of all processes, in the order of the processes: ``(sum of n, ...)``.

    Args:
        rows: Shape ``(n, ...)``; only n may differ between processes.
    """
    size, device = dist.get_world_size(), rows.device
    if dist.get_backend() == "gloo":  # which gathers tensors of the CPU
        rows = rows.cpu()
    lengths = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(size)]
    dist.all_gather(lengths, torch.tensor([len(rows)], device=rows.device))
    longest = max(int(length) for length in lengths)
    padded = rows.new_zeros((longest, *rows.shape[1:]))
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in range(size)]
    dist.all_gather(parts, padded.contiguous())
    gathered = torch.cat([part[: int(length)] for part, length in zip(parts, lengths, strict=True)])
    return gathered.to(device)
