"""Where the page's numbers come from: the records and histories of each row; no torch."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ldae.readers.results import check_lineage
from ldae.runtime.files import history_file, read_json
from ldae.study.definitions import PageRow, Records
from ldae.study.record import leaves
from ldae.study.results import DistanceRecord, Estimates, ProbeRecord
from ldae.study.spec import Spec
from ldae.study.stages import RECORDS

POINTS = 200  # of a curve; a longer history is averaged down to these
CURVES = ("loss", "gradient_norm")


class ResultFile(NamedTuple):
    """A record of the results folder."""

    path: str  # below the results folder
    stage: str
    about: dict[str, Any]


class Probe(NamedTuple):
    """The numbers of one seed of a row."""

    seed: int
    trained: Estimates
    random: Estimates
    distance: DistanceRecord | None


class RowOrigin(NamedTuple):
    """A row of the study with its results."""

    definition: PageRow
    spec: str  # as an option of its commands
    settings: dict[str, Any]  # the whole specification by dotted keys
    results: list[ResultFile]
    probes: list[Probe]


def read_row(row: PageRow, folder: Path) -> RowOrigin:
    """A row with its records in the results folder; a `ValueError` as of `read_results`."""
    results = read_results(row.records, folder)
    records = {result.path: (result.about, folder / result.path) for result in results}
    distances = [DistanceRecord.parse(*found) for path, found in records.items() if path.startswith("judge/")]
    judged = {record.seed: record for record in distances}
    trained, untrained = (
        {
            record.seed: record.blocks[row.offset]
            for record in (ProbeRecord.parse(*found) for path, found in records.items() if path.startswith(folder))
        }
        for folder in ("probe/", "untrained/")
    )
    both = [seed for seed in trained if seed in untrained]
    probes = [Probe(seed, trained[seed], untrained[seed], judged.get(seed)) for seed in both]
    spec = Spec.model_validate(row.spec)
    settings = {key: value for key, value in leaves(spec.model_dump()) if value is not None}
    return RowOrigin(row, spec.to_json(), settings, results, probes)


def read_results(expected: Records, folder: Path) -> list[ResultFile]:
    """The records that are in the results folder, of those expected, by seed.

    Raises:
        ValueError: for a record that is damaged, or was made from another specification than the study's now.
    """
    results = []
    paths = [(seed, pattern.format(seed=seed), lineage) for pattern, lineage, seeds in expected for seed in seeds]
    for _, path, lineage in sorted(paths, key=lambda entry: entry[0]):
        if (folder / path).is_file():
            about = read_json(folder / path)
            check_lineage(about.get("lineage"), lineage, folder / path)
            results.append(ResultFile(path, RECORDS[Path(path).name], about))
    return results


def day(started: float) -> str:
    """A time in seconds since 1970, in universal time."""
    return f"{datetime.fromtimestamp(started, UTC):%Y-%m-%d %H:%M} UTC"


def curve(row: PageRow, run: Path) -> dict[str, Any]:
    """The history of a training against the images seen, as the page's script draws it."""
    history = pd.read_csv(history_file(run))
    names = [name for name in ("images", *CURVES) if len(history) and name in history]  # none in a very short training
    return {"row": row.name, "label": row.label} | {name: _thinned(history[name].to_numpy()) for name in names}


def _thinned(values: NDArray[Any]) -> list[float | None]:
    """At most `POINTS` means of neighbouring values, of four digits; None for one that is not finite."""
    means = [part.mean() for part in np.array_split(values, min(POINTS, len(values)))]
    return [float(f"{mean:.4g}") if math.isfinite(mean) else None for mean in means]
