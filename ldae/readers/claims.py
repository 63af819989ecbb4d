"""Verdicts on the paper's claims, from results alone: the difference, its interval, and the margin; no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ldae.measures.intervals import Estimate, estimate, resampled_replications, seed_interval
from ldae.readers.layout import Part, Whisker
from ldae.readers.results import Results, RowResult
from ldae.runtime.files import write_text
from ldae.study.definitions import ClaimDefinition, ClaimsDefinition
from ldae.study.file import Paper
from ldae.study.results import Record

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
LEVEL = 0.95  # of the intervals
Measure = Literal["accuracy", "gain"]


class ClaimFinding(Part):
    """The quantity of a claim, and what it says about the claim."""

    quantity: Estimate | None  # in points, or a rank correlation; None for a peak without other values to compare with
    text: str
    verdict: str


class JudgedClaim(Part):
    """A claim with the paper's value, ours, and a verdict."""

    name: str
    text: str
    where: str  # in the paper
    rows: tuple[str, ...]
    paper: str
    accuracy: ClaimFinding
    gain: ClaimFinding | None = None  # the same by the gain over random weights; None for a rank correlation
    whisker: Whisker | None = None
    one_seed: bool = False

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


class ClaimsRecord(Record):
    """`claims.json`."""

    judgement: Judgement


def write_claims(definition: ClaimsDefinition, results: Results, *, out: Path) -> Judgement:
    """Writes `<out>.md` and `<out>.csv`: each claim with the paper's value, ours, and a verdict; returns the same.

    Args:
        definition: the claims and their rows.
        results: of the rows.
        out: path of the files, without ending.
    """
    papers: dict[str, Paper] = {}
    for row in definition.rows:  # a row may stand here twice, by its name and as a point of a sweep
        papers[row.name] = papers.get(row.name, Paper()).model_copy(update=row.paper.model_dump(exclude_none=True))
    judged = _judged(definition, results, papers)
    notes = _notes(judged, len(definition.seeds))
    frame = pd.DataFrame(
        {
            "claim": claim.text,
            "in the paper": claim.where,
            "paper": claim.paper,
            "ours [95 %]": claim.accuracy.text,
            "verdict": claim.shown_verdict,
            "by gain over random": claim.by_gain,
        }
        for claim in judged
    )
    table = frame.to_markdown(index=False, disable_numparse=True)
    write_text(out.with_suffix(".md"), "\n\n".join(["## The paper's claims", table, *notes]) + "\n")
    records = pd.DataFrame(map(_record, judged))
    write_text(out.with_suffix(".csv"), records.to_csv(index=False, float_format="%.6f"))
    return Judgement(claims=judged, notes=notes)


def _record(claim: JudgedClaim) -> dict[str, Any]:
    """A claim as a line of the CSV file, in full precision."""
    findings = {"accuracy": claim.accuracy, "gain": claim.gain or claim.accuracy}
    record: dict[str, Any] = {"name": claim.name, "text": claim.text, "paper": claim.paper}
    record |= {f"verdict_{measure}": finding.verdict for measure, finding in findings.items()}
    record |= {"said_accuracy": claim.accuracy.text, "said_gain": claim.gain.text if claim.gain is not None else ""}
    for measure, finding in findings.items():
        if finding.quantity is not None:
            record |= {f"{measure}_{part}": value for part, value in finding.quantity._asdict().items()}
    return record


def _judged(definition: ClaimsDefinition, results: Results, papers: dict[str, Paper]) -> tuple[JudgedClaim, ...]:
    """The claims with their findings and drawings: differences in points on one axis, rank correlations on another."""
    found = [(judge(claim, results, "accuracy"), judge(claim, results, "gain")) for claim in definition.claims]
    values = [paper_value(claim, papers) for claim in definition.claims]
    numbers = [float(value) if value and not value.startswith("best") else None for value in values]
    ends = [-1.0, 1.0]
    for claim, (accuracy, _), number in zip(definition.claims, found, numbers, strict=True):
        if claim.rank is None and accuracy.quantity is not None:
            ends += [*accuracy.quantity[:3], *([number] if number is not None else [])]
    points = (max(min(ends), -100.0), min(max(ends), 100.0))
    judged = []
    for claim, (accuracy, gain), value, number in zip(definition.claims, found, values, numbers, strict=True):
        axis = points if claim.rank is None else (-1.0, 1.0)
        whisker = None
        if accuracy.quantity is not None:
            whisker = Whisker(estimate=accuracy.quantity, axis=axis, reference=number, side=_side(claim, axis))
        judged.append(
            JudgedClaim(
                name=claim.name,
                text=claim.text,
                where=claim.where,
                rows=claim.rows,
                paper=value,
                accuracy=accuracy,
                gain=gain if claim.rank is None else None,
                whisker=whisker,
                one_seed=len(definition.seeds) == 1,
            )
        )
    return tuple(judged)


