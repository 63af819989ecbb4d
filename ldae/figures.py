"""Figures as PNG and SVG, each with the numbers behind it as CSV, from results alone; no torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd

from ldae.files import whole, write_text
from ldae.results import Results

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  the backend comes first
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


def write_figure(definition: dict[str, Any], results: Results, *, out: Path) -> None:
    """Writes `<out>.png`, `<out>.svg` and `<out>.csv` of a figure of any kind."""
    with plt.rc_context(STYLE):
        figure, data = FIGURES[definition["kind"]](definition, results)
        for ending, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
            with whole(out.with_suffix(ending)) as partial:
                figure.savefig(partial, format=ending[1:], dpi=200, bbox_inches="tight", metadata=metadata)
        plt.close(figure)
    write_text(out.with_suffix(".csv"), data.to_csv(index=False, float_format="%.6f"))


def dimension(definition: dict[str, Any], results: Results) -> tuple[Figure, pd.DataFrame]:
    """Accuracy against the latent dimension: ours with random weights dashed below, and the paper's."""
    figure, (ours, paper) = plt.subplots(1, 2, figsize=(7.2, 3.4), sharex=True, layout="constrained")
    records = []
    for series, color, marker in zip(definition["series"], COLORS, MARKERS, strict=False):
        label = series["label"]
        ordered = sorted(((dim, results.rows[row]) for row, dim in series["dims"].items()), key=lambda point: point[0])
        dims = [dim for dim, _ in ordered]
        accuracy = [100 * row.accuracy.value for _, row in ordered]
        below = [100 * (row.accuracy.value - row.accuracy.low) for _, row in ordered]
        above = [100 * (row.accuracy.high - row.accuracy.value) for _, row in ordered]
        ours.errorbar(dims, accuracy, [below, above], color=color, marker=marker, capsize=2, ms=4, lw=1.4, label=label)
        random = [100 * row.random.value for _, row in ordered]
        ours.plot(dims, random, "--", color=color, lw=1, alpha=0.7)
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
    for axes, title in ((ours, "Ours"), (paper, "The paper, ImageNet")):
        axes.set_xscale("log", base=2)
        axes.set_xticks(every, [str(dim) for dim in every], rotation=45 if len(every) > 7 else 0)
        axes.set_xlabel("latent dimension per token")
        axes.set_title(title)
    ours.set_ylabel("linear probe accuracy (%)")
    figure.legend(*ours.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    return figure, pd.DataFrame(records)


def trajectory(definition: dict[str, Any], results: Results) -> tuple[Figure, pd.DataFrame]:
    """Accuracy along the rows, from top to bottom: ours with random weights beside, and the paper's."""
    rows = list(results.rows.values())
    places = list(range(len(rows)))
    size = (7.6, 0.36 * len(rows) + 1.0)
    figure, (ours, paper) = plt.subplots(1, 2, figsize=size, sharey=True, layout="constrained", width_ratios=[3, 2])
    accuracy = [100 * row.accuracy.value for row in rows]
    below = [100 * (row.accuracy.value - row.accuracy.low) for row in rows]
    above = [100 * (row.accuracy.high - row.accuracy.value) for row in rows]
    ours.errorbar(
        accuracy, places, xerr=[below, above], color=COLORS[0], marker="o", ms=5, lw=1.4, capsize=2, label="trained"
    )
    ours.plot(
        [100 * row.random.value for row in rows],
        places,
        "--",
        color="0.5",
        marker="x",
        ms=4,
        lw=1,
        label="random weights",
    )
    ours.axvline(100 * results.pixels.value, color=COLORS[1], lw=1, ls=":", label="raw pixels")
    known = [(row.paper["probe"], place) for row, place in zip(rows, places, strict=True) if "probe" in row.paper]
    if known:
        paper.plot(*zip(*known, strict=True), color=COLORS[2], marker="o", ms=5, lw=1.4)
    for axes, points in ((ours, zip(accuracy, places, strict=True)), (paper, known)):
        for value, place in points:
            axes.annotate(
                f"{value:.1f}", (value, place), (6, 5), textcoords="offset points", fontsize=7, path_effects=HALO
            )
        axes.margins(x=0.12)
    ours.set_yticks(places, [row.label for row in rows])
    ours.set_ylim(len(rows) - 0.5, -0.7)
    ours.set_title("Ours")
    paper.set_title("The paper, ImageNet")
    for axes in (ours, paper):
        axes.set_xlabel("linear probe accuracy (%)")
        axes.tick_params(axis="y", length=0)
    figure.legend(*ours.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    data = [
        {
            "row": name,
            "label": row.label,
            "accuracy": row.accuracy.value,
            "low": row.accuracy.low,
            "high": row.accuracy.high,
            "random": row.random.value,
            "paper": row.paper.get("probe"),
        }
        for name, row in results.rows.items()
    ]
    return figure, pd.DataFrame(data)


FIGURES: dict[str, Callable[[dict[str, Any], Results], tuple[Figure, pd.DataFrame]]] = {
    "dimension": dimension,
    "trajectory": trajectory,
}
