"""Verdicts on the paper's claims, from results alone: the difference, its interval, and the margin; no torch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ldae.measures.intervals import Estimate, resampled_means, seed_interval
from ldae.readers.layout import Part, Whisker
from ldae.readers.results import Results, RowResult, estimate
from ldae.runtime.files import write_text
from ldae.study.definitions import ClaimDefinition, ClaimsDefinition
from ldae.study.file import Paper
from ldae.study.results import Record

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
LEVEL = 0.95  # of the intervals
Measure = Literal["accuracy", "gain"]


class Finding(Part):
    """The quantity of a claim, and what it says about the claim."""

    quantity: Estimate | None  # in points, or a rank correlation; None for a peak without other values to compare with
    text: str
    verdict: str


class JudgedClaim(Part):
    """A claim with the paper's value, ours, and a verdict."""

    claim: ClaimDefinition
    paper: str
    accuracy: Finding
    gain: Finding | None = None  # the same by the gain over random weights; None for a rank correlation
    one_seed: bool = False

    @property
    def paper_number(self) -> float | None:
        """The paper's value, unless it is the place of a peak."""
        return float(self.paper) if self.paper and not self.paper.startswith("best") else None

    @property
    def verdict(self) -> str:
        """One of three verdicts; with one seed, no claim can hold."""
        return UNDECIDED if self.one_seed and self.accuracy.verdict == HOLDS else self.accuracy.verdict

    @property
    def shown_verdict(self) -> str:
        """The verdict, with a remark where there is one seed."""
        return self._remarked(self.accuracy.verdict)

    @property
    def by_gain(self) -> str:
        """The finding and the verdict by the gain over random weights; empty for a rank correlation."""
        return f"{self.gain.text}: {self._remarked(self.gain.verdict)}" if self.gain is not None else ""

    def _remarked(self, verdict: str) -> str:
        if not self.one_seed:
            return verdict
        return f"{UNDECIDED} (one seed, points to: {HOLDS})" if verdict == HOLDS else f"{verdict} (one seed)"


class Judgement(Part):
    """All claims that were judged."""

    claims: tuple[JudgedClaim, ...]
    notes: tuple[str, ...] = ()

    def given(self, verdict: str) -> list[JudgedClaim]:
        """The claims with one verdict."""
        return [claim for claim in self.claims if claim.verdict == verdict]

    def whisker(self, judged: JudgedClaim) -> Whisker | None:
        """The drawing of a claim: differences in points are on one axis, rank correlations on another."""
        quantity = judged.accuracy.quantity
        if quantity is None:
            return None
        ends = [-1.0, 1.0]
        if judged.gain is not None:
            in_points = [one for one in self.claims if one.gain is not None]
            ends += [end for one in in_points for end in one.accuracy.quantity or ()]
            ends += [one.paper_number for one in in_points if one.accuracy.quantity and one.paper_number is not None]
        axis = (max(min(ends), -100.0), min(max(ends), 100.0))
        low, high = _region(judged.claim)
        side = (max(low, axis[0]), min(high, axis[1]))
        return Whisker(estimate=quantity, axis=axis, reference=judged.paper_number, side=side)


class ClaimsRecord(Record):
    """`claims.json`."""

    judgement: Judgement


def write_claims(definition: ClaimsDefinition, results: Results, *, out: Path) -> Judgement:
    """Writes `<out>.md` and `<out>.csv`: each claim with the paper's value, ours, and a verdict; returns the same."""
    papers: dict[str, Paper] = {}
    for row in definition.rows:  # a row may stand here twice, by its name and as a point of a sweep
        papers[row.name] = papers.get(row.name, Paper()).model_copy(update=row.paper.model_dump(exclude_none=True))
    judged = tuple(
        JudgedClaim(
            claim=claim,
            paper=paper_value(claim, papers),
            accuracy=judge(claim, results, "accuracy"),
            gain=judge(claim, results, "gain") if claim.rank is None else None,
            one_seed=len(definition.seeds) == 1,
        )
        for claim in definition.claims
    )
    notes = _notes(judged, len(definition.seeds))
    frame = pd.DataFrame(
        {
            "claim": one.claim.text,
            "in the paper": one.claim.where,
            "paper": one.paper,
            "ours [95 %]": one.accuracy.text,
            "verdict": one.shown_verdict,
            "by gain over random": one.by_gain,
        }
        for one in judged
    )
    table = frame.to_markdown(index=False, disable_numparse=True)
    write_text(out.with_suffix(".md"), "\n\n".join(["## The paper's claims", table, *notes]) + "\n")
    records = pd.DataFrame(map(_record, judged))
    write_text(out.with_suffix(".csv"), records.to_csv(index=False, float_format="%.6f"))
    return Judgement(claims=judged, notes=notes)


