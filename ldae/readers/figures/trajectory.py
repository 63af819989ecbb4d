"""The trajectory: each row a change of the one before, ours beside the paper's; no torch."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ldae.measures.intervals import Estimate
from ldae.readers.figures.style import OURS, PAPER, PIXELS, QUIET, THEIRS, WIDTH, Drawn, Inputs, bars, percent_axes
from ldae.readers.layout import typographic
from ldae.readers.results import Results, RowResult
from ldae.readers.verdicts import Comparison, quantity_text
from ldae.study.definitions import FigureDefinition

LETTERS = 24  # of a line of a row's name
LINE = 0.135  # inches, of such a line
AROUND = 0.62  # inches above and below a panel, for its title and its axis
POINT = {"fmt": "o", "color": OURS, "ms": 4.5, "lw": 1.6, "zorder": 4}
SEEDS, STEP = 0.2, 0.5  # how far below a row its seeds lie, and the number of the step to the next one
STRIP = 0.07  # half the height of the strip of seeds


class Step(NamedTuple):
    """From one row of the trajectory to the next."""

    ours: Estimate | None  # in points, paired over the seeds that both rows have; None where they share none
    is_clear: bool  # whether the whole interval lies on one side of zero; with one seed no step is clear
    paper: float | None


def trajectory(definition: FigureDefinition, inputs: Inputs) -> Drawn:
    """The rows from top to bottom, their names between our panel and the paper's; below, the distance of samples.

    Values are labels of the outer axes, where no line crosses them. Both panels of accuracy have the same scale. The
    steps between rows are arrows, bold where ours is clear of zero.
    """
    results = inputs.measured
    rows = list(results.rows.values())
    judged = [row for row in rows if row.distance is not None]
    steps = [_step(results, *pair) for pair in zip(rows, rows[1:], strict=False)]
    names = {row.name: textwrap.wrap(row.label, LETTERS, break_long_words=True) or [""] for row in rows}
    pitch = LINE * (1 + max(2, *(len(lines) for lines in names.values()))) + 0.05
    heights = [pitch * len(rows), *([0.75 * pitch * len(judged)] if judged else [])]
    figure = Figure(figsize=(WIDTH, sum(heights) + AROUND * len(heights) + 0.6), layout="constrained")
    grid = figure.subplots(len(heights), 3, squeeze=False, width_ratios=[1, 1.4, 0.85], height_ratios=heights)
    _accuracy(grid[0], rows, steps, 100 * results.pixels["linear"].value)
    handles, labels = grid[0][0].get_legend_handles_labels()
    others = "step not clear of zero" if any(len(row.seeds) > 1 for row in rows) else "step; one seed marks none"
    for is_clear, text in ((True, "step clear of zero (95 %)"), (False, others)):
        if any(step.is_clear == is_clear for step in steps):
            handles.append(Line2D([], [], **_arrow(is_clear), marker=">" if is_clear else None, ms=4))
            labels.append(text)
    figure.legend(handles, labels, loc="outside upper center", ncols=2, columnspacing=1)
    if judged:
        _distance(grid[1], judged)
    for (_, between, _), shown in zip(grid, (rows, judged), strict=False):
        between.set_ylim(len(shown) - 0.5, -0.5)
        between.set_xlim(0, 1)
        between.axis("off")
        for place, row in enumerate(shown):
            text = "\n".join(names[row.name])
            between.text(0.5, place, text, ha="center", va="center", fontsize=8, linespacing=1.05)
    records = [_record(row, step) for row, step in zip(rows, [None, *steps], strict=True)]
    return figure, pd.DataFrame(records)


def _step(results: Results, before: RowResult, after: RowResult) -> Step:
    """The step between two rows of the trajectory."""
    ours, is_clear = None, False
    if set(before.seeds) & set(after.seeds):
        first, second = results.paired([before.name, after.name])
        ours = Comparison.of([(1, second), (-1, first)], "accuracy").estimate()
        is_clear = len(first.seeds) > 1 and (ours.low > 0 or ours.high < 0)
    from_paper, to_paper = before.paper.probe, after.paper.probe
    return Step(ours, is_clear, to_paper - from_paper if from_paper is not None and to_paper is not None else None)


def _record(row: RowResult, step: Step | None) -> dict[str, Any]:
    """A row with the step that led to it, None for the first, as a line of the CSV file."""
    ours = step.ours if step is not None else None
    return {
        "row": row.name,
        "label": row.label,
        "accuracy": row.accuracy.value,
        "low": row.accuracy.low,
        "high": row.accuracy.high,
        "seeds": len(row.seeds),
        "random": row.random.value,
        "paper": row.paper.probe,
        "step": ours.value if ours is not None else None,
        "step_low": ours.low if ours is not None else None,
        "step_high": ours.high if ours is not None else None,
        "step_is_clear": step.is_clear if step is not None else None,
        "paper_step": step.paper if step is not None else None,
        "distance": row.distance.infinite if row.distance is not None else None,
        "distance_error": row.distance.error if row.distance is not None else None,
        "paper_fid": row.paper.fid,
    }


def _accuracy(panels: Any, rows: list[RowResult], steps: list[Step], pixels: float) -> None:
    """Ours with intervals, seeds and random weights in the first panel, the paper's in the last."""
    ours, between, paper = panels
    places = list(range(len(rows)))
    values, lengths = bars(rows)
    ours.errorbar(values, places, xerr=lengths, label="trained, 95 % interval", **POINT)
    if any(len(row.seeds) > 1 for row in rows):
        for place, row in enumerate(rows):
            heights = place + SEEDS + STRIP * np.linspace(-1, 1, 3)[np.arange(len(row.seeds)) % 3]
            label = "each seed" if place == 0 else None
            ours.plot(100 * np.array(row.by_seed), heights, ".", color=OURS, ms=3, mew=0, alpha=0.5, label=label)
    random = [100 * row.random.value for row in rows]
    ours.plot(random, places, "|", color=QUIET, ms=8, mew=1.4, label="random weights")
    ours.axvline(pixels, color=PIXELS, lw=1, ls=":", label="raw pixels")
    _frame(ours, "Ours", "linear probe (%)", {place: f"{value:.1f}" for place, value in enumerate(values)}, len(rows))
    theirs = [row.paper.probe for row in rows]
    known = _theirs(paper, PAPER, "linear probe (%)", theirs)
    percent_axes([ours, paper] if known else [ours], "x")
    for place, step in enumerate(steps):
        if step.ours is not None:
            _draw_step(ours, place, values[place : place + 2], is_clear=step.is_clear)
            _tell_step(between, place, quantity_text(step.ours, 1), "left", is_clear=step.is_clear)
        if step.paper is not None:
            _draw_step(paper, place, theirs[place : place + 2], is_clear=step.is_clear)
            _tell_step(between, place, f"{step.paper:+.1f}", "right", is_clear=step.is_clear)


