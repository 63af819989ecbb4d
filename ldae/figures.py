"""Figures as PNG and SVG, each with the numbers behind it as CSV, from results alone; no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ldae.arrays import open_array, read_arrays
from ldae.files import history_of, intact, read_json, whole, write_text
from ldae.results import Results

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  the backend comes first
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.patheffects import withStroke  # noqa: E402

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "svg.hashsalt": "ldae",  # or two equal figures would differ in their bytes
    "svg.fonttype": "none",
}
COLORS = ("#0173b2", "#de8f05", "#029e73", "#cc78bc")  # told apart by colour-blind readers too
MARKERS = ("o", "s", "^", "D")
HALO = [withStroke(linewidth=2, foreground="white")]  # numbers stay legible on lines
PAPER = "The paper, ImageNet"
FILTERS = 16  # shown of each tokenizer
COLUMNS = 8  # of a sheet of images


@dataclass(frozen=True)
class Inputs:
    """What a figure is drawn from; each kind reads what it needs."""

    results: Results | None = None
    histories: Sequence[Path] = ()  # `history.csv` of rows
    pictures: Sequence[Path] = ()  # `pictures.npz` of rows
    samples: Sequence[Path] = ()  # `samples.npy` of rows
    tokenizers: Sequence[Path] = ()  # `tokenizer.safetensors`
    schedules: dict[str, NDArray[np.float64]] = field(default_factory=dict)  # signal^2 at each time step, by label


Drawn = tuple[Figure, pd.DataFrame]


def write_figure(definition: dict[str, Any], inputs: Inputs, *, out: Path) -> None:
    """Writes `<out>.png`, `<out>.svg` and `<out>.csv` of a figure of any kind."""
    with plt.rc_context(STYLE):
        figure, data = FIGURES[definition["kind"]](definition, inputs)
        for ending, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
            with whole(out.with_suffix(ending)) as partial:
                figure.savefig(partial, format=ending[1:], dpi=200, bbox_inches="tight", metadata=metadata)
        plt.close(figure)
    write_text(out.with_suffix(".csv"), data.to_csv(index=False, float_format="%.6f"))


def dimension(definition: dict[str, Any], inputs: Inputs) -> Drawn:
    """Accuracy against the latent dimension: ours with random weights dashed, and the paper's; filters beneath."""
    results, filters = _results(inputs), definition.get("filters", [])
    figure = plt.figure(figsize=(7.2, 3.4 + 2.6 * bool(filters)), layout="constrained")
    top: Any = figure
    if filters:
        subfigures: Any = figure.subfigures(2, 1, height_ratios=[3.4, 2.4])
        top, bottom = subfigures
        _filters(bottom, filters, inputs.tokenizers)
    ours, paper = top.subplots(1, 2, sharex=True)
    records = []
    for series, color, marker in zip(definition["series"], COLORS, MARKERS, strict=False):
        label = series["label"]
        ordered = sorted(((dim, results.rows[row]) for row, dim in series["rows"]), key=lambda point: point[0])
        dims = [dim for dim, _ in ordered]
        accuracy = [100 * row.accuracy.value for _, row in ordered]
        below = [100 * (row.accuracy.value - row.accuracy.low) for _, row in ordered]
        above = [100 * (row.accuracy.high - row.accuracy.value) for _, row in ordered]
        ours.errorbar(dims, accuracy, [below, above], color=color, marker=marker, capsize=2, ms=4, lw=1.4, label=label)
        ours.plot(dims, [100 * row.random.value for _, row in ordered], "--", color=color, lw=1, alpha=0.7)
        known = [(dim, row.paper["probe"]) for dim, row in ordered if "probe" in row.paper]
        if known:
            paper.plot(*zip(*known, strict=True), color=color, marker=marker, ms=4, lw=1.4, label=label)
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
    for axes, title in ((ours, "Ours"), (paper, PAPER)):
        axes.set_xscale("log", base=2)
        axes.set_xticks(every, [str(dim) for dim in every], rotation=45 if len(every) > 7 else 0)
        axes.minorticks_off()
        axes.set_xlabel("latent dimension per token")
        axes.set_title(title)
    ours.set_ylabel("linear probe accuracy (%)")
    top.legend(*ours.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    return figure, pd.DataFrame(records)


def _filters(figure: Any, filters: list[dict[str, Any]], tokenizers: Sequence[Path]) -> None:
    """The directions in pixel space that each latent dimension adds to a patch, those of most variance first."""
    from safetensors.numpy import load_file

    files = {path.parent.name: path for path in tokenizers}
    for axes, shown in zip(np.atleast_1d(figure.subplots(1, len(filters))), filters, strict=True):
        path = files[shown["tokenizer"]]
        fitted = load_file(intact(path, read_json(path.with_suffix(".json"))))
        directions = fitted["decode"].T if "decode" in fitted else fitted["basis"]  # (d, D)
        strength = fitted["variance"] * np.square(directions).sum(1)
        order = np.argsort(-strength[: shown["dim"]], kind="stable")[:FILTERS]
        tiles = [_contrast(directions[i].reshape(3, 16, 16)) for i in order]
        axes.imshow(_sheet(np.stack(tiles), columns=4, gap=2), interpolation="nearest")
        axes.set_title(f"{shown['label']}, {len(order)} of {shown['dim']}", fontsize=8, fontweight="normal")
        axes.axis("off")


def _contrast(tile: NDArray[np.floating]) -> NDArray[np.uint8]:
    """A direction (3, H, W) as an image, zero in the middle of the range."""
    return np.rint(127.5 + 127.5 * tile / max(np.abs(tile).max(), 1e-12)).astype(np.uint8)


def _sheet(images: NDArray[np.uint8], *, columns: int, gap: int) -> NDArray[np.uint8]:
    """Images (N, 3, H, W) in rows on white (h, w, 3)."""
    n, _, h, w = images.shape
    rows = -(-n // columns)
    sheet = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap, 3), 255, np.uint8)
    for number, image in enumerate(images):
        y, x = (number // columns) * (h + gap), (number % columns) * (w + gap)
        sheet[y : y + h, x : x + w] = image.transpose(1, 2, 0)
    return sheet


def trajectory(definition: dict[str, Any], inputs: Inputs) -> Drawn:
    """The rows, each a change of the one before: accuracy above, distance below, and the paper's beside."""
    results = _results(inputs)
    rows = list(results.rows.values())
    judged = [row.distance for row in rows]
    name = next((distance.name for distance in judged if distance is not None), None)
    size = (1.4 + 0.68 * len(rows), 3.6 + 2.0 * bool(name))
    figure, grid = plt.subplots(
        1 + bool(name),
        2,
        figsize=size,
        sharex=True,
        squeeze=False,
        layout="constrained",
        height_ratios=[3, 2][: 1 + bool(name)],
    )
    places = list(range(len(rows)))
    ours, paper = grid[0]
    accuracy = [100 * row.accuracy.value for row in rows]
    below = [100 * (row.accuracy.value - row.accuracy.low) for row in rows]
    above = [100 * (row.accuracy.high - row.accuracy.value) for row in rows]
    ours.errorbar(
        places, accuracy, [below, above], color=COLORS[0], marker="o", ms=5, lw=1.4, capsize=2, label="trained"
    )
    random = [100 * row.random.value for row in rows]
    ours.plot(places, random, "--", color="0.5", marker="x", ms=4, lw=1, label="random weights")
    ours.axhline(100 * results.pixels.value, color=COLORS[1], lw=1, ls=":", label="raw pixels")
    known = [(place, row.paper["probe"]) for place, row in zip(places, rows, strict=True) if "probe" in row.paper]
    if known:
        paper.plot(*zip(*known, strict=True), color=COLORS[2], marker="o", ms=5, lw=1.4)
    _write_values(ours, list(zip(places, accuracy, strict=True)))
    _write_values(paper, known)
    ours.set_title("Ours")
    paper.set_title(PAPER)
    ours.set_ylabel("linear probe\naccuracy (%)")
    if name:
        mine, theirs = grid[1]
        found = [(place, d.infinite, d.error) for place, d in zip(places, judged, strict=True) if d is not None]
        spots, values, errors = (list(column) for column in zip(*found, strict=True))
        mine.errorbar(spots, values, errors, color=COLORS[0], marker="o", ms=5, lw=1.4, capsize=2)
        _write_values(mine, list(zip(spots, values, strict=True)), "{:#.3g}")
        mine.set_ylabel(name.replace(" (", "\n("))
        fids = [(place, row.paper["fid"]) for place, row in zip(places, rows, strict=True) if "fid" in row.paper]
        if fids:
            theirs.plot(*zip(*fids, strict=True), color=COLORS[2], marker="o", ms=5, lw=1.4)
        _write_values(theirs, fids)
        theirs.set_ylabel("FID-50K")
    for axes in grid[-1]:
        axes.set_xticks(
            places, [row.label for row in rows], rotation=40, ha="right", rotation_mode="anchor", fontsize=7
        )
        axes.set_xlim(-0.5, len(rows) - 0.5)
    for axes in grid.flat:
        axes.margins(y=0.15)
        axes.grid(axis="x", visible=False)
    figure.legend(*ours.get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8)
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


def _write_values(axes: Axes, points: list[tuple[int, float]], form: str = "{:.1f}") -> None:
    for place, value in points:
        axes.annotate(
            form.format(value),
            (place, value),
            (0, 6),
            textcoords="offset points",
            fontsize=7,
            ha="center",
            path_effects=HALO,
        )


def schedules(definition: dict[str, Any], inputs: Inputs) -> Drawn:
    """The signal's share of the power at each time step (the paper's Fig. 3)."""
    figure, axes = plt.subplots(figsize=(4.2, 2.8), layout="constrained")
    records = []
    for (label, power), color in zip(inputs.schedules.items(), COLORS, strict=False):
        axes.plot(np.arange(len(power)), power, color=color, lw=1.6, label=label)
        records += [{"schedule": label, "time": time, "signal_power": value} for time, value in enumerate(power)]
    axes.set_xlabel("time step t")
    axes.set_ylabel("γ²")
    axes.legend()
    return figure, pd.DataFrame(records)


def curves(definition: dict[str, Any], inputs: Inputs) -> Drawn:
    """The loss and the gradient's norm against the images seen, a line for each row of the first seed."""
    labels = {row["run"]: row["label"] for row in definition["rows"]}
    figure, (loss, norm) = plt.subplots(1, 2, figsize=(8.6, 3.4), layout="constrained")
    frames = []
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(inputs.histories)))
    for path, color in zip(inputs.histories, colors, strict=True):
        row = path.parent.parent.name
        frame = pd.read_csv(history_of(path.parent))
        frames.append(frame.assign(row=row, label=labels[row]))
        loss.plot(frame["images"], frame["loss"] / frame["loss"].iloc[0], color=color, lw=1.2, label=labels[row])
        norm.plot(frame["images"], frame["gradient_norm"], color=color, lw=1.0)
    loss.set_ylabel("loss, of its first value")
    norm.set_ylabel("norm of the gradient")
    norm.set_yscale("log")
    for axes in (loss, norm):
        axes.set_xlabel("images seen")
    figure.legend(*loss.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=7)
    return figure, pd.concat(frames)


