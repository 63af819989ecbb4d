"""Verdicts on the paper's claims, as a table and for the page; no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ldae.measures.intervals import LEVEL
from ldae.readers.estimand import contents, estimand
from ldae.readers.layout import Part, Whisker
from ldae.readers.machines import devices_of
from ldae.readers.ranks import spearman
from ldae.readers.results import Results
from ldae.readers.verdicts import FAILS, HOLDS, LEARNT, NOT_TESTED, UNDECIDED, ClaimFinding, judge
from ldae.runtime.files import write_text
from ldae.study.definitions import ClaimDefinition, ClaimsDefinition
from ldae.study.file import Paper
from ldae.study.results import Record

COUNTS = ("n", "n_needed_low", "n_needed_high")  # columns of the CSV file


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
        """One of four verdicts; with one seed, no claim can hold."""
        return UNDECIDED if self.one_seed and self.accuracy.verdict == HOLDS else self.accuracy.verdict

    @property
    def shown_verdict(self) -> str:
        """The verdict, with what it lacks, and with a remark where there is one seed."""
        return self._remarked(self.accuracy)

    @property
    def by_gain(self) -> str:
        """The finding and the verdict by the gain over random weights; empty for a rank correlation."""
        return f"{self.gain.text}: {self._remarked(self.gain)}" if self.gain is not None else ""

    def _remarked(self, finding: ClaimFinding) -> str:
        if not self.one_seed:
            return finding.said
        return (
            f"{UNDECIDED} (one seed, points to: {HOLDS})" if finding.verdict == HOLDS else f"{finding.said} (one seed)"
        )


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
    notes = (*_notes(judged, definition), *devices_of(results.rows.values()))
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
    records = records.astype({name: "Int64" for name in records.columns if name.removeprefix("gain_") in COUNTS})
    write_text(out.with_suffix(".csv"), records.to_csv(index=False, float_format="%.6f"))
    return Judgement(claims=judged, notes=notes)


def _record(claim: JudgedClaim) -> dict[str, Any]:
    """A claim as a line of the CSV file, in full precision; by the gain, names begin with `gain_`."""
    record: dict[str, Any] = {"name": claim.name, "text": claim.text, "paper": claim.paper}
    record |= _numbers(claim.accuracy)
    if claim.gain is not None:
        record |= {f"gain_{name}": value for name, value in _numbers(claim.gain).items()}
    return record


def _numbers(finding: ClaimFinding) -> dict[str, Any]:
    value, low, high, again = finding.quantity or (None, None, None, None)
    least, most = finding.needed or (None, None)
    return {
        "verdict": finding.verdict,
        "said": f"{finding.text}: {finding.said}",
        "estimate": value,
        "low": low,
        "high": high,
        "prediction_low": again[0] if again is not None else None,
        "prediction_high": again[1] if again is not None else None,
        "n": finding.n,
        "s": finding.s,
        "n_needed_low": least,
        "n_needed_high": most,
    }


def _judged(definition: ClaimsDefinition, results: Results, papers: dict[str, Paper]) -> tuple[JudgedClaim, ...]:
    """The claims with their findings and drawings: differences in points on one axis, rank correlations on another."""
    found = [
        (judge(claim, results, "accuracy"), judge(claim, results, "gain") if claim.rank is None else None)
        for claim in definition.claims
    ]
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
                gain=gain,
                whisker=whisker,
                one_seed=accuracy.n == 1,
            )
        )
    return tuple(judged)


def _side(claim: ClaimDefinition, axis: tuple[float, float]) -> tuple[float, float]:
    """Where on an axis the quantity must lie for a claim to hold; a peak's lead must be above 0."""
    if claim.within is not None:
        return -claim.within, claim.within
    return (axis[0], claim.below) if claim.below is not None else (claim.above or 0.0, axis[1])


def _notes(judged: tuple[JudgedClaim, ...], definition: ClaimsDefinition) -> tuple[str, ...]:
    """How the verdicts are meant, what the intervals contain, and how many verdicts are expected to be wrong."""
    verdicts = [claim.accuracy.verdict for claim in judged]
    counts = ", ".join(f"{verdicts.count(word)} {word}" for word in (HOLDS, FAILS, UNDECIDED, NOT_TESTED))
    tested = len(judged) - verdicts.count(NOT_TESTED)
    decided, wrong = tested - verdicts.count(UNDECIDED), tested * (1 - LEVEL)
    seeds = sorted({claim.accuracy.n for claim in judged}) or [len(definition.seeds)]
    number = (
        f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else f"{seeds[0]} {'seed' if seeds == [1] else 'seeds'}"
    )
    notes = [
        f"Differences in points of linear probe accuracy, {number}. A claim holds "
        f"when the whole {LEVEL:.0%} interval lies on its side of the margin, does not hold when the whole interval "
        f"lies beyond it, and is undecided between, also where an end only touches the margin. {counts}.",
        f"A row has learnt when the whole interval of its gain over random weights is above {LEARNT:g} points. A claim "
        "that rows are better needs these rows to have learnt, a peak its best named value, any other claim all its "
        "rows; else it is not tested.",
        "“More”: the further seeds with which a verdict has a chance of 80 %, if the true value is the estimated one. "
        "The range is from the 80 % interval of the spread between seeds.",
        f"{estimand(definition)} {contents(definition, one_seed=seeds == [1])}",
        f"These verdicts were looked at after {number}. The stated errors are those of one look, at a number of seeds "
        "that was fixed before the run: who adds seeds until a verdict comes errs more often.",
        f"If every true value lay just at its margin, {(1 - LEVEL) / 2:.1%} of the verdicts on each side would be "
        f"given by chance: of the {tested} claims that were tested about {wrong:.1f}. Of the {decided} verdicts that "
        f"are given, at most about {wrong / 2:.1f} are expected to be wrong.",
    ]
    if seeds[0] == 1:
        notes.append("One seed says nothing of how much another would differ, so no claim can hold by it alone.")
    return tuple(notes)


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
