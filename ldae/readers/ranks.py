"""The rank correlation of accuracy and sample quality, with bounds that cover it whatever ties there are; no torch.

An interval from resampled correlations covers too little where rows are nearly tied: a correlation jumps where two rows
change places. These bounds are the least and the largest correlation of all orders that the data do not contradict. An
order is contradicted by a pair of rows that clearly has the other order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import combinations, permutations

import numpy as np
from numpy.typing import NDArray

from ldae.measures.intervals import LEVEL, REPLICATIONS, estimate
from ldae.measures.power import POWER, TAIL
from ldae.readers.results import RowResult

DRAWS = 2000  # of a rerun


@dataclass(frozen=True)
class Order:
    """The values of rows by seed, whose order is uncertain, in any unit."""

    by_seed: NDArray[np.float64]  # (rows, seeds)
    interval: Callable[[int, int, float], tuple[float, float]]  # of the difference of two rows, by error on each side

    @classmethod
    def of_accuracy(cls, rows: list[RowResult]) -> Order:
        """By the linear probe's accuracy."""

        def interval(i: int, j: int, tail: float) -> tuple[float, float]:
            a, b = rows[i].linear, rows[j].linear
            found = estimate(a.values - b.values, a.groups, own_splits=a.own_splits, level=1 - 2 * tail)
            return found.low, found.high

        return cls(np.array([row.by_seed for row in rows]), interval)

    @classmethod
    def of_quality(cls, rows: list[RowResult]) -> Order:
        """By the negative distance of samples; its error is that of the extrapolation, if replications do not show it.

        Raises:
            ValueError: for a row whose samples were not judged.
        """
        if any(not row.distances for row in rows):
            raise ValueError("a rank correlation needs rows whose samples were judged")
        quality = np.array([[-one.infinite for one in row.distances] for row in rows])
        errors = np.array([[one.error for one in row.distances] for row in rows])
        n = quality.shape[1]
        is_shown = rows[0].linear.own_splits and n >= REPLICATIONS

        def interval(i: int, j: int, tail: float) -> tuple[float, float]:
            from scipy.special import ndtri, stdtrit

            differences = quality[i] - quality[j]
            within = ndtri(1 - tail) * np.sqrt((errors[i] ** 2 + errors[j] ** 2).mean() / n)
            between = stdtrit(n - 1, 1 - tail) * differences.std(ddof=1) / np.sqrt(n) if n > 1 else 0.0
            half = between if is_shown else float(np.hypot(within, between))
            return float(differences.mean() - half), float(differences.mean() + half)

        return cls(quality, interval)

    @property
    def tail(self) -> float:
        """The error of each pair: accuracy and quality each get half of the interval's, shared by all pairs.

        An order is contradicted by a pair in one direction alone, so the error is one-sided.
        """
        rows = len(self.by_seed)
        return TAIL / max(1, rows * (rows - 1) // 2)

    def clear(self) -> NDArray[np.bool_]:
        """Whether a row is clearly above another one (rows, rows)."""
        rows = len(self.by_seed)
        clear = np.zeros((rows, rows), dtype=bool)
        for i, j in combinations(range(rows), 2):
            low, high = self.interval(i, j, self.tail)
            clear[i, j], clear[j, i] = low > 0, high < 0
        return clear

    def clear_with(self, n: int, factor: float) -> NDArray[np.bool_]:
        """As `clear`, where n replications would show it with a probability of 80 %.

        Args:
            n: replications, 2 or more.
            factor: of the standard deviation between replications.
        """
        from scipy.special import stdtrit

        differences = self.by_seed[:, None] - self.by_seed[None]  # (rows, rows, seeds)
        s = factor * differences.std(2, ddof=1)
        reach: NDArray[np.bool_] = differences.mean(2) > stdtrit(n - 1, [1 - self.tail, POWER]).sum() * s / np.sqrt(n)
        return reach


def spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rank correlation (n,) of the columns of two arrays (n, k) without ties."""
    ranks = [values.argsort(1).argsort(1) for values in (first, second)]
    k = first.shape[1]
    return 1 - 6 * ((ranks[0] - ranks[1]) ** 2).sum(1) / (k * (k**2 - 1))


def spearman_of(accuracy: Order, quality: Order) -> float:
    """The rank correlation of the means over seeds."""
    return float(spearman(*(order.by_seed.mean(1)[None] for order in (accuracy, quality)))[0])


def spearman_bounds(accuracy: NDArray[np.bool_], quality: NDArray[np.bool_]) -> tuple[float, float]:
    """The least and the largest rank correlation of the orders that agree with what is clear (rows, rows) of each.

    All orders are tried, so the rows are at most seven.
    """
    first, second = (_orders_with(clear) for clear in (accuracy, quality))
    k = len(accuracy)
    squares = k * (k - 1) * (2 * k - 1) / 6  # the sum of the squares of the ranks 0 to k - 1
    products = first @ second.T
    low, high = (float(1 - 12 * (squares - product) / (k * (k**2 - 1))) for product in (products.min(), products.max()))
    return low, high


def predicted_correlations(accuracy: Order, quality: Order) -> tuple[float, float]:
    """Where the rank correlation of a rerun with one seed would lie, in 95 of 100 cases.

    Accuracies and qualities of a rerun are drawn together from the multivariate t-distribution of the replications.
    """
    rows, n = accuracy.by_seed.shape
    rng = np.random.default_rng(0)
    both = np.concatenate([accuracy.by_seed, quality.by_seed])  # (2 rows, seeds)
    means = both.mean(1, keepdims=True)
    scale = np.sqrt((1 + 1 / n) / rng.chisquare(n - 1, DRAWS))[:, None]
    drawn = means.T + scale * (rng.standard_normal((DRAWS, n)) @ (both - means).T)
    correlations = spearman(drawn[:, :rows], drawn[:, rows:])
    low, high = np.percentile(correlations, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)


@cache
def _orders(k: int) -> NDArray[np.float32]:
    """All orders of k rows: the rank of each row (k!, k)."""
    return np.array(list(permutations(range(k))), dtype=np.float32)


def _orders_with(clear: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The orders in which each row that is clearly above another has the higher rank."""
    orders = _orders(len(clear))
    above, below = np.nonzero(clear)
    kept: NDArray[np.float32] = orders[(orders[:, above] > orders[:, below]).all(1)]
    return kept
