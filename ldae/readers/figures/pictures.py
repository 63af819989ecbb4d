"""Figures of images: noise, denoised images and samples, pixel by pixel; no torch."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ldae.readers.figures.style import WIDTH, Drawn, Inputs
from ldae.runtime.arrays import open_array, read_arrays
from ldae.runtime.files import read_json, verified
from ldae.study.definitions import FigureDefinition

COLUMNS = 8  # of a sheet of images


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
    """The first samples of each row."""
    labels = {row.run: row.label for row in definition.rows}
    panels = []
    for path in inputs.samples:
        drawn = open_array(verified(path, read_json(path.with_suffix(".json"))), mapped=True)
        panels.append((labels[path.parent.parent.name], np.array(drawn[: 2 * COLUMNS])))
    return _panels(panels, columns=COLUMNS)


def sheet(images: NDArray[np.uint8], *, columns: int, gap: int) -> NDArray[np.uint8]:
    """Images (N, 3, H, W) in rows on white (h, w, 3)."""
    n, _, h, w = images.shape
    rows = -(-n // columns)
    made = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap, 3), 255, np.uint8)
    for number, image in enumerate(images):
        y, x = (number // columns) * (h + gap), (number % columns) * (w + gap)
        made[y : y + h, x : x + w] = image.transpose(1, 2, 0)
    return made


def _panels(panels: list[tuple[str, NDArray[np.uint8]]], columns: int = 12) -> Drawn:
    """Labelled sheets of images (N, 3, S, S), one above the other; the data are their mean colours."""
    sheets = [(label, sheet(images, columns=min(columns, len(images)), gap=3)) for label, images in panels]
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
