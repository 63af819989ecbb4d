"""Classifiers trained with many learning rates in one pass, and the choice of a rate on held-out training images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ldae.measures.measure import Encoded, Measure, ProbeTask, Result

MOMENTUM, TRUST = 0.9, 0.001  # LARS, as in MAE's linear probe


class Classifiers(Protocol):
    """H classifiers that differ in their learning rates."""

    def __init__(self, width: int, classes: int, rates: Tensor, generator: torch.Generator) -> None:
        """Starts all from the same weights, on the device of the generator and of the peak `rates` (H,)."""

    def step(self, inputs: Tensor, labels: Tensor, share: float) -> None:
        """Trains each on a batch (n, ...) with labels (n,), at `share` of its peak rate."""

    def predict(self, inputs: Tensor) -> Tensor:
        """The class (n, H) that each gives to inputs (n, ...)."""
        ...


def batch_norm(x: Tensor, mean: Tensor, variance: Tensor, *, training: bool) -> Tensor:
    """MAE's BatchNorm without affine of x (n, ...); training updates the running mean and variance (...) in place."""
    if training:
        num, running_mean, running_variance = len(x), mean, variance
        mean = x.mean(0)
        variance = (x - mean).square().mean(0)
        running_mean.lerp_(mean.detach(), 0.1)
        running_variance.lerp_(variance.detach() * (num / max(num - 1, 1)), 0.1)
    return (x - mean) * (variance + 1e-6).rsqrt()


class Lars:
    """LARS without weight decay for H heads at once, in place.

    The gradient of each head's matrices is scaled by trust * |weight| / |gradient|, as in MAE and MoCo v3.
    """

    def __init__(self, parameters: Sequence[Tensor], rates: Tensor) -> None:
        """Takes matrices (F, H, C) and biases (H, C) of the heads, and their peak learning rates (H,)."""
        self.parameters, self.rates = parameters, rates
        self.momenta = [torch.zeros_like(parameter) for parameter in parameters]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], share: float) -> None:
        """One step at `share` of the peak rates, with a gradient for each parameter."""
        for parameter, gradient, momentum in zip(self.parameters, gradients, self.momenta, strict=True):
            if parameter.ndim == 3:
                size, slope = parameter.norm(dim=(0, 2)), gradient.norm(dim=(0, 2))
                ratio = torch.where((size > 0) & (slope > 0), TRUST * size / slope, 1.0)
                gradient = gradient * ratio[:, None]
            momentum.mul_(MOMENTUM).add_(gradient)
            parameter.sub_((share * self.rates)[:, None] * momentum)


def head_rate(progress: float, *, epochs: int, warmup: int) -> float:
    """The share of the peak rate at `progress` epochs: linear warm-up, then half a cosine to zero (MAE's probe)."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (epochs - warmup)))


class RateSearch(Measure):
    """The accuracy of a classifier whose learning rate is the best on held-out training images.

    Two sets of classifiers with the same rates take every step together: one without the held-out images, to choose a
    rate, and one on all images, whose accuracy at that rate is the result.
    """

    classifiers: type[Classifiers]

    def __init__(self, task: ProbeTask, example: Encoded) -> None:
        width = self.inputs(example).shape[-1]
        self.choosing, self.final = (
            self.classifiers(width, task.classes, task.rates, task.generator()) for _ in range(2)
        )
        self.rates = task.probing.rates
        self.num_held_out = 0
        self.num_correct = torch.zeros(len(self.rates), dtype=torch.long, device=task.rates.device)  # held-out images
        self.correct: list[Tensor] = []  # (n, H) of each part of the validation images

    def inputs(self, images: Encoded) -> Tensor:
        """What the classifiers read of images."""
        raise NotImplementedError

    def step(self, batch: Encoded, labels: Tensor, fitting: Tensor, share: float) -> None:
        """Trains both sets."""
        inputs = self.inputs(batch)
        self.final.step(inputs, labels, share)
        self.choosing.step(inputs[fitting], labels[fitting], share)

    def validate(self, part: Encoded, labels: Tensor) -> None:
        """Classifies validation images with every rate."""
        self.correct.append(self.final.predict(self.inputs(part)) == labels[:, None])

    def update(self, part: Encoded, labels: Tensor, held_out: Tensor) -> None:
        """Counts how many held-out images each rate classifies correctly."""
        self.num_held_out += int(held_out.sum())
        self.num_correct += (self.choosing.predict(self.inputs(part)[held_out]) == labels[held_out, None]).sum(0)

    def result(self) -> Result:
        """The accuracy at the rate that did best on the held-out images; the smallest of equals."""
        accuracy = self.num_correct.float() / self.num_held_out  # (H,)
        best = int(accuracy.argmax())
        correct = torch.cat(self.correct)[:, best]
        at_edge = len(self.rates) > 1 and best in (0, len(self.rates) - 1)
        return Result(correct.double().mean().item(), correct, self.rates[best], accuracy[best].item(), at_edge)
