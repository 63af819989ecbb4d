"""Results as tables, figures and claims need them: read, compared with the study as it is now, with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldae.measures.intervals import Estimate, grouped_mean
from ldae.runtime.arrays import open_array, read_arrays
from ldae.runtime.files import read_json, verified
from ldae.study.record import content, digest
from ldae.study.results import DistanceRecord, ProbeRecord

# (seeds, N): for an accuracy, 1 where a validation image was classified correctly, else 0; for any other number N is 1
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Distance:
    """How far a row's samples are from true images, over all its seeds."""

    name: str  # FID, or what the study's own judge measures
    num: int  # samples
    value: float  # at that number
    infinite: float  # extrapolated to infinitely many
    error: float  # its standard error
    by_seed: tuple[float, ...]  # `infinite` of each seed
    judge_accuracy: float | None  # of the study's own judge on validation images


@dataclass(frozen=True)
class MeasureResult:
    """One measure of a row's probe over all its seeds. An accuracy is a share, from 0 to 1."""

    values: Values  # of the trained network
    random_values: Values  # of the same network with random weights
    groups: NDArray[np.int64]  # (N,) of the images
    rate_at_edge: bool = False  # whether the best learning rate was the smallest or largest tried, for any seed

    @cached_property
    def trained(self) -> Estimate:
        """The trained network's number."""
        return estimate(self.values, self.groups)

    @cached_property
    def random(self) -> Estimate:
        """The number with random weights."""
        return estimate(self.random_values, self.groups)

    @cached_property
    def gain(self) -> Estimate:
        """The trained network's number less that with random weights, paired on the same images."""
        return estimate(self.values - self.random_values, self.groups)

    @property
    def by_seed(self) -> NDArray[np.float64]:
        """The trained network's number for each seed (seeds,)."""
        by_seed: NDArray[np.float64] = self.values.mean(1)
        return by_seed


@dataclass(frozen=True)
class RowResult:
    """A row over all its seeds; accuracies are shares, not percent."""

    label: str
    paper: dict[str, float]
    measures: dict[str, MeasureResult]  # by the measure's name
    training_flops: float | None  # of one seed; None for published weights
    finetuned: Estimate | None  # accuracy after fine-tuning
    distance: Distance | None

    @property
    def linear(self) -> MeasureResult:
        """The linear probe, which every row has; it is what figures show and claims are about."""
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
    def gain(self) -> Estimate:
        """The linear probe's accuracy less that with random weights."""
        return self.linear.gain

    @property
    def by_seed(self) -> NDArray[np.float64]:
        """The linear probe's accuracy for each seed (seeds,)."""
        return self.linear.by_seed

    @property
    def correct(self) -> Values:
        """Whether the linear probe classifies each validation image correctly (seeds, N)."""
        return self.linear.values

    @property
    def random_correct(self) -> Values:
        """The same with random weights (seeds, N)."""
        return self.linear.random_values


@dataclass(frozen=True)
class Results:
    """The results that a table, a figure or a list of claims shows."""

    rows: dict[str, RowResult]
    pixels: dict[str, Estimate]  # of raw pixels, by the measure's name
    groups: NDArray[np.int64]  # (N,) of the validation images
    classes: int

    @property
    def num_val(self) -> int:
        """The number of validation images."""
        return len(self.groups)

    @property
    def num_groups(self) -> int:
        """The number of groups of dependent validation images."""
        return int(self.groups.max()) + 1

    def estimate(self, row: str, measure: str, kind: Literal["trained", "random", "gain"] = "trained") -> Estimate:
        """A measure of a row by their names.

        Raises:
            ValueError: for a measure that the row's probe did not compute.
        """
        measures = self.rows[row].measures
        if measure not in measures:
            raise ValueError(f"row {row}: its probe has no measure {measure!r}, only {', '.join(measures)}")
        estimate: Estimate = getattr(measures[measure], kind)
        return estimate


def collect(
    definition: dict[str, Any],
    *,
    dataset: Path,
    probes: Sequence[Path],
    pixels: Path,
    finetunes: Sequence[Path] = (),
    distances: Sequence[Path] = (),
) -> Results:
    """Reads the probes, the fine-tunings and the judged samples of a view's rows, and the probe of raw pixels.

    Args:
        definition: the view's `rows` (with the digest of the lineage that each result should have), `seeds`, `pixels`.
        dataset: the manifest of the prepared images.
        probes: `probe.json` of each probe and seed, in any order.
        pixels: `probe.json` of the raw pixels.
        finetunes: `finetune.json` of each row and seed that has one.
        distances: `distance.json` of each row and seed that has one.

    Raises:
        ValueError: for a result that is missing or was made from another specification than the study's.
    """
    rows, groups = collect_rows(definition, dataset=dataset, probes=probes, finetunes=finetunes, distances=distances)
    about = read_json(pixels)
    _check_lineage(about, definition["pixels"], pixels)
    raw = _Probe.open(about, pixels)
    measures = {name: raw.values("trained/0", name) for name in raw.record.encoders["trained/0"]}
    raw_pixels = {name: estimate(values[None], _groups_of(values, groups)) for name, values in measures.items()}
    return Results(rows, raw_pixels, groups, len(read_json(dataset)["classes"]))


