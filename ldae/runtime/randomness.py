"""Random numbers that depend only on a seed and their purpose, not on the number of processes."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from functools import partial

import numpy as np
import torch
from torch import Tensor


class Stream(IntEnum):
    """What random numbers are for; two purposes of one seed never share numbers."""

    INITIAL = 0  # weights of a network
    ORDER = 1  # of the images in training
    DRAWS = 2  # of a training step: augmentation, noise, time steps
    AUGMENT = 3  # views of a probe's images
    SHUFFLE = 4  # the order of a probe's features
    HEADS = 5  # weights of a probe's heads
    HELD_OUT = 6  # the training groups that choose a probe's learning rate
    CORRUPT = 7  # noise on a probe's images
    SAMPLES = 8
    DENOISING = 9
    FINETUNING = 10  # order and draws of fine-tuning, which differ from pretraining's
    CLASSIFIER = 11  # weights of the classifier that fine-tuning adds


def stream(*key: int) -> int:
    """A generator seed for one purpose; the streams of different keys are statistically independent."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)


class Randomness:
    """Random numbers for a batch that ranks share: each draws those of the whole batch and returns its own part."""

    def __init__(self, device: torch.device, *key: int, part: int = 0, parts: int = 1) -> None:
        """Starts the stream of `key`; this rank has the `part`-th of `parts` equal parts of every batch."""
        self.device, self.part, self.parts = device, part, parts
        self._generator = torch.Generator(device)
        self.restart(*key)

    def restart(self, *key: int) -> None:
        """Restarts with the stream of `key`."""
        self._generator.manual_seed(stream(*key))

    def uniform(self, *shape: int, batch: int = 0) -> Tensor:
        """Numbers in [0, 1) of a shape whose dimension `batch` counts this rank's images."""
        return self._part(torch.rand, list(shape), batch)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers of a shape whose first dimension counts this rank's images."""
        return self._part(torch.randn, list(shape))

    def integers(self, stop: int, num: int) -> Tensor:
        """Integers (num,) in 0..stop - 1, one for each of this rank's images."""
        return self._part(partial(torch.randint, stop), [num])

    def _part(self, draw: Callable[..., Tensor], shape: list[int], batch: int = 0) -> Tensor:
        """This rank's part of the numbers for the whole batch."""
        num = shape[batch]
        shape[batch] = num * self.parts
        return draw(shape, generator=self._generator, device=self.device).narrow(batch, self.part * num, num)
