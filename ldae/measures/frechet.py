"""The Fréchet distance between two sets of features, and its value for infinitely many samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, linear_regression
from typing import NamedTuple

import torch
from torch import Tensor

from ldae.parts.moments import Moments


class Reference:
    """The Gaussian that others are compared with; the costly root of its covariance is computed once."""

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        """Takes the mean (F,) and covariance (F, F), which may be singular; a `ValueError` if they are not finite."""
        _require_finite(mean, covariance)
        variance, vectors = torch.linalg.eigh(covariance.double())
        positive = variance > len(variance) * torch.finfo(variance.dtype).eps * variance.max()  # beyond rounding
        self.mean = mean.double()
        self.root = vectors[:, positive] * variance[positive].sqrt()  # A (F, r), so that the covariance is A A^T

    def distance(self, mean: Tensor, covariance: Tensor) -> float:
        """The squared distance |m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2)) to a Gaussian (Dowson and Landau, 1982).

        It is the FID where the features are Inception's (Heusel et al., 2017). With S2 = A A^T, the eigenvalues of S1
        S2 are those of the symmetric A^T S1 A, and zeros. A `ValueError` says that a number is not finite.
        """
        _require_finite(mean, covariance)
        covariance = covariance.double()
        # rounding may make eigenvalues negative, and the distance, too
        roots = torch.linalg.eigvalsh(self.root.T @ covariance @ self.root).clamp_min(0).sqrt()
        spread = covariance.trace() + self.root.square().sum() - 2 * roots.sum()
        return max(((mean.double() - self.mean).square().sum() + spread).item(), 0.0)


def _require_finite(*tensors: Tensor) -> None:
    if not all(tensor.isfinite().all() for tensor in tensors):
        raise ValueError("features, means and covariances must be finite for a distance")


class Extrapolated(NamedTuple):
    """A distance, and what it would be without the bias of finitely many samples."""

    value: float  # of all samples
    infinite: float  # of infinitely many; may fall below 0 by chance
    error: float  # the standard error of `infinite`, of K - 1 degrees of freedom; the reference has no part in it


def extrapolate(folds: Sequence[Moments], reference: Reference) -> Extrapolated:
    """The distance for infinitely many samples, by FID_N = FID_inf + c / N (Chong and Forsyth, 2020).

    `folds` are at least 3 independent parts of the samples, of equal size.

    The distances of a half, three quarters, all but one and all of the K folds are regressed on 1 / N. Those of a size
    are averaged over the unions of consecutive folds on a ring, which hold every fold equally often: 31 distances of 10
    folds. More sizes, or smaller ones, do not make the intercept surer, and smaller ones bend the line.

    The standard error is the jackknife's that leaves out one fold, with a fixed slope: the intercept is then as sure
    as the distances of all folds but one. Fitting the slope to the folds that remain would give up to twice the true
    error where the distance is small, because their few unions differ by chance.

    Raises:
        ValueError: for fewer than three folds, or features that are not finite.
    """
    num = len(folds)
    if num < 3:
        raise ValueError(f"an extrapolation needs at least 3 folds, found {num}")

    def point(start: int, size: int) -> tuple[float, float]:
        union = Moments.merged(folds[(start + k) % num] for k in range(size))
        return 1 / union.count, reference.distance(union.mean, union.covariance)

    points = {
        size: [point(start, size) for start in range(num if size < num else 1)]
        for size in sorted({round(num / 2), round(3 * num / 4), num - 1, num})
    }
    inverse = [fmean(x for x, _ in of_size) for of_size in points.values()]
    distance = [fmean(y for _, y in of_size) for of_size in points.values()]
    without = [y for _, y in points[num - 1]]
    error = math.sqrt((num - 1) / num * sum((y - fmean(without)) ** 2 for y in without))
    return Extrapolated(distance[-1], linear_regression(inverse, distance).intercept, error)
