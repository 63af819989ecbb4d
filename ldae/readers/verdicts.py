"""What results say about one claim: its quantity with an interval, and whether it can be judged; no torch."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldae.measures.intervals import Estimate, estimate, resampled_replications
from ldae.measures.power import MOST, TAIL, Needed, replications, spread_range
from ldae.readers.layout import Part
from ldae.readers.ranks import Order, predicted_correlations, spearman_bounds, spearman_of
from ldae.readers.results import Results, RowResult, Values
from ldae.study.definitions import ClaimDefinition

HOLDS, FAILS, UNDECIDED, NOT_TESTED = "holds", "does not hold", "undecided", "not tested"
# Points of gain over random weights that the lower end of a row's interval must exceed. A typical step of the paper is
# as large; where a row has learnt less than a step, a difference says nothing about the step.
LEARNT = 2.0
Measure = Literal["accuracy", "gain"]


class ClaimFinding(Part):
    """The quantity of a claim, and what it says about the claim."""

    quantity: Estimate | None  # in points, or a rank correlation; None for a peak without other values to compare with
    text: str
    verdict: str
    n: int = 1  # replications
    s: float | None = None  # their standard deviation, of a paired difference; None for one replication, or for ranks
    needed: Needed | None = None  # replications for a verdict, from the 80 % interval of s; None for one replication
    unlearnt: tuple[str, ...] = ()  # rows that the claim needs and that have not learnt

    @property
    def said(self) -> str:
        """The verdict, with the number of replications that are missing or the rows that have not learnt."""
        if self.verdict == NOT_TESTED:
            return (
                f"{NOT_TESTED}: {' and '.join(self.unlearnt)} {'has' if len(self.unlearnt) == 1 else 'have'} not learnt"
            )
        if self.verdict == UNDECIDED and self.needed is not None:
            return f"{UNDECIDED} ({_missing(self.needed, self.n)})"
        return self.verdict


class Comparison(NamedTuple):
    """A paired comparison of rows: its values (seeds, N) in points, and where they come from."""

    values: Values
    groups: NDArray[np.int64]  # (seeds, N)
    own_splits: bool

    @classmethod
    def of(cls, rows: Iterable[tuple[float, RowResult]], measure: Measure) -> Comparison:
        """The weighted sum of rows with the same seeds."""
        weighted = list(rows)
        linear = weighted[0][1].linear
        values = np.sum([100 * weight * _values(row, measure) for weight, row in weighted], axis=0)
        return cls(values, linear.groups, linear.own_splits)

    def estimate(self, tail: float = TAIL) -> Estimate:
        """The mean with its interval, which errs on each side with the probability `tail`."""
        return estimate(self.values, self.groups, own_splits=self.own_splits, level=1 - 2 * tail)

    @property
    def s(self) -> float | None:
        """The standard deviation between replications."""
        return float(self.values.mean(1).std(ddof=1)) if len(self.values) > 1 else None

    @property
    def shared_error(self) -> float:
        """The standard error from validation images that all replications share."""
        if self.own_splits:
            return 0.0
        return float(resampled_replications(self.values, self.groups, own_splits=False).std())

    def needed(self, distance: float, *, far: float = np.inf, tail: float = TAIL) -> Needed | None:
        """The replications that decide about a margin at a distance, see `ldae.measures.power.replications`."""
        if self.s is None:
            return None
        error = self.shared_error
        ends = spread_range(self.s, len(self.values))
        return Needed(*(replications(distance, s, far=far, tail=tail, shared_error=error) for s in ends))


def judge(claim: ClaimDefinition, results: Results, measure: Measure) -> ClaimFinding:
    """What results say about a claim, by the accuracy or by the gain over random weights.

    All its rows are restricted to the seeds that they have in common.

    Raises:
        ValueError: for rows without a common seed, or for ranks of rows whose samples were not judged.
    """
    names = [name for name, _ in claim.points] if claim.peak is not None else list(claim.sum or claim.rank or ())
    rows = results.paired(names)
    if claim.peak is not None:
        finding = _peak(claim, rows, measure)
    elif claim.rank is not None:
        finding = _rank(claim, rows)
    else:
        finding = _sum(claim, rows, measure)
    unlearnt = tuple(row.name for row in _needs(claim, rows) if not has_learnt(row))
    more = {"verdict": NOT_TESTED, "unlearnt": unlearnt} if unlearnt else {}
    return finding.model_copy(update={"n": len(rows[0].seeds)} | more)


def has_learnt(row: RowResult) -> bool:
    """Whether the lower end of the interval of a row's gain over random weights is above `LEARNT` points."""
    return 100 * row.linear.gain.low > LEARNT