def _side(claim: ClaimDefinition, axis: tuple[float, float]) -> tuple[float, float]:
    """Where on an axis the quantity must lie for a claim to hold; a peak's lead must be above 0."""
    if claim.within is not None:
        return -claim.within, claim.within
    return (axis[0], claim.below) if claim.below is not None else (claim.above or 0.0, axis[1])


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


def judge(claim: ClaimDefinition, results: Results, measure: Measure) -> ClaimFinding:
    """What results say about a claim, by the accuracy or by the gain over random weights."""
    if claim.peak is not None:
        return _peak(claim, results, measure)
    if claim.rank is not None:
        quantity = rank_correlation(results.paired(claim.rank))
        return ClaimFinding(quantity=quantity, text=_text(quantity, 2), verdict=_verdict(quantity, claim))
    weights = claim.sum or {}
    rows = results.paired(weights)
    values = np.sum([weights[row.name] * _values(row, measure) for row in rows], axis=0)
    points = estimate(100 * values, rows[0].linear.groups, own_splits=rows[0].linear.own_splits)
    return ClaimFinding(quantity=points, text=_text(points, 1), verdict=_verdict(points, claim))


def _values(row: RowResult, measure: Measure) -> NDArray[np.float64]:
    """A row's measure for each seed and validation image (seeds, N)."""
    return row.linear.values - row.linear.random_values if measure == "gain" else row.linear.values


def _verdict(quantity: Estimate, claim: ClaimDefinition) -> str:
    """Where a quantity's interval lies with respect to the claim's margin."""
    _, low, high, _ = quantity
    if claim.within is not None:
        inside = low > -claim.within and high < claim.within
        outside = low > claim.within or high < -claim.within
    elif claim.above is not None:
        inside, outside = low > claim.above, high < claim.above
    else:
        assert claim.below is not None  # a claim with a sum or a rank has one of the three
        inside, outside = high < claim.below, low > claim.below
    return HOLDS if inside else FAILS if outside else UNDECIDED


def _peak(claim: ClaimDefinition, results: Results, measure: Measure) -> ClaimFinding:
    """Whether the best value of a sweep is one of those that the claim names.

    The deciding quantity is the best accuracy of the named values less the best of the others. It is resampled whole,
    with the choice of the best.
    """
    rows = results.paired(name for name, _ in claim.points)
    groups, own_splits = rows[0].linear.groups, rows[0].linear.own_splits
    scores = np.stack([_values(row, measure) for row in rows])  # (values, seeds, N)
    named = np.array([value in (claim.among or ()) for _, value in claim.points])
    best = claim.points[int(scores.mean((1, 2)).argmax())][1]
    if not named.any() or named.all():
        return ClaimFinding(quantity=None, text=f"best at {best}", verdict=UNDECIDED)

    def margin(means: NDArray[np.float64]) -> NDArray[np.float64]:  # (values, ...) to (...)
        return means[named].max(0) - means[~named].max(0)

    draws = np.stack(
        [resampled_replications(score, groups, own_splits=own_splits) for score in scores]
    )  # (values, resamples)
    value = float(margin(scores.mean((1, 2))))
    low, high = np.percentile(margin(draws), [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    by_seed = margin(scores.mean(2))
    between = seed_interval(by_seed) if len(by_seed) > 1 else 0.0
    lower, upper = value - float(np.hypot(value - low, between)), value + float(np.hypot(high - value, between))
    verdict = HOLDS if lower > 0 else FAILS if upper < 0 else UNDECIDED
    quantity = Estimate(100 * value, 100 * lower, 100 * upper)
    return ClaimFinding(quantity=quantity, text=f"best at {best}; lead {_text(quantity, 1)}", verdict=verdict)


def rank_correlation(rows: list[RowResult]) -> Estimate:
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
    linear = [row.linear for row in rows]
    resampled = [resampled_replications(one.values, one.groups, own_splits=one.own_splits) for one in linear]
    draws = np.stack(resampled, axis=1)  # (resamples, rows)
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


def _text(estimate: Estimate, digits: int) -> str:
    value, low, high = (f"{part:+.{digits}f}" for part in estimate[:3])
    return f"{value} [{low}, {high}]"
