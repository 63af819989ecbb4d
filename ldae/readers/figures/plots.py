"""All figures but the trajectory: the latent dimension, noise schedules, training curves, and images; no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from ldae.readers.figures.style import MARKERS, OURS, PALETTE, PAPER, PIXELS, WIDTH, Drawn, Inputs, bars, percent_axes
from ldae.runtime.arrays import open_array, read_arrays
from ldae.runtime.files import history_file, read_json, verified
from ldae.study.definitions import FigureDefinition, FilterDefinition
from ldae.study.schedules import SCHEDULES

FILTERS = 16  # of each tokenizer at most
COLUMNS = 12  # of a sheet of images


def dimension(definition: FigureDefinition, inputs: Inputs) -> Drawn:
    """Accuracy against the latent dimension: ours with random weights dashed, and the paper's; filters beneath."""
    rows, filters, series = inputs.measured.rows, definition.filters, definition.series
    figure = Figure(figsize=(WIDTH, 2.9 + 1.7 * bool(filters)), layout="constrained")
    top: Any = figure
    if filters:
        subfigures: Any = figure.subfigures(2, 1, height_ratios=[2.9, 1.7])
        top, bottom = subfigures
        _filters(bottom, filters, inputs.tokenizers)
    in_paper = any(rows[row].paper.probe is not None for sweep in series for row, _ in sweep.rows)
    panels = top.subplots(1, 1 + in_paper, sharex=True, squeeze=False)[0]
    ours = panels[0]
    records = []
    for place, (sweep, color, marker) in enumerate(zip(series, PALETTE, MARKERS, strict=False)):
        ordered = sorted(((dim, rows[row]) for row, dim in sweep.rows), key=lambda point: point[0])
        # side by side, or the intervals of several series would cover each other
        dims = [dim * 2 ** (0.09 * (place - (len(series) - 1) / 2)) for dim, _ in ordered]
        line = {"color": color, "marker": marker, "ms": 3.5, "lw": 1.2, "label": sweep.label}
        ours.errorbar(dims, *bars([row for _, row in ordered]), **line)
        ours.plot(dims, [100 * row.random.value for _, row in ordered], "--", color=color, lw=0.9, alpha=0.7)
        if known := [(dim, row.paper.probe) for dim, row in ordered if row.paper.probe is not None]:
            panels[1].plot(*zip(*known, strict=True), **line)
        for dim, row in ordered:
            value, low, high = row.accuracy[:3]
            record = {"series": sweep.label, "dim": dim, "accuracy": value, "low": low, "high": high}
            records.append(record | {"random": row.random.value, "paper": row.paper.probe})
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


def _filters(figure: Any, filters: Sequence[FilterDefinition], tokenizers: Sequence[Path]) -> None:
    """The directions in pixel space that each latent dimension adds to a patch, those of most variance first."""
    from safetensors.numpy import load_file

    files = {path.parent.parent.name: path for path in tokenizers}
    for axes, shown in zip(np.atleast_1d(figure.subplots(1, len(filters))), filters, strict=True):
        path = files[shown.tokenizer]
        fitted = load_file(verified(path, read_json(path.with_suffix(".json"))["sha256"]))
        directions = fitted["decode"].T if "decode" in fitted else fitted["basis"]  # (d, D)
        strength = fitted["variance"] * np.square(directions).sum(1)
        order = np.argsort(-strength[: shown.dim], kind="stable")[:FILTERS]
        tiles = directions[order].reshape(-1, 3, 16, 16)
        largest = np.maximum(np.abs(tiles).max((1, 2, 3), keepdims=True), 1e-12)
        grey = np.rint(127.5 + 127.5 * tiles / largest).astype(np.uint8)  # zero is in the middle of the range
        axes.imshow(_sheet(grey, columns=4, gap=2), interpolation="none")
        axes.set_title(f"{shown.label}, {len(order)} of {shown.dim}", fontsize=7, fontweight="normal")
        axes.axis("off")


def schedules(definition: FigureDefinition, inputs: Inputs) -> Drawn:
    """The signal's share of the power at each time step (the paper's Fig. 3)."""
    figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
    axes = figure.subplots()
    frames = []
    for place, (label, name) in enumerate(definition.schedules.items()):
        power = np.square(SCHEDULES[name](1.0).signal)
        dashes = "-" if place < len(PALETTE) else "--"
        axes.plot(np.arange(len(power)), power, dashes, color=PALETTE[place % len(PALETTE)], lw=1.6, label=label)
        frames.append(pd.DataFrame({"schedule": label, "time": np.arange(len(power)), "signal_power": power}))
    axes.set_xlabel("time step t")
    axes.set_ylabel("signal's share of the power, γ²")
    axes.legend()
    return figure, pd.concat(frames)


