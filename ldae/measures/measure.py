"""What a measure is: a number of an encoder, from batches of its features and tokens."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import NamedTuple

import torch
from torch import Tensor

from ldae.runtime.randomness import Stream, stream
from ldae.study.recipes import Probing


@dataclass(frozen=True)
class Encoded:
    """Images as an encoder represents them."""

    features: Tensor  # (n, F), the mean of the tokens
    tokens: Tensor | None = None  # (n, T, F), where a measure needs them

    def take(self, index: Tensor | slice) -> Encoded:
        """The same of some of the images, by their places (k,) or a mask (n,)."""
        return Encoded(self.features[index], self.tokens[index] if self.tokens is not None else None)


class ProbeTask(NamedTuple):
    """What the measures of a probe have in common."""

    classes: int
    probing: Probing
    rates: Tensor  # (H,) the peak learning rates to choose from, on the device to work on
    seed: int

    def generator(self) -> torch.Generator:
        """The randomness of initial weights: each call starts the same stream."""
        return torch.Generator(self.rates.device).manual_seed(stream(self.seed, Stream.HEADS))


class Result(NamedTuple):
    """A measure's outcome. One that is an accuracy says which images were classified correctly."""

    value: float
    correct: Tensor | None = None  # (num_val,) bool
    rate: float | None = None  # the chosen learning rate, per 256 images
    held_out: float | None = None  # the accuracy on held-out training images, by which it was chosen
    rate_at_edge: bool = False  # whether it is the smallest or the largest of several


class Measure:
    """One measure of one encoder. The probe calls its methods in this order; override those that do something."""

    def __init__(self, task: ProbeTask, example: Encoded) -> None:
        """Starts a measure of an encoder whose output is like the `example`."""

    def step(self, batch: Encoded, labels: Tensor, fitting: Tensor, share: float) -> None:
        """One training step, at a share of the peak rate, on augmented training images with labels (n,).

        The images at the places `fitting` (k,) are not held out.
        """

    def validate(self, part: Encoded, labels: Tensor) -> None:
        """Takes a part of the validation images with labels (n,)."""

    def update(self, part: Encoded, labels: Tensor, held_out: Tensor) -> None:
        """Takes a part of the training images' centre crops with labels (n,); `held_out` (n,) marks some of them."""

    def result(self) -> Result:
        """The number, once all images have been seen."""
        raise NotImplementedError


def implementation(name: str) -> type[Measure]:
    """The class of a measure of the registry: `MEASURE` in the module of that name."""
    found: type[Measure] = import_module(f"ldae.measures.{name}").MEASURE
    return found
