"""How many replications decide a question, from their spread and the distance to a margin; no torch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

POWER = 0.80
TAIL = 0.025  # the error on each side of a 95 % interval
MOST = 200  # replications that are considered
SPREAD_TAIL = 0.10  # the error on each side of the 80 % interval of a standard deviation


class Needed(NamedTuple):
    """A range of the number of replications; None for more than `MOST`."""

    low: int | None
    high: int | None


def replications(
    distance: float, s: float, *, far: float = np.inf, tail: float = TAIL, shared_error: float = 0.0
) -> int | None:
    """The least number of replications whose interval lies on one side of a margin with a probability of 80 %.

    Without `far` and `shared_error` this is the smallest n with (t_.975 + t_.80) s / sqrt(n) at most the distance, t
    with n - 1 degrees of freedom.

    Args:
        distance: from the true value to the margin, or to the nearer of two.
        s: the standard deviation of replications, in the same unit.
        far: the distance to the other margin of an equivalence, which the interval must not reach either.
        tail: the error on each side of the interval.
        shared_error: the standard error that all replications have in common, e.g. of the same validation images.

    Returns:
        The number, 2 or more; None if it is above `MOST`.
    """
    from scipy.special import stdtr, stdtrit  # takes 0.2 s

    n = np.arange(2, MOST + 1)
    t = stdtrit(n - 1, 1 - tail)
    error = np.maximum(np.hypot(s / np.sqrt(n), shared_error), 1e-12)
    inside = stdtr(n - 1, distance / error - t) + stdtr(n - 1, far / error - t) - 1
    return first(inside >= POWER)


def first(decided: NDArray[np.bool_]) -> int | None:
    """The number of replications at which the first of 2, 3, ... `MOST` is true; None if none is."""
    return int(decided.argmax()) + 2 if decided.any() else None


def spread_range(s: float, n: int) -> tuple[float, float]:
    """The 80 % interval of a standard deviation that was estimated from n values, 2 or more, by chi-square."""
    from scipy.special import chdtri

    low, high = (float(np.sqrt((n - 1) / chdtri(n - 1, tail))) for tail in (SPREAD_TAIL, 1 - SPREAD_TAIL))
    return s * low, s * high
