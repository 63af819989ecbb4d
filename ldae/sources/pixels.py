"""An image file of any kind as the pixels that a network sees: upright, RGB, cropped in the centre."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ldae.sources import Broken, Picture
from ldae.sources.listing import digest_of
from ldae.sources.tree import formats

MOST_ELONGATED = 100  # sides, one to the other; scaled to the smaller one, a line of pixels would fill the memory


def draw(content: bytes, size: int, group: int, name: str) -> Picture | Broken:
    """The image in a file's content, or what is wrong with it."""
    digest = digest_of(content)
    try:
        return Picture(decode(content, size), group, digest)
    except UnidentifiedImageError:  # its message holds an address in memory
        return Broken(name, "is no image that Pillow can read" if content else "is empty", digest)
    except Exception as error:  # on damaged bytes the decoders raise almost anything
        return Broken(name, f"{type(error).__name__}: {error}", digest)


def decode(content: bytes, size: int) -> NDArray[np.uint8]:
    """Decodes an image file of any kind, upright, cropped in the centre, to RGB (3, size, size)."""
    with Image.open(io.BytesIO(content), formats=formats()) as image:
        return to_pixels(image, size)


def to_pixels(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """An image of any mode and size, upright, cropped in the centre, as RGB (3, size, size).

    Raises:
        ValueError: for one that is too elongated for a square.
    """
    upright = ImageOps.exif_transpose(image)
    if max(upright.size) > MOST_ELONGATED * min(upright.size):
        raise ValueError(f"is {upright.width} x {upright.height} pixels, too elongated for a square")
    return np.asarray(centre_crop(to_rgb(upright), size)).transpose(2, 0, 1)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode in RGB, transparency on white; a `ValueError` for floating point, which has no known white."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.mode.startswith("I"):
        image = _in_8_bits(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _in_8_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits, or of 32 that hold more, scaled to 8, where Pillow's `convert` would clip."""
    values = np.asarray(image).clip(0)
    return Image.fromarray(np.rint(values * (255 / max(values.max(), 65535))).astype(np.uint8))


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """The centre, as ADM cuts it: halved while that leaves enough, then bicubic to a smaller side of `size`."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))
