"""The interface of image sources: class names and one pool of images, decoded slice by slice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ldae.data.sources.listing import Listing
from ldae.data.sources.tree import UnusedFiles


class Picture(NamedTuple):
    """An image, or the reason why it cannot be read."""

    pixels: NDArray[np.uint8] | None  # (3, S, S); None for a broken image
    digest: int = 0  # the first 64 bits of the SHA-256 of its file; 0 if it has no file of its own, 1 if unreadable
    group: int | None = None  # images with the same number are not independent; None if it is independent of all others
    # The largest value of an image with more than 8 bits per channel, as its file does not say which value is white:
    grey: float | None = None
    colour: float | None = None  # 0 to 255, because Pillow returns only the upper 8 bits
    broken: str = ""  # the reason


class Images(Protocol):
    """Images in a fixed order; parts of it are sent to worker processes, which decode them."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class of each image (N,)."""

    @property
    def names(self) -> Sequence[str]:
        """The path of each image (N,), relative to the data set's folder; empty if they have none."""

    def at(self, places: Sequence[int], white: float | None = None) -> Images:
        """The images at some positions, with another value as white in grey ones with more than 8 bits."""

    def __iter__(self) -> Iterator[Picture]:
        """Decodes or draws the images."""


class Source(NamedTuple):
    """An opened data set."""

    classes: tuple[str, ...]  # in the order of their labels
    images: Images
    parts: NDArray[np.int64]  # (P,) what each image may be used for, see `ldae.data.division`
    val_fraction: float | None = None  # of undivided images
    listing: Listing | None = None  # the files that are read
    left_out: UnusedFiles = UnusedFiles()
