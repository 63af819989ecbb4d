"""What the page shows beside tables and figures: the data set, and the records and histories of rows; no torch."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel

from ldae.readers.results import check_lineage
from ldae.runtime.arrays import open_array
from ldae.runtime.files import history_file, read_json
from ldae.study.definitions import PageRow
from ldae.study.record import leaves
from ldae.study.results import DistanceRecord, Estimates, ProbeRecord
from ldae.study.spec import Spec
from ldae.study.stages import RECORDS

POINTS = 200  # of a curve; a longer history is averaged down to these
CURVES = ("loss", "gradient_norm")
TILE = 96  # pixels of an image on the contact sheet at most
CLASSES = 24  # on the sheet; a data set with more shows as many, spread over all
IMAGES = 16  # on the sheet, or one of each class


class Result(NamedTuple):
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


class Row(NamedTuple):
    """A row of the study with its results."""

    definition: PageRow
    spec: str  # as an option of its commands
    settings: dict[str, Any]  # the whole specification by dotted keys
    results: list[Result]
    probes: list[Probe]


def read_row(row: PageRow, folder: Path) -> Row:
    """A row with its records in the results folder; a `ValueError` as of `read_results`."""
    results = read_results(row.records, folder)
    records = {result.path: (result.about, folder / result.path) for result in results}
    distances = [DistanceRecord.parse(*found) for path, found in records.items() if path.startswith("judge/")]
    judged = {record.seed: record for record in distances}
    probes = []
    for record in (ProbeRecord.parse(*found) for path, found in records.items() if path.startswith("probe/")):
        trained, random = (record.encoders[f"{kind}/{row.offset}"] for kind in ("trained", "random"))
        probes.append(Probe(record.seed, trained, random, judged.get(record.seed)))
    spec = Spec.model_validate(row.spec)
    settings = {key: value for key, value in leaves(spec.model_dump()) if value is not None}
    return Row(row, spec.to_json(), settings, results, probes)


def read_results(expected: Iterable[tuple[str, str]], folder: Path) -> list[Result]:
    """The records that are in the results folder, of those expected: their paths and the digests of their lineages.

    Raises:
        ValueError: for a record that is damaged, or was made from another specification than the study's now.
    """
    results = []
    for path, lineage in expected:
        if (folder / path).is_file():
            about = read_json(folder / path)
            check_lineage(about.get("lineage"), lineage, folder / path)
            results.append(Result(path, RECORDS[Path(path).name], about))
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


class LeftOut(BaseModel):
    """The files and folders among the images that were not used."""

    endings: dict[str, int] = {}  # files of other kinds, by ending
    hidden: int = 0  # or system files and folders
    special: int = 0  # pipes, sockets and devices
    circles: int = 0  # links to a folder around them
    folders: tuple[str, ...] = ()  # beside the two splits


class Manifest(BaseModel):
    """`manifest.json` of the prepared images, as far as the page shows it."""

    classes: tuple[str, ...]
    counts: dict[str, dict[str, int]]  # of images, by split and class
    broken: tuple[dict[str, str], ...] = ()  # images with their `path` and `reason`
    left_out: LeftOut = LeftOut()


class Tile(NamedTuple):
    """A class on the contact sheet."""

    name: str
    num: int  # of its training images
    images: list[str]  # data URIs


def contact_sheet(folder: Path, manifest: Manifest) -> list[Tile]:
    """The first training images of each class, or of some classes spread over all; none if the images are absent."""
    files = [folder / name for name in ("train.npy", "train_labels.npy")]
    if not all(path.is_file() for path in files):
        return []
    images, labels = (open_array(path, mapped=True) for path in files)
    classes = manifest.classes
    shown = np.unique(np.linspace(0, len(classes) - 1, min(CLASSES, len(classes))).round().astype(int))
    tiles = []
    for label in shown.tolist():
        places = np.flatnonzero(labels == label)[: max(1, IMAGES // len(shown))]
        num = manifest.counts["train"].get(classes[label], 0)
        tiles.append(Tile(classes[label], num, [_encoded(images[place]) for place in places]))
    return tiles


def _encoded(pixels: NDArray[np.uint8]) -> str:
    """An image (3, H, W) as a data URI, scaled down where it is large."""
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    if image.width > TILE:
        image = image.resize((TILE, TILE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
