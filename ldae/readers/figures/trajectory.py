"""The trajectory: each row a change of the one before, ours beside the paper's; no torch."""

from __future__ import annotations

import textwrap
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ldae.readers.figures.style import OURS, PAPER, PIXELS, QUIET, THEIRS, WIDTH, Drawn, Inputs, percent_axes
from ldae.readers.results import RowResult

LETTERS = 24  # of a line of a row's name
LINE = 0.135  # inches, of such a line
AROUND = 0.62  # inches above and below a panel, for its title and its axis


def trajectory(definition: dict[str, Any], inputs: Inputs) -> Drawn:
    """The rows from top to bottom, their names between our panel and the paper's; below, the distance of samples.

    A value stands at the outer edge of its panel, where no line can cross it, and a point of accuracy is as long in
    both panels.
    """
    results = inputs.measured
    rows = list(results.rows.values())
    judged = [row for row in rows if row.distance is not None]
    names = {row.label: textwrap.wrap(row.label, LETTERS, break_long_words=True) or [""] for row in rows}
    lines = max(2, *(len(name) for name in names.values()))
    pitch = LINE * lines + 0.05
    heights = [pitch * len(part) for part in (rows, judged) if part]
    figure = Figure(figsize=(WIDTH, sum(heights) + AROUND * len(heights) + 0.35), layout="constrained")
    grid = figure.subplots(len(heights), 3, squeeze=False, width_ratios=[1, 1.1, 1], height_ratios=heights)
    _accuracy(grid[0], rows, 100 * results.pixels["linear"].value)
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=2, columnspacing=1)
    if judged:
        _distance(grid[1], judged)
    for panels, shown in zip(grid, (rows, judged), strict=False):
        _name(panels[1], ["\n".join(names[row.label]) for row in shown])
    data = [
        {
            "row": key,
            "label": row.label,
            "accuracy": row.accuracy.value,
            "low": row.accuracy.low,
            "high": row.accuracy.high,
            "random": row.random.value,
            "paper": row.paper.get("probe"),
            "distance": None if row.distance is None else row.distance.infinite,
            "distance_error": None if row.distance is None else row.distance.error,
            "paper_fid": row.paper.get("fid"),
        }
        for key, row in results.rows.items()
    ]
    return figure, pd.DataFrame(data)


def _accuracy(panels: Any, rows: list[RowResult], pixels: float) -> None:
    """Ours with intervals, seeds and random weights in the first panel, the paper's in the last."""
    ours, _, paper = panels
    places = list(range(len(rows)))
    values = [100 * row.accuracy.value for row in rows]
    below = [100 * (row.accuracy.value - row.accuracy.low) for row in rows]
    above = [100 * (row.accuracy.high - row.accuracy.value) for row in rows]
    ours.errorbar(
        values, places, xerr=[below, above], fmt="o", color=OURS, ms=4.5, lw=1.4, label="trained, 95 % interval"
    )
    if len(rows[0].by_seed) > 1:
        seeds = [(100 * value, place + 0.28) for place, row in enumerate(rows) for value in row.by_seed]
        ours.plot(*zip(*seeds, strict=True), ".", color=OURS, ms=2.2, label="each seed")
    random = [100 * row.random.value for row in rows]
    ours.plot(random, places, "|", color=QUIET, ms=8, mew=1.4, label="random weights")
    ours.axvline(pixels, color=PIXELS, lw=1, ls=":", label="raw pixels")
    known = [(row.paper["probe"], place) for place, row in enumerate(rows) if "probe" in row.paper]
    _frame(ours, "Ours", "linear probe (%)", {place: f"{value:.1f}" for place, value in enumerate(values)}, len(rows))
    _theirs(paper, known, "linear probe (%)", len(rows))
    percent_axes([ours, paper] if known else [ours], "x")


def _distance(panels: Any, rows: list[RowResult]) -> None:
    """The distance of samples from true images, ours in the first panel, the paper's FID in the last."""
    ours, _, paper = panels
    found = [(place, row.distance) for place, row in enumerate(rows) if row.distance is not None]
    ours.errorbar(
        [distance.infinite for _, distance in found],
        [place for place, _ in found],
        xerr=[distance.error for _, distance in found],
        fmt="o",
        color=OURS,
        ms=4.5,
        lw=1.4,
    )
    values = {place: f"{distance.infinite:#.3g}".rstrip(".") for place, distance in found}
    _frame(ours, "", found[0][1].name.replace(" (", "\n("), values, len(rows))
    known = [(row.paper["fid"], place) for place, row in enumerate(rows) if "fid" in row.paper]
    _theirs(paper, known, "FID-50K", len(rows), title="")


def _theirs(axes: Axes, known: list[tuple[float, int]], unit: str, count: int, *, title: str = PAPER) -> None:
    """The paper's panel, with its values at the right; empty where it has none."""
    if not known:
        axes.set_visible(False)
        return
    axes.plot(*zip(*known, strict=True), "o", color=THEIRS, ms=4.5)
    axes.yaxis.tick_right()
    _frame(axes, title, unit, {place: f"{value:.1f}" for value, place in known}, count)


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


def _name(axes: Axes, names: list[str]) -> None:
    """The rows' names, between the panels."""
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.axis("off")
    for place, name in enumerate(names):
        axes.text(0.5, place, name, ha="center", va="center", fontsize=8, linespacing=1.05)
