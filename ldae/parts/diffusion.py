"""Sampling: from noise to latents through the diffusion process that a schedule defines."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Self

import torch
from torch import Tensor

from ldae.parts.noise import Level
from ldae.study import spec
from ldae.study.base import NUM_TIMES
from ldae.study.checking import listed
from ldae.study.schedules import sampleable

MAX_BETA = 0.999  # so a step magnifies the error of predicted noise 32-fold at most; reached with few steps only

# a trained network: from noisy latents (N, T, d), their time (N,) and level (N, 1, 1) to clean latents (N, T, d)
Predict = Callable[[Tensor, Tensor, Level], Tensor]


class Process(NamedTuple):
    """A diffusion process of S steps, from the least noise to the most; tensors (S,) on the CPU."""

    times: Tensor  # the time steps of the schedule that it visits, int64
    beta: Tensor  # the share of the power that a step replaces by noise, float64
    power: Tensor  # the signal's power after it, the alpha-bar of DDPM, float64

    @classmethod
    def of(cls, noise: spec.Noise, steps: int) -> Self:
        """Visits `steps` of the schedule's times evenly, from the first with noise to the last with signal.

        Guided diffusion and DiT visit the first and the last time of all; for DDPM's schedule the two are the same.
        A schedule that has fewer such times than `steps` has each of them visited once.

        Raises:
            ValueError: for a schedule that defines no process, and for steps outside 1 to NUM_TIMES.
        """
        levels = noise.levels
        if levels.obstacle:
            raise ValueError(
                f"noise.schedule: {noise.schedule!r} has no diffusion process to sample from: {levels.obstacle}; "
                f"sampling needs one of {listed(sampleable())}"
            )
        if not 1 <= steps <= NUM_TIMES:
            raise ValueError(f"steps: {steps} is outside 1 to {NUM_TIMES}, the times of the schedule")
        visits = levels.sampled_steps
        steps, last = min(steps, len(visits)), len(visits) - 1
        chosen = [visits[round(step * last / (steps - 1))] for step in range(steps)] if steps > 1 else [visits[last]]
        times = torch.tensor(chosen)
        power = torch.tensor(levels.signal, dtype=torch.float64)[times].square()
        beta = (1 - power / before(power)).clamp_max(MAX_BETA)
        return cls(times, beta, torch.cumprod(1 - beta, 0))


def before(power: Tensor) -> Tensor:
    """The signal's power before each step (S,), 1 before the first."""
    return torch.cat([torch.ones_like(power[:1]), power[:-1]])


class Update(NamedTuple):
    """A step back, x' = clean * x_0 + noisy * x + deviation * eps with fresh noise eps; tensors (S,), float64."""

    clean: Tensor
    noisy: Tensor
    deviation: Tensor


def ddpm(process: Process) -> Update:
    """Ancestral sampling from q(x' | x, x_0), whose variance is fixed (Ho et al., 2020, eq. 6 and 7)."""
    noise, noise_before = 1 - process.power, 1 - before(process.power)
    return Update(
        clean=process.beta * before(process.power).sqrt() / noise,
        noisy=(1 - process.beta).sqrt() * noise_before / noise,
        deviation=(process.beta * noise_before / noise).sqrt(),
    )


def ddim(process: Process) -> Update:
    """The same noise at a lower level, without any that is fresh (Song et al., 2021, eq. 12 with eta = 0)."""
    power, power_before = process.power, before(process.power)
    noisy = ((1 - power_before) / (1 - power)).sqrt()
    return Update(clean=power_before.sqrt() - power.sqrt() * noisy, noisy=noisy, deviation=torch.zeros_like(noisy))


def sample_latents(
    predict: Predict, process: Process, noise: Tensor, *, method: str, generator: torch.Generator
) -> Tensor:
    """Latents (N, T, d) from standard normal noise (N, T, d), by a method of METHODS.

    Clean latents are not clipped on the way, as in DiT: those of a tokenizer have no bounds. The `generator`, on the
    noise's device, draws the fresh noise of `ddpm`.
    """
    update = METHODS[method](process)
    times = process.times.to(noise.device)
    levels = Level(process.power.sqrt().to(noise), (1 - process.power).sqrt().to(noise))
    latents = noise
    for step in reversed(range(len(times))):
        level = Level(*(strength[step].expand(len(noise), 1, 1) for strength in levels))
        clean = predict(latents, times[step].expand(len(noise)), level)
        latents = update.clean[step].item() * clean + update.noisy[step].item() * latents
        if deviation := update.deviation[step].item():
            latents = latents + deviation * torch.empty_like(latents).normal_(generator=generator)
    return latents


METHODS: dict[str, Callable[[Process], Update]] = {f.__name__: f for f in (ddpm, ddim)}