def noise(definition: dict[str, Any], inputs: Inputs) -> Drawn:
    """Clean images, and the same with noise on what each row's tokenizer makes of them (the paper's Fig. 7)."""
    labels = [row["label"] for row in definition["rows"]]
    arrays = [read_arrays(path, ("clean", "noisy")) for path in inputs.pictures]
    panels = {"clean": arrays[0]["clean"]} | {
        label: pictures["noisy"] for label, pictures in zip(labels, arrays, strict=True)
    }
    return _panels(panels)


def denoising(definition: dict[str, Any], inputs: Inputs) -> Drawn:
    """Clean, noisy and denoised validation images (the paper's Fig. 8)."""
    pictures = read_arrays(inputs.pictures[0], ("clean", "noisy", "denoised"))
    return _panels({"clean": pictures["clean"], "noisy latents": pictures["noisy"], "denoised": pictures["denoised"]})


def samples(definition: dict[str, Any], inputs: Inputs) -> Drawn:
    """The first samples of each row."""
    labels = {row["run"]: row["label"] for row in definition["rows"]}
    panels = {}
    for path in inputs.samples:
        drawn = open_array(intact(path, read_json(path.with_suffix(".json"))), mapped=True)
        panels[labels[path.parent.parent.name]] = np.array(drawn[: 2 * COLUMNS])
    return _panels(panels, columns=COLUMNS)