def _record(one: JudgedClaim) -> dict[str, Any]:
    """A claim as a line of the CSV file, in full precision."""
    findings = {"accuracy": one.accuracy, "gain": one.gain or one.accuracy}
    record: dict[str, Any] = {"name": one.claim.name, "text": one.claim.text, "paper": one.paper}
    record |= {f"verdict_{measure}": finding.verdict for measure, finding in findings.items()}
    record |= {"said_accuracy": one.accuracy.text, "said_gain": one.gain.text if one.gain is not None else ""}
    for measure, finding in findings.items():
        if finding.quantity is not None:
            record |= {f"{measure}_{part}": value for part, value in finding.quantity._asdict().items()}
    return record


def _notes(judged: tuple[JudgedClaim, ...], seeds: int) -> tuple[str, ...]:
    """How the verdicts are meant, and how many are expected to be wrong."""
    verdicts = [claim.accuracy.verdict for claim in judged]
    counts = ", ".join(f"{verdicts.count(word)} {word}" for word in (HOLDS, FAILS, UNDECIDED))
    decided, wrong = len(judged) - verdicts.count(UNDECIDED), len(judged) * (1 - LEVEL)
    notes = [
        f"Differences in points of linear probe accuracy, {seeds} {'seed' if seeds == 1 else 'seeds'}. A claim holds "
        f"when the whole {LEVEL:.0%} interval lies on its side of the margin, does not hold when the whole interval "
        f"lies beyond it, and is undecided between, also where an end only touches the margin. {counts}.",
        f"If every true value lay just at its margin, {(1 - LEVEL) / 2:.1%} of the verdicts on each side would be "
        f"given by chance: of these {len(judged)} claims about {wrong:.1f}. Of the {decided} verdicts that are given, "
        f"at most about {wrong / 2:.1f} are expected to be wrong.",
    ]
    if seeds == 1:
        notes.append("One seed says nothing of how much another would differ, so no claim can hold by it alone.")
    return tuple(notes)


def judge(claim: ClaimDefinition, results: Results, measure: Measure) -> Finding:
    """What results say about a claim, by the accuracy or by the gain over random weights."""
    if claim.peak is not None:
        return _peak(claim, results, measure)
    if claim.rank is not None:
        return _finding(claim, rank_correlation([results.rows[name] for name in claim.rank], results.groups), digits=2)
    weights = (claim.sum or {}).items()
    values = np.sum([weight * _values(results.rows[name], measure) for name, weight in weights], axis=0)
    return _finding(claim, estimate(100 * values, results.groups))


def _values(row: RowResult, measure: Measure) -> NDArray[np.float64]:
    """A row's measure for each seed and validation image (seeds, N)."""
    return row.linear.values - row.linear.random_values if measure == "gain" else row.linear.values


def _region(claim: ClaimDefinition) -> tuple[float, float]:
    """Where the quantity must lie for a claim to hold; the lead of a peak must be above 0."""
    if claim.within is not None:
        return -claim.within, claim.within
    return (-math.inf, claim.below) if claim.below is not None else (claim.above or 0.0, math.inf)


def _finding(claim: ClaimDefinition, quantity: Estimate, *, digits: int = 1, prefix: str = "") -> Finding:
    """A claim holds if the quantity's interval lies within its region, and does not if it lies beyond."""
    low, high = _region(claim)
    inside = quantity.low > low and quantity.high < high
    outside = quantity.low > high or quantity.high < low
    value, *ends = (f"{part:+.{digits}f}" for part in quantity)
    text = f"{prefix}{value} [{', '.join(ends)}]"
    return Finding(quantity=quantity, text=text, verdict=HOLDS if inside else FAILS if outside else UNDECIDED)


