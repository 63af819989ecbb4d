"""Opens a data set from any source, counts its images, and finds what would stop the preparation; no torch."""

from __future__ import annotations

from pathlib import Path

from ldae.data.sources import Source, folder, photos, tars
from ldae.data.sources.listing import Listing
from ldae.study.scale import Dataset, Folder, Photos

IMAGENET = (1_281_167, 50_000, 1000)  # training and validation images, classes
IMAGENET_BYTES = {tars.TRAIN: 147_897_477_120, tars.VAL: 6_744_924_160}  # of its tar files as they are distributed


def open_source(dataset: Dataset) -> Source:
    """Lists the images of both splits; a `ValueError` says in one line why that is not possible."""
    if isinstance(dataset, Photos):
        return photos.load(dataset)
    return folder.load(dataset) if isinstance(dataset, Folder) else tars.load(dataset)


def listing(dataset: Dataset) -> Listing | None:
    """The files of a data set on disk; None for `photos`, which is identified by its contents."""
    if isinstance(dataset, Photos):
        return None
    return folder.load(dataset).listing if isinstance(dataset, Folder) else tars.listing(dataset)


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
    """The numbers of training images, validation images and classes; errors as in `open_source`."""
    if dataset.source == "imagenet":
        tars.check(dataset)
        root = Path(dataset.path).expanduser()
        if all((root / name).stat().st_size == size for name, size in IMAGENET_BYTES.items()):
            return IMAGENET  # to list them takes minutes
    source = open_source(dataset)
    return len(source.splits["train"].labels), len(source.splits["val"].labels), len(source.classes)
