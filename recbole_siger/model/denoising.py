r"""Denoising of rows of the user-item matrix, the diffusion part of DiffMM (arXiv 2406.11781)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbole_siger.evaluation.ranking import top_k
from recbole_siger.graph.user_item import interaction_matrix
from recbole_siger.model.propagation import SparseMatrix
from recbole_siger.options.params import ModelParams, bounded
from recbole_siger.parallel.shares import ALONE, Share

__all__ = ["Denoiser", "DenoisingParams", "NoiseSchedule", "RowDiffusion", "noise_schedule"]

TIME_SIZE = 10
"""Width of the embedding of a step: five cosines, then five sines."""
FIRST_BETA = 1e-4


@dataclass(frozen=True, kw_only=True)
class DenoisingParams(ModelParams):
    """Types and ranges of the diffusion's parameters."""

    n_diffusion_steps: int = bounded("[1, 10000]")  # T
    noise_min: float = bounded("(0, 1)")
    noise_max: float = bounded("(0, 1)")
    hidden_size: int = bounded("[1, inf)")  # H
    denoise_dropout: float = bounded("[0, 1)")
    denoise_batch: int = bounded("[1, inf)")
    denoise_align_weight: float = bounded("[0, inf)")  # λ_0
    n_generated: int = bounded("[1, inf)")  # k


class NoiseSchedule(NamedTuple):
    """Numbers of each step t of a diffusion, shape ``(T,)`` each, float32."""

    kept: Tensor  # share of the signal in a noisy row, squared: alpha-bar
    weight: Tensor  # weight of the reconstruction
    from_clean: Tensor  # factor of the restored row in the mean of step t - 1
    from_noisy: Tensor  # factor of the noisy row in the mean of step t - 1


def noise_schedule(n_steps: int, low: float, high: float) -> NoiseSchedule:
    r"""Return the schedule of a diffusion whose noise grows linearly.

    .. math::
        \beta_t = 1 - \frac{1 - v_t}{1 - v_{t-1}}, \quad \beta_0 = 10^{-4}, \qquad
        \bar\alpha_t = \prod_{s \le t} (1 - \beta_s), \qquad
        w_t = \mathrm{SNR}_{t-1} - \mathrm{SNR}_t, \quad w_0 = 1, \qquad
        \mathrm{SNR}_t = \frac{\bar\alpha_t}{1 - \bar\alpha_t}

    with v from ``low`` to ``high``. The mean of step t - 1, given the restored row and the noisy row, has the
    factors :math:`\beta_t \sqrt{\bar\alpha_{t-1}} / (1 - \bar\alpha_t)` and
    :math:`(1 - \bar\alpha_{t-1}) \sqrt{1 - \beta_t} / (1 - \bar\alpha_t)`, which are 1 and 0 at t = 0.

    Args:
        n_steps: T, >= 1.
        low: Variance of the noise before the first β is replaced, in (0, 1).
        high: Variance of the noise at the last step, in [low, 1).

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> schedule = noise_schedule(5, 1e-5, 2e-3)
        >>> schedule.weight.round().tolist()
        [1.0, 8326.0, 760.0, 285.0, 149.0]
    """
    if n_steps < 1 or not 0 < low <= high < 1:
        raise ValueError(f"expected n_steps >= 1 and 0 < low <= high < 1, got {n_steps}, {low}, {high}")
    signal = 1 - torch.linspace(low, high, n_steps, dtype=torch.float64)
    beta = torch.cat((signal.new_tensor([FIRST_BETA]), 1 - signal[1:] / signal[:-1]))
    kept = (1 - beta).cumprod(0)
    before = torch.cat((kept.new_ones(1), kept[:-1]))
    ratio = kept / (1 - kept)
    weight = torch.cat((ratio.new_ones(1), ratio[:-1] - ratio[1:]))
    from_clean = beta * before.sqrt() / (1 - kept)
    from_noisy = (1 - before) * (1 - beta).sqrt() / (1 - kept)
    return NoiseSchedule(*(x.float() for x in (kept, weight, from_clean, from_noisy)))