def _needs(claim: ClaimDefinition, rows: list[RowResult]) -> list[RowResult]:
    """The rows that must have learnt for a claim to be judged.

    A strict claim needs the rows that it calls better: the others may fail, as it says. A peak needs its best value:
    of the values that the claim names, the one with the highest accuracy. Equivalence, non-inferiority and rank
    correlations need all rows.
    """
    if claim.peak is not None:
        return [max(named, key=lambda row: row.accuracy.value)] if (named := _named(claim, rows)[0]) else []
    if claim.sum is None:
        return rows
    weights = {row.name: claim.sum[row.name] for row in rows}
    if claim.above is not None and claim.above >= 0:
        return [row for row in rows if weights[row.name] > 0]
    if claim.below is not None and claim.below <= 0:
        return [row for row in rows if weights[row.name] < 0]
    return [row for row in rows if weights[row.name] != 0]


def _sum(claim: ClaimDefinition, rows: list[RowResult], measure: Measure) -> ClaimFinding:
    """A weighted sum of accuracies against the margin."""
    compared = Comparison.of([((claim.sum or {})[row.name], row) for row in rows], measure)
    points = compared.estimate()
    if claim.within is not None:
        distance, far = abs(claim.within - abs(points.value)), np.inf
        if abs(points.value) < claim.within:
            far = claim.within + abs(points.value)
    else:
        distance, far = abs(points.value - _margin(claim)), np.inf
    return ClaimFinding(
        quantity=points,
        text=quantity_text(points, 1),
        verdict=_verdict(points.low, points.high, claim),
        s=compared.s,
        needed=compared.needed(distance, far=far),
    )


def _peak(claim: ClaimDefinition, rows: list[RowResult], measure: Measure) -> ClaimFinding:
    """Whether the best value of a sweep is one of those that the claim names.

    The quantity is the best named accuracy less the best of the others. It is above 0 if a named value beats every
    other by paired bounds, Bonferroni-corrected over the named values, and below 0 if another value beats every named
    one, corrected over the others: each of these verdicts is wrong with a probability of at most `TAIL`.
    """
    named, others = _named(claim, rows)
    means = {row.name: float(_values(row, measure).mean()) for row in rows}
    best = max(claim.points, key=lambda point: means[point[0]])[1]
    if not named or not others:
        return ClaimFinding(quantity=None, text=f"best at {best}", verdict=UNDECIDED)
    pairs = {(a.name, b.name): Comparison.of([(1, a), (-1, b)], measure) for a in named for b in others}
    up, down = TAIL / len(named), TAIL / len(others)
    lows = {pair: compared.estimate(up).low for pair, compared in pairs.items()}
    highs = {pair: compared.estimate(down).high for pair, compared in pairs.items()}
    low = max(min(lows[a.name, b.name] for b in others) for a in named)
    high = min(max(highs[a.name, b.name] for a in named) for b in others)
    first, second = (max(group, key=lambda row: means[row.name]) for group in (named, others))
    value = 100 * (means[first.name] - means[second.name])
    leads = np.stack([_lead(named, measure), -_lead(others, measure)]).sum(0)[:, None]
    again = estimate(leads, np.zeros(leads.shape, dtype=np.int64), own_splits=True).prediction
    # the winner must beat every value of the other group: the pair that takes longest decides
    against = [(first.name, b.name) for b in others] if value >= 0 else [(a.name, second.name) for a in named]
    pair = min(against, key=lambda pair: abs(pairs[pair].values.mean()) / max(pairs[pair].s or 0.0, 1e-12))
    distance = abs(float(pairs[pair].values.mean()))
    lead = Estimate(value, low, high, again)
    return ClaimFinding(
        quantity=lead,
        text=f"best at {best}; lead {quantity_text(lead, 1)}",
        verdict=HOLDS if low > 0 else FAILS if high < 0 else UNDECIDED,
        s=pairs[pair].s,
        needed=pairs[pair].needed(distance, tail=up if value >= 0 else down),
    )


