"""Checks before anything is read: the number of images, and problems that would stop the preparation; no torch."""

from __future__ import annotations

from pathlib import Path

from ldae.data.sources import folder, tars
from ldae.study.scale import Dataset, Folder, Photos

IMAGENET = (1_281_167, 50_000, 1000)  # training and validation images, classes
IMAGENET_BYTES = {tars.TRAIN: 147_897_477_120, tars.VAL: 6_744_924_160}  # of its tar files as they are distributed


def problem(dataset: Dataset) -> str | None:
    """One line on what would stop the preparation, from a look at the outermost folder only; None if nothing."""
    try:
        if isinstance(dataset, Folder):
            folder.check(dataset)
        elif not isinstance(dataset, Photos):
            tars.check(dataset)
    except (ValueError, OSError) as error:
        return str(error)
    return None


def count(dataset: Dataset) -> tuple[int, int, int]:
    """The numbers of training images, validation images and classes, counted from the list of files.

    Raises:
        ValueError, OSError: in one line, for what cannot be prepared.
    """
    if isinstance(dataset, Photos):
        return dataset.train, dataset.val, 20
    if isinstance(dataset, Folder):
        source = folder.load(dataset)
    else:
        tars.check(dataset)
        root = Path(dataset.path).expanduser()
        if all((root / name).stat().st_size == size for name, size in IMAGENET_BYTES.items()):
            return IMAGENET  # to list them takes minutes
        source = tars.load(dataset)
    train, val = (len(source.splits[split].labels) for split in ("train", "val"))
    return train, val, len(source.classes)
