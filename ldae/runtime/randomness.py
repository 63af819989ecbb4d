"""Random numbers that depend only on a seed and their purpose, not on the number of processes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def stream(*key: int) -> int:
    """A generator seed for one purpose; the streams of different keys are statistically independent."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)


class Randomness:
    """Random numbers for a batch that ranks share.

    Every rank draws the numbers of the whole batch and returns those of its own part, so a result does not depend on
    the number of ranks.
    """

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
        drawn = torch.rand(self._full_shape(shape, batch), generator=self._generator, device=self.device)
        return self._of_this_rank(drawn, batch)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers of a shape whose first dimension counts this rank's images."""
        drawn = torch.randn(self._full_shape(shape, 0), generator=self._generator, device=self.device)
        return self._of_this_rank(drawn, 0)

    def integers(self, stop: int, num: int) -> Tensor:
        """Integers (num,) in 0..stop - 1, one for each of this rank's images."""
        drawn = torch.randint(stop, self._full_shape((num,), 0), generator=self._generator, device=self.device)
        return self._of_this_rank(drawn, 0)

    def _full_shape(self, shape: tuple[int, ...], batch: int) -> list[int]:
        return [size * self.parts if place == batch else size for place, size in enumerate(shape)]

    def _of_this_rank(self, drawn: Tensor, batch: int) -> Tensor:
        size = drawn.shape[batch] // self.parts
        return drawn.narrow(batch, self.part * size, size)
