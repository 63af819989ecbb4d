"""What the network is asked to predict, how the clean latent follows from it, and how errors are weighed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ldae.parts.noise import Level


class Prediction(Protocol):
    """One formulation, in both directions; all tensors are tokens (N, T, d), levels (N, 1, 1)."""

    def target(self, clean: Tensor, noise: Tensor, level: Level) -> Tensor:
        """What a perfect network returns."""

    def clean(self, output: Tensor, noisy: Tensor, level: Level) -> Tensor:
        """The clean latent that the network's output implies."""


class PredictNoise:
    """The noise eps, as in DDPM (eq. 2)."""

    def target(self, clean: Tensor, noise: Tensor, level: Level) -> Tensor:
        """The noise."""
        return noise

    def clean(self, output: Tensor, noisy: Tensor, level: Level) -> Tensor:
        """(z_t - sigma eps) / gamma; infinite where there is no signal left."""
        return (noisy - level.noise * output) / level.signal


class PredictClean:
    """The clean latent, as in a classical denoising autoencoder (eq. 3)."""

    def target(self, clean: Tensor, noise: Tensor, level: Level) -> Tensor:
        """The clean latent."""
        return clean

    def clean(self, output: Tensor, noisy: Tensor, level: Level) -> Tensor:
        """The output itself."""
        return output


PREDICTIONS: dict[str, Prediction] = {"noise": PredictNoise(), "clean": PredictClean()}


def uniform(level: Level) -> Tensor:
    """All noise levels count alike (eq. 2): ones of the level's shape."""
    return torch.ones_like(level.signal)


def signal(level: Level) -> Tensor:
    """Cleaner inputs count more, by the signal's part of the power; shaped as the level, between 0 and 1.

    It is the paper's gamma^2 where gamma^2 + sigma^2 = 1 (eq. 3) and its 1 / (1 + sigma^2) where gamma = 1 (Sec. 4.3),
    so that removing the input scaling changes the schedule alone.
    """
    return level.signal**2 / (level.signal**2 + level.noise**2)


WEIGHTS: dict[str, Callable[[Level], Tensor]] = {f.__name__: f for f in (uniform, signal)}


def squared(output: Tensor, target: Tensor) -> Tensor:
    """The squared error of each component, shaped as the output."""
    return F.mse_loss(output, target, reduction="none")


ERRORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {f.__name__: f for f in (squared,)}


def projected_error(output: Tensor, target: Tensor, *, basis: Tensor, deviation: Tensor, tail: float) -> Tensor:
    """The weighted squared error of an image, sum_i w_i r_i^2 with r = V (output - target) (eq. 4), per token.

    The full basis is orthonormal, so sum_{i>d} r_i^2 = |output - target|^2 - sum_{i<=d} r_i^2, and the D x D basis is
    not needed.

    Args:
        output, target: predicted pixels and those of the image (N, T, D).
        basis: the first d principal components V_d (d, D), orthonormal rows.
        deviation: what each component's residual is divided by (d,): ones for pixel units, the components' standard
            deviations for whitened units; the dropped components are divided by the last of them.
        tail: the weight of the dropped components, w_i for i > d.

    Returns:
        The errors (N, T), divided by d so that the first d components weigh as they do in a loss on latents.
    """
    residual = F.linear(output, basis) - F.linear(target, basis)  # (N, T, d)
    error = (residual / deviation).square().sum(-1)
    if tail:
        dropped = F.mse_loss(output, target, reduction="none").sum(-1) - residual.square().sum(-1)
        error = error + tail * dropped / deviation[-1] ** 2
    return error / len(basis)
