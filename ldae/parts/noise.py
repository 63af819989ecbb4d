"""How strongly latents are corrupted at each time step: the levels of a row's noise schedule as tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ldae.runtime.randomness import Randomness
from ldae.study import spec


class Level(NamedTuple):
    """The strength of the signal and of the noise; tensors of one shape."""

    signal: Tensor
    noise: Tensor

    def mix(self, clean: Tensor, noise: Tensor) -> Tensor:
        """The noisy latents z_t = gamma_t z_0 + sigma_t eps (eq. 1)."""
        return torch.addcmul(self.signal * clean, self.noise, noise)


def uniform(num_times: int, num: int, randomness: Randomness) -> Tensor:
    """Time steps (num,), each of `num_times` equally likely (DDPM)."""
    return randomness.integers(num_times, num)


TIMES: dict[str, Callable[[int, int, Randomness], Tensor]] = {f.__name__: f for f in (uniform,)}


class NoiseSchedule(nn.Module):
    """The levels of a row's schedule, as a table on the device."""

    signal: Tensor  # (num_times,)
    noise: Tensor  # (num_times,)

    def __init__(self, noise: spec.Noise) -> None:
        super().__init__()
        levels = noise.levels
        self.num_times = len(levels.signal)
        self.sampler = TIMES[noise.times]
        self.register_buffer("signal", torch.tensor(levels.signal, dtype=torch.float32), persistent=False)
        self.register_buffer("noise", torch.tensor(levels.noise, dtype=torch.float32), persistent=False)

    def level(self, times: Tensor) -> Level:
        """The level at integer `times` (N,), shaped (N, 1, 1) to multiply tokens (N, T, d)."""
        return Level(self.signal[times, None, None], self.noise[times, None, None])

    def draw(self, num: int, randomness: Randomness) -> Tensor:
        """Time steps (num,) of a training step's images, int64."""
        return self.sampler(self.num_times, num, randomness)

    def nearest(self, time: int) -> int:
        """`time`, or the last step of a schedule that has fewer."""
        return min(time, self.num_times - 1)
