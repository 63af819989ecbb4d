"""The interface of image sources: class names and two splits, decoded slice by slice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ldae.data.sources.listing import Listing
from ldae.data.sources.tree import LeftOut


class Deep(NamedTuple):
    """Facts about an image with more than 8 bits per channel; its file does not say which value is white."""

    largest: float  # the largest value; 0 to 255 for colour images, of which Pillow returns only the upper 8 bits
    colour: bool


class Picture(NamedTuple):
    """One decoded image."""

    pixels: NDArray[np.uint8]  # (3, S, S)
    group: int  # images with the same number are not independent
    digest: int = 0  # the first 64 bits of the SHA-256 of its file; 0 if it has no file of its own
    deep: Deep | None = None


class Broken(NamedTuple):
    """An image that cannot be read."""

    path: str  # relative to the data set's folder
    reason: str
    digest: int = 1  # as in `Picture`; 1 for a file that cannot be read at all


class Images(Protocol):
    """Images in a fixed order; parts of it are sent to worker processes, which decode them."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class of each image (N,)."""

    @property
    def names(self) -> Sequence[str]:
        """The name of each image (N,); empty if they have none."""

    def part(self, start: int, stop: int) -> Images:
        """The images at positions start..stop; decoding them gives the same pixels as here."""

    def __iter__(self) -> Iterator[Picture | Broken]:
        """Decodes or draws the images."""


class ImageFiles(Images, Protocol):
    """Images in files."""

    def with_white(self, places: Sequence[int], white: float) -> ImageFiles:
        """The images at these positions, decoded with this value as white in those with more than 8 bits."""


class Source(NamedTuple):
    """An opened data set."""

    classes: tuple[str, ...]  # in the order of their labels
    splits: dict[str, Images]  # `train` and `val`
    listing: Listing | None = None  # the files that are read
    left_out: LeftOut = LeftOut()
