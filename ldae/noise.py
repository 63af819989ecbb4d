"""How strongly latents are corrupted at each time step: z_t = signal * z_0 + noise * eps.

`signal` is the paper's gamma_t, `noise` its sigma_t. A schedule is a table of both over the time steps, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ldae import spec
from ldae.randomness import Randomness
from ldae.spec import NUM_TIMES


class Level(NamedTuple):
    """The strength of the signal and of the noise; tensors of one shape."""

    signal: Tensor
    noise: Tensor

    def signal_share(self) -> Tensor:
        """The signal's part of the power.

        It is the paper's weight gamma^2 where gamma^2 + sigma^2 = 1 (eq. 3) and its 1 / (1 + sigma^2) where gamma = 1
        (Sec. 4.3), so that removing the input scaling changes the schedule alone.
        """
        return self.signal**2 / (self.signal**2 + self.noise**2)


def ddpm(_: float) -> Level:
    """The schedule of DDPM and DiT: signal^2 is the running product of 1 - beta, beta linear in 1e-4..0.02 (Fig. 3).

    Its levels, as those of the others, are tables (num_times,) in float64.
    """
    beta = torch.linspace(1e-4, 0.02, NUM_TIMES, dtype=torch.float64)
    power = torch.cumprod(1 - beta, 0)
    return Level(power.sqrt(), (1 - power).sqrt())


def gamma2(_: float) -> Level:
    """The paper's replacement: signal^2 falls linearly, never quite 1 at the start and 0 at the end (Sec. 4.1)."""
    power = 1 - torch.arange(1, NUM_TIMES + 1, dtype=torch.float64) / NUM_TIMES
    return Level(power.sqrt(), (1 - power).sqrt())


def unscaled(_: float) -> Level:
    """No input scaling: signal = 1, noise linear from 0 to sqrt(2) (Sec. 4.3)."""
    noise = torch.linspace(0, math.sqrt(2), NUM_TIMES, dtype=torch.float64)
    return Level(torch.ones_like(noise), noise)


def single(sigma: float) -> Level:
    """One noise level, and so one time step, for training and for probing alike (Sec. 4.4)."""
    return Level(torch.ones(1, dtype=torch.float64), torch.full((1,), sigma, dtype=torch.float64))


class NoiseSchedule(nn.Module):
    """The levels of a row's schedule, as a table on the device."""

    signal: Tensor  # (num_times,)
    noise: Tensor  # (num_times,)

    def __init__(self, noise: spec.Noise) -> None:
        super().__init__()
        table = SCHEDULES[noise.schedule](noise.sigma)
        self.num_times = len(table.signal)
        self.register_buffer("signal", table.signal.float(), persistent=False)
        self.register_buffer("noise", table.noise.float(), persistent=False)

    def level(self, times: Tensor) -> Level:
        """The level at integer `times` (N,), shaped (N, 1, 1) to multiply tokens (N, T, d)."""
        return Level(self.signal[times, None, None], self.noise[times, None, None])

    def draw(self, num: int, randomness: Randomness) -> Tensor:
        """Time steps (num,), uniform over the schedule's."""
        return randomness.integers(self.num_times, num)

    def nearest(self, time: int) -> int:
        """`time`, or the last step of a schedule that has fewer."""
        return min(time, self.num_times - 1)


SCHEDULES: dict[str, Callable[[float], Level]] = {f.__name__: f for f in (ddpm, gamma2, unscaled, single)}
