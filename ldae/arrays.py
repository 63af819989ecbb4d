"""Arrays on disk whose rows carry checksums, so that a damaged one is named and never computed with; no torch."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldae.files import whole

CHUNK = 1024  # rows that are summed up at once, to bound memory


def open_array(path: Path, *, mapped: bool = False) -> NDArray[Any]:
    """An array of a `.npy` file, read or as a memory map; a `ValueError` names one that is cut short or no array."""
    try:
        return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: is damaged ({' '.join(str(error).split())}); delete it and run again") from None


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an `.npz` file, whose own checksums are looked at; a `ValueError` names one that is damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays}
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: is damaged ({' '.join(str(error).split())}); delete it and run again") from None


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
    return np.concatenate([row_sums(rows[start : start + CHUNK]) for start in range(0, len(rows), CHUNK)])


def save_row_sums(path: Path) -> None:
    """Writes the checksums of an array's rows beside it."""
    save_array(sums_beside(path), all_row_sums(path))


def sums_beside(path: Path) -> Path:
    """Where the checksums of an array's rows are."""
    return path.with_name(f"{path.stem}_checksums.npy")


class CheckedRows:
    """An array on disk that is read row by row, each row compared with its checksum."""

    def __init__(self, path: Path) -> None:
        """Opens it without reading it."""
        self.path, self.rows = path, open_array(path, mapped=True)
        self._sums: NDArray[np.uint64] = open_array(sums_beside(path))
        if len(self._sums) != len(self.rows):
            raise ValueError(f"{path}: has {len(self.rows)} rows and {len(self._sums)} checksums; run again")

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.rows)

    def __getitem__(self, part: slice) -> NDArray[Any]:
        """Copies of the rows of a slice, as `take` gives them."""
        return self.take(np.arange(len(self))[part])

    def take(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Copies of the rows at `indices`; a `ValueError` names the first that is damaged."""
        taken: NDArray[Any] = np.take(self.rows, indices, axis=0)
        wrong = np.flatnonzero(row_sums(taken) != self._sums[indices])
        if len(wrong):
            raise ValueError(f"{self.path}: row {indices[wrong[0]]} is damaged; delete the file and run again")
        return taken
