"""A listing of a data set's files: names, sizes, modification times and digests of their contents."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ldae.data.sources.tree import Entry
from ldae.runtime.arrays import read_arrays, save_arrays
from ldae.runtime.files import sha256

UNKNOWN, UNREADABLE = 0, 1  # in the place of a file's digest
MOST_BYTES = 10**9  # of files whose contents are compared when their times have changed


def digest_of(content: bytes) -> int:
    """The first 64 bits of the SHA-256 of a file's content."""
    return int(hashlib.sha256(content).hexdigest()[:16], 16)


def file_digest(path: Path) -> int:
    """The first 64 bits of the SHA-256 of a file on disk; `UNKNOWN` if it cannot be read."""
    with suppress(OSError):
        return int(sha256(path)[:16], 16)
    return UNKNOWN


@dataclass(frozen=True)
class Listing:
    """Files in the order in which they are read."""

    names: tuple[str, ...]  # relative to the data set's folder
    sizes: NDArray[np.int64]  # (N,) bytes
    times: NDArray[np.int64]  # (N,) of the last change, nanoseconds
    digests: NDArray[np.uint64]  # (N,) of the contents
    folders: dict[str, int]  # folder, relative to the data set's -> when its entries last changed, nanoseconds

    @classmethod
    def of(cls, entries: Iterable[Entry], folders: dict[str, int]) -> Listing:
        """A listing of files whose contents have not been read yet."""
        names, sizes, times = zip(*entries, strict=True)
        unknown = np.full(len(names), UNKNOWN, dtype=np.uint64)
        return cls(names, np.array(sizes, dtype=np.int64), np.array(times, dtype=np.int64), unknown, folders)

    def by_name(self) -> Listing:
        """The listing sorted by name."""
        order = sorted(range(len(self.names)), key=self.names.__getitem__)
        names = tuple(self.names[place] for place in order)
        return replace(self, names=names, sizes=self.sizes[order], times=self.times[order], digests=self.digests[order])

    def digest(self, *columns: NDArray[np.int64] | NDArray[np.uint64]) -> str:
        """A SHA-256 of the files' names and the given numbers, independent of the order of the files."""
        rows = sorted(zip(map(os.fsencode, self.names), *(column.tolist() for column in columns), strict=True))
        total = hashlib.sha256()
        for name, *numbers in rows:
            total.update(name + b"\0" + " ".join(map(str, numbers)).encode() + b"\0")
        return total.hexdigest()

    def save(self, path: Path) -> None:
        """Writes the listing, atomically."""
        listing = self.by_name()
        folder_times = np.array(list(self.folders.values()), dtype=np.int64)
        numbers = {"sizes": listing.sizes, "times": listing.times, "digests": listing.digests}
        texts = {"names": _joined(listing.names), "folders": _joined(self.folders)}
        save_arrays(path, **numbers, **texts, folder_times=folder_times)


def read_listing(path: Path) -> Listing:
    """A saved listing, sorted by name; a `ValueError` names the file if it is damaged."""
    arrays = read_arrays(path, ("names", "sizes", "times", "digests", "folders", "folder_times"))
    folders = dict(zip(_texts(arrays["folders"]), arrays["folder_times"].tolist(), strict=True))
    return Listing(_texts(arrays["names"]), arrays["sizes"], arrays["times"], arrays["digests"], folders)


def _joined(texts: Iterable[str]) -> NDArray[np.uint8]:
    return np.frombuffer(os.fsencode("\0".join(texts)), dtype=np.uint8)


def _texts(joined: NDArray[np.uint8]) -> tuple[str, ...]:
    return tuple(os.fsdecode(joined.tobytes()).split("\0")) if len(joined) else ()
