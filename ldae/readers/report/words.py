"""What is found, in words, from the numbers of the page; what an interval leaves open is said to be open; no torch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from ldae.measures.intervals import Estimate
from ldae.readers.claims import FAILS, HOLDS, UNDECIDED
from ldae.readers.report.cells import Record, number
from ldae.readers.report.verdicts import Claims, Judged
from ldae.readers.tables import interval

LISTED = 3  # claims or rows that a finding names; the others it counts


class Measured(NamedTuple):
    """A row's accuracy, from 0 to 1, with its 95 % interval."""

    label: str
    accuracy: Estimate
    random: float  # accuracy with random weights
    gain: Estimate | None  # over random weights, where a table has it
    paper: float | None = None  # accuracy in the paper, percent


class Finding(NamedTuple):
    """A sentence with its heading, what it lists, and a sentence after that."""

    heading: str
    text: str
    items: tuple[str, ...] = ()
    rest: str = ""


def measured(lines: Sequence[Record], trajectory: Sequence[Record], labels: dict[str, str]) -> list[Measured]:
    """Every row that a table or the trajectory has a number for, once.

    Args:
        lines: of the tables' CSV files.
        trajectory: the lines of the trajectory's.
        labels: of the rows, by name.
    """
    found: dict[str, Measured] = {}
    for line in lines:
        accuracy, gain = (
            Estimate(*(float(line[f"{name}{end}"]) for end in ("", "_low", "_high"))) for name in ("accuracy", "gain")
        )
        label = labels.get(line["name"], line["label"])
        found.setdefault(line["name"], Measured(label, accuracy, float(line["random"]), gain))
    for line in trajectory:
        found.setdefault(line["row"], of_trajectory(line))
    return list(found.values())


def of_trajectory(line: Record) -> Measured:
    """A row of the trajectory."""
    accuracy = Estimate(*(float(line[name]) for name in ("accuracy", "low", "high")))
    return Measured(line["label"], accuracy, float(line["random"]), None, number(line["paper"]))


def findings(rows: list[Measured], steps: list[Measured], claims: Claims | None, seeds: int) -> list[Finding]:
    """What the results say first of all: which rows are best, what holds, what does not.

    Args:
        rows: all that were measured.
        steps: the trajectory's, in order; where no claims are judged, its ends and its largest step are told instead.
        claims: of the paper, where they were judged.
        seeds: how many there are.
    """
    said = [best(rows)] if rows else []
    if claims is not None and claims.judged:
        return [*said, *_verdicts(claims, seeds)]
    if len(steps) > 1:
        said.append(Finding("From first to last", _change(steps[0], steps[-1])))
        largest = max(pairwise(steps), key=lambda pair: abs(pair[1].accuracy.value - pair[0].accuracy.value))
        said.append(Finding("The largest step", _change(*largest)))
    return said


def best(rows: list[Measured]) -> Finding:
    """The row of the highest accuracy, how sure that is, and what training adds to random weights."""
    first, *others = sorted(rows, key=lambda row: -row.accuracy.value)
    text = f"“{first.label}” has the highest accuracy, {_percent(first.accuracy)}"
    text += f"; with random weights it has {100 * first.random:.1f} %."
    near = [row for row in others if row.accuracy.high >= first.accuracy.low]
    if near:
        names = _listed([f"“{row.label}” ({100 * row.accuracy.value:.1f})" for row in near])
        reach = f"the interval of {names} reaches" if len(near) == 1 else f"the intervals of {names} reach"
        text += f" Which row is best is undecided: {reach} into its own."
    elif others:
        text += " The intervals of all other rows lie below its own."
    gains = [row.gain for row in rows if row.gain is not None]
    if gains:
        up, down = sum(gain.low > 0 for gain in gains), sum(gain.high < 0 for gain in gains)
        which = f"{len(gains)} rows" if len(gains) == len(rows) else f"the {len(gains)} rows that stand in tables"
        text += f" Of {which}, training improves on random weights in {up or 'none'}"
        text += f", makes it worse in {down}" if down else ""
        if left := len(gains) - up - down:
            text += f", and {left} {'is' if left == 1 else 'are'} undecided"
        text += "."
    return Finding("Best", text)


