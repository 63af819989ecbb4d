"""Arrays on disk with a checksum per row, so that a damaged row is reported instead of used; no torch."""

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

from ldae.runtime.files import atomic_write, path_in_errors

# what NumPy and zipfile raise for damaged files
DAMAGE = (ValueError, EOFError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error, tokenize.TokenError)
RESIDENT = 2**26  # bytes to read through a memory map before its pages are released


def open_array(path: Path, *, mapped: bool = False) -> NDArray[Any]:
    """The array of a `.npy` file, read or memory-mapped; a `ValueError` names the file if it is damaged."""
    with report_damage(path):
        return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)


def save_arrays(path: Path, **arrays: NDArray[Any]) -> None:
    """Writes named arrays to an `.npz` file, atomically."""
    with atomic_write(path) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


@contextmanager
def report_damage(path: Path) -> Iterator[None]:
    """Turns any error of reading a damaged file into a one-line `ValueError` with its name."""
    path.stat()  # raises FileNotFoundError for a missing file
    try:
        yield
    except DAMAGE as error:
        raise ValueError(f"{path}: is damaged ({' '.join(str(error).split())}); delete it and run again") from None


def new_array(path: Path, dtype: DTypeLike, shape: tuple[int, ...]) -> np.memmap[Any, np.dtype[Any]]:
    """Creates an array on disk to be filled through a memory map; an `OSError` names `path` if it does not fit."""
    with path_in_errors(path):
        array = open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        try:
            with path.open("r+b") as file:  # if the disk were full later, SIGBUS would kill the writer
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError:
            path.unlink()  # frees the partial reservation
            raise
    return array


def release_pages(array: NDArray[Any]) -> None:
    """Releases the memory of an array's memory map, if it has one; otherwise pages stay resident as long as the map."""
    if isinstance(array.base, mmap.mmap):
        array.base.madvise(mmap.MADV_DONTNEED)


def read_arrays(path: Path, names: Iterable[str] = ()) -> dict[str, NDArray[Any]]:
    """All arrays of an `.npz` file; a `ValueError` names the file if it is damaged or lacks one of the `names`."""
    with report_damage(path), path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        arrays_by_name = {name: arrays[name] for name in arrays}
        if invalid := [name for name, array in arrays_by_name.items() if not isinstance(array, np.ndarray)]:
            raise ValueError(f"{invalid[0]!r} is not an array")
        if missing := [name for name in names if name not in arrays_by_name]:
            raise ValueError(f"{missing[0]!r} is not in it")
        return arrays_by_name


def save_array(path: Path, values: NDArray[Any]) -> None:
    """Writes an array to a `.npy` file, atomically."""
    with atomic_write(path) as partial, partial.open("wb") as file:
        np.save(file, values)


def row_checksums(rows: NDArray[Any]) -> NDArray[np.uint64]:
    """A checksum (n,) for each row of an array (n, ...): the sum of its 64-bit words, in one fast pass."""
    flat = np.ascontiguousarray(rows).reshape(len(rows), -1).view(np.uint8)
    words = flat.shape[1] // 8 * 8
    sums: NDArray[np.uint64] = flat[:, :words].view(np.uint64).sum(1, dtype=np.uint64)
    return sums + flat[:, words:].sum(1, dtype=np.uint64)


def file_row_checksums(path: Path) -> NDArray[np.uint64]:
    """The checksums of all rows of a `.npy` file, of which only a slice is in memory at a time."""
    rows = open_array(path, mapped=True)
    sums = np.empty(len(rows), dtype=np.uint64)
    step = max(1, RESIDENT // (rows[:1].nbytes or 1))
    for start in range(0, len(rows), step):
        sums[start : start + step] = row_checksums(rows[start : start + step])
        release_pages(rows)
    return sums


def save_row_checksums(path: Path) -> None:
    """Writes the row checksums of a `.npy` file next to it."""
    save_array(checksums_path(path), file_row_checksums(path))


def checksums_path(path: Path) -> Path:
    """The path of the row checksums of a `.npy` file."""
    return path.with_name(f"{path.stem}_checksums.npy")


class CheckedRows:
    """An array on disk whose rows are verified against their checksums when they are read."""

    def __init__(self, path: Path) -> None:
        """Opens the array without reading it; a `ValueError` says that there are more or fewer checksums than rows."""
        self.path, self.rows = path, open_array(path, mapped=True)
        self._sums: NDArray[np.uint64] = open_array(checksums_path(path))
        if len(self._sums) != len(self.rows):
            raise ValueError(f"{path}: has {len(self.rows)} rows and {len(self._sums)} checksums; run again")
        self._file, self._start = os.open(path, os.O_RDONLY), cast("np.memmap[Any, Any]", self.rows).offset
        weakref.finalize(self, os.close, self._file)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice) -> NDArray[Any]:
        """Copies of the rows of a slice; see `take`."""
        return self.take(np.arange(len(self))[part])

    def take(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Copies of the rows at `indices`; a `ValueError` names the first damaged row."""
        rows = np.zeros((len(indices), *self.rows.shape[1:]), self.rows.dtype)
        # not through the memory map, because Linux may read megabytes around a mapped page
        for row, index in zip(rows, indices.tolist(), strict=True):
            content = os.pread(self._file, row.nbytes, self._start + index * row.nbytes)
            memoryview(row).cast("B")[: len(content)] = content  # checksums reveal what a short file lacks
        wrong = np.flatnonzero(row_checksums(rows) != self._sums[indices])
        if len(wrong):
            raise ValueError(f"{self.path}: row {indices[wrong[0]]} is damaged; delete the file and run again")
        return rows
