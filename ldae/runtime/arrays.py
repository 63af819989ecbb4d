"""Arrays on disk whose rows carry checksums, so that a damaged one is named and never computed with; no torch."""

from __future__ import annotations

import mmap
import os
import tokenize
import weakref
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import DTypeLike, NDArray

from ldae.runtime.files import named, whole

DAMAGE = (  # what NumPy and zipfile say of files that are no longer what they wrote
    ValueError,
    EOFError,
    OSError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,
)
RESIDENT = 2**26  # bytes that are read through a memory map before its pages are given back
LARGE_ROW = 2**16  # bytes of a row that is read by itself: around what a map is asked for, Linux may read megabytes


def open_array(path: Path, *, mapped: bool = False) -> NDArray[Any]:
    """An array of a `.npy` file, read or as a memory map; a `ValueError` names one that is cut short or no array."""
    with damage_of(path):
        return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)


def save_arrays(path: Path, **arrays: NDArray[Any]) -> None:
    """Writes named arrays as an `.npz` file, whole."""
    with whole(path) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


@contextmanager
def damage_of(path: Path) -> Iterator[None]:
    """A `ValueError` says in one line what is wrong with a file that cannot be read, by its name."""
    path.stat()  # an absent one is not damaged
    try:
        yield
    except DAMAGE as error:
        raise ValueError(f"{path}: is damaged ({' '.join(str(error).split())}); delete it and run again") from None


def new_array(path: Path, dtype: DTypeLike, shape: tuple[int, ...]) -> np.memmap[Any, np.dtype[Any]]:
    """An array on disk, all of it reserved, to be filled through a memory map.

    Raises:
        OSError: that names `path`, where the disk has not the space. (A map that outgrows the disk later would end its
            writer without a word.)
    """
    with named(path):
        array = open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        if hasattr(os, "posix_fallocate"):
            try:
                with path.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError:
                path.unlink()  # what it has got of a full disk is of no use
                raise
    return array


def release(array: NDArray[Any]) -> None:
    """Gives the pages of an array's memory map back, if it has one: read once, they would be held as long as the map.

    What has been written to them stays: it is the file's. A process that goes through a file of any size has then no
    more of it in memory than lies between two calls.
    """
    mapped = array.base
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def in_chunks(rows: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """An array on disk, some rows at a time, of which only those at hand are in memory."""
    step = max(1, RESIDENT // (rows[:1].nbytes or 1))
    for start in range(0, len(rows), step):
        yield rows[start : start + step]
        release(rows)


def read_arrays(path: Path, names: Iterable[str] = ()) -> dict[str, NDArray[Any]]:
    """All arrays of an `.npz` file, whose own checksums are looked at.

    Raises:
        ValueError: that names a file which is damaged, or which lacks one of the `names`. (One flipped bit in its list
            of contents can hide an array.)
    """
    with damage_of(path), path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays}
        if other := [name for name, array in found.items() if not isinstance(array, np.ndarray)]:
            raise ValueError(f"{other[0]!r} is not an array")
        if missing := [name for name in names if name not in found]:
            raise ValueError(f"{missing[0]!r} is not in it")
        return found


def save_array(path: Path, values: NDArray[Any]) -> None:
    """Writes an array whole."""
    with whole(path) as partial, partial.open("wb") as file:
        np.save(file, values)


def row_sums(rows: NDArray[Any]) -> NDArray[np.uint64]:
    """A checksum of each row (n,) of an array (n, ...): the sum of its bytes' 64-bit words, in a single fast pass."""
    flat = np.ascontiguousarray(rows).reshape(len(rows), -1).view(np.uint8)
    words = flat.shape[1] // 8 * 8
    sums: NDArray[np.uint64] = flat[:, :words].view(np.uint64).sum(1, dtype=np.uint64)
    return sums + flat[:, words:].sum(1, dtype=np.uint64)


def all_row_sums(path: Path) -> NDArray[np.uint64]:
    """The checksums of all rows of an array on disk."""
    rows = open_array(path, mapped=True)
    return np.concatenate([row_sums(chunk) for chunk in in_chunks(rows)])


def save_row_sums(path: Path) -> None:
    """Writes the checksums of an array's rows beside it."""
    save_array(sums_beside(path), all_row_sums(path))


def sums_beside(path: Path) -> Path:
    """Where the checksums of an array's rows are."""
    return path.with_name(f"{path.stem}_checksums.npy")


class CheckedRows:
    """An array on disk that is read row by row, each row compared with its checksum."""

    def __init__(self, path: Path) -> None:
        """Opens it without reading it.

        Raises:
            ValueError: when it has not one checksum for each row.
        """
        self.path, self.rows = path, open_array(path, mapped=True)
        self._sums: NDArray[np.uint64] = open_array(sums_beside(path))
        if len(self._sums) != len(self.rows):
            raise ValueError(f"{path}: has {len(self.rows)} rows and {len(self._sums)} checksums; run again")
        self._read = 0  # bytes since the pages were last given back
        self._file: int | None = None
        if self.rows[:1].nbytes >= LARGE_ROW and hasattr(os, "preadv"):
            self._file, self._start = os.open(path, os.O_RDONLY), cast("np.memmap[Any, Any]", self.rows).offset
            weakref.finalize(self, os.close, self._file)

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.rows)

    def __getitem__(self, part: slice) -> NDArray[Any]:
        """Copies of the rows of a slice, as `take` gives them."""
        return self.take(np.arange(len(self))[part])

    def take(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Copies of the rows at `indices`; a `ValueError` names the first that is damaged."""
        taken = self._through_map(indices) if self._file is None else self._by_themselves(indices, self._file)
        wrong = np.flatnonzero(row_sums(taken) != self._sums[indices])
        if len(wrong):
            raise ValueError(f"{self.path}: row {indices[wrong[0]]} is damaged; delete the file and run again")
        return taken

    def _through_map(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        taken: NDArray[Any] = np.take(self.rows, indices, axis=0)
        self._read += taken.nbytes
        if self._read > RESIDENT:
            release(self.rows)
            self._read = 0
        return taken

    def _by_themselves(self, indices: NDArray[np.int64], file: int) -> NDArray[Any]:
        taken = np.zeros((len(indices), *self.rows.shape[1:]), self.rows.dtype)  # what a file lacks will be missed
        for row, index in zip(taken, indices.tolist(), strict=True):
            left, place = memoryview(row).cast("B"), self._start + index * row.nbytes
            while left and (read := os.preadv(file, [left], place)):
                left, place = left[read:], place + read
        return taken
