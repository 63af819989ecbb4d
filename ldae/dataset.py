"""Prepared images: read fast, augmented in batches. Images are NCHW; uint8 on disk, floats in [-1, 1] in use."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldae.arrays import CheckedRows, open_array
from ldae.files import intact, read_json
from ldae.randomness import Randomness


@dataclass(frozen=True)
class Split:
    """The training or validation images of a prepared data set, of which the centres are seen."""

    images: CheckedRows  # (N, 3, S', S'), uint8
    labels: Tensor  # (N,)
    groups: NDArray[np.int64]  # (N,) images of one group are not independent of each other
    size: int  # S, at most S'

    @classmethod
    def open(cls, folder: Path, name: str) -> Split:
        """Opens `train` or `val` of a prepared folder without reading its images."""
        manifest = read_json(folder / "manifest.json")
        paths = (folder / f"{name}_{what}.npy" for what in ("labels", "groups"))
        labels, groups = (open_array(intact(path, manifest)) for path in paths)
        return cls(CheckedRows(folder / f"{name}.npy"), torch.from_numpy(labels), groups, manifest["size"])

    @property
    def uncropped(self) -> Split:
        """The same images with their margin, where they have one, for random crops."""
        return replace(self, size=self.images.rows.shape[-1])

    def __len__(self) -> int:
        """The number of images."""
        return len(self.images)

    def batch(self, indices: NDArray[np.int64], device: torch.device) -> tuple[Tensor, Tensor]:
        """The images (n, 3, S, S), still uint8, and labels (n,) at `indices`, on `device`."""
        return _to_device(self._cut(self.images.take(indices)), self.labels, indices, device)

    def __getitem__(self, part: slice) -> NDArray[np.uint8]:
        """The images (n, 3, S, S) of a slice."""
        return self._cut(self.images[part])

    def _cut(self, stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The centres (n, 3, S, S) of images (n, 3, S', S')."""
        margin = stored.shape[-1] - self.size
        inner = slice(margin // 2, margin // 2 + self.size)
        return np.ascontiguousarray(stored[:, :, inner, inner]) if margin else stored


@dataclass(frozen=True)
class Latents:
    """The training images as cached latents, each beside those of its mirror image."""

    values: CheckedRows  # (N, 2, T, d) before standardisation, half precision
    labels: Tensor  # (N,)

    @classmethod
    def open(cls, folder: Path, labels: Tensor) -> Latents:
        """Opens the cache in a tokenizer's folder without reading it."""
        return cls(CheckedRows(folder / "latents.npy"), labels)

    def __len__(self) -> int:
        """The number of images."""
        return len(self.values)

    def batch(self, indices: NDArray[np.int64], device: torch.device) -> tuple[Tensor, Tensor]:
        """Latents of the images and of their mirror images (n, 2, T, d), half precision, and labels (n,)."""
        return _to_device(self.values.take(indices), self.labels, indices, device)


def _to_device(
    values: NDArray[Any], labels: Tensor, indices: NDArray[np.int64], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Values at `indices` and their labels, on `device`."""
    chosen, names = torch.from_numpy(values), labels[torch.from_numpy(indices)]
    if device.type == "cuda":
        chosen, names = chosen.pin_memory(), names.pin_memory()
    return chosen.to(device, non_blocking=True), names.to(device, non_blocking=True)


def to_float(images: Tensor) -> Tensor:
    """uint8 images as floats in [-1, 1]."""
    return torch.add(torch.full((), -1.0, device=images.device), images, alpha=1 / 127.5)  # one pass over memory


def to_uint8(images: Tensor) -> Tensor:
    """Floats in [-1, 1] as uint8 images, rounded as DiT does."""
    return (127.5 * images + 128).clamp(0, 255).byte()


def flip(images: Tensor, randomness: Randomness) -> Tensor:
    """Mirrors each image (N, 3, S, S) of any type with probability one half."""
    num = len(images)
    chosen = randomness.uniform(num) < 0.5
    both = torch.cat(
        [images, images.flip(-1)]
    )  # whole images are then copied, four times faster than a choice per pixel
    return both.index_select(0, torch.arange(num, device=images.device) + num * chosen)


def choose_mirrored(latents: Tensor, randomness: Randomness) -> Tensor:
    """Of latents beside those of the mirror images (N, 2, T, d), one of the two (N, T, d), as `flip` would choose."""
    num = len(latents)
    chosen = randomness.uniform(num) < 0.5
    return latents[torch.arange(num, device=latents.device), chosen.long()].float()


def random_resized_crop(
    images: Tensor, randomness: Randomness, smallest: float = 0.08, *, size: int | None = None
) -> Tensor:
    """A random window of each image, scaled to one size with bicubic interpolation, mirrored half of the time.

    The window's share of the area is uniform in `smallest`..1 and the logarithm of its aspect ratio uniform in
    3/4..4/3, as in torchvision's `RandomResizedCrop`. All images of the batch are cropped in one call. A window is
    at most half as long again as the crop (`dataset.store`), and most are smaller, so nothing is antialiased.

    Args:
        images: (N, 3, S, S).
        randomness: on the images' device.
        smallest: the smallest share of the area.
        size: the side of the crops; None for that of the images.
    """
    uniform = randomness.uniform(5, len(images), batch=1)
    area = smallest + (1 - smallest) * uniform[0]
    aspect = torch.exp((2 * uniform[1] - 1) * math.log(4 / 3))
    width = (area * aspect).sqrt().clamp_max(1)  # as shares of the image's side
    height = (area / aspect).sqrt().clamp_max(1)
    side, stored = size or images.shape[-1], images.shape[-1]
    extent = torch.where(uniform[4] < 0.5, -width, width)
    columns = bicubic((2 * uniform[2] - 1) * (1 - width), extent, points=side, pixels=stored)
    rows = bicubic((2 * uniform[3] - 1) * (1 - height), height, points=side, pixels=stored)
    # one axis after the other: on a CPU in less than half of `grid_sample`'s time
    narrowed = images.flatten(1, 2) @ columns.transpose(1, 2)  # (N, 3 S, size)
    crops = rows[:, None] @ narrowed.unflatten(1, (3, stored))
    return crops.clamp_(-1, 1)


def bicubic(centre: Tensor, extent: Tensor, *, points: int, pixels: int) -> Tensor:
    """The weights (N, points, pixels) of a line's pixels in the points of a window, by bicubic interpolation.

    Args:
        centre, extent: of each window (N,), where the line reaches from -1 to 1; a negative extent mirrors it.
        points: of a window.
        pixels: of a line; beyond it, its outermost pixels go on.
    """
    steps = (2 * torch.arange(points, device=centre.device) + 1) / points - 1
    places = ((centre[:, None] + extent[:, None] * steps + 1) * pixels - 1) / 2  # (N, points), in pixels
    first = places.floor() - 1
    weights = torch.zeros(*places.shape, pixels, device=centre.device)
    for pixel in (first, first + 1, first + 2, first + 3):
        distance = (places - pixel).abs()
        near = (1.25 * distance - 2.25) * distance.square() + 1  # Keys (1981) with a = -0.75, as in torch
        far = ((3.75 - 0.75 * distance) * distance - 6) * distance + 3
        weight = torch.where(distance <= 1, near, far)
        weights.scatter_add_(2, pixel.clamp(0, pixels - 1).long()[..., None], weight[..., None])
    return weights


class Order:
    """An endless shuffled order of a training set, as a pure function of the position in it."""

    def __init__(self, num_images: int, seed: int) -> None:
        self.num_images = num_images
        self.seed = seed
        self._epochs: dict[int, NDArray[np.int64]] = {}  # the permutations in use

    def slice(self, start: int, size: int) -> NDArray[np.int64]:
        """The indices at positions start..start + size; each epoch visits every image once."""
        epochs = range(start // self.num_images, (start + size - 1) // self.num_images + 1)
        self._epochs = {epoch: self._permutation(epoch) for epoch in epochs}
        joined = np.concatenate(list(self._epochs.values()))
        offset = start - epochs.start * self.num_images
        return joined[offset : offset + size]

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        known = self._epochs.get(epoch)
        return np.random.default_rng([self.seed, epoch]).permutation(self.num_images) if known is None else known
