"""How strong signal and noise are at each time step, by noise schedule, and which schedules can be sampled; no torch.

z_t = signal * z_0 + noise * eps: `signal` is the paper's gamma_t, `noise` its sigma_t. Their squares are their powers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import accumulate, pairwise
from operator import mul
from typing import NamedTuple

from ldae.study.base import NUM_TIMES

# A step of sampling divides by the signal, so it magnifies the network's error where hardly any is left.
LEAST_POWER = 1e-5  # the least signal^2 at which sampling may start; DDPM's last time step has 4e-5
MOST_POWER = 1e-2  # the most: sampling starts from noise alone, as if the signal were 0


class Levels(NamedTuple):
    """The strengths at the time steps of a schedule, from the least noise to the most."""

    signal: tuple[float, ...]
    noise: tuple[float, ...]

    def at(self, time: int) -> tuple[float, float]:
        """The strengths of signal and noise at a time step, or at the last one of a schedule that has fewer."""
        step = min(time, len(self.signal) - 1)
        return self.signal[step], self.noise[step]

    @property
    def is_single(self) -> bool:
        """Whether there is only one noise level."""
        return len(self.signal) == 1

    @property
    def sampled_steps(self) -> range:
        """The time steps that sampling may visit: all with noise to remove and with enough signal to divide by."""
        power = [signal**2 for signal in self.signal]  # which never rises, so numbers of steps are places
        return range(sum(p >= 1 for p in power), sum(p >= LEAST_POWER for p in power))

    @property
    def obstacle(self) -> str | None:
        """Why the schedule defines no diffusion process to sample from, measured from its levels; None if it does."""
        powers = [signal**2 + noise**2 for signal, noise in zip(*self, strict=True)]
        furthest = max(powers, key=lambda power: abs(power - 1))
        if abs(furthest - 1) > 1e-6:
            return f"signal^2 + noise^2 should be 1 at every time step, and is {furthest:.3g} at one"
        if any(after > before for before, after in pairwise(self.signal)):
            return "the signal should never rise from one time step to the next, and does"
        if not any(self.signal[time] ** 2 <= MOST_POWER for time in self.sampled_steps):
            return (
                f"sampling starts from noise alone, and no time step has a signal^2 of {LEAST_POWER:g} to "
                f"{MOST_POWER:g}; the last has {self.signal[-1] ** 2:.3g}"
            )
        return None


def variance_preserving(power: Iterable[float]) -> Levels:
    """The levels of a schedule that preserves the variance, from the signal's power."""
    powers = list(power)
    return Levels(tuple(math.sqrt(p) for p in powers), tuple(math.sqrt(1 - p) for p in powers))


def ddpm(_: float) -> Levels:
    """The schedule of DDPM and DiT: signal^2 is the running product of 1 - beta, beta linear in 1e-4..0.02 (Fig. 3)."""
    betas = (1e-4 + (0.02 - 1e-4) * time / (NUM_TIMES - 1) for time in range(NUM_TIMES))
    return variance_preserving(accumulate((1 - beta for beta in betas), mul))


def gamma2(_: float) -> Levels:
    """The paper's replacement: signal^2 falls linearly, from just below 1 to exactly 0 at the last step (Sec. 4.1)."""
    return variance_preserving(1 - (time + 1) / NUM_TIMES for time in range(NUM_TIMES))


def unscaled(_: float) -> Levels:
    """No input scaling: signal = 1, noise linear from 0 to sqrt(2) (Sec. 4.3)."""
    noise = tuple(math.sqrt(2) * time / (NUM_TIMES - 1) for time in range(NUM_TIMES))
    return Levels((1.0,) * NUM_TIMES, noise)


def single(sigma: float) -> Levels:
    """One noise level, and so one time step, for training and for probing alike (Sec. 4.4)."""
    return Levels((1.0,), (sigma,))


TIMES = ("uniform",)  # how training draws its time steps; `ldae.parts.noise` has what each of them computes
SCHEDULES: dict[str, Callable[[float], Levels]] = {f.__name__: f for f in (ddpm, gamma2, unscaled, single)}


def sampleable() -> list[str]:
    """The names of the schedules that can be sampled."""
    return [name for name, schedule in SCHEDULES.items() if schedule(1.0).obstacle is None]