def _verdicts(claims: Claims, seeds: int) -> list[Finding]:
    """What holds and what does not, of the paper's claims."""
    holds, fails, undecided = (claims.given(word) for word in (HOLDS, FAILS, UNDECIDED))
    total = len(claims.judged)
    of = f"of the paper's {total} claims" if total > 1 else "of the paper's one claim"
    if seeds == 1:
        first = Finding(
            "Holds", f"None {of} can be shown to hold with one seed: how much another would differ is unknown."
        )
    elif holds:
        first = Finding(
            "Holds",
            f"{_number(len(holds))} {of} {_verb(holds, 'holds', 'hold')} here:",
            _items(holds),
        )
    else:
        first = Finding("Holds", f"None {of} is shown to hold here.")
    rest = f"{_number(len(undecided))} {_verb(undecided, 'is', 'are')} undecided, for the interval reaches the margin."
    rest = rest if undecided else ""
    if fails:
        text = f"{_number(len(fails))} {of} {_verb(fails, 'does', 'do')} not hold here:"
        return [first, Finding("Does not hold", text, _items(fails), rest)]
    return [first, Finding("Does not hold", f"None {of} is shown to be wrong here.", (), rest)]


def cautions(rows: list[Measured], seeds: int) -> list[str]:
    """What a reader should know before trusting any difference."""
    said = []
    gains = [row.gain for row in rows if row.gain is not None]
    if gains and not any(gain.low > 0 for gain in gains):
        said.append(
            "No row is above its own random weights with its whole interval, so none is shown to have learnt anything. "
            "Differences between rows then say nothing about the method."
        )
    if seeds == 1:
        said.append("There is one seed, so the intervals leave out how much another would differ.")
    return said


def verdicts_in_words(claims: Claims) -> str:
    """How many claims have which verdict."""
    total = len(claims.judged)
    counts = {word: len(claims.given(word)) for word in (HOLDS, FAILS, UNDECIDED)}
    parts = [
        f"{counts[HOLDS]} {'holds' if counts[HOLDS] == 1 else 'hold'}",
        f"{counts[FAILS]} {'does' if counts[FAILS] == 1 else 'do'} not hold",
        f"{counts[UNDECIDED]} {'is' if counts[UNDECIDED] == 1 else 'are'} undecided",
    ]
    judged = f"{total} claims" if total > 1 else "one claim"
    return f"Of the paper's {judged} that were judged, {parts[0]}, {parts[1]}, and {parts[2]}."


def _change(before: Measured, after: Measured) -> str:
    """From one row to another, and whether that is more than chance."""
    points = 100 * (after.accuracy.value - before.accuracy.value)
    text = f"From “{before.label}”, {_percent(before.accuracy)}, to “{after.label}”, {_percent(after.accuracy)}: "
    overlap = after.accuracy.low <= before.accuracy.high and before.accuracy.low <= after.accuracy.high
    if overlap:
        text += f"{points:+.1f} points, which is undecided, for the two intervals overlap."
    else:
        text += f"{points:+.1f} points, and the two intervals lie apart."
    if before.paper is not None and after.paper is not None:
        text += f" In the paper it is {after.paper - before.paper:+.1f}."
    return text


def _items(judged: list[Judged]) -> tuple[str, ...]:
    """Claims with their numbers, the first of them."""
    shown = [
        f"{one.text}: {one.ours}{' points' * bool(one.by_gain)}" + (f", in the paper {one.paper}" if one.paper else "")
        for one in judged[:LISTED]
    ]
    more = len(judged) - LISTED
    return (*shown, f"and {more} more") if more > 0 else tuple(shown)


def _listed(names: list[str]) -> str:
    """Names in a sentence; of many, the first and a number."""
    if len(names) > LISTED + 1:
        return f"{', '.join(names[:LISTED])} and {len(names) - LISTED} other rows"
    return " and ".join([part for part in (", ".join(names[:-1]), names[-1]) if part])


def _percent(estimate: Estimate) -> str:
    return interval(estimate).replace(" [", " % [")


def _number(count: int) -> str:
    """A count that begins a sentence."""
    return "One" if count == 1 else f"{count}"


def _verb(found: list[Judged], one: str, many: str) -> str:
    return one if len(found) == 1 else many
