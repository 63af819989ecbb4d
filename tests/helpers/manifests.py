"""Prepared images that a test made itself, and their manifest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldae.data.division import Division, SplitName
from ldae.runtime.arrays import save_row_checksums
from ldae.runtime.files import checksums
from ldae.study.results import Manifest


def write_manifest(
    folder: Path, *, size: int = 32, classes: Sequence[str] = ("a", "b", "c"), images: int = 1, **more: Any
) -> Manifest:
    """Writes and returns the manifest of images of these classes, as many as `images` of each in either split."""
    counts = {split: dict.fromkeys(classes, images) for split in ("train", "val")}
    values = {"source": "photos", "lineage": {"dataset": {"revision": 1, "spec": {}}}, "counts": counts} | more
    manifest = Manifest(size=size, classes=tuple(classes), **values)
    manifest.write(folder / "manifest.json")
    return manifest


def images_of(folder: Path, split: SplitName, seed: int = 0) -> NDArray[np.uint8]:
    """The images (N, 3, S', S') of a replication's split in a prepared folder."""
    images: NDArray[np.uint8] = np.load(folder / "images.npy")[Division.open(folder, split, seed).index]
    return images


def write_images(folder: Path, images: NDArray[np.uint8], **numbers: Any) -> dict[str, str]:
    """Writes a pool of images (P, 3, S, S) with its checksums, and its numbers as `write_numbers` does."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "images.npy", images)
    save_row_checksums(folder / "images.npy")
    return write_numbers(folder, **numbers)


def write_numbers(folder: Path, *, train: int, labels: NDArray[np.int64], groups: NDArray[np.int64]) -> dict[str, str]:
    """Writes what is known of a pool, of which the first `train` images are for training; returns the checksums."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = (np.arange(len(labels)) >= train).astype(np.int64)
    arrays = {"labels": labels, "groups": groups, "parts": parts}
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)
    return checksums(*(folder / f"{name}.npy" for name in arrays))
