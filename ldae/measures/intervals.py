"""The uncertainty of accuracies: a bootstrap over groups of dependent images, and the spread of seeds; no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
OUTLYING = 0.05  # the least gap in accuracy between outlying seeds and the others
CHUNK = 50_000_000  # counts drawn at once, to bound memory


class Estimate(NamedTuple):
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


def grouped_mean(
    values: NDArray[np.floating], groups: NDArray[np.integer], *, spread: NDArray[np.floating] | None = None
) -> Estimate:
    """The mean of a value per image with the 95 % percentile interval of a bootstrap that resamples whole groups.

    Args:
        values: (N,), e.g. 1 where the image was classified correctly, averaged over seeds; or the difference of two
            methods on the same images, for a paired interval.
        groups: (N,) the group of each image, 0..G-1.
        spread: the value's mean under each of several seeds (k,); with at least two the t-interval of the seeds' mean
            is added to the bootstrap's in quadrature.
    """
    low, high = np.percentile(resampled_means(values, groups), [2.5, 97.5])
    value = float(values.mean())
    seeds = seed_interval(spread) if spread is not None and len(spread) > 1 else 0.0
    return Estimate(value, value - float(np.hypot(value - low, seeds)), value + float(np.hypot(high - value, seeds)))


def resampled_means(values: NDArray[np.floating], groups: NDArray[np.integer]) -> NDArray[np.float64]:
    """The means (RESAMPLES,) of values (N,) over resampled groups (N,); every call draws the same groups."""
    num = int(groups.max()) + 1
    sums = np.bincount(groups, weights=values, minlength=num)
    sizes = np.bincount(groups, minlength=num).astype(np.float64)
    rng = np.random.default_rng(0)
    means = []
    for start in range(0, RESAMPLES, step := max(1, CHUNK // num)):
        count = min(step, RESAMPLES - start)
        drawn = rng.multinomial(num, np.full(num, 1 / num), size=count).astype(np.float64)
        means.append((drawn @ sums) / (drawn @ sizes))
    return np.concatenate(means)


def seed_interval(values: NDArray[np.floating]) -> float:
    """Half the width of the 95 % t-interval of the mean of at least two values (k,), in their unit."""
    from scipy.special import stdtrit  # takes 0.2 s, which a probe of one seed does not need

    k = len(values)
    return float(stdtrit(k - 1, 0.975) * np.std(values, ddof=1) / np.sqrt(k))


def outlying(values: Sequence[float] | NDArray[np.float64]) -> list[int]:
    """The indices of the few seeds whose accuracies lie far from those of all others; often none.

    The accuracies (k,) are from 0 to 1. The gap between the two clusters is more than `OUTLYING` and more than three
    times the range of either. Clusters of equal size, as with two seeds, give no outliers.
    """
    if len(values) < 3:
        return []
    order = np.argsort(values, kind="stable")
    ranked = np.asarray(values)[order]
    cut = int(np.diff(ranked).argmax()) + 1
    below, above = ranked[:cut], ranked[cut:]
    gap, within = above[0] - below[-1], max(np.ptp(below), np.ptp(above))
    if gap <= max(OUTLYING, 3 * within) or len(below) == len(above):
        return []
    return sorted((order[:cut] if len(below) < len(above) else order[cut:]).tolist())
