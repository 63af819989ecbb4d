"""Where the page's numbers come from: each row's records, their numbers by seed and their provenance; no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ldae.readers.layout import Cell, Layout
from ldae.runtime.files import history_file, read_json
from ldae.study.definitions import PageRow
from ldae.study.record import digest, leaves, seconds_of
from ldae.study.results import DistanceRecord, ProbeRecord
from ldae.study.spec import Spec
from ldae.study.stages import RECORDS

POINTS = 200  # of a curve; a longer history is averaged down to these
CURVES = ("loss", "gradient_norm")


class Result(NamedTuple):
    """A record of the results folder."""

    path: str  # below the results folder
    stage: str
    about: dict[str, Any]

    @property
    def seed(self) -> str:
        """The seed; empty for a result that all seeds share."""
        return str(self.about.get("seed", ""))


class Row(NamedTuple):
    """A row of the study with its results."""

    definition: PageRow
    spec: str  # as an option of its commands
    settings: dict[str, Any]  # the whole specification by dotted keys
    results: list[Result]
    numbers: Layout | None
    provenance: Layout | None


def read_row(row: PageRow, folder: Path) -> Row:
    """A row with its records in the results folder; a `ValueError` as of `read_results`."""
    results = read_results(row.records, folder)
    spec = Spec.model_validate(row.spec)
    settings = {key: value for key, value in leaves(spec.model_dump()) if value is not None}
    return Row(row, spec.to_json(), settings, results, _numbers(results, row.offset), provenance_of(results))


def read_results(expected: Iterable[tuple[str, str]], folder: Path) -> list[Result]:
    """The records that are in the results folder, of those expected: their paths and the digests of their lineages.

    Raises:
        ValueError: for a record that is damaged, or was made from another specification than the study's now.
    """
    results = []
    for path, lineage in expected:
        file = folder / path
        if not file.is_file():
            continue
        about = read_json(file)
        if digest(about.get("lineage")) != lineage:
            raise ValueError(
                f"{file}: made from another specification than the study's now; run it again "
                "(`ldae why` says what differs)"
            )
        results.append(Result(path, RECORDS[file.name], about))
    return results


def provenance_of(results: list[Result]) -> Layout | None:
    """When, where and with what results were made; None if there are no results."""
    headings = ("stage", "seed", "made", "device", "commit", "versions", "file", "seconds", "memory, MB")
    lines = []
    for result in results:
        texts = [result.stage, result.seed, "", "", "", "", result.path, "", ""]
        if origin := result.about.get("provenance"):  # prepared images have none
            processes = origin.get("processes", 1)
            texts[2:6] = [
                day(origin["started"]),
                f"{processes} x {origin['device']}" if processes > 1 else origin["device"],
                origin["commit"] or "outside a checkout",
                ", ".join(f"{name} {version}" for name, version in origin["versions"].items()),
            ]
            texts[7:] = [f"{seconds_of(origin):.0f}", f"{origin['peak_memory_mb']:,}"]
        lines.append([Cell(value=text) for text in texts])
    return Layout.simple(headings, lines, texts=7) if lines else None


def day(started: float) -> str:
    """A time in seconds since 1970, in universal time."""
    return f"{datetime.fromtimestamp(started, UTC):%Y-%m-%d %H:%M} UTC"


def curve(row: PageRow, run: Path) -> dict[str, Any]:
    """The history of a training against the images seen, as the page's script draws it."""
    history = pd.read_csv(history_file(run))
    names = [name for name in ("images", *CURVES) if len(history) and name in history]  # none in a very short training
    return {"row": row.name, "label": row.label} | {name: _thinned(history[name].to_numpy()) for name in names}


def _thinned(values: np.ndarray) -> list[float | None]:
    """At most `POINTS` means of neighbouring values, of four digits; None for one that is not finite."""
    means = [part.mean() for part in np.array_split(values, min(POINTS, len(values)))]
    return [float(f"{mean:.4g}") if math.isfinite(mean) else None for mean in means]


def _numbers(results: list[Result], offset: int) -> Layout | None:
    """The numbers of each seed's probe and judge; None if there is no probe."""
    headings = ("seed", "accuracy", "random weights", "k-NN", "learning rate", "distance of samples")
    judged = {
        result.seed: DistanceRecord.parse(result.about, Path(result.path))
        for result in results
        if result.path.endswith("/distance.json")
    }
    lines = []
    for result in results:
        if result.stage != "probe":
            continue
        encoders = ProbeRecord.parse(result.about, Path(result.path)).encoders
        trained, random = (encoders[f"{kind}/{offset}"] for kind in ("trained", "random"))
        accuracies = [
            Cell(value=f"{100 * one.value:.2f}", detail=f"[{100 * one.low:.1f}, {100 * one.high:.1f}]")
            for one in (trained["linear"], random["linear"])
        ]
        distance = judged.get(result.seed)
        lines.append(
            [
                Cell(value=result.seed),
                *accuracies,
                Cell(value=f"{100 * trained['knn'].value:.2f}"),
                Cell(
                    value=f"{trained['linear'].rate:g}",
                    detail="the smallest or largest tried" if trained["linear"].rate_at_edge else "",
                ),
                Cell()
                if distance is None
                else Cell(value=f"{distance.infinite:.2f}", detail=f"± {distance.error:.2f}"),
            ]
        )
    return Layout.simple(headings, lines, texts=0) if lines else None
