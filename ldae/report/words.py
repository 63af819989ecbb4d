"""What is seen in the trajectory and in the verdicts, in words, from their numbers alone; no torch."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import NamedTuple

import pandas as pd

from ldae.report.cells import Record, number, share


class Step(NamedTuple):
    """From one row of the trajectory to the next."""

    label: str
    points: float  # of accuracy, in percent
    paper: float | None  # the same in the paper
    apart: bool  # whether the intervals of the two rows do not overlap


def trajectory_in_words(rows: list[Record], gains: dict[str, Record], *, seeds: int, judged: bool) -> str:
    """What the trajectory shows, and what it cannot decide.

    Args:
        rows: the figure's lines, in order.
        gains: by row, a line of a table with its gain over random weights.
        seeds: how many there are.
        judged: whether the page has verdicts on claims.
    """
    first, last, best = rows[0], rows[-1], max(rows, key=lambda row: float(row["accuracy"]))
    said = [f"From {_named(first)} to {_named(last)}: accuracy goes from {_accuracy(first)} to {_accuracy(last)}."]
    if len(rows) == 1:
        said = [f"Its one row is {_named(first)}, with {_accuracy(first)}."]
    elif best is first or best is last:
        said.append(f"The {'first' if best is first else 'last'} of the {len(rows)} rows is the best.")
    else:
        said.append(f"The best of the {len(rows)} rows is {_named(best)} with {_accuracy(best)}.")
    steps = [_step(before, after) for before, after in pairwise(rows)]
    fall = min(steps, key=lambda step: step.points, default=None)
    rise = max(steps, key=lambda step: step.points, default=None)
    told = [_told("fall", fall)] if fall and fall.points < 0 else []
    told += [_told("rise", rise)] if rise and rise.points > 0 else []
    if told:
        said.append(f"From one row to the next, {' and '.join(told)}.")
    if steps:
        apart = sum(step.apart for step in steps)
        said.append(
            f"In {apart} of {len(steps)} steps the two rows' intervals do not overlap; the others are not told apart "
            "by the figure alone" + (", and the claims below compare rows on the same images." if judged else ".")
        )
    known = [row for row in rows if row["paper"]]
    if len(known) > 2:
        ranks = [pd.Series([float(row[key]) for row in known]).rank() for key in ("accuracy", "paper")]
        said.append(
            f"The order of the {len(known)} rows that the paper has a number for has a rank correlation of "
            f"{ranks[0].corr(ranks[1]):+.2f} with the paper's order."
        )
    learnt = [row for row in rows if row["row"] in gains]
    if learnt:
        above = sum(share(gains[row["row"]], "gain").low > 0 for row in learnt)
        said.append(
            f"Training adds to what the same network gives with random weights, with its whole interval, in {above} of "
            f"the {len(learnt)} rows whose gain is in a table."
        )
    if seeds == 1:
        said.append("There is one seed, which says nothing of how much another would differ.")
    return " ".join(said)


def verdicts_in_words(verdicts: list[str]) -> str:
    """How many claims have which verdict."""
    counts = Counter(verdicts)
    parts = [
        f"{counts[word]} {singular if counts[word] == 1 else plural}"
        for word, singular, plural in (
            ("holds", "holds", "hold"),
            ("does not hold", "does not hold", "do not hold"),
            ("undecided", "is undecided", "are undecided"),
        )
    ]
    claims = f"{len(verdicts)} claims" if len(verdicts) > 1 else "one claim"
    return f"Of the paper's {claims} that were judged, {parts[0]}, {parts[1]}, and {parts[2]}."


def _named(row: Record) -> str:
    return f"“{row['label']}”"


def _accuracy(row: Record) -> str:
    value, low, high = (100 * float(row[key]) for key in ("accuracy", "low", "high"))
    return f"{value:.1f} % [{low:.1f}, {high:.1f}]"


def _step(before: Record, after: Record) -> Step:
    papers = [number(row["paper"]) for row in (before, after)]
    return Step(
        label=_named(after),
        points=100 * (float(after["accuracy"]) - float(before["accuracy"])),
        paper=papers[1] - papers[0] if papers[0] is not None and papers[1] is not None else None,
        apart=float(after["low"]) > float(before["high"]) or float(after["high"]) < float(before["low"]),
    )


def _told(kind: str, step: Step) -> str:
    paper = f" (in the paper {step.paper:+.1f})" if step.paper is not None else ""
    return f"the largest {kind} is at {step.label}, by {abs(step.points):.1f} points{paper}"
