"""Stage: how far a row's samples are from true images, as a Fréchet distance between features of both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ldae.data.prepared import Split
from ldae.measures.extractors import Extractor, open_extractor
from ldae.measures.frechet import extrapolate
from ldae.parts.moments import Moments
from ldae.runtime.arrays import open_array, read_arrays, release_pages, save_arrays
from ldae.runtime.files import check_sha256, checksums, read_json, verified, write_json
from ldae.runtime.progress import progress
from ldae.study.base import ExternalFile
from ldae.study.record import Lineage, inputs_of, lineage, provenance
from ldae.study.scale import Judging
from ldae.study.stage_specs import JudgeStage
from ldae.training.loop import device_name, pick_device

BATCH = 250  # images
FOLDS = 10  # of the samples, to extrapolate from


@torch.inference_mode()
def features_of(
    images: np.ndarray | Split, extractor: Extractor, device: torch.device, *, title: str
) -> Iterator[tuple[int, Tensor]]:
    """The features (n, F) of images (N, 3, S, S), uint8, batch by batch, each with its first image's number."""
    with progress(title, len(images), "images") as bar:
        for start in range(0, len(images), BATCH):
            batch = torch.from_numpy(np.array(images[start : start + BATCH])).to(device)
            if isinstance(images, np.ndarray):
                release_pages(images)
            yield start, extractor.features(batch)
            bar.advance(len(batch))


def reference(
    stage: JudgeStage,
    *,
    revision: int,
    dataset: Path,
    out: Path,
    judge: Path | None = None,
    import_seconds: float = 0.0,
) -> None:
    """Writes the mean and covariance of the true images' features, `reference.npz`, and `reference.json` into `out`.

    Args:
        stage: whose features; or published statistics, which are taken as they are.
        revision: of the code that judges.
        dataset: the folder of the prepared images; all training images count.
        out: where to write.
        judge: the folder of the study's own classifier, for `builtin` features.
        import_seconds: from the start of the process until now.
    """
    device, made, inputs = pick_device(), _made(dataset, judge, stage.judging), inputs_of(dataset=dataset, judge=judge)
    if stage.judging.reference is not None:
        mean, covariance = published_statistics(stage.judging.reference)
    else:
        extractor = open_extractor(stage.judging, judge, device)
        batches = features_of(Split.open(dataset, "train"), extractor, device, title="true images")
        moments = Moments.of(features for _, features in batches)
        mean, covariance = moments.mean.cpu().numpy(), moments.covariance.cpu().numpy()
    save_arrays(out / "reference.npz", mean=mean, covariance=covariance)
    write_json(
        out / "reference.json",
        {
            "lineage": lineage("judge", stage, revision, made),
            "inputs": inputs,
            "sha256": checksums(out / "reference.npz"),
            "provenance": provenance(device_name(device), import_seconds),
        },
    )


def published_statistics(weights: ExternalFile) -> tuple[np.ndarray, np.ndarray]:
    """The mean (F,) and covariance (F, F) in a file of ADM's kind: an `.npz` with `mu` and `sigma`.

    Raises:
        FileNotFoundError, ValueError: for a file that is absent, another one than its SHA-256 says, or of another kind.
    """
    path = Path(weights.path).expanduser()
    check_sha256(path, weights.sha256)
    arrays = read_arrays(path)
    if not {"mu", "sigma"} <= set(arrays):
        raise ValueError(f"{path}: holds {', '.join(arrays)}; expected mu and sigma, as ADM's reference files")
    mean, covariance = arrays["mu"], arrays["sigma"]
    if mean.dtype.kind not in "fiu" or covariance.dtype.kind not in "fiu":
        raise ValueError(f"{path}: mu and sigma are {mean.dtype} and {covariance.dtype}, expected numbers")
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise ValueError(f"{path}: mu is {mean.shape} and sigma {covariance.shape}; expected (F,) and (F, F)")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError(f"{path}: mu or sigma contains values that are not finite")
    return mean.astype(np.float64), covariance.astype(np.float64)


def judge(
    stage: JudgeStage,
    *,
    revision: int,
    samples: Path,
    reference: Path,
    out: Path,
    judge: Path | None = None,
    import_seconds: float = 0.0,
) -> None:
    """Writes `distance.json` into `out`: the distance at N samples, and extrapolated to infinitely many.

    Args:
        stage: whose features.
        revision: of the code that judges.
        samples, reference: folders of earlier stages.
        out: where to write.
        judge: the folder of the study's own classifier, for `builtin` features.
        import_seconds: from the start of the process until now.

    Raises:
        ValueError: for a reference that was measured with other features than the samples' are.
    """
    device, inputs = pick_device(), inputs_of(samples=samples, reference=reference, judge=judge)
    extractor = open_extractor(stage.judging, judge, device)
    about = read_json(samples / "samples.json")
    images = open_array(verified(samples / "samples.npy", about), mapped=True)
    arrays = read_arrays(reference / "reference.npz", ("mean", "covariance"))
    mean, covariance = (torch.from_numpy(arrays[name]).to(device) for name in ("mean", "covariance"))
    folds = [Moments() for _ in range(FOLDS)]
    for start, features in features_of(images, extractor, device, title=f"judging {about['row']}"):
        numbers = torch.arange(start, start + len(features), device=device)
        for number, fold in enumerate(folds):  # in turn, so that folds are equal and alike
            fold.update(features[numbers % FOLDS == number])
    if covariance.shape[0] != folds[0].covariance.shape[0]:
        found, wanted = covariance.shape[0], folds[0].covariance.shape[0]
        raise ValueError(f"{reference}: has {found} dimensions, the samples' features {wanted}")
    distance = extrapolate(folds, mean, covariance)
    made: Lineage = about["lineage"]
    if judge is not None:
        made = made | read_json(judge / "classifier.json")["lineage"]
    record = {
        "row": about["row"],
        "seed": about["seed"],
        "distance": extractor.distance,
        "num": len(images),
        "value": round(distance.value, 6),
        "infinite": round(distance.infinite, 6),
        "error": round(distance.error, 6),
    }
    if judge is not None:
        record["judge_accuracy"] = read_json(judge / "classifier.json")["accuracy"]
    write_json(
        out / "distance.json",
        record
        | {
            "lineage": lineage("judge", stage, revision, made),
            "inputs": inputs,
            "provenance": provenance(device_name(device), import_seconds),
        },
    )


def _made(dataset: Path, judge: Path | None, judging: Judging) -> Lineage:
    """What the reference statistics are made from."""
    made: Lineage = read_json(dataset / "manifest.json")["lineage"]
    if judging.features == "builtin" and judge is not None:
        made = made | read_json(judge / "classifier.json")["lineage"]
    return made