def _draw_step(axes: Axes, place: int, values: Sequence[float | None], *, is_clear: bool) -> None:
    """An arrow from a row to the next one."""
    arrow: Any = {"arrowstyle": "-|>" if is_clear else "-", "shrinkA": 4, "shrinkB": 4, "mutation_scale": 8}
    start: Any = (values[0], place)
    end: Any = (values[1], place + 1)
    axes.annotate("", end, start, arrowprops=arrow | _arrow(is_clear), zorder=2)


def _tell_step(axes: Axes, place: int, text: str, side: str, *, is_clear: bool) -> None:
    """A step in points, between the names of its rows and next to the panel that it is of."""
    style: dict[str, Any] = {"fontweight": "bold", "color": "0.1"} if is_clear else {"color": "0.45"}
    x = 0.0 if side == "left" else 1.0
    axes.text(x, place + STEP, typographic(text), ha=side, va="center", fontsize=6.5, **style)


def _arrow(is_clear: bool) -> dict[str, Any]:
    """How the line of a step looks."""
    return {"color": "0.15", "lw": 1.3} if is_clear else {"color": "0.75", "lw": 0.8}


def _distance(panels: Any, rows: list[RowResult]) -> None:
    """The distance of samples from true images, ours in the first panel, the paper's FID in the last."""
    ours, _, paper = panels
    distances = [row.distance for row in rows if row.distance is not None]
    values, errors = [one.infinite for one in distances], [one.error for one in distances]
    ours.errorbar(values, range(len(values)), xerr=errors, **POINT)
    labels = {place: f"{value:#.3g}".rstrip(".") for place, value in enumerate(values)}
    _frame(ours, "", distances[0].name.replace(" (", "\n("), labels, len(rows))
    _theirs(paper, "", "FID-50K", [row.paper.fid for row in rows])


def _theirs(axes: Axes, title: str, unit: str, values: Sequence[float | None]) -> bool:
    """The paper's panel, with its values at the right; returns whether there are any, and hides the panel if not."""
    known = {place: value for place, value in enumerate(values) if value is not None}
    axes.set_visible(bool(known))
    if known:
        axes.plot(list(known.values()), list(known), "o", color=THEIRS, ms=4.5, zorder=4)
        axes.yaxis.tick_right()
        _frame(axes, title, unit, {place: f"{value:.1f}" for place, value in known.items()}, len(values))
    return bool(known)


def _frame(axes: Axes, title: str, unit: str, values: dict[int, str], count: int) -> None:
    """Rows from the top, with the values as the labels of their axis."""
    axes.set_ylim(count - 0.5, -0.5)
    axes.set_yticks(list(values), list(values.values()))
    axes.tick_params(axis="y", length=0, labelsize=8)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.12)
    axes.locator_params(axis="x", nbins=4)
    axes.set_title(title)
    axes.set_xlabel(unit)
