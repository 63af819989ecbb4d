"""Results for tables, figures and claims: read, checked against the study, with intervals; no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ldae.data.division import Division
from ldae.measures.intervals import Estimate, estimate
from ldae.runtime.arrays import read_arrays
from ldae.runtime.files import read_json
from ldae.study.definitions import ViewDefinition
from ldae.study.file import Paper
from ldae.study.record import content, digest
from ldae.study.results import PIXELS, DistanceRecord, FinetuneRecord, Manifest, ProbeRecord

R = TypeVar("R", ProbeRecord, FinetuneRecord, DistanceRecord)
# (seeds, N): for an accuracy, 1 where a validation image was classified correctly, else 0; for any other number N is 1
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Distance:
    """The distance of a row's samples from true images, over all its seeds."""

    name: str  # FID, or the name of the distance of the study's own judge
    num: int  # samples
    value: float  # at that number
    infinite: float  # extrapolated to infinitely many
    error: float  # the standard error of `infinite`
    judge_accuracy: float | None  # of the study's own judge on validation images

    @classmethod
    def over_seeds(cls, records: list[DistanceRecord]) -> Distance:
        """The mean over seeds; the error combines the errors of the extrapolations with the spread of the seeds."""
        infinite = np.array([record.infinite for record in records])
        within = np.sqrt(np.mean([record.error**2 for record in records]) / len(records))
        between = infinite.std(ddof=1) / np.sqrt(len(records)) if len(records) > 1 else 0.0
        return cls(
            name=records[0].distance,
            num=records[0].num,
            value=float(np.mean([record.value for record in records])),
            infinite=float(infinite.mean()),
            error=float(np.hypot(within, between)),
            judge_accuracy=records[0].judge_accuracy,
        )


@dataclass(frozen=True)
class MeasureResult:
    """One measure of a row's probe over all its seeds. An accuracy is a share, from 0 to 1."""

    values: Values  # of the trained network
    random_values: Values  # of the same network with random weights
    groups: NDArray[np.int64]  # (seeds, N) of the images
    own_splits: bool  # whether each seed has validation images of its own
    rate_at_edge: bool = False  # whether the best learning rate was the smallest or largest tried, for any seed

    @cached_property
    def trained(self) -> Estimate:
        """The trained network's number."""
        return estimate(self.values, self.groups, own_splits=self.own_splits)

    @cached_property
    def random(self) -> Estimate:
        """The number with random weights."""
        return estimate(self.random_values, self.groups, own_splits=self.own_splits)

    @cached_property
    def gain(self) -> Estimate:
        """The trained network's number less that with random weights, paired on the same images."""
        return estimate(self.values - self.random_values, self.groups, own_splits=self.own_splits)

    def at(self, places: Sequence[int]) -> MeasureResult:
        """The same measure over some of the seeds, by their places."""
        kept = list(places)
        return replace(self, values=self.values[kept], random_values=self.random_values[kept], groups=self.groups[kept])


@dataclass(frozen=True)
class RowResult:
    """A row over all its seeds. Figures and claims use the linear probe, which every row has."""

    name: str
    label: str
    paper: Paper
    seeds: tuple[int, ...]  # a row's own
    measures: dict[str, MeasureResult]  # by the measure's name
    training_flops: float | None  # of one seed; None for published weights
    finetuned: Estimate | None  # accuracy after fine-tuning
    distances: tuple[DistanceRecord, ...]  # of each seed's samples from true images; empty without samples
    devices: tuple[str, ...]  # that probed each seed

    @cached_property
    def distance(self) -> Distance | None:
        """The distance of the samples over all seeds; None without samples."""
        return Distance.over_seeds(list(self.distances)) if self.distances else None

    def at(self, seeds: Iterable[int]) -> RowResult:
        """The row's probes and distances over some of its seeds."""
        places = [self.seeds.index(seed) for seed in seeds]
        return replace(
            self,
            seeds=tuple(self.seeds[place] for place in places),
            measures={name: measure.at(places) for name, measure in self.measures.items()},
            distances=tuple(self.distances[place] for place in places) if self.distances else (),
            devices=tuple(self.devices[place] for place in places),
        )

    @property
    def linear(self) -> MeasureResult:
        """The linear probe."""
        return self.measures["linear"]

    @property
    def accuracy(self) -> Estimate:
        """The linear probe's accuracy."""
        return self.linear.trained

    @property
    def random(self) -> Estimate:
        """The linear probe's accuracy with random weights."""
        return self.linear.random

    @property
    def by_seed(self) -> list[float]:
        """The linear probe's accuracy for each seed."""
        means: list[float] = self.linear.values.mean(1).tolist()
        return means


