"""Probe results as tables and figures need them: read, checked against the study as it is now, with intervals."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldae.files import read_json
from ldae.record import digest
from ldae.statistics import Estimate, grouped_mean


@dataclass(frozen=True)
class RowResult:
    """A row over all its seeds; accuracies are shares, not percent."""

    label: str
    paper: dict[str, float]
    accuracy: Estimate
    random: Estimate  # of the same network with random weights
    gain: Estimate  # accuracy less random, paired on the same images
    by_seed: NDArray[np.float64]  # accuracy of each seed
    knn: float
    rate_at_edge: bool  # the probe's best learning rate was the smallest or largest that it tried


@dataclass(frozen=True)
class Results:
    """All that a table or figure shows."""

    rows: dict[str, RowResult]
    pixels: Estimate
    num_val: int
    num_groups: int
    classes: int


def collect(definition: dict[str, Any], *, dataset: Path, probes: list[Path], pixels: Path) -> Results:
    """Reads the probes of a view's rows, and the probe of raw pixels.

    Args:
        definition: the view's `rows` (with the digest of the lineage that each should have), `seeds` and `pixels`.
        dataset: the folder of the prepared images.
        probes: a folder for each row and seed, in any order.
        pixels: the folder of the raw pixels' probe.

    Raises:
        ValueError: for a result that is missing or was made from another specification than the study's.
    """
    groups = np.load(dataset / "val_groups.npy")
    found: dict[tuple[str, int], tuple[dict[str, Any], Path]] = {}
    for folder in probes:
        about = read_json(folder / "probe.json")
        found[about["row"], about["seed"]] = about, folder
    rows = {}
    for wanted in definition["rows"]:
        row, results = wanted["name"], []
        for seed in definition["seeds"]:
            if (row, seed) not in found:
                raise ValueError(f"row {row}, seed {seed}: no result among the {len(probes)} given; run its probe")
            about, folder = found[row, seed]
            _check(about, wanted["lineage"], folder)
            results.append((about, _correct(folder)))
        rows[row] = _over_seeds(wanted, results, groups)
    about = read_json(pixels / "probe.json")
    _check(about, definition["pixels"], pixels)
    reference = grouped_mean(_correct(pixels)["trained"], groups)
    classes = len(read_json(dataset / "manifest.json")["classes"])
    return Results(rows, reference, len(groups), int(groups.max()) + 1, classes)


def _correct(folder: Path) -> dict[str, NDArray[np.float64]]:
    """Whether each validation image was classified rightly, 1 or 0 (N,), by each encoder of a probe."""
    with np.load(folder / "correct.npz") as arrays:
        return {name: arrays[name].astype(np.float64) for name in arrays}


def _check(about: dict[str, Any], expected: str, folder: Path) -> None:
    if digest(about["lineage"]) != expected:
        raise ValueError(
            f"{folder / 'probe.json'}: made from another specification than the study's now; delete it and run again"
        )


def _over_seeds(wanted: dict[str, Any], results: list[Any], groups: NDArray[np.int64]) -> RowResult:
    trained = np.stack([correct["trained"] for _, correct in results])  # (seeds, N)
    random = np.stack([correct["random"] for _, correct in results])
    return RowResult(
        label=wanted["label"],
        paper=wanted["paper"],
        accuracy=_estimate(trained, groups),
        random=_estimate(random, groups),
        gain=_estimate(trained - random, groups),
        by_seed=trained.mean(1),
        knn=float(np.mean([about["trained"]["knn"] for about, _ in results])),
        rate_at_edge=any(about["trained"]["rate_at_edge"] for about, _ in results),
    )


def _estimate(values: NDArray[np.float64], groups: NDArray[np.int64]) -> Estimate:
    """The mean over seeds and images (seeds, N), with the uncertainty of both."""
    return grouped_mean(values.mean(0), groups, spread=values.mean(1))
