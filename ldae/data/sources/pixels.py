"""Decodes image files of any format: rotated upright, converted to RGB, cropped to the central square."""

from __future__ import annotations

import errno
import io
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ldae.data.sources import Picture
from ldae.data.sources.listing import UNREADABLE, digest_of
from ldae.data.sources.tree import formats

MOST_ELONGATED = 100  # sides, one to the other; scaled to the smaller one, a line of pixels would fill the memory
LEAST = 0.01  # of the largest value: how far below black rounding and resizing may carry others


@dataclass(frozen=True)
class ImageFiles:
    """Image files in a folder, or inside tar files in a folder; each image is independent of the others."""

    root: Path
    size: int
    names: tuple[str, ...]  # relative to a folder
    labels: NDArray[np.int64]  # (N,)
    tars: tuple[str, ...] = ()  # names of tar files
    in_tar: NDArray[np.int64] | None = None  # (N, 3) the number of each image's tar file, and its offset and size there
    white: float | None = None

    def at(self, places: Sequence[int], white: float | None = None) -> ImageFiles:
        """The images at some positions, with another white if it is given."""
        indices = list(places)
        return replace(
            self,
            names=tuple(self.names[place] for place in places),
            labels=self.labels[indices],
            in_tar=None if self.in_tar is None else self.in_tar[indices],
            white=self.white if white is None else white,
        )

    def __iter__(self) -> Iterator[Picture]:
        if self.in_tar is None:
            yield from map(self._from_file, self.names)
            return
        with ExitStack() as stack:
            files = [stack.enter_context((self.root / name).open("rb")) for name in self.tars]
            for number, offset, size in self.in_tar:
                files[number].seek(offset)
                yield draw(files[number].read(size), self.size, self.white)

    def _from_file(self, name: str) -> Picture:
        path = self.root / name
        try:
            return draw(path.read_bytes(), self.size, self.white)
        except PermissionError:
            return Picture(None, UNREADABLE, broken="may not be read")
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ELOOP) or not path.is_symlink():
                raise  # a disk that fails is not a broken image
            return Picture(None, UNREADABLE, broken="is a dangling link")


def draw(content: bytes, size: int, white: float | None = None) -> Picture:
    """Decodes the content of a file, or says why it is broken."""
    digest = digest_of(content)
    try:
        with Image.open(io.BytesIO(content), formats=formats()) as image:
            grey, colour = depth(image)
            return Picture(to_pixels(image, size, white=white), digest, grey=grey, colour=colour)
    except UnidentifiedImageError:  # its message holds an address in memory
        reason = "is not an image that Pillow can read" if content else "is empty"
    except Exception as error:  # on damaged bytes the decoders raise almost anything
        reason = f"{type(error).__name__}: {error}"
    return Picture(None, digest, broken=reason)


def read_picture(path: Path, size: int, white: float | None) -> NDArray[np.uint8]:
    """The central square of a user's own image file, uint8 (3, size, size); a `ValueError` if it is none."""
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; name the pictures in it")
    picture = draw(path.read_bytes(), size, white)
    if picture.pixels is None:
        raise ValueError(f"{path}: {picture.broken}")
    return picture.pixels.copy()  # Pillow's own memory cannot be written to


def to_pixels(image: Image.Image, size: int, *, white: float | None = None) -> NDArray[np.uint8]:
    """An image of any mode and size as RGB (3, size, size): upright, the central square, the first frame.

    `white` is the value that is white in grey images of more than 8 bits, by default `white_above` their largest. A
    `ValueError` refuses an image that is too elongated for a square, or has values that are not brightness.
    """
    upright = ImageOps.exif_transpose(image)
    if max(upright.size) > MOST_ELONGATED * min(upright.size):
        raise ValueError(f"is {upright.width} x {upright.height} pixels, too elongated for a square")
    return np.asarray(centre_crop(to_rgb(upright, white), size)).transpose(2, 0, 1)


def depth(image: Image.Image) -> tuple[float | None, float | None]:
    """The largest value of a grey, and of a colour image with more than 8 bits per channel; None for others."""
    if _is_wide(image):
        return float(_brightness(image).max()), None
    if not any(";16" in str(tile) for tile in getattr(image, "tile", ())):  # the layout of its file, until it is loaded
        return None, None
    bands = image.convert("RGB").getextrema()
    return None, float(max(largest for _, largest in bands))  # type: ignore[misc]


def white_above(largest: float) -> float:
    """The white of images with this largest value: 1, or the largest number with 8, 9, 10, ... or 16 bits."""
    if largest < 2:
        return max(1.0, largest)
    return next((float(2**bits - 1) for bits in range(8, 17) if largest < 2**bits), largest)


def to_rgb(image: Image.Image, white: float | None = None) -> Image.Image:
    """Converts any mode to RGB; transparent images are drawn on white."""
    if _is_wide(image):  # which Pillow's `convert` would clip
        values = _brightness(image)
        white = white_above(float(values.max())) if white is None else white
        image = Image.fromarray(np.rint(values.clip(0, white) * (255 / white)).astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _is_wide(image: Image.Image) -> bool:
    """Whether an image is grey with integers of more than 8 bits or floating point values."""
    return image.mode == "F" or image.mode.startswith("I")


def _brightness(image: Image.Image) -> NDArray[Any]:
    """The values of a grey image with more than 8 bits; a `ValueError` if some are clearly below black."""
    values = np.asarray(image)
    if not np.isfinite(values).all():
        raise ValueError("has values that are not finite")
    if values.min() < -LEAST * max(values.max(), 0):
        raise ValueError(f"has values down to {values.min():g}; black should be 0")
    return values


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """ADM's centre crop: halves the image while it stays large enough, then scales its shorter side bicubically."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))