class Denoiser(nn.Module):
    r"""A network that restores rows of the user-item matrix from noisy ones.

    .. math::
        \hat x = W_2 \tanh(W_1 [x ; W_e \hat t + b_e] + b_1) + b_2, \qquad
        \hat t = [\cos(t \omega) ; \sin(t \omega)], \quad \omega_j = 10000^{-j / 5}

    Weights start normal with the variance 2 / (in + out), biases with the standard deviation .001. Tables of
    items have a row of the padding item, which no computation reads.

    Args:
        n_items: I, the padding item included.
        hidden_size: Hidden units H.
    """

    def __init__(self, n_items: int, hidden_size: int) -> None:
        super().__init__()
        n_real = n_items - 1
        self.inner = _normal((n_items, hidden_size), n_real + TIME_SIZE + hidden_size)
        self.inner_time = _normal((TIME_SIZE, hidden_size), n_real + TIME_SIZE + hidden_size)
        self.inner_bias = _small(hidden_size)
        self.outer = _normal((n_items, hidden_size), hidden_size + n_real)
        self.outer_bias = _small(n_items)
        self.time_weight = _normal((TIME_SIZE, TIME_SIZE), 2 * TIME_SIZE)
        self.time_bias = _small(TIME_SIZE)

    def time_part(self, step: Tensor) -> Tensor:
        """Return what the step adds to the hidden units, with their bias: ``(B,)`` int64 to ``(B, H)``."""
        half = TIME_SIZE // 2
        place = torch.arange(half, device=step.device, dtype=torch.float32)
        angle = step.unsqueeze(1) * torch.exp(-math.log(10000) * place / half)
        embedded = torch.cat((angle.cos(), angle.sin()), dim=1)
        embedded = embedded @ self.time_weight.T + self.time_bias
        return embedded @ self.inner_time + self.inner_bias

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        """Restore noisy rows: ``(B, I - 1)``, without the padding item, and steps ``(B,)``."""
        hidden = torch.tanh(x @ self.inner[1:] + self.time_part(step))
        return hidden @ self.outer[1:].T + self.outer_bias[1:]

    @torch.no_grad()
    def hidden_products(self) -> tuple[Tensor, Tensor]:
        """Return W_1 W_2, ``(H, H)``, and W_1 b_2, ``(H,)``: what :meth:`restore` needs."""
        return self.outer[1:].T @ self.inner[1:], self.outer_bias[1:] @ self.inner[1:]

    @torch.no_grad()
    def restore(
        self, items: Tensor, first: Tensor, schedule: NoiseSchedule, products: tuple[Tensor, Tensor]
    ) -> Tensor:
        r"""Restore rows of the user-item matrix, from the last step to the first, without noise or dropout.

        .. math::
            W_1 x_{t-1} = c_1 (W_1 W_2 h_t + W_1 b_2) + c_2 W_1 x_t, \qquad x_T = x

        Only the last step leaves the hidden space, which is exact.

        Args:
            items: Items of all rows, row after row, shape ``(n,)``, int64, in ``[1, I)``.
            first: Position in ``items`` of the first item of each row, and n: shape ``(B + 1,)``.
            schedule: The schedule, on the device of the network.
            products: Result of :meth:`hidden_products`.

        Returns:
            Scores of all items but the padding, ``(B, I - 1)``.
        """
        square, constant = products
        state = functional.embedding_bag(items, self.inner, first, mode="sum", include_last_offset=True)
        for t in reversed(range(len(schedule.kept))):
            hidden = torch.tanh(state + self.time_part(first.new_tensor([t])))
            if t:
                clean = hidden @ square + constant
                state = schedule.from_clean[t] * clean + schedule.from_noisy[t] * state
        return hidden @ self.outer[1:].T + self.outer_bias[1:]


