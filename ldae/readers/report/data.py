"""The data on the page: the numbers of images and classes, some images of each class, what was left out; no torch."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ldae.data.division import Division
from ldae.runtime.arrays import open_array
from ldae.study.results import Manifest

TILE = 96  # pixels of an image on the contact sheet at most
CLASSES = 24  # on the sheet; a data set with more shows as many, spread over all
IMAGES = 16  # on the sheet, or one of each class


class Tile(NamedTuple):
    """A class on the contact sheet."""

    name: str
    num: int  # of its training images
    images: list[str]  # data URIs


def contact_sheet(folder: Path, manifest: Manifest) -> list[Tile]:
    """The first training images of each class, or of some classes spread over all; none if the images are absent.

    The training images are those of seed 0.
    """
    pool = folder / "images.npy"
    if not pool.is_file():
        return []
    images, division = open_array(pool, mapped=True), Division.open(folder, "train", 0)
    classes = manifest.classes
    shown = np.unique(np.linspace(0, len(classes) - 1, min(CLASSES, len(classes))).round().astype(int))
    tiles = []
    for label in shown.tolist():
        places = division.index[division.labels == label][: max(1, IMAGES // len(shown))]
        num = manifest.counts["train"].get(classes[label], 0)
        tiles.append(Tile(classes[label], num, [_encoded(images[place]) for place in places]))
    return tiles


def _encoded(pixels: NDArray[np.uint8]) -> str:
    """An image (3, H, W) as a data URI, scaled down where it is large."""
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    if image.width > TILE:
        image = image.resize((TILE, TILE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
