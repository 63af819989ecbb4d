"""Randomness by name: a number follows from a seed and from what it is for, however many processes there are."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def stream(*key: int) -> int:
    """A seed for one use of randomness, from what names it: statistically independent of every other key's."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)


class Randomness:
    """Random numbers for a batch of which this process may hold only a part.

    They are drawn for the whole batch, by every process alike, and those of its own part are returned: so a result does
    not depend on how many processes there are.
    """

    def __init__(self, device: torch.device, *key: int, part: int = 0, parts: int = 1) -> None:
        """Starts the stream that `key` names; this process has the `part`-th of `parts` equal parts of every batch."""
        self.device, self.part, self.parts = device, part, parts
        self._generator = torch.Generator(device)
        self.restart(*key)

    def restart(self, *key: int) -> None:
        """Starts the stream that `key` names."""
        self._generator.manual_seed(stream(*key))

    def uniform(self, *shape: int, batch: int = 0) -> Tensor:
        """Numbers in [0, 1) of a shape, whose dimension `batch` counts the images of this process's part."""
        return self._own(torch.rand(self._whole(shape, batch), generator=self._generator, device=self.device), batch)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers of a shape, whose first dimension counts the images of this process's part."""
        return self._own(torch.randn(self._whole(shape, 0), generator=self._generator, device=self.device), 0)

    def integers(self, stop: int, num: int) -> Tensor:
        """Integers (num,) in 0..stop - 1, one for each image of this process's part."""
        drawn = torch.randint(stop, self._whole((num,), 0), generator=self._generator, device=self.device)
        return self._own(drawn, 0)

    def _whole(self, shape: tuple[int, ...], batch: int) -> list[int]:
        return [size * self.parts if place == batch else size for place, size in enumerate(shape)]

    def _own(self, drawn: Tensor, batch: int) -> Tensor:
        size = drawn.shape[batch] // self.parts
        return drawn.narrow(batch, self.part * size, size)