@dataclass(frozen=True)
class Results:
    """The results that a table, a figure or a list of claims shows."""

    rows: dict[str, RowResult]
    pixels: dict[str, Estimate]  # of raw pixels, by the measure's name
    groups: NDArray[np.int64]  # (seeds, N) of the validation images
    classes: int

    def paired(self, names: Iterable[str]) -> list[RowResult]:
        """Some rows over the seeds that all of them have.

        Raises:
            ValueError: if there is no such seed.
        """
        rows = [self.rows[name] for name in names]
        common = [seed for seed in rows[0].seeds if all(seed in row.seeds for row in rows)]
        if not common:
            raise ValueError(f"rows {', '.join(row.name for row in rows)}: have no seed in common; give them `seeds`")
        return [row.at(common) for row in rows]


def collect(
    definition: ViewDefinition,
    *,
    dataset: Path,
    probes: Sequence[Path],
    untrained: Sequence[Path],
    pixels: Sequence[Path] = (),
    finetunes: Sequence[Path] = (),
    distances: Sequence[Path] = (),
) -> Results:
    """Reads the probes, the fine-tunings and the judged samples of a view's rows, and the probe of raw pixels.

    Args:
        definition: the view, with the lineage digest that each result should have.
        dataset: the manifest of the prepared images.
        probes, finetunes, distances: `probe.json`, `finetune.json` and `distance.json` of rows and seeds, in any order.
        untrained: `probe.json` of untrained networks, likewise.
        pixels: `probe.json` of the raw pixels, of each seed.

    Raises:
        ValueError: for a result that is missing, is of other images, or was made from another specification.
    """
    manifest, images = Manifest.read(dataset), content(read_json(dataset))
    by_seed = {seed: Division.open(dataset.parent, "val", seed).groups for seed in definition.seeds}
    groups = np.stack(list(by_seed.values())) if by_seed else np.empty((0, 0), dtype=np.int64)
    own_splits = definition.own_splits
    probed, of_random = _read(ProbeRecord, probes, images), _read(ProbeRecord, untrained, images)
    tuned = _read(FinetuneRecord, finetunes, images)
    judged = _read(DistanceRecord, distances, images)
    opened: dict[Path, _Probe] = {}  # rows share probes
    rows = {}
    for row in definition.rows:
        of_seeds, of_untrained, finetuned, distance = [], [], [], []
        for seed in row.seeds:
            path, probe = _current(probed, (row.probe, seed), row.lineage, "probe")
            of_seeds.append(opened.get(path) or opened.setdefault(path, _Probe(path, probe)))
            path, probe = _current(of_random, (row.untrained, seed), row.untrained_lineage, "probe of random weights")
            of_untrained.append(opened.get(path) or opened.setdefault(path, _Probe(path, probe)))
            if row.finetuned is not None and tuned:
                path, _ = _current(tuned, (row.name, seed), row.finetuned, "fine-tuning")
                finetuned.append(read_arrays(path.parent / "correct.npz", ["finetuned"])["finetuned"])
            if row.distance is not None and judged:
                distance.append(_current(judged, (row.run, seed), row.distance, "distance")[1])
        own_groups = np.stack([by_seed[seed] for seed in row.seeds])
        rows[row.name] = RowResult(
            name=row.name,
            label=row.label,
            devices=tuple(probe.record.provenance.get("device", "") for probe in of_seeds),
            paper=row.paper,
            seeds=row.seeds,
            measures=_over_seeds(of_seeds, of_untrained, row.offset, own_groups, own_splits=own_splits),
            training_flops=of_seeds[0].record.training_flops,
            finetuned=_finetuned(finetuned, own_groups, own_splits=own_splits),
            distances=tuple(distance),
        )
    raw_pixels = {}
    if pixels and definition.seeds:
        of_pixels = _read(ProbeRecord, pixels, images)
        found = [_current(of_pixels, (PIXELS, seed), definition.pixels, "probe") for seed in definition.seeds]
        raw = [_Probe(path, record) for path, record in found]
        for name in raw[0].record.blocks[0]:
            values = np.stack([probe.values(0, name) for probe in raw])
            raw_pixels[name] = estimate(values, _groups_of(values, groups), own_splits=own_splits)
    return Results(rows, raw_pixels, groups, len(manifest.classes))


