"""Which images of the pool a replication trains and validates on; no torch.

All images of a data set are stored once, in one pool, and a replication is an index into it. `parts.npy` says of each
image what it may be used for:

- `2 * side` and `2 * side + 1`: for training and for validation in each replication that has drawn this side of the
  image's class. Of `photos` a class is a photograph, which has four sides; data sets that come with two splits have one
  side, so that all replications have the same splits.
- `UNDIVIDED`: each replication draws whether the image is for training or for validation.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from ldae.runtime.arrays import open_array
from ldae.runtime.files import verified
from ldae.study.results import Manifest
from ldae.study.stages import SHARED_SEED

UNDIVIDED = -1
STREAM = 2**31  # of the draws; the orders of training images, which have the numbers of epochs here, share none of them

SplitName = Literal["train", "val"]


@dataclass(frozen=True)
class Pool:
    """All images of a data set, without their pixels."""

    labels: NDArray[np.int64]  # (P,)
    groups: NDArray[np.int64]  # (P,) images of one group are not independent of each other
    parts: NDArray[np.int64]  # (P,)
    val_fraction: float | None = None  # of undivided images

    @property
    def is_drawn(self) -> bool:
        """Whether replications can differ in their splits."""
        return self.val_fraction is not None or bool((self.parts > 1).any())

    def places(self, name: SplitName, seed: int) -> NDArray[np.int64]:
        """The images (N,) of a replication's split, ascending; N is the same for every seed, in total and by class."""
        rng = np.random.default_rng([seed, STREAM])
        if self.val_fraction is not None:
            return np.flatnonzero(self._held_out(self.val_fraction, rng) == (name == "val"))
        side = rng.integers(1 + self.parts.max() // 2, size=1 + self.labels.max())[self.labels]
        return np.flatnonzero(self.parts == 2 * side + (name == "val"))

    def _held_out(self, fraction: float, rng: np.random.Generator) -> NDArray[np.bool_]:
        """Draws the images (P,) for validation: whole groups, whose members have one label.

        Of the groups of a class that have equally many images, each replication draws equally many, so that the number
        of images depends on no draw. At least one group of a class is drawn, and never all.
        """
        _, first, group, sizes = np.unique(self.groups, return_index=True, return_inverse=True, return_counts=True)
        labels, base = self.labels[first], 1 + sizes.max()
        kinds, kind, numbers = np.unique(labels * base + sizes, return_inverse=True, return_counts=True)
        quotas = np.rint(fraction * numbers).astype(np.int64)
        for label in np.unique(labels):
            own = np.flatnonzero(kinds // base == label)
            largest = own[numbers[own].argmax()]
            if not quotas[own].any():
                quotas[largest] = 1
            elif (quotas[own] == numbers[own]).all():
                quotas[largest] -= 1
        order = np.lexsort((rng.random(len(sizes)), kind))  # by kind, and at random within each
        ranks = np.empty(len(sizes), dtype=np.int64)
        ranks[order] = np.arange(len(sizes)) - (np.cumsum(numbers) - numbers)[kind[order]]
        held_out: NDArray[np.bool_] = (ranks < quotas[kind])[group]
        return held_out


@dataclass(frozen=True)
class Division:
    """The training or validation images of a replication."""

    index: NDArray[np.int64]  # (N,) their places in the pool, ascending
    labels: NDArray[np.int64]  # (N,)
    groups: NDArray[np.int64]  # (N,) 0..G - 1; images of one group are not independent of each other
    own_splits: bool  # whether other replications have other splits

    @classmethod
    def open(cls, folder: Path, name: SplitName, seed: int) -> Self:
        """Reads the split `name` of replication `seed` of a prepared folder, without its images.

        Where the data set's specification says `shared`, all replications have the splits of seed 0.
        """
        manifest = Manifest.read(folder / "manifest.json")
        spec: dict[str, Any] = manifest.lineage["dataset"]["spec"]
        labels, groups, parts = (
            open_array(verified(folder / f"{name}.npy", manifest.sha256)) for name in ("labels", "groups", "parts")
        )
        pool = Pool(labels, groups, parts, spec.get("dataset", {}).get("val_fraction"))
        is_shared = spec.get("shared", False)
        index = pool.places(name, SHARED_SEED if is_shared else seed)
        groups = np.unique(pool.groups[index], return_inverse=True)[1]
        return cls(index, pool.labels[index], groups, pool.is_drawn and not is_shared)