def _lead(rows: list[RowResult], measure: Measure) -> NDArray[np.float64]:
    """The best accuracy of some rows in each seed (seeds,), in points."""
    return np.max([100 * _values(row, measure).mean(1) for row in rows], axis=0)


def _named(claim: ClaimDefinition, rows: list[RowResult]) -> tuple[list[RowResult], list[RowResult]]:
    """The rows of a sweep at the values that a peak's claim names, and the others."""
    values = dict(claim.points)
    split: tuple[list[RowResult], list[RowResult]] = [], []
    for row in rows:
        split[values[row.name] not in (claim.among or ())].append(row)
    return split


def _rank(claim: ClaimDefinition, rows: list[RowResult]) -> ClaimFinding:
    """Spearman's correlation of accuracy with the quality of samples, the negative distance."""
    orders = Order.of_accuracy(rows), Order.of_quality(rows)
    low, high = spearman_bounds(*(order.clear() for order in orders))
    again = predicted_correlations(*orders) if len(rows[0].seeds) > 1 else None
    quantity = Estimate(spearman_of(*orders), low, high, again)
    needed = None
    if again is not None and rows[0].linear.own_splits:  # more seeds do not make shared images more

        def decided(factor: float) -> int | None:
            def is_decided(n: int) -> bool:  # once it is, it stays so for larger n
                bounds = spearman_bounds(*(order.clear_with(n, factor) for order in orders))
                return _verdict(*bounds, claim) != UNDECIDED

            numbers = range(2, MOST + 1)
            place = bisect_left(numbers, True, key=is_decided)
            return numbers[place] if place < len(numbers) else None

        needed = Needed(*map(decided, spread_range(1.0, len(rows[0].seeds))))
    return ClaimFinding(
        quantity=quantity, text=quantity_text(quantity, 2), verdict=_verdict(low, high, claim), needed=needed
    )


def _values(row: RowResult, measure: Measure) -> Values:
    """A row's measure for each seed and validation image (seeds, N)."""
    return row.linear.values - row.linear.random_values if measure == "gain" else row.linear.values


def _margin(claim: ClaimDefinition) -> float:
    margin = claim.above if claim.above is not None else claim.below
    assert margin is not None  # a claim with a sum or a rank has one of above, below and within
    return margin


def _verdict(low: float, high: float, claim: ClaimDefinition) -> str:
    """Where an interval lies with respect to the claim's margin."""
    if claim.within is not None:
        inside = low > -claim.within and high < claim.within
        outside = low > claim.within or high < -claim.within
    elif claim.above is not None:
        inside, outside = low > claim.above, high < claim.above
    else:
        inside, outside = high < _margin(claim), low > _margin(claim)
    return HOLDS if inside else FAILS if outside else UNDECIDED


def _missing(needed: Needed, n: int) -> str:
    """How many more replications a verdict takes, as a range."""
    if needed.low is None:
        return f"over {MOST} in all"
    least = max(1, needed.low - n)
    if needed.high is None:
        return f"{least} more to over {MOST} in all"
    most = max(least, needed.high - n)
    return f"{least} more" if most == least else f"{least} to {most} more"


def quantity_text(quantity: Estimate, digits: int) -> str:
    """A quantity with its interval."""
    value, low, high = (f"{part:+.{digits}f}" for part in quantity[:3])
    return f"{value} [{low}, {high}]"