def curves(definition: FigureDefinition, inputs: Inputs) -> Drawn:
    """The loss and the gradient norm against the images seen: a pair of panels for each row of the first seed."""
    labels = {row.run: row.label for row in definition.rows}
    count = len(inputs.histories)
    figure = Figure(figsize=(WIDTH, 0.6 + 0.72 * count), layout="constrained")
    grid = figure.subplots(count, 2, squeeze=False, sharex="col")
    frames = []
    for panels, path in zip(grid, inputs.histories, strict=True):
        row = path.parent.parent.name
        frame = pd.read_csv(history_file(path.parent))
        frames.append(frame.assign(row=row, label=labels[row]))
        panels[0].set_title(labels[row], fontsize=7.5, fontweight="normal", pad=2)
        for axes, name, color in zip(panels, ("loss", "gradient_norm"), (OURS, PIXELS), strict=True):
            values = frame[name]
            axes.plot(frame["images"], values, color=color, lw=1.2)
            if (values > 0).all():
                axes.set_yscale("log")
            axes.yaxis.set_minor_locator(NullLocator())
            ends = sorted({values.min(), values.max()})
            axes.set_yticks(ends, [f"{end:.2g}" for end in ends])
            axes.margins(y=0.2)
    for axes in grid[:-1].flat:
        axes.tick_params(axis="x", length=0)
    for axes in grid[-1]:
        axes.set_xlabel("images seen")
    handles = [Line2D([], [], color=color, lw=1.2) for color in (OURS, PIXELS)]
    figure.legend(handles, ["loss", "gradient norm"], loc="outside upper left", ncols=2)
    return figure, pd.concat(frames)


def noise(definition: FigureDefinition, inputs: Inputs) -> Drawn:
    """Clean images, and the same images with noise on each row's latents (the paper's Fig. 7)."""
    labels = [row.label for row in definition.rows]
    arrays = [read_arrays(path, ("clean", "noisy")) for path in inputs.pictures]
    noisy = [(label, pictures["noisy"]) for label, pictures in zip(labels, arrays, strict=True)]
    return _panels([("clean", arrays[0]["clean"]), *noisy])


def denoising(definition: FigureDefinition, inputs: Inputs) -> Drawn:
    """Clean, noisy and denoised validation images (the paper's Fig. 8)."""
    pictures = read_arrays(inputs.pictures[0], ("clean", "noisy", "denoised"))
    names = {"clean": "clean", "noisy": "noisy latents", "denoised": "denoised"}
    return _panels([(label, pictures[name]) for name, label in names.items()])


def samples(definition: FigureDefinition, inputs: Inputs) -> Drawn:
    """Some samples of each row."""
    labels = {row.run: row.label for row in definition.rows}
    panels = []
    for path in inputs.samples:
        drawn = open_array(verified(path, read_json(path.with_name("samples.json"))["sha256"]))
        panels.append((labels[path.parent.parent.name], drawn))
    return _panels(panels)


def _sheet(images: NDArray[np.uint8], *, columns: int, gap: int) -> NDArray[np.uint8]:
    """Images (N, 3, H, W) in rows on white (h, w, 3)."""
    n, _, h, w = images.shape
    rows = -(-n // columns)
    made = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap, 3), 255, np.uint8)
    for number, image in enumerate(images):
        y, x = (number // columns) * (h + gap), (number % columns) * (w + gap)
        made[y : y + h, x : x + w] = image.transpose(1, 2, 0)
    return made


def _panels(panels: list[tuple[str, NDArray[np.uint8]]]) -> Drawn:
    """Labelled sheets of images (N, 3, S, S), one above the other; the data are their mean colours."""
    sheets = [(label, _sheet(images, columns=min(COLUMNS, len(images)), gap=3)) for label, images in panels]
    height, width = (sum(one.shape[0] for _, one in sheets), max(one.shape[1] for _, one in sheets))
    figure = Figure(figsize=(WIDTH, WIDTH * height / width + 0.22 * len(sheets)), layout="constrained")
    grid = figure.subplots(len(sheets), 1, squeeze=False, height_ratios=[one.shape[0] for _, one in sheets])
    for axes, (label, one) in zip(grid[:, 0], sheets, strict=True):
        axes.imshow(one, interpolation="none")  # "none" puts the pixels themselves into an SVG
        axes.set_title(label, fontsize=7.5, fontweight="normal", pad=3)
        axes.axis("off")
    records = [
        {"panel": label, "image": number} | dict(zip("rgb", image.mean((1, 2)), strict=True))
        for label, images in panels
        for number, image in enumerate(images)
    ]
    return figure, pd.DataFrame(records)
