"""The Fréchet distance between two sets of features, and its value for infinitely many samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, linear_regression
from typing import NamedTuple

import torch
from torch import Tensor

from ldae.parts.moments import Moments

BLOCK = 256  # columns of a product of triangular matrices that are computed at once


def frechet_distance(mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor) -> float:
    """The squared distance |m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2)) of two Gaussians (Dowson and Landau, 1982).

    The FID where the features are Inception's (Heusel et al., 2017).

    Args:
        mean1, mean2: (F,).
        covariance1, covariance2: (F, F), symmetric and positive semi-definite, possibly singular.

    Raises:
        ValueError: for a number that is not finite.
    """
    _require_finite(mean1, covariance1, mean2, covariance2)
    covariance1, covariance2 = covariance1.double(), covariance2.double()
    spread = covariance1.trace() + covariance2.trace() - 2 * _trace_of_root(covariance1, covariance2)
    return _distance(mean1, mean2, spread.item())


def few_samples_distance(features: Tensor, mean: Tensor, covariance: Tensor) -> float:
    """The same distance between features (n, F) and a mean (F,) and covariance (F, F); fast for n < F.

    With the centred features X the covariance is X^T X / (n - 1), so that S1 S2 has the eigenvalues of the n x n matrix
    X S2 X^T / (n - 1) and zeros.

    Raises:
        ValueError: for fewer than two samples, or a number that is not finite.
    """
    n = len(features)
    if n < 2:
        raise ValueError(f"a distance needs at least 2 samples, found {n}")
    _require_finite(features, mean, covariance)
    features, covariance = features.double(), covariance.double()
    centred = features - features.mean(0)
    root = _sum_of_roots(centred @ covariance @ centred.T / (n - 1))
    spread = centred.square().sum() / (n - 1) + covariance.trace() - 2 * root
    return _distance(features.mean(0), mean, spread.item())


class Extrapolated(NamedTuple):
    """A distance, and what it would be without the bias of finitely many samples."""

    value: float  # of all samples
    infinite: float  # of infinitely many; may fall below 0 by chance
    error: float  # the standard error of `infinite`, of K - 1 degrees of freedom; the reference has no part in it


def extrapolate(folds: Sequence[Moments], reference_mean: Tensor, reference_covariance: Tensor) -> Extrapolated:
    """The distance for infinitely many samples, by FID_N = FID_inf + c / N (Chong and Forsyth, 2020).

    The distances of a half, three quarters, all but one and all of the K folds are regressed on 1 / N. Those of a size
    are averaged over the unions of consecutive folds on a ring, which hold every fold equally often: 31 distances of 10
    folds. More sizes, or smaller ones, do not make the intercept surer, and smaller ones bend the line.

    The standard error is the jackknife's that leaves out one fold, with the slope held: the intercept is then as sure
    as the distances of all folds but one. Fitting the slope to the folds that remain would give up to twice the true
    error where the distance is small, because their few unions differ by chance.

    Args:
        folds: at least 3 independent parts of the samples, of equal size.
        reference_mean: (F,).
        reference_covariance: (F, F).

    Raises:
        ValueError: for fewer than three folds, or features that are not finite.
    """
    num = len(folds)
    if num < 3:
        raise ValueError(f"an extrapolation needs at least 3 folds, found {num}")

    def point(start: int, size: int) -> tuple[float, float]:
        union = Moments.merged(folds[(start + k) % num] for k in range(size))
        distance = frechet_distance(union.mean, union.covariance, reference_mean, reference_covariance)
        return 1 / union.count, distance

    points = {
        size: [point(start, size) for start in range(num if size < num else 1)]
        for size in sorted({round(num / 2), round(3 * num / 4), num - 1, num})
    }
    inverse = [fmean(x for x, _ in of_size) for of_size in points.values()]
    distance = [fmean(y for _, y in of_size) for of_size in points.values()]
    without = [y for _, y in points[num - 1]]
    error = math.sqrt((num - 1) / num * sum((y - fmean(without)) ** 2 for y in without))
    return Extrapolated(distance[-1], linear_regression(inverse, distance).intercept, error)


def _distance(mean1: Tensor, mean2: Tensor, spread: float) -> float:
    """The squared distance of the means added to what the covariances differ by, which rounding may make negative."""
    return max((mean1.double() - mean2.double()).square().sum().item() + spread, 0.0)


def _require_finite(*tensors: Tensor) -> None:
    if not all(tensor.isfinite().all() for tensor in tensors):
        raise ValueError("features, means and covariances must be finite for a distance")


def _trace_of_root(first: Tensor, second: Tensor) -> Tensor:
    """Tr (S1 S2)^(1/2): with S1 = A A^T, S1 S2 has the eigenvalues of the symmetric A^T S2 A and zeros."""
    for one, other in ((first, second), (second, first)):
        factor, failed = torch.linalg.cholesky_ex(one)
        if not failed and factor.diagonal().square().min() > _negligible(one.diagonal()):
            return _sum_of_roots(_between(factor, other))
    variance, vectors = torch.linalg.eigh(first)
    kept = variance > _negligible(variance)
    root = vectors[:, kept] * variance[kept].sqrt()
    return _sum_of_roots(root.T @ second @ root)


def _negligible(variance: Tensor) -> Tensor:
    """The variance that rounding makes of none."""
    return len(variance) * torch.finfo(variance.dtype).eps * variance.max()


def _between(factor: Tensor, symmetric: Tensor) -> Tensor:
    """The lower triangle of L^T S L, L lower triangular, in a third of the time that the dense products take."""
    result = torch.zeros_like(symmetric)
    for start in range(0, len(factor), BLOCK):
        block = slice(start, start + BLOCK)
        result[start:, block] = factor[start:, start:].T @ (symmetric[start:, start:] @ factor[start:, block])
    return result


def _sum_of_roots(symmetric: Tensor) -> Tensor:
    """The sum of the eigenvalues' roots, of a matrix given by its lower triangle; rounding may make them negative."""
    return torch.linalg.eigvalsh(symmetric, UPLO="L").clamp_min(0).sqrt().sum()
