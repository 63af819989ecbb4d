"""Figures as PNG and SVG, each with the numbers behind it as CSV, from results alone; no torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import ldae.readers.figures.style  # noqa: F401  before anything else imports Matplotlib
from ldae.readers.figures.plots import curves, denoising, dimension, noise, samples, schedules
from ldae.readers.figures.style import Drawn, Inputs, own_style
from ldae.readers.figures.trajectory import trajectory
from ldae.readers.figures.variation import variation
from ldae.runtime.files import atomic_write, write_text
from ldae.study.definitions import FigureDefinition

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FIGURES", "Inputs", "write_figure"]

DPI = 200
FIGURES: dict[str, Callable[[FigureDefinition, Inputs], Drawn]] = {
    f.__name__: f for f in (dimension, trajectory, schedules, curves, noise, denoising, samples, variation)
}


def write_figure(definition: FigureDefinition, inputs: Inputs, *, out: Path) -> None:
    """Writes `<out>.png`, `<out>.svg` and `<out>.csv` of a figure of any kind."""
    with own_style():
        figure, data = FIGURES[definition.kind](definition, inputs)
        _settle(figure)
        for ending, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
            with atomic_write(out.with_suffix(ending)) as partial:
                figure.savefig(partial, format=ending[1:], dpi=DPI, bbox_inches="tight", metadata=metadata)
    write_text(out.with_suffix(".csv"), data.to_csv(index=False, float_format="%.6f"))


def _settle(figure: Figure) -> None:
    """Lays a figure out once and rounds where its axes lie.

    The solver of the layout takes its constraints in an order that differs between processes, so that positions differ
    in their last digits; an SVG's names of clipping paths are digests of all digits.
    """
    figure.set_dpi(DPI)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        x, y, width, height = (round(part, 6) for part in axes.get_position(original=True).bounds)
        axes.set_position((x, y, width, height))
