"""Opens a data set from any source, and detects changes of its files; no torch."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ldae.data.division import Pool
from ldae.data.sources import Source, folder, photos, tars
from ldae.data.sources.listing import MOST_BYTES, UNKNOWN, UNREADABLE, Listing, file_digest, read_listing
from ldae.data.sources.tree import printable
from ldae.study.scale import Dataset, Folder, Photos

IMAGENET = (1_281_167, 50_000, 1000)  # training and validation images, classes
IMAGENET_BYTES = {tars.TRAIN: 147_897_477_120, tars.VAL: 6_744_924_160}  # of its tar files as they are distributed
MANY = 50_000  # with more files, files are checked only if a folder has changed


def open_source(dataset: Dataset) -> Source:
    """Lists all images; a `ValueError` says in one line why that is not possible."""
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
    """The numbers of training images, validation images and classes; errors as in `open_source`.

    Copies and broken images, which only reading the files reveals, count like others.
    """
    if dataset.source == "imagenet":
        tars.check(dataset)
        root = Path(dataset.path).expanduser()
        if all((root / name).stat().st_size == size for name, size in IMAGENET_BYTES.items()):
            return IMAGENET  # to list them takes minutes
    source = open_source(dataset)
    train, val = sizes(source)
    return train, val, len(source.classes)


def sizes(source: Source) -> tuple[int, int]:
    """The numbers of training and validation images of each replication, if no image is broken or a copy."""
    pool = Pool(source.images.labels, np.arange(len(source.parts)), source.parts, source.val_fraction)
    return len(pool.places("train", 0)), len(pool.places("val", 0))


def identity(files: Listing | None) -> str:
    """A text that changes if a file may have changed; modification times count."""
    return json.dumps(photos.hashes()) if files is None else files.digest(files.sizes, files.times)


def record_listing(files: Listing | None, path: Path) -> dict[str, Any]:
    """Writes the listing of the files to `path`; returns what identifies them wherever they are, for the manifest."""
    if files is None:
        path.unlink(missing_ok=True)
        return dict(photos.hashes())
    files.save(path)
    digests = {"names": files.digest(files.sizes), "contents": files.digest(files.digests)}
    return {"files": len(files.names), "bytes": int(files.sizes.clip(0).sum())} | digests


def difference(dataset: Dataset, manifest: dict[str, Any], *, prepared: Path) -> str | None:
    """One line on how a data set's files differ from those that were `prepared` in a folder with this manifest.

    None if the files are the same, wherever they are and whatever their times; if they are not accessible; and if the
    manifest does not describe them. With more than `MANY` files, they are checked only if a folder has changed. Beyond
    1 GB of files with new times, only names and sizes are compared.
    """
    recorded = manifest.get("sources")
    if not recorded or manifest["source"] != dataset.source:
        return None
    if isinstance(dataset, Photos):
        return _other_photograph(recorded)
    root = Path(dataset.path).expanduser()
    if not root.exists():
        if manifest["lineage"]["dataset"]["spec"]["dataset"]["path"] == dataset.path:
            return None  # a missing disk rather than a typing mistake
        return f"{printable(str(root))}: is not a folder; write where the images are as dataset.path"
    differ = f"the pictures in {printable(str(root))} differ from those that were prepared"
    before: Listing | None = None
    with suppress(OSError, ValueError):
        before = read_listing(prepared / "sources.npz")
    try:
        if not os.listdir(root):  # e.g. an empty mount point
            return None
        if recorded["files"] > MANY and before is not None and _same_folders(root, before):
            return None
        now = listing(dataset)
        assert now is not None
    except OSError:
        return None
    except ValueError as error:
        return f"{differ}: {error}"
    what = _compared(root, now.by_name(), recorded, before)
    return what and f"{differ}: {what}"


def _other_photograph(recorded: dict[str, dict[str, str]]) -> str | None:
    with suppress(ValueError, OSError):
        now = photos.hashes()
        for package, files in recorded.items():
            for file, digest in files.items():
                if now.get(package, {}).get(file, digest) != digest:
                    return f"{package}'s {file} is another file than the one that was prepared"
    return None


def _same_folders(root: Path, before: Listing) -> bool:
    """Whether the modification times of all folders are unchanged: no file was added, removed or renamed."""
    with suppress(OSError):
        return all(os.stat(root / name).st_mtime_ns == time for name, time in before.folders.items())
    return False


def _compared(root: Path, now: Listing, recorded: dict[str, Any], before: Listing | None) -> str | None:
    """The first difference between two listings that are sorted by name."""
    if before is not None and before.digest(before.sizes) != recorded["names"]:  # it belongs to another manifest
        before = None
    if now.digest(now.sizes) != recorded["names"]:
        if len(now.names) != recorded["files"]:
            return f"{len(now.names):,} files, {recorded['files']:,} before"
        if before is None:
            return "names or sizes are others"
        sizes = dict(zip(before.names, before.sizes.tolist(), strict=True))
        name = next(n for n, size in zip(now.names, now.sizes.tolist(), strict=True) if sizes.get(n) != size)
        return f"{printable(name)} {'has another size' if name in sizes else 'is new'}"
    if before is None:
        return None
    for place in np.flatnonzero(before.digests == UNREADABLE):
        if os.access(root / now.names[place], os.R_OK):
            return f"{printable(now.names[place])} can be read now"
    places = np.flatnonzero((now.times != before.times) & (before.digests > UNREADABLE))
    if now.sizes[places].sum() > MOST_BYTES or before.digest(before.digests) != recorded["contents"]:
        return None
    for place in places:
        if file_digest(root / now.names[place]) not in (UNKNOWN, before.digests[place]):
            return f"{printable(now.names[place])} has other contents"
    return None
