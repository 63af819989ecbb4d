"""Figures that are plots: accuracy against the latent dimension, noise schedules, training curves; no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from ldae.readers.figures.pictures import sheet
from ldae.readers.figures.style import MARKERS, OURS, PALETTE, PAPER, PIXELS, WIDTH, Drawn, Inputs, percent_axes
from ldae.runtime.files import history_file, read_json, verified

FILTERS = 16  # shown of each tokenizer


def dimension(definition: dict[str, Any], inputs: Inputs) -> Drawn:
    """Accuracy against the latent dimension: ours with random weights dashed, and the paper's; filters beneath."""
    results, filters = inputs.measured, definition.get("filters", [])
    figure = Figure(figsize=(WIDTH, 2.9 + 1.7 * bool(filters)), layout="constrained")
    top: Any = figure
    if filters:
        subfigures: Any = figure.subfigures(2, 1, height_ratios=[2.9, 1.7])
        top, bottom = subfigures
        _filters(bottom, filters, inputs.tokenizers)
    in_paper = any("probe" in results.rows[row].paper for series in definition["series"] for row, _ in series["rows"])
    panels = top.subplots(1, 1 + in_paper, sharex=True, squeeze=False)[0]
    ours = panels[0]
    records = []
    for place, (series, color, marker) in enumerate(zip(definition["series"], PALETTE, MARKERS, strict=False)):
        label = series["label"]
        ordered = sorted(((dim, results.rows[row]) for row, dim in series["rows"]), key=lambda point: point[0])
        # side by side, or the intervals of several series would cover each other
        dims = [dim * 2 ** (0.09 * (place - (len(definition["series"]) - 1) / 2)) for dim, _ in ordered]
        accuracy = [100 * row.accuracy.value for _, row in ordered]
        below = [100 * (row.accuracy.value - row.accuracy.low) for _, row in ordered]
        above = [100 * (row.accuracy.high - row.accuracy.value) for _, row in ordered]
        ours.errorbar(dims, accuracy, [below, above], color=color, marker=marker, ms=3.5, lw=1.2, label=label)
        ours.plot(dims, [100 * row.random.value for _, row in ordered], "--", color=color, lw=0.9, alpha=0.7)
        known = [(dim, row.paper["probe"]) for dim, row in ordered if "probe" in row.paper]
        if known:
            panels[1].plot(*zip(*known, strict=True), color=color, marker=marker, ms=3.5, lw=1.2, label=label)
        records += [
            {
                "series": label,
                "dim": dim,
                "accuracy": row.accuracy.value,
                "low": row.accuracy.low,
                "high": row.accuracy.high,
                "random": row.random.value,
                "paper": row.paper.get("probe"),
            }
            for dim, row in ordered
        ]
    ours.plot([], [], "--", color="0.4", lw=1, label="random weights")
    every = sorted({record["dim"] for record in records})
    for axes, title in zip(panels, ("Ours", PAPER), strict=False):
        axes.set_xscale("log", base=2)
        many = {"rotation": 90, "fontsize": 6.5} if len(every) > 6 else {}
        axes.set_xticks(every, [str(dim) for dim in every], **many)
        axes.minorticks_off()
        axes.grid(axis="x", visible=False)
        axes.set_xlabel("latent dimension per token")
        axes.set_title(title)
    percent_axes(panels, "y")
    ours.set_ylabel("linear probe accuracy (%)")
    top.legend(*ours.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure, pd.DataFrame(records)


def _filters(figure: Any, filters: list[dict[str, Any]], tokenizers: Sequence[Path]) -> None:
    """The directions in pixel space that each latent dimension adds to a patch, those of most variance first."""
    from safetensors.numpy import load_file

    files = {path.parent.name: path for path in tokenizers}
    for axes, shown in zip(np.atleast_1d(figure.subplots(1, len(filters))), filters, strict=True):
        path = files[shown["tokenizer"]]
        fitted = load_file(verified(path, read_json(path.with_suffix(".json"))))
        directions = fitted["decode"].T if "decode" in fitted else fitted["basis"]  # (d, D)
        strength = fitted["variance"] * np.square(directions).sum(1)
        order = np.argsort(-strength[: shown["dim"]], kind="stable")[:FILTERS]
        tiles = [_contrast(directions[i].reshape(3, 16, 16)) for i in order]
        axes.imshow(sheet(np.stack(tiles), columns=4, gap=2), interpolation="none")
        axes.set_title(f"{shown['label']}, {len(order)} of {shown['dim']}", fontsize=7, fontweight="normal")
        axes.axis("off")


def _contrast(tile: NDArray[np.floating]) -> NDArray[np.uint8]:
    """A direction (3, H, W) as an image, zero in the middle of the range."""
    return np.rint(127.5 + 127.5 * tile / max(np.abs(tile).max(), 1e-12)).astype(np.uint8)


def schedules(definition: dict[str, Any], inputs: Inputs) -> Drawn:
    """The signal's share of the power at each time step (the paper's Fig. 3)."""
    figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
    axes = figure.subplots()
    records = []
    for place, (label, power) in enumerate(inputs.schedules.items()):
        dashes = "-" if place < len(PALETTE) else "--"
        axes.plot(np.arange(len(power)), power, dashes, color=PALETTE[place % len(PALETTE)], lw=1.6, label=label)
        records += [{"schedule": label, "time": time, "signal_power": value} for time, value in enumerate(power)]
    axes.set_xlabel("time step t")
    axes.set_ylabel("signal's share of the power, γ²")
    axes.legend()
    return figure, pd.DataFrame(records)


def curves(definition: dict[str, Any], inputs: Inputs) -> Drawn:
    """The loss and the gradient's norm against the images seen: a pair of panels for each row of the first seed."""
    labels = {row["run"]: row["label"] for row in definition["rows"]}
    count = len(inputs.histories)
    figure = Figure(figsize=(WIDTH, 0.6 + 0.72 * count), layout="constrained")
    grid = figure.subplots(count, 2, squeeze=False, sharex="col")
    frames = []
    for (loss, norm), path in zip(grid, inputs.histories, strict=True):
        row = path.parent.parent.name
        frame = pd.read_csv(history_file(path.parent))
        frames.append(frame.assign(row=row, label=labels[row]))
        loss.plot(frame["images"], frame["loss"], color=OURS, lw=1.2)
        norm.plot(frame["images"], frame["gradient_norm"], color=PIXELS, lw=1.2)
        loss.set_title(labels[row], fontsize=7.5, fontweight="normal", pad=2)
        for axes, values in ((loss, frame["loss"]), (norm, frame["gradient_norm"])):
            _label_ends(axes, values)
    for axes in grid[:-1].flat:
        axes.tick_params(axis="x", length=0)
    for axes in grid[-1]:
        axes.set_xlabel("images seen")
    handles = [Line2D([], [], color=color, lw=1.2) for color in (OURS, PIXELS)]
    figure.legend(handles, ["loss", "norm of the gradient"], loc="outside upper left", ncols=2)
    return figure, pd.concat(frames)


def _label_ends(axes: Axes, values: pd.Series[float]) -> None:
    """A vertical axis, logarithmic where it can be, with its curve's smallest and largest value as its only labels."""
    if (values > 0).all():
        axes.set_yscale("log")
    axes.yaxis.set_minor_locator(NullLocator())
    ends = sorted({values.min(), values.max()})
    axes.set_yticks(ends, [f"{end:.2g}" for end in ends])
    axes.margins(y=0.2)
