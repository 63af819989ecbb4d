"""Mean and covariance of a stream of vectors, in one pass."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import torch
from torch import Tensor


class Moments:
    """Mean and covariance of a stream of features, in float64 on the device of the features.

    Batches are joined by their own means and scatter matrices (Chan, Golub and LeVeque, 1979), so that a large common
    offset costs no digits.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean = self._scatter = torch.zeros((), dtype=torch.float64)

    def update(self, features: Tensor) -> None:
        """Adds features (n, F), of any float type."""
        if len(features):
            features = features.double()
            mean = features.mean(0)
            centred = features - mean
            self._join(len(features), mean, centred.T @ centred)

    @classmethod
    def of(cls, batches: Iterable[Tensor]) -> Self:
        """The moments of a stream of batches (n, F)."""
        moments = cls()
        for batch in batches:
            moments.update(batch)
        return moments

    @classmethod
    def merged(cls, others: Iterable[Self]) -> Self:
        """What one stream of all the features would have given; the others stay as they are."""
        joint = cls()
        for other in others:
            if other.count:
                joint._join(other.count, other._mean, other._scatter)
        return joint

    def _join(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        total = self.count + count
        step = mean - self._mean
        self._mean = self._mean + step * (count / total)
        self._scatter = self._scatter + scatter + torch.outer(step, step) * (self.count * count / total)
        self.count = total

    @property
    def mean(self) -> Tensor:
        """The mean (F,)."""
        self._require_two()
        return self._mean

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance (F, F)."""
        self._require_two()
        return self._scatter / (self.count - 1)

    def _require_two(self) -> None:
        if self.count < 2:
            raise ValueError(f"a mean and a covariance need at least 2 samples, found {self.count}")
