"""Stage: the Fréchet distance between the features of a row's samples and those of true images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Unpack

import numpy as np
import torch
from torch import Tensor

from ldae.data.prepared import Split
from ldae.measures.extractors import Extractor, open_extractor
from ldae.measures.frechet import Reference, extrapolate
from ldae.parts.moments import Moments
from ldae.runtime.arrays import open_array, read_arrays, release_pages, save_arrays
from ldae.runtime.device import device_name, pick_device
from ldae.runtime.files import check_sha256, checksums, verified
from ldae.runtime.progress import progress
from ldae.study.base import ExternalFile
from ldae.study.record import Options, origin_of, provenance
from ldae.study.results import ClassifierRecord, DistanceRecord, ReferenceRecord, SamplesRecord
from ldae.study.stage_specs import JudgeStage
from ldae.study.stages import SHARED_SEED

BATCH = 250  # images
FOLDS = 10  # of the samples, to extrapolate from


@torch.inference_mode()
def features_of(
    images: np.ndarray | Split, extractor: Extractor, device: torch.device, *, title: str
) -> Iterator[tuple[int, Tensor]]:
    """Features (n, F) of uint8 images (N, 3, S, S), batch by batch, each with the number of its first image."""
    with progress(title, len(images), "images") as bar:
        for start in range(0, len(images), BATCH):
            batch = torch.from_numpy(np.array(images[start : start + BATCH])).to(device)
            if isinstance(images, np.ndarray):
                release_pages(images)
            yield start, extractor.features(batch)
            bar.advance(len(batch))


def reference(stage: JudgeStage, **options: Unpack[Options]) -> None:
    """Writes the mean and covariance of the features of all training images, `reference.npz`, and `reference.json`.

    Published statistics, where the stage names a file of them, are copied.
    """
    device, out, origin = pick_device(), options["out"], origin_of("judge", stage, options)
    if stage.judging.reference is not None:
        mean, covariance = published_statistics(stage.judging.reference)
    else:
        extractor = open_extractor(stage.judging, options.get("judge"), device)
        batches = features_of(
            Split.open(options["dataset"], "train", SHARED_SEED), extractor, device, title="true images"
        )
        moments = Moments.of(features for _, features in batches)
        mean, covariance = moments.mean.cpu().numpy(), moments.covariance.cpu().numpy()
    save_arrays(out / "reference.npz", mean=mean, covariance=covariance)
    ReferenceRecord(
        **origin,
        sha256=checksums(out / "reference.npz"),
        provenance=provenance(device_name(device)),
    ).write(out / "reference.json")


def published_statistics(weights: ExternalFile) -> tuple[np.ndarray, np.ndarray]:
    """The mean (F,) and covariance (F, F) from an `.npz` file with `mu` and `sigma`, the format of ADM's statistics.

    Raises:
        FileNotFoundError, ValueError: for a file that is absent, has another SHA-256 or has another format.
    """
    path = Path(weights.path).expanduser()
    check_sha256(path, weights.sha256)
    arrays = read_arrays(path)
    if not {"mu", "sigma"} <= set(arrays):
        raise ValueError(f"{path}: holds {', '.join(arrays)}; expected mu and sigma, as ADM's reference files")
    mean, covariance = arrays["mu"], arrays["sigma"]
    for name, array in (("mu", mean), ("sigma", covariance)):
        if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise ValueError(f"{path}: {name} contains values that are not finite numbers")
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise ValueError(f"{path}: mu is {mean.shape} and sigma {covariance.shape}; expected (F,) and (F, F)")
    return mean.astype(np.float64), covariance.astype(np.float64)


def judge(stage: JudgeStage, **options: Unpack[Options]) -> None:
    """Writes `distance.json` into `out`: the distance of N samples, and its extrapolation to infinitely many.

    Raises:
        ValueError: for a reference with features of another dimension than those of the samples.
    """
    samples, reference, judge = options["samples"], options["reference"], options.get("judge")
    device, origin = pick_device(), origin_of("judge", stage, options)
    extractor = open_extractor(stage.judging, judge, device)
    record = SamplesRecord.read(samples / "samples.json")
    images = open_array(verified(samples / "samples.npy", record.sha256), mapped=True)
    arrays = read_arrays(reference / "reference.npz", ("mean", "covariance"))
    mean, covariance = (torch.from_numpy(arrays[name]).to(device) for name in ("mean", "covariance"))
    folds = [Moments() for _ in range(FOLDS)]
    for start, features in features_of(images, extractor, device, title=f"judging {record.row}"):
        numbers = torch.arange(start, start + len(features), device=device)
        for number, fold in enumerate(folds):  # every tenth sample, so that all folds have the same size and classes
            fold.update(features[numbers % FOLDS == number])
    if covariance.shape[0] != folds[0].covariance.shape[0]:
        dimensions, expected = covariance.shape[0], folds[0].covariance.shape[0]
        raise ValueError(f"{reference}: has {dimensions} dimensions, the samples' features {expected}")
    distance = extrapolate(folds, Reference(mean, covariance))
    DistanceRecord(
        row=record.row,
        seed=record.seed,
        distance=extractor.distance,
        num=len(images),
        value=round(distance.value, 6),
        infinite=round(distance.infinite, 6),
        error=round(distance.error, 6),
        judge_accuracy=ClassifierRecord.read(judge / "classifier.json").accuracy if judge is not None else None,
        **origin,
        provenance=provenance(device_name(device)),
    ).write(options["out"] / "distance.json")
