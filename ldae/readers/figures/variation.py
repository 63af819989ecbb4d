"""Claims under a variation: a small panel for each, its quantity against the values of the key; no torch."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ldae.readers.figures.style import PALETTE, QUIET, WIDTH, Drawn, Inputs
from ldae.readers.variations import VariedFinding, judge_varied, varied_records
from ldae.readers.verdicts import FAILS, HOLDS, NOT_TESTED, UNDECIDED
from ldae.study.definitions import ClaimDefinition, FigureDefinition

COLUMNS = 2
LETTERS = 36  # of a line of a claim
LINE = 0.13  # inches, of such a line
PANEL = 1.05  # inches, of a panel without its title
MARKS = {  # marker, colour and filling of each verdict
    HOLDS: ("o", PALETTE[2], "full"),
    FAILS: ("s", PALETTE[4], "full"),
    UNDECIDED: ("D", PALETTE[7], "none"),
    NOT_TESTED: ("x", PALETTE[7], "full"),
}
KEYS = {"recipe.length": "training steps, in multiples of the recipe's"}  # the names of axes


def variation(definition: FigureDefinition, inputs: Inputs) -> Drawn:
    """Each claim's quantity with its interval against the value; the margin is dashed, where it holds is shaded."""
    varied = definition.variation
    assert varied is not None  # as the study's file says of this kind of figure
    judged = judge_varied(varied, inputs.measured)
    titles = [textwrap.fill(claim.text, LETTERS) for claim in judged.claims]
    rows = -(-len(titles) // COLUMNS)
    lines = max(title.count("\n") + 1 for title in titles)
    figure = Figure(figsize=(WIDTH, rows * (PANEL + LINE * lines) + 0.75), layout="constrained")
    panels = list(figure.subplots(rows, COLUMNS, squeeze=False, sharex=True).flat)
    drawn: set[str] = set()
    for axes, definition_of, claim, title in zip(panels, varied.claims, judged.claims, titles, strict=False):
        points = [one for one in (claim.base, *claim.varied) if one.value is not None]
        _panel(axes, definition_of, sorted(points, key=lambda one: one.value))
        axes.set_title(title, fontsize=7, fontweight="normal", linespacing=1.05)
        drawn.update(one.verdict for one in points)
    for place in range(len(titles), len(panels)):
        panels[place].set_visible(False)
        panels[place - COLUMNS].tick_params(labelbottom=True)
    figure.supxlabel(KEYS.get(str(varied.key), str(varied.key)), fontsize=8)
    figure.supylabel(
        "points; a rank claim: correlation" if any(c.rank for c in varied.claims) else "points", fontsize=8
    )
    handles = [Line2D([], [], ls="", **_style(verdict)) for verdict in MARKS if verdict in drawn]
    labels = [verdict for verdict in MARKS if verdict in drawn]
    handles.append(Line2D([], [], ls="--", lw=1, color=QUIET))
    figure.legend(handles, [*labels, "margin"], loc="outside upper center", ncols=3, columnspacing=1)
    return figure, pd.DataFrame(varied_records(judged))


def _panel(axes: Axes, claim: ClaimDefinition, points: Sequence[VariedFinding]) -> None:
    """One claim, its points in the order of their values."""
    measured = [(one, one.finding.quantity) for one in points]
    known = [(one.value, quantity) for one, quantity in measured if quantity is not None]
    axes.plot([value for value, _ in known], [quantity.value for _, quantity in known], color=QUIET, lw=0.8, zorder=1)
    for one, quantity in measured:
        if quantity is not None:
            style = _style(one.verdict)
            axes.plot([one.value] * 2, [quantity.low, quantity.high], color=style["color"], lw=1.3, zorder=2)
            axes.plot(one.value, quantity.value, zorder=3, **style)
    values = [one.value for one in points]
    if min(values) > 0:
        axes.set_xscale("log", base=2)
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.minorticks_off()
    axes.margins(x=0.12, y=0.12)
    axes.locator_params(axis="y", nbins=4)
    low, high = axes.get_ylim()
    margins = [-claim.within, claim.within] if claim.within is not None else [_margin(claim)]
    low, high = min(low, *margins), max(high, *margins)
    space = 0.06 * (high - low)
    ends = (low - space, high + space)
    bottom = margins[0] if claim.below is None else ends[0]
    top = margins[-1] if claim.within is not None or claim.below is not None else ends[1]
    axes.axhspan(bottom, top, color=PALETTE[2], alpha=0.09, lw=0, zorder=0)
    for margin in margins:
        axes.axhline(margin, color=QUIET, lw=1, ls="--", zorder=1)
    axes.set_ylim(ends)
    axes.grid(axis="x", visible=False)


def _margin(claim: ClaimDefinition) -> float:
    """What the quantity must be above or below; the lead of a peak, above 0."""
    return next((margin for margin in (claim.above, claim.below) if margin is not None), 0.0)


def _style(verdict: str) -> dict[str, Any]:
    marker, color, filling = MARKS[verdict]
    more = {"markeredgecolor": color, "markeredgewidth": 1.3}
    return {"marker": marker, "color": color, "fillstyle": filling, "ms": 5, **more}