def collect_rows(
    definition: dict[str, Any],
    *,
    dataset: Path,
    probes: Sequence[Path],
    finetunes: Sequence[Path] = (),
    distances: Sequence[Path] = (),
) -> tuple[dict[str, RowResult], NDArray[np.int64]]:
    """The rows alone, and the groups (N,) of the validation images; arguments and errors are those of `collect`."""
    manifest = read_json(dataset)
    groups = open_array(verified(dataset.parent / "val_groups.npy", manifest))
    probed, tuned, judged = (
        {(about["row"], about["seed"]): (about, path) for path in paths for about in [read_json(path)]}
        for paths in (probes, finetunes, distances)
    )
    _check_images([*probed.values(), *tuned.values()], manifest)
    opened: dict[Path, _Probe] = {}  # rows that differ in the probed block share a probe
    rows = {}
    for row in definition["rows"]:
        of_seeds, finetuned, distance = [], [], []
        for seed in definition["seeds"]:
            about, path = _current(probed, (row["probe"], seed), row["lineage"], "probe")
            of_seeds.append(opened.get(path) or opened.setdefault(path, _Probe.open(about, path)))
            if "finetuned" in row and finetunes:
                path = _current(tuned, (row["name"], seed), row["finetuned"], "fine-tuning")[1]
                finetuned.append(read_arrays(path.parent / "correct.npz", ["finetuned"])["finetuned"])
            if "distance" in row and distances:
                about, path = _current(judged, (row["run"], seed), row["distance"], "distance")
                distance.append(DistanceRecord.parse(about, path))
        rows[row["name"]] = RowResult(
            label=row["label"],
            paper=row["paper"],
            measures=_over_seeds(of_seeds, row["offset"], groups),
            training_flops=of_seeds[0].record.training_flops,
            finetuned=estimate(np.stack(finetuned).astype(np.float64), groups) if finetuned else None,
            distance=_distance(distance) if distance else None,
        )
    return rows, groups


def estimate(values: Values, groups: NDArray[np.int64]) -> Estimate:
    """The mean over seeds and images (seeds, N), with the uncertainty of both; `groups` (N,) are of the images."""
    return grouped_mean(values.mean(0), groups, spread=values.mean(1))


class _Probe(NamedTuple):
    """The probe of a row and seed."""

    record: ProbeRecord
    correct: dict[str, NDArray[np.uint8]]

    @classmethod
    def open(cls, about: dict[str, Any], path: Path) -> _Probe:
        """Reads the arrays that a record from this path names."""
        record = ProbeRecord.parse(about, path)
        estimates = (one for encoder in record.encoders.values() for one in encoder.values())
        names = [one.correct for one in estimates if one.correct is not None]
        return cls(record, read_arrays(path.parent / "correct.npz", names))

    def values(self, encoder: str, measure: str) -> NDArray[np.float64]:
        """A measure of an encoder, image by image (N,); (1,) for a number that is not an accuracy."""
        found = self.record.encoders[encoder][measure]
        return np.array([found.value]) if found.correct is None else self.correct[found.correct].astype(np.float64)


def _over_seeds(probes: list[_Probe], offset: int, groups: NDArray[np.int64]) -> dict[str, MeasureResult]:
    """All measures of a row, which probes the block at `offset`."""
    measures = {}
    trained, random = f"trained/{offset}", f"random/{offset}"
    for name in probes[0].record.encoders[trained]:
        values, random_values = (np.stack([probe.values(kind, name) for probe in probes]) for kind in (trained, random))
        at_edge = any(probe.record.encoders[trained][name].rate_at_edge for probe in probes)
        measures[name] = MeasureResult(values, random_values, _groups_of(values[0], groups), at_edge)
    return measures


def _groups_of(values: NDArray[np.float64], groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """The groups of a measure's values: of the images, or a single one for a number that is not an accuracy."""
    return groups if len(values) == len(groups) else np.zeros(1, dtype=np.int64)


def _current(
    records: dict[tuple[str, int], tuple[dict[str, Any], Path]], key: tuple[str, int], expected: str, what: str
) -> tuple[dict[str, Any], Path]:
    """The record of a row and seed, if it has the lineage that the study expects now."""
    if key not in records:
        raise ValueError(f"row {key[0]}, seed {key[1]}: no {what} among the {len(records)} given; run it")
    about, path = records[key]
    _check_lineage(about, expected, path)
    return about, path


def _check_images(results: Iterable[tuple[dict[str, Any], Path]], manifest: dict[str, Any]) -> None:
    """Refuses results on other images than the prepared ones, as far as their records name their inputs."""
    images = content(manifest)
    for about, path in results:
        if about.get("inputs", {}).get("dataset", images) != images:
            raise ValueError(f"{path}: was computed from other images than the prepared ones; run it again")


def _check_lineage(about: dict[str, Any], expected: str, path: Path) -> None:
    if digest(about["lineage"]) != expected:
        raise ValueError(
            f"{path}: made from another specification than the study's now; run it again (`ldae why` says what differs)"
        )


def _distance(records: list[DistanceRecord]) -> Distance:
    """The mean over seeds; its error joins that of each extrapolation with the spread between seeds."""
    infinite = np.array([record.infinite for record in records])
    within = np.sqrt(np.mean([record.error**2 for record in records]) / len(records))
    between = infinite.std(ddof=1) / np.sqrt(len(records)) if len(records) > 1 else 0.0
    first = records[0]
    return Distance(
        name=first.distance,
        num=first.num,
        value=float(np.mean([record.value for record in records])),
        infinite=float(infinite.mean()),
        error=float(np.hypot(within, between)),
        by_seed=tuple(infinite.tolist()),
        judge_accuracy=first.judge_accuracy,
    )
