"""Whether the pictures that a data set was prepared from are still the same; no torch, and nothing is written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from ldae.data.sources import folder, photos, tars
from ldae.data.sources.listing import (
    MOST_BYTES,
    UNKNOWN,
    UNREADABLE,
    Listing,
    file_digest,
    read_folders,
    read_listing,
)
from ldae.data.sources.tree import printable
from ldae.runtime.arrays import report_damage
from ldae.study.scale import Dataset, Folder, Photos

MANY = 50_000  # files; of more, no file is looked at while no folder has changed


def listing(dataset: Dataset) -> Listing | None:
    """The files of a data set as the disk has them; None for the photographs, which are known by their contents."""
    if isinstance(dataset, Photos):
        return None
    return folder.listing(dataset) if isinstance(dataset, Folder) else tars.listing(dataset)


def identity(files: Listing | None) -> str:
    """Another one for files that may be others; the times count."""
    return json.dumps(photos.hashes()) if files is None else files.digest(files.sizes, files.times)


def record(files: Listing | None, path: Path) -> dict[str, Any]:
    """Writes the listing of the files that were read to `path`, and returns what the manifest says of them."""
    if files is None:
        path.unlink(missing_ok=True)
        return dict(photos.hashes())
    files.save(path)
    return dict(files.summary())


def difference(dataset: Dataset, manifest: dict[str, Any], *, prepared: Path) -> str | None:
    """One line that says how the pictures differ from those that were prepared.

    Args:
        dataset: what the scale asks for.
        manifest: what was prepared.
        prepared: the folder of the prepared images, where the manifest and the listing of the files lie.

    Returns:
        None where they are the same, wherever they lie and whatever their times; where they cannot be seen; and where
        the manifest does not say what they were. Of more than 50,000 files, those are not looked at whose folders have
        not changed; where more than 1 GB has other times than recorded, names and sizes decide.
    """
    recorded = manifest.get("sources")
    if not recorded or manifest["source"] != dataset.source:
        return None
    if isinstance(dataset, Photos):
        return _other_photograph(recorded)
    root, saved = Path(dataset.path).expanduser(), prepared / "sources.npz"
    differ = f"the pictures in {printable(str(root))} differ from those that were prepared"
    if not root.exists():
        elsewhere = (
            manifest["lineage"]["dataset"]["spec"]["dataset"]["path"] != dataset.path
        )  # a slip, and no absent disk
        return (
            f"{printable(str(root))}: is not a folder; write where the images are as dataset.path"
            if elsewhere
            else None
        )
    try:
        with os.scandir(root) as entries:
            if next(entries, None) is None:  # as an empty mount point is
                return None
        if recorded["files"] > MANY and _same_folders(root, saved):
            return None
        now = listing(dataset)
        assert now is not None
    except OSError:
        return None
    except ValueError as error:
        return f"{differ}: {error}"
    what = _compared(root, now.by_name(), recorded, _read(saved, recorded))
    return what and f"{differ}: {what}"


def _other_photograph(recorded: dict[str, dict[str, str]]) -> str | None:
    try:
        now = photos.hashes()
    except (ValueError, OSError):
        return None
    for package, files in recorded.items():
        for file, digest in files.items():
            if now.get(package, {}).get(file, digest) != digest:
                return f"{package}'s {file} is another file than the one that was prepared"
    return None


def _same_folders(root: Path, saved: Path) -> bool:
    """Whether nothing was added to, removed from or renamed in any folder."""
    try:
        with report_damage(saved):
            folders = read_folders(saved)
        return all(os.stat(root / name).st_mtime_ns == time for name, time in folders.items())
    except (OSError, ValueError, KeyError):
        return False


def _read(saved: Path, recorded: dict[str, Any]) -> Listing | None:
    """The listing beside a manifest, if it is there and belongs to it."""
    try:
        listing = read_listing(saved)
    except (OSError, ValueError):
        return None
    return listing if listing.digest(listing.sizes) == recorded["names"] else None


def _compared(root: Path, now: Listing, recorded: dict[str, Any], before: Listing | None) -> str | None:
    """What is different of two listings that are sorted by name."""
    if now.digest(now.sizes) != recorded["names"]:
        if len(now.names) != recorded["files"]:
            return f"{len(now.names):,} files, {recorded['files']:,} before"
        if before is None:
            return "names or sizes are others"
        sizes = dict(zip(before.names, before.sizes.tolist(), strict=True))
        other = next(n for n, size in zip(now.names, now.sizes.tolist(), strict=True) if sizes.get(n) != size)
        return f"{printable(other)} {'has another size' if other in sizes else 'is new'}"
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
