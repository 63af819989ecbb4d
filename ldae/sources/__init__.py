"""Where images come from: a source opens as the names of its classes and two splits, drawn slice by slice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Picture(NamedTuple):
    """One image as the network will see it."""

    pixels: NDArray[np.uint8]  # (3, S, S)
    group: int  # the same number: not independent of each other


class Broken(NamedTuple):
    """An image that cannot be read."""

    path: str  # relative to the data set's
    reason: str


class Images(Protocol):
    """Images in a fixed order. A part of them travels to another process, which draws them."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class of each image (N,)."""

    @property
    def fingerprint(self) -> str:
        """Another one for another list of images."""

    def part(self, start: int, stop: int) -> Images:
        """The images at positions start..stop, each of which is drawn as it would be here."""

    def __iter__(self) -> Iterator[Picture | Broken]:
        """Draws the images."""


class Source(NamedTuple):
    """An opened data set."""

    classes: tuple[str, ...]  # in the order of their labels
    splits: dict[str, Images]  # `train` and `val`
