"""The uncertainty of accuracies: the spread of replications, and a bootstrap over groups of images; no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95  # of an interval, unless another is given
RESAMPLES = 2000
REPLICATIONS = 4  # with splits of their own, from which their t-interval needs no bootstrap
OUTLYING = 0.05  # the least gap in accuracy between outlying seeds and the others
CHUNK = 50_000_000  # counts drawn at once, to bound memory


class Estimate(NamedTuple):
    """A value, its 95 % interval, and the 95 % prediction interval."""

    value: float
    low: float
    high: float
    prediction: tuple[float, float] | None = (
        None  # where a rerun with one seed would lie; None for fewer than two seeds
    )


def estimate(
    values: NDArray[np.floating], groups: NDArray[np.integer], *, own_splits: bool, level: float = LEVEL
) -> Estimate:
    """The mean over replications and images, with the intervals of the mean and of another replication.

    With four or more replications that have splits of their own, the interval is the t-interval of the replications'
    means. It then contains all that differs between replications, also the choice of validation images. Otherwise a
    bootstrap over groups of images and the t-interval are added in quadrature.

    Args:
        values: (seeds, N), e.g. 1 where an image was classified correctly; or the difference of two rows, paired within
            each seed.
        groups: (seeds, N) the group of each image.
        own_splits: whether each seed has validation images of its own. If not, an image has the same place in all.
        level: of both intervals.
    """
    by_seed = values.mean(1)
    value, half = float(by_seed.mean()), seed_interval(by_seed, level) if len(by_seed) > 1 else 0.0
    if own_splits and len(by_seed) >= REPLICATIONS:
        low, high = value - half, value + half
    else:
        bootstrap = np.percentile(
            resampled_replications(values, groups, own_splits=own_splits), [50 * (1 - level), 50 * (1 + level)]
        )
        low, high = (
            value - float(np.hypot(value - bootstrap[0], half)),
            value + float(np.hypot(bootstrap[1] - value, half)),
        )
    rerun = half * float(np.sqrt(len(by_seed) + 1))  # t s sqrt(1 + 1/n)
    return Estimate(value, low, high, (value - rerun, value + rerun) if len(by_seed) > 1 else None)


def grouped_mean(values: NDArray[np.floating], groups: NDArray[np.integer]) -> Estimate:
    """The mean of one seed's values (N,) with the interval of a bootstrap that resamples whole groups (N,)."""
    return estimate(values[None], groups[None], own_splits=False)


def resampled_replications(
    values: NDArray[np.floating], groups: NDArray[np.integer], *, own_splits: bool
) -> NDArray[np.float64]:
    """The means (RESAMPLES,) of values (seeds, N) over resampled groups (seeds, N).

    Seeds with splits of their own are resampled independently; otherwise all seeds have the same groups.
    """
    if not own_splits:
        return resampled_means(values.mean(0), groups[0])
    drawn = [resampled_means(*each, stream=seed) for seed, each in enumerate(zip(values, groups, strict=True))]
    return np.mean(drawn, axis=0, dtype=np.float64)


def resampled_means(
    values: NDArray[np.floating], groups: NDArray[np.integer], *, stream: int = 0
) -> NDArray[np.float64]:
    """The means (RESAMPLES,) of values (N,) over resampled groups (N,); a `stream` draws the same groups each time."""
    names, groups = np.unique(groups, return_inverse=True)  # a replication has some of all groups
    num = len(names)
    sums = np.bincount(groups, weights=values, minlength=num)
    sizes = np.bincount(groups, minlength=num).astype(np.float64)
    rng = np.random.default_rng(stream)
    means = []
    for start in range(0, RESAMPLES, step := max(1, CHUNK // num)):
        count = min(step, RESAMPLES - start)
        drawn = rng.multinomial(num, np.full(num, 1 / num), size=count).astype(np.float64)
        means.append((drawn @ sums) / (drawn @ sizes))
    return np.concatenate(means)


def seed_interval(values: NDArray[np.floating], level: float = LEVEL) -> float:
    """Half the width of the t-interval of the mean of at least two values (k,), in their unit."""
    from scipy.special import stdtrit  # takes 0.2 s, which a probe of one seed does not need

    k = len(values)
    return float(stdtrit(k - 1, (1 + level) / 2) * np.std(values, ddof=1) / np.sqrt(k))


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
