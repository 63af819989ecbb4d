"""The style of all figures; no torch.

Only the Agg and SVG backends draw, and each figure starts from Matplotlib's own defaults, so that a notebook's
`MPLBACKEND`, a `matplotlibrc` or a style of the user's changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ldae.readers.results import Results, RowResult

# On its import, Matplotlib reads the user's settings, those in the working folder first, and stops at a file that it
# cannot read. So its import runs in the folder of its own defaults.
BACKEND = os.environ.pop("MPLBACKEND", None)
with chdir(str(distribution("matplotlib").locate_file("matplotlib/mpl-data"))):
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
if BACKEND is not None:
    os.environ["MPLBACKEND"] = BACKEND

# Distinguishable for colour-blind readers, on white and on black; `report/style.css` has the same hues.
PALETTE = ("#0b6bb0", "#b35900", "#00775a", "#a33b8f", "#b02a30", "#5b4bb5", "#6b5b00", "#49545f")
OURS, PIXELS, THEIRS, QUIET = PALETTE[0], PALETTE[1], PALETTE[2], "#6b7480"
MARKERS = ("o", "s", "^", "D")
PAPER = "The paper, ImageNet"
PERCENT = (-2, 102)  # with room for a dot at the end
WIDTH = 4.0  # inches, so that letters have about their own size on the screen of a telephone
STYLE: dict[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "axes.edgecolor": "0.35",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "text.parse_math": False,  # a dollar in a label is a dollar
    "svg.hashsalt": "ldae",  # or two equal figures would differ in their bytes
    "svg.fonttype": "none",
}


@dataclass(frozen=True)
class Inputs:
    """The files of a figure; each kind reads what it needs."""

    results: Results | None = None
    histories: Sequence[Path] = ()  # `history.csv` of rows
    pictures: Sequence[Path] = ()  # `pictures.npz` of rows
    samples: Sequence[Path] = ()  # `examples.npy` of rows
    tokenizers: Sequence[Path] = ()  # `tokenizer.safetensors`

    @property
    def measured(self) -> Results:
        """The results of probes; a `ValueError` where there are none."""
        if self.results is None:
            raise ValueError("this kind of figure is drawn from probes; none were given")
        return self.results


Drawn = tuple[Figure, pd.DataFrame]


@contextmanager
def own_style() -> Iterator[None]:
    """Draws with Matplotlib's defaults and this module's style alone."""
    own: dict[Any, Any] = {key: value for key, value in matplotlib.rcParamsDefault.items() if key != "backend"}
    with matplotlib.rc_context(own | STYLE):
        yield


def bars(rows: Sequence[RowResult]) -> tuple[list[float], list[list[float]]]:
    """The accuracies of rows in percent, and the lengths of their intervals below and above."""
    accuracies = [row.accuracy[:3] for row in rows]
    below = [100 * (value - low) for value, low, _ in accuracies]
    above = [100 * (high - value) for value, _, high in accuracies]
    return [100 * value for value, _, _ in accuracies], [below, above]


def percent_axes(axes: Sequence[Axes], along: str) -> None:
    """Limits axes of percentages, `along` "x" or "y", to the possible range, with the same scale on all of them.

    The interval of two seeds can reach far beyond 0 and 100 %, and would leave no room for anything else.
    """
    limits = [np.clip(getattr(one, f"get_{along}lim")(), *PERCENT) for one in axes]
    span = max(high - low for low, high in limits)
    for one, ends in zip(axes, limits, strict=True):
        low = np.clip(ends.mean() - span / 2, PERCENT[0], PERCENT[1] - span)
        getattr(one, f"set_{along}lim")(low, low + span)