class RowDiffusion(nn.Module):
    r"""A denoiser of users' rows for each modality, and the edges that the denoisers generate.

    .. math::
        x'_b &= \sqrt{\bar\alpha_t} x_b + \sqrt{1 - \bar\alpha_t} \epsilon, \qquad
        \hat x_b = D_m (\mathrm{dropout} (x'_b), t) \\
        L_m &= \frac{1}{B} \sum_b w_t \, \mathrm{mean} (\hat x_b - x_b)^2
            + \lambda_0 \, \mathrm{mean} (\hat x_b F_m - x_b E)^2

    Rows are dense for the users of a batch alone.

    Args:
        modalities: Names M.
        train_edges: Users then items, shape ``(2, E)``.
        n_users: U, the padding included.
        n_items: I, the padding included.
        params: Parameters of the model.

    Attributes:
        generated: Items that each denoiser scores highest for each user, 0 where there is none; int64, part
            of the state, ``(M, U, k)``.
    """

    generated: Tensor

    def __init__(
        self,
        modalities: Sequence[str],
        train_edges: Tensor,
        n_users: int,
        n_items: int,
        params: DenoisingParams,
    ) -> None:
        super().__init__()
        self.n_users, self.n_items, self.params = n_users, n_items, params
        device = train_edges.device
        self.denoisers = nn.ModuleDict({m: Denoiser(n_items, params.hidden_size) for m in modalities})
        numbers = noise_schedule(params.n_diffusion_steps, params.noise_min, params.noise_max)
        self.schedule = NoiseSchedule(*(x.to(device) for x in numbers))
        self.interactions = SparseMatrix(interaction_matrix(train_edges, n_users, n_items))
        empty = torch.zeros((len(modalities), n_users, params.n_generated), dtype=torch.int64, device=device)
        self.register_buffer("generated", empty)

    def items_of(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """Return the training items of users ``(B,)``, user after user, and where those of each user begin.

        Returns:
            Items, ``(n,)``, and first positions with n as the last, ``(B + 1,)``.
        """
        start, stop = self.interactions.crow[users], self.interactions.crow[users + 1]
        count = stop - start
        first = torch.cat((count.new_zeros(1), count.cumsum(0)))
        place = torch.arange(int(first[-1]), device=users.device)
        return self.interactions.col[place + (start - first[:-1]).repeat_interleave(count)], first

    def shared_loss(
        self,
        modality: str,
        users: Tensor,
        content: Tensor,
        ids: Tensor,
        generator: torch.Generator,
        share: Share = ALONE,
    ) -> Tensor:
        """Draw steps, noise and dropout for the users of all processes; return this process's part of L_m.

        Args:
            modality: Whose denoiser.
            users: Shape ``(B,)``.
            content: F_m, shape ``(I, d)``, without gradients.
            ids: E, shape ``(I, d)``, without gradients.
            generator: Source of the draws.
            share: Which users are this process's.
        """
        shape = (len(users), self.n_items - 1)
        draws: dict[str, Any] = {"generator": generator, "device": users.device}
        step = torch.randint(self.params.n_diffusion_steps, shape[:1], **draws)
        noise = torch.randn(shape, **draws)
        kept = torch.rand(shape, **draws).ge_(self.params.denoise_dropout)
        share = ALONE if len(users) < share.size else share
        own, step, noise, kept = (share.of(x) for x in (users, step, noise, kept))
        return share.weight(len(users)) * self.loss(modality, own, step, noise, kept, content, ids)

    def loss(
        self,
        modality: str,
        users: Tensor,
        step: Tensor,
        noise: Tensor,
        kept: Tensor,
        content: Tensor,
        ids: Tensor,
    ) -> Tensor:
        """Compute L_m from given draws: ``()``.

        Args:
            modality: Whose denoiser.
            users: Shape ``(B,)``.
            step: t, shape ``(B,)``, in ``[0, T)``.
            noise: ε, shape ``(B, I - 1)``.
            kept: 1 for inputs that dropout leaves, 0 for the others, shape ``(B, I - 1)``.
            content: F_m, shape ``(I, d)``.
            ids: E, shape ``(I, d)``.
        """
        items, first = self.items_of(users)
        row = torch.arange(len(users), device=users.device).repeat_interleave(first.diff())
        clean = torch.zeros_like(noise)
        clean[row, items - 1] = 1  # no column of the padding item
        signal = self.schedule.kept[step].unsqueeze(1)
        noisy = signal.sqrt() * clean + (1 - signal).sqrt() * noise
        found = self.denoisers[modality](noisy * kept / (1 - self.params.denoise_dropout), step)
        error = self.schedule.weight[step] * (found - clean).square().mean(dim=1)
        gap = (found @ content[1:] - clean @ ids[1:]).square().mean(dim=1)
        return (error + self.params.denoise_align_weight * gap).mean()

    @torch.no_grad()
    def generate(self) -> None:
        """Choose the k items that each denoiser scores highest for each user; known items are not masked."""
        for table, denoiser in zip(self.generated, self.denoisers.values(), strict=True):
            assert isinstance(denoiser, Denoiser)
            products = denoiser.hidden_products()
            users = torch.arange(1, self.n_users, device=table.device)
            for some in users.split(self.params.denoise_batch):
                scores = denoiser.restore(*self.items_of(some), self.schedule, products)
                table[some] = top_k(scores, self.params.n_generated) + 1  # no column of the padding

    def edges_of(self, number: int) -> Tensor:
        """Return the generated edges of a modality by its number, users then items: ``(2, n)``."""
        user, place = self.generated[number].nonzero(as_tuple=True)
        return torch.stack((user, self.generated[number, user, place]))


def _normal(shape: tuple[int, int], n_ends: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape) * math.sqrt(2 / n_ends))


def _small(size: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(size) * 1e-3)
