"""Where images come from: a source opens as the names of its classes and two splits, drawn slice by slice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ldae.data.sources.listing import Listing
from ldae.data.sources.tree import LeftOut


class Deep(NamedTuple):
    """What is known of an image of more than 8 bits a channel, whose white is not known from itself."""

    largest: float  # value in it; of colours, of which Pillow gives the upper 8 bits alone, 0 to 255
    colour: bool


class Picture(NamedTuple):
    """One image as the network will see it."""

    pixels: NDArray[np.uint8]  # (3, S, S)
    group: int  # the same number: not independent of each other
    digest: int = 0  # the first 64 bits of the SHA-256 of its file; 0 where it has no file of its own
    deep: Deep | None = None


class Broken(NamedTuple):
    """An image that cannot be read."""

    path: str  # relative to the data set's
    reason: str
    digest: int = 1  # as a picture's; 1 for a file that cannot be read at all


class Images(Protocol):
    """Images in a fixed order. A part of them travels to another process, which draws them."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class of each image (N,)."""

    @property
    def names(self) -> Sequence[str]:
        """What each image is called (N,); empty where they have no names."""

    def part(self, start: int, stop: int) -> Images:
        """The images at positions start..stop, each of which is drawn as it would be here."""

    def __iter__(self) -> Iterator[Picture | Broken]:
        """Draws the images."""


class ImageFiles(Images, Protocol):
    """Images that are decoded."""

    def with_white(self, places: Sequence[int], white: float) -> ImageFiles:
        """The images at these positions, drawn so that this value is white in those of more than 8 bits."""


class Source(NamedTuple):
    """An opened data set."""

    classes: tuple[str, ...]  # in the order of their labels
    splits: dict[str, Images]  # `train` and `val`
    listing: Listing | None = None  # of the files that are read
    left_out: LeftOut = LeftOut()
