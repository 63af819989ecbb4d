"""Figures as PNG and SVG, each with the numbers behind it as CSV, from results alone; no torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ldae.figures.style  # noqa: F401  before anything else imports Matplotlib
from ldae.figures.pictures import denoising, noise, samples
from ldae.figures.plots import curves, dimension, schedules
from ldae.figures.style import Drawn, Inputs, own_style
from ldae.figures.trajectory import trajectory
from ldae.files import whole, write_text

__all__ = ["FIGURES", "Inputs", "write_figure"]

FIGURES: dict[str, Callable[[dict[str, Any], Inputs], Drawn]] = {
    f.__name__: f for f in (dimension, trajectory, schedules, curves, noise, denoising, samples)
}


def write_figure(definition: dict[str, Any], inputs: Inputs, *, out: Path) -> None:
    """Writes `<out>.png`, `<out>.svg` and `<out>.csv` of a figure of any kind."""
    with own_style():
        figure, data = FIGURES[definition["kind"]](definition, inputs)
        for ending, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
            with whole(out.with_suffix(ending)) as partial:
                figure.savefig(partial, format=ending[1:], dpi=200, bbox_inches="tight", metadata=metadata)
    write_text(out.with_suffix(".csv"), data.to_csv(index=False, float_format="%.6f"))
