"""Prepared images and cached latents. Images are NCHW: uint8 on disk, floats in [-1, 1] in networks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from ldae.data.division import Division, SplitName
from ldae.runtime.arrays import CheckedRows
from ldae.runtime.randomness import Randomness
from ldae.study.results import Manifest


@dataclass(frozen=True)
class Split:
    """The training or validation images of a prepared data set, at the networks' size or at the stored size."""

    images: CheckedRows  # (P, 3, S', S'), uint8, of all replications
    index: NDArray[np.int64]  # (N,) the places of this split's images among them
    labels: Tensor  # (N,)
    groups: NDArray[np.int64]  # (N,) images of one group are not independent of each other
    size: int  # S, at most S'

    @classmethod
    def open(cls, folder: Path, name: SplitName, seed: int) -> Split:
        """Opens the split `train` or `val` of a replication in a prepared folder without reading its images."""
        division, size = Division.open(folder, name, seed), Manifest.read(folder / "manifest.json").size
        images, labels = CheckedRows(folder / "images.npy"), torch.from_numpy(division.labels)
        return cls(images, division.index, labels, division.groups, size)

    @property
    def as_stored(self) -> Split:
        """The same images at their stored size S', for random crops."""
        return replace(self, size=self.images.rows.shape[-1])

    def __len__(self) -> int:
        return len(self.index)

    def batch(self, indices: NDArray[np.int64], device: torch.device) -> tuple[Tensor, Tensor]:
        """The images (n, 3, S, S), still uint8, and labels (n,) at `indices`, on `device`."""
        return _to_device(self._shrunk(self.images.take(self.index[indices])), self.labels, indices, device)

    def __getitem__(self, part: slice) -> NDArray[np.uint8]:
        """The images (n, 3, S, S) of a slice."""
        return self._shrunk(self.images.take(self.index[part]))

    def _shrunk(self, stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Images (n, 3, S', S') scaled to (n, 3, S, S)."""
        if stored.shape[-1] == self.size:
            return stored
        size, images = (self.size, self.size), torch.from_numpy(stored)
        shrunk: NDArray[np.uint8] = interpolate(images, size=size, mode="bicubic", antialias=True).numpy()
        return shrunk


@dataclass(frozen=True)
class Latents:
    """Cached latents of a replication's training images, in their order, and of their mirror images."""

    values: CheckedRows  # (N, 2, T, d) before standardisation, half precision
    labels: Tensor  # (N,)

    @classmethod
    def open(cls, folder: Path, labels: Tensor) -> Latents:
        """Opens the cache in a tokenizer's folder without reading it."""
        return cls(CheckedRows(folder / "latents.npy"), labels)

    def __len__(self) -> int:
        return len(self.values)

    def batch(self, indices: NDArray[np.int64], device: torch.device) -> tuple[Tensor, Tensor]:
        """Latents of the images and of their mirror images (n, 2, T, d), half precision, and labels (n,)."""
        return _to_device(self.values.take(indices), self.labels, indices, device)


def _to_device(
    values: NDArray[Any], labels: Tensor, indices: NDArray[np.int64], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Values at `indices` and their labels, on `device`."""
    batch, batch_labels = torch.from_numpy(values), labels[torch.from_numpy(indices)]
    if device.type == "cuda":
        batch, batch_labels = batch.pin_memory(), batch_labels.pin_memory()
    return batch.to(device, non_blocking=True), batch_labels.to(device, non_blocking=True)


def to_float(images: Tensor) -> Tensor:
    """uint8 images as floats in [-1, 1]."""
    return torch.add(torch.full((), -1.0, device=images.device), images, alpha=1 / 127.5)  # one pass over memory


def to_uint8(images: Tensor) -> Tensor:
    """Floats in [-1, 1] as uint8 images, rounded as DiT does."""
    return (127.5 * images + 128).clamp(0, 255).byte()


def flip(images: Tensor, randomness: Randomness) -> Tensor:
    """Mirrors each image (N, 3, S, S) of any type with probability one half."""
    num = len(images)
    mirrored = randomness.uniform(num) < 0.5
    both = torch.cat([images, images.flip(-1)])  # to copy whole images, four times faster than a choice per pixel
    return both.index_select(0, torch.arange(num, device=images.device) + num * mirrored)


def choose_mirrored(latents: Tensor, randomness: Randomness) -> Tensor:
    """Chooses the latents of each image or of its mirror image, (N, 2, T, d) to (N, T, d), like `flip`."""
    num = len(latents)
    mirrored = randomness.uniform(num) < 0.5
    return latents[torch.arange(num, device=latents.device), mirrored.long()].float()


class Order:
    """An endless shuffled order of a training set: a pure function of the position, so that training can resume."""

    def __init__(self, num_images: int, seed: int) -> None:
        self.num_images, self.seed = num_images, seed
        self._permutation = lru_cache(maxsize=2)(self._permuted)  # a slice seldom spans more than two epochs

    def slice(self, start: int, size: int) -> NDArray[np.int64]:
        """The indices at positions start..start + size; each epoch visits every image once."""
        epochs = range(start // self.num_images, (start + size - 1) // self.num_images + 1)
        joined = np.concatenate([self._permutation(epoch) for epoch in epochs])
        offset = start - epochs.start * self.num_images
        return joined[offset : offset + size]

    def _permuted(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([self.seed, epoch]).permutation(self.num_images)
