"""Mean and covariance of a stream of vectors, in one pass."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import torch
from torch import Tensor


class Moments:
    """Mean and covariance of a stream of features, in float64 on the device of the features.

    The sums are about the first batch's mean, so that a large common offset costs no digits.
    """

    def __init__(self) -> None:
        self.count = 0
        self._shift = self._total = self._outer = torch.empty(0, dtype=torch.float64)

    def update(self, features: Tensor) -> None:
        """Adds features (n, F), of any float type."""
        if not len(features):
            return
        features = features.double()
        if not self.count:
            self._start(features.mean(0))
        centred = features - self._shift
        self.count += len(centred)
        self._total += centred.sum(0)
        self._outer.addmm_(centred.T, centred)

    @classmethod
    def of(cls, batches: Iterable[Tensor]) -> Self:
        """The moments of a stream of batches (n, F)."""
        moments = cls()
        for batch in batches:
            moments.update(batch)
        return moments

    @classmethod
    def merged(cls, others: Iterable[Self]) -> Self:
        """The moments of one stream of all the features; the others do not change."""
        joint = cls()
        for other in others:
            if not other.count:
                continue
            if not joint.count:
                joint._start(other._shift)
            step = other._shift - joint._shift
            total = other._total + other.count * step
            joint.count += other.count
            joint._total += total
            # sum (x + s)(x + s)^T = sum x x^T + s (sum x)^T + (sum (x + s)) s^T
            joint._outer += other._outer
            joint._outer.addr_(step, other._total).addr_(total, step)
        return joint

    @property
    def mean(self) -> Tensor:
        """The mean (F,)."""
        self._require_two()
        return self._shift + self._total / self.count

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance (F, F)."""
        self._require_two()
        return (self._outer - torch.outer(self._total, self._total / self.count)) / (self.count - 1)

    def _start(self, shift: Tensor) -> None:
        self._shift, self._total = shift, torch.zeros_like(shift)
        self._outer = shift.new_zeros(len(shift), len(shift))

    def _require_two(self) -> None:
        if self.count < 2:
            raise ValueError(f"a mean and a covariance need at least 2 samples, found {self.count}")