def _panels(panels: dict[str, NDArray[np.uint8]], columns: int = 12) -> Drawn:
    """Labelled sheets of images (N, 3, S, S), one above the other; the data are their mean colours."""
    sheets = {label: _sheet(images, columns=min(columns, len(images)), gap=3) for label, images in panels.items()}
    height, width = (sum(sheet.shape[0] for sheet in sheets.values()), max(sheet.shape[1] for sheet in sheets.values()))
    figure, grid = plt.subplots(
        len(sheets),
        1,
        figsize=(7.2, 7.2 * height / width + 0.28 * len(sheets)),
        squeeze=False,
        layout="constrained",
        height_ratios=[sheet.shape[0] for sheet in sheets.values()],
    )
    for axes, (label, sheet) in zip(grid[:, 0], sheets.items(), strict=True):
        axes.imshow(sheet, interpolation="nearest")
        axes.set_title(label, fontsize=8, fontweight="normal", pad=3)
        axes.axis("off")
    records = [
        {"panel": label, "image": number} | dict(zip("rgb", image.mean((1, 2)), strict=True))
        for label, images in panels.items()
        for number, image in enumerate(images)
    ]
    return figure, pd.DataFrame(records)


def _results(inputs: Inputs) -> Results:
    if inputs.results is None:
        raise ValueError("this kind of figure is drawn from probes; none were given")
    return inputs.results


FIGURES: dict[str, Callable[[dict[str, Any], Inputs], Drawn]] = {
    f.__name__: f for f in (dimension, trajectory, schedules, curves, noise, denoising, samples)
}
