"""Results as tables, figures and claims need them: read, checked against the study as it is now, with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldae.measures.intervals import Estimate, grouped_mean
from ldae.runtime.arrays import open_array, read_arrays
from ldae.runtime.files import intact, read_json
from ldae.study.record import content, digest


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
class RowResult:
    """A row over all its seeds; accuracies are shares, not percent."""

    label: str
    paper: dict[str, float]
    accuracy: Estimate
    random: Estimate  # of the same network with random weights
    gain: Estimate  # accuracy less random, paired on the same images
    by_seed: NDArray[np.float64]  # accuracy of each seed
    correct: NDArray[np.float64]  # (seeds, N) whether each validation image was classified rightly
    random_correct: NDArray[np.float64]  # (seeds, N) the same with random weights
    knn: float
    random_knn: float  # the same with random weights
    rate_at_edge: bool  # the probe's best learning rate was the smallest or largest that it tried
    training_flops: float | None  # of one seed; not known of published weights
    finetuned: Estimate | None  # accuracy after fine-tuning
    distance: Distance | None


@dataclass(frozen=True)
class Results:
    """All that a table, a figure or a list of claims shows."""

    rows: dict[str, RowResult]
    pixels: Estimate
    pixels_knn: float
    groups: NDArray[np.int64]  # (N,) of the validation images
    classes: int

    @property
    def num_val(self) -> int:
        """The number of validation images."""
        return len(self.groups)

    @property
    def num_groups(self) -> int:
        """The number of groups that they fall into."""
        return int(self.groups.max()) + 1


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
    _check(about, definition["pixels"], pixels)
    reference = grouped_mean(_correct(pixels, about["encoders"])["trained/0"], groups)
    knn = about["encoders"]["trained/0"]["knn"]
    return Results(rows, reference, knn, groups, len(read_json(dataset)["classes"]))


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
    groups = open_array(intact(dataset.parent / "val_groups.npy", manifest))
    found = {(about["row"], about["seed"]): (about, path) for path in probes for about in [read_json(path)]}
    tuned, judged = (
        {(about["row"], about["seed"]): (about, path) for path in paths for about in [read_json(path)]}
        for paths in (finetunes, distances)
    )
    correct = {path: _correct(path, about["encoders"]) for about, path in found.values()}
    _check_images([*found.values(), *tuned.values()], manifest)
    rows = {}
    for wanted in definition["rows"]:
        results, finetuned, distance = [], [], []
        for seed in definition["seeds"]:
            about, path = _current(found, (wanted["probe"], seed), wanted["lineage"], "probe")
            results.append((about, correct[path]))
            if "finetuned" in wanted and finetunes:
                path = _current(tuned, (wanted["name"], seed), wanted["finetuned"], "fine-tuning")[1]
                finetuned.append(_correct(path, ["finetuned"])["finetuned"])
            if "distance" in wanted and distances:
                distance.append(_current(judged, (wanted["run"], seed), wanted["distance"], "distance")[0])
        rows[wanted["name"]] = replace(
            _over_seeds(wanted, results, groups),
            finetuned=estimate(np.stack(finetuned), groups) if finetuned else None,
            distance=_distance(distance) if distance else None,
        )
    return rows, groups


def estimate(values: NDArray[np.float64], groups: NDArray[np.int64]) -> Estimate:
    """The mean over seeds and images (seeds, N), with the uncertainty of both."""
    return grouped_mean(values.mean(0), groups, spread=values.mean(1))


def _correct(path: Path, encoders: Iterable[str]) -> dict[str, NDArray[np.float64]]:
    """Whether each validation image was classified rightly, 1 or 0 (N,), by each encoder of a result."""
    arrays = read_arrays(path.parent / "correct.npz", encoders)
    return {name: correct.astype(np.float64) for name, correct in arrays.items()}


def _current(
    found: dict[tuple[str, int], tuple[dict[str, Any], Path]], key: tuple[str, int], expected: str, what: str
) -> tuple[dict[str, Any], Path]:
    """The result of a row and seed, made from what the study says now."""
    if key not in found:
        raise ValueError(f"row {key[0]}, seed {key[1]}: no {what} among the {len(found)} given; run it")
    about, path = found[key]
    _check(about, expected, path)
    return about, path


def _check_images(results: Iterable[tuple[dict[str, Any], Path]], manifest: dict[str, Any]) -> None:
    """Refuses results on other images than the prepared ones; older records do not say which images they saw."""
    images = content(manifest)
    for about, path in results:
        if about.get("inputs", {}).get("dataset", images) != images:
            raise ValueError(f"{path}: was computed from other images than the prepared ones; run it again")


def _check(about: dict[str, Any], expected: str, path: Path) -> None:
    if digest(about["lineage"]) != expected:
        raise ValueError(
            f"{path}: made from another specification than the study's now; run it again (`ldae why` says what differs)"
        )


def _over_seeds(wanted: dict[str, Any], results: list[Any], groups: NDArray[np.int64]) -> RowResult:
    trained_name, random_name = (f"{name}/{wanted['offset']}" for name in ("trained", "random"))
    trained = np.stack([correct[trained_name] for _, correct in results])  # (seeds, N)
    random = np.stack([correct[random_name] for _, correct in results])
    encoders, random_encoders = (
        [about["encoders"][name] for about, _ in results] for name in (trained_name, random_name)
    )
    return RowResult(
        label=wanted["label"],
        paper=wanted["paper"],
        accuracy=estimate(trained, groups),
        random=estimate(random, groups),
        gain=estimate(trained - random, groups),
        by_seed=trained.mean(1),
        correct=trained,
        random_correct=random,
        knn=float(np.mean([encoder["knn"] for encoder in encoders])),
        random_knn=float(np.mean([encoder["knn"] for encoder in random_encoders])),
        rate_at_edge=any(encoder["rate_at_edge"] for encoder in encoders),
        training_flops=results[0][0]["training_flops"],
        finetuned=None,
        distance=None,
    )


def _distance(records: list[dict[str, Any]]) -> Distance:
    """The mean over seeds; its error joins that of each extrapolation with the spread between seeds."""
    infinite = np.array([record["infinite"] for record in records])
    within = np.sqrt(np.mean([record["error"] ** 2 for record in records]) / len(records))
    between = infinite.std(ddof=1) / np.sqrt(len(records)) if len(records) > 1 else 0.0
    first = records[0]
    return Distance(
        name=first["distance"],
        num=first["num"],
        value=float(np.mean([record["value"] for record in records])),
        infinite=float(infinite.mean()),
        error=float(np.hypot(within, between)),
        by_seed=tuple(infinite.tolist()),
        judge_accuracy=first.get("judge_accuracy"),
    )