def _peak(claim: ClaimDefinition, results: Results, measure: Measure) -> Finding:
    """Whether the best value of a sweep is one of those that the claim names.

    The deciding quantity is the best accuracy of the named values less the best of the others. It is resampled whole,
    with the choice of the best.
    """
    scores = np.stack([_values(results.rows[row], measure) for row, _ in claim.points])  # (values, seeds, N)
    named = np.array([value in (claim.among or ()) for _, value in claim.points])
    best = claim.points[int(scores.mean((1, 2)).argmax())][1]
    if not named.any() or named.all():
        return Finding(quantity=None, text=f"best at {best}", verdict=UNDECIDED)

    def margin(means: NDArray[np.float64]) -> NDArray[np.float64]:  # (values, ...) to (...)
        return means[named].max(0) - means[~named].max(0)

    draws = np.stack([resampled_means(score.mean(0), results.groups) for score in scores])  # (values, resamples)
    value = float(margin(scores.mean((1, 2))))
    low, high = np.percentile(margin(draws), [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    by_seed = margin(scores.mean(2))
    between = seed_interval(by_seed) if len(by_seed) > 1 else 0.0
    below, above = float(np.hypot(value - low, between)), float(np.hypot(high - value, between))
    quantity = Estimate(100 * value, 100 * (value - below), 100 * (value + above))
    return _finding(claim, quantity, prefix=f"best at {best}; lead ")


def rank_correlation(rows: list[RowResult], groups: NDArray[np.int64]) -> Estimate:
    """Spearman's correlation of accuracy with the quality of samples, with an interval over images, seeds and samples.

    Quality is the negative distance. Accuracies are resampled by groups, distances drawn within their errors.

    Raises:
        ValueError: for a row whose samples were not judged.
    """
    distances = [row.distance for row in rows if row.distance is not None]
    if len(distances) < len(rows):
        raise ValueError("a rank correlation needs rows whose samples were judged")
    quality = np.array([-distance.infinite for distance in distances])
    errors = np.array([distance.error for distance in distances])
    accuracy = np.array([row.accuracy.value for row in rows])
    value = spearman(accuracy[None], quality[None])[0]
    rng = np.random.default_rng(0)
    draws = np.stack([resampled_means(row.linear.values.mean(0), groups) for row in rows], axis=1)  # (resamples, rows)
    means = np.array([row.by_seed for row in rows])  # (rows, seeds)
    seeds = means.shape[1]
    spread = means.std(1, ddof=1) / np.sqrt(seeds) if seeds > 1 else np.zeros(len(rows))
    draws = draws + rng.standard_normal(draws.shape) * spread
    qualities = quality + rng.standard_normal(draws.shape) * errors
    low, high = np.percentile(spearman(draws, qualities), [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return Estimate(float(value), float(low), float(high))


def spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rank correlation (n,) of the columns of two arrays (n, k) without ties."""
    ranks = [values.argsort(1).argsort(1) for values in (first, second)]
    k = first.shape[1]
    return 1 - 6 * ((ranks[0] - ranks[1]) ** 2).sum(1) / (k * (k**2 - 1))


def paper_value(claim: ClaimDefinition, papers: dict[str, Paper]) -> str:
    """The quantity of a claim from the paper's own numbers, by row; empty where the paper lacks some."""
    if claim.peak is not None:
        known = [(probe, value) for row, value in claim.points if (probe := papers[row].probe) is not None]
        return f"best at {max(known)[1]}" if known else ""
    probes = {name: papers[name].probe for name in claim.sum or claim.rank or ()}
    accuracies = {name: probe for name, probe in probes.items() if probe is not None}
    if len(accuracies) < len(probes):
        return ""
    if claim.sum is not None:
        return f"{sum(weight * accuracies[name] for name, weight in claim.sum.items()):+.1f}"
    distances = [fid for name in probes if (fid := papers[name].fid) is not None]
    if len(distances) < len(probes):
        return ""
    return f"{spearman(np.array([list(accuracies.values())]), -np.array([distances]))[0]:+.2f}"