class _Probe:
    """The probe of a row and seed."""

    def __init__(self, path: Path, record: ProbeRecord) -> None:
        """Reads the arrays that the record at a path names."""
        estimates = (one for block in record.blocks.values() for one in block.values())
        names = [one.correct for one in estimates if one.correct is not None]
        self.record, self.correct = record, read_arrays(path.parent / "correct.npz", names)

    def values(self, offset: int, measure: str) -> NDArray[np.float64]:
        """A measure of the block at an offset, image by image (N,); (1,) for a number that is not an accuracy."""
        found = self.record.blocks[offset][measure]
        return np.array([found.value]) if found.correct is None else self.correct[found.correct].astype(np.float64)


def _finetuned(correct: list[NDArray[np.uint8]], groups: NDArray[np.int64], *, own_splits: bool) -> Estimate | None:
    """The accuracy after fine-tuning, from the images that each seed classified correctly; None for no seeds."""
    return estimate(np.stack(correct).astype(np.float64), groups, own_splits=own_splits) if correct else None


def _over_seeds(
    trained: list[_Probe], untrained: list[_Probe], offset: int, groups: NDArray[np.int64], *, own_splits: bool
) -> dict[str, MeasureResult]:
    """All measures of a row, which probes the block at `offset`."""
    measures = {}
    for name in trained[0].record.blocks[offset]:
        kinds = (trained, untrained)
        values, random_values = (np.stack([probe.values(offset, name) for probe in probes]) for probes in kinds)
        at_edge = any(probe.record.blocks[offset][name].rate_at_edge for probe in trained)
        measures[name] = MeasureResult(values, random_values, _groups_of(values, groups), own_splits, at_edge)
    return measures


def _groups_of(values: Values, groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """The groups of a measure's values: of the images, or a single one for a number that is not an accuracy."""
    return groups if values.shape == groups.shape else np.zeros(values.shape, dtype=np.int64)


def _read(kind: type[R], paths: Iterable[Path], images: str) -> dict[tuple[str, int], tuple[Path, R]]:
    """Records with their paths by row and seed, if they are of the prepared images with the digest `images`."""
    found = {}
    for path in paths:
        record = kind.read(path)
        if record.inputs.get("dataset", images) != images:
            raise ValueError(f"{path}: was computed from other images than the prepared ones; run it again")
        found[record.row, record.seed] = path, record
    return found


def _current(
    records: dict[tuple[str, int], tuple[Path, R]], key: tuple[str, int], expected: str, what: str
) -> tuple[Path, R]:
    """The record of a row and seed, if it has the expected lineage."""
    if key not in records:
        raise ValueError(f"row {key[0]}, seed {key[1]}: no {what} among the {len(records)} given; run it")
    path, record = records[key]
    check_lineage(record.lineage, expected, path)
    return path, record


def check_lineage(lineage: Any, expected: str, path: Path) -> None:
    """Refuses a result whose lineage does not have the expected digest, with a `ValueError`."""
    if digest(lineage) != expected:
        raise ValueError(
            f"{path}: made from another specification than the study's now; run it again (`ldae why` says what differs)"
        )
