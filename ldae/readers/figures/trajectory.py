"""The trajectory: each row a change of the one before, ours beside the paper's; no torch."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ldae.readers.figures.style import OURS, PAPER, PIXELS, QUIET, THEIRS, WIDTH, Drawn, Inputs, bars, percent_axes
from ldae.readers.results import RowResult
from ldae.study.definitions import FigureDefinition

LETTERS = 24  # of a line of a row's name
LINE = 0.135  # inches, of such a line
AROUND = 0.62  # inches above and below a panel, for its title and its axis
POINT = {"fmt": "o", "color": OURS, "ms": 4.5, "lw": 1.4}


def trajectory(definition: FigureDefinition, inputs: Inputs) -> Drawn:
    """The rows from top to bottom, their names between our panel and the paper's; below, the distance of samples.

    Values are labels of the outer axes, where no line crosses them. Both panels of accuracy have the same scale.
    """
    results = inputs.measured
    rows = list(results.rows.values())
    judged = [row for row in rows if row.distance is not None]
    names = {row.name: textwrap.wrap(row.label, LETTERS, break_long_words=True) or [""] for row in rows}
    pitch = LINE * max(2, *(len(lines) for lines in names.values())) + 0.05
    heights = [pitch * len(part) for part in (rows, judged) if part]
    figure = Figure(figsize=(WIDTH, sum(heights) + AROUND * len(heights) + 0.35), layout="constrained")
    grid = figure.subplots(len(heights), 3, squeeze=False, width_ratios=[1, 1.1, 1], height_ratios=heights)
    _accuracy(grid[0], rows, 100 * results.pixels["linear"].value)
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=2, columnspacing=1)
    if judged:
        _distance(grid[1], judged)
    for (_, between, _), shown in zip(grid, (rows, judged), strict=False):
        between.set_ylim(len(shown) - 0.5, -0.5)
        between.set_xlim(0, 1)
        between.axis("off")
        for place, row in enumerate(shown):
            text = "\n".join(names[row.name])
            between.text(0.5, place, text, ha="center", va="center", fontsize=8, linespacing=1.05)
    records = [
        {
            "row": row.name,
            "label": row.label,
            "accuracy": row.accuracy.value,
            "low": row.accuracy.low,
            "high": row.accuracy.high,
            "random": row.random.value,
            "paper": row.paper.probe,
            "distance": row.distance.infinite if row.distance is not None else None,
            "distance_error": row.distance.error if row.distance is not None else None,
            "paper_fid": row.paper.fid,
        }
        for row in rows
    ]
    return figure, pd.DataFrame(records)


def _accuracy(panels: Any, rows: list[RowResult], pixels: float) -> None:
    """Ours with intervals, seeds and random weights in the first panel, the paper's in the last."""
    ours, _, paper = panels
    places = list(range(len(rows)))
    values, lengths = bars(rows)
    ours.errorbar(values, places, xerr=lengths, label="trained, 95 % interval", **POINT)
    if len(rows[0].by_seed) > 1:
        seeds = [(100 * value, place + 0.28) for place, row in enumerate(rows) for value in row.by_seed]
        ours.plot(*zip(*seeds, strict=True), ".", color=OURS, ms=2.2, label="each seed")
    random = [100 * row.random.value for row in rows]
    ours.plot(random, places, "|", color=QUIET, ms=8, mew=1.4, label="random weights")
    ours.axvline(pixels, color=PIXELS, lw=1, ls=":", label="raw pixels")
    _frame(ours, "Ours", "linear probe (%)", {place: f"{value:.1f}" for place, value in enumerate(values)}, len(rows))
    known = _theirs(paper, PAPER, "linear probe (%)", [row.paper.probe for row in rows])
    percent_axes([ours, paper] if known else [ours], "x")


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
        axes.plot(list(known.values()), list(known), "o", color=THEIRS, ms=4.5)
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
