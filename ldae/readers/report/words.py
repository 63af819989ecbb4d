"""The findings of the page in words; where intervals overlap, they say that the order is undecided; no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from ldae.readers.claims import JudgedClaim, Judgement
from ldae.readers.layout import RowNumbers, interval
from ldae.readers.variations import Varied
from ldae.readers.verdicts import FAILS, HOLDS, NOT_TESTED, UNDECIDED

REASONS = {  # of verdicts whose claims are not listed
    UNDECIDED: ", with intervals that reach the margin",
    NOT_TESTED: ", because rows that they need have not learnt more than their random weights",
}
LISTED = 3  # claims or rows that a finding names; the others it counts


class Finding(NamedTuple):
    """A sentence or two with a heading, and a list below them."""

    heading: str
    text: str
    items: tuple[str, ...] = ()


def findings(rows: Sequence[RowNumbers], steps: Sequence[RowNumbers], judgement: Judgement | None) -> list[Finding]:
    """The best row and the verdicts on the claims; without claims, the trajectory's ends and its largest step.

    Args:
        rows: all rows with results.
        steps: the rows of the trajectory, in order.
        judgement: of the paper's claims.
    """
    found = [best(rows)] if rows else []
    if judgement is not None and judgement.claims:
        words = (HOLDS, FAILS, UNDECIDED, *([NOT_TESTED] if judgement.given(NOT_TESTED) else []))
        found += [_verdict(judgement, word) for word in words]
    elif len(steps) > 1:
        largest = max(pairwise(steps), key=lambda pair: abs(pair[1].accuracy.value - pair[0].accuracy.value))
        found += [
            Finding("From first to last", _change(steps[0], steps[-1])),
            Finding("The largest step", _change(*largest)),
        ]
    return found


def best(rows: Sequence[RowNumbers]) -> Finding:
    """The row of the highest accuracy, the rows that may be as good, and the number of rows with a gain."""
    first, *others = sorted(rows, key=lambda row: -row.accuracy.value)
    text = f"“{first.label}” has the highest accuracy, {interval(first.accuracy, ' %')}"
    text += f"; with random weights it has {100 * first.random.value:.1f} %."
    near = [
        f"“{row.label}” ({100 * row.accuracy.value:.1f})" for row in others if row.accuracy.high >= first.accuracy.low
    ]
    if near:
        more = [f"and {len(near) - LISTED} more"] if len(near) > LISTED else []
        text += f" Which row is best is undecided; its interval overlaps with: {', '.join([*near[:LISTED], *more])}."
    elif others:
        text += " The intervals of all other rows lie below its own."
    up, down = sum(row.gain.low > 0 for row in rows), sum(row.gain.high < 0 for row in rows)
    text += f" The gain over random weights, in {len(rows)} rows: positive in {up}, negative in {down}, "
    text += f"undecided in {len(rows) - up - down}."
    return Finding("Best", text)


def cautions(rows: Sequence[RowNumbers], seeds: int) -> list[str]:
    """What a reader should know before trusting any difference."""
    said = []
    if rows and not any(row.gain.low > 0 for row in rows):
        said.append(
            "No row's interval lies above its own accuracy with random weights, so no row is shown to have learnt "
            "anything. Differences between rows then say nothing about the method."
        )
    if seeds == 1:
        said.append(
            "There is one seed, so the intervals leave out how much another would differ, and no claim can hold."
        )
    return said


def dependence(variations: Iterable[Varied]) -> dict[str, list[str]]:
    """For each claim whose verdict differs under a variation, a sentence with all of its verdicts."""
    said: dict[str, list[str]] = {}
    for variation in variations:
        for claim in variation.claims:
            if claim.depends:
                verdicts = [f"{one.verdict} ({one.text})" for one in (claim.base, *claim.varied)]
                said.setdefault(claim.name, []).append(f"Depends on the {variation.name}: {'; '.join(verdicts)}.")
    return said


def _verdict(judgement: Judgement, word: str) -> Finding:
    """The claims with one verdict: their number, and the first decided ones."""
    claims = judgement.given(word)
    text = f"{len(claims)} of the paper's {len(judgement.claims)} claims"
    if not claims or word in REASONS:
        return Finding(word.capitalize(), f"{text}{REASONS[word] if claims else ''}.")
    more = [f"and {len(claims) - LISTED} more"] if len(claims) > LISTED else []
    return Finding(word.capitalize(), f"{text}:", (*map(_item, claims[:LISTED]), *more))


def _item(claim: JudgedClaim) -> str:
    unit = " points" if claim.gain is not None else ""
    paper = f", in the paper {claim.paper}" if claim.paper else ""
    return f"{claim.text}: {claim.accuracy.text}{unit}{paper}"


def _change(before: RowNumbers, after: RowNumbers) -> str:
    """From one row to another, and whether that is more than chance."""
    points = 100 * (after.accuracy.value - before.accuracy.value)
    overlap = after.accuracy.low <= before.accuracy.high and before.accuracy.low <= after.accuracy.high
    ends = [f"“{row.label}”, {interval(row.accuracy, ' %')}" for row in (before, after)]
    text = f"From {ends[0]}, to {ends[1]}: {points:+.1f} points; the two intervals "
    text += "overlap, so the sign is undecided." if overlap else "do not overlap."
    if before.paper.probe is not None and after.paper.probe is not None:
        text += f" In the paper it is {after.paper.probe - before.paper.probe:+.1f}."
    return text
