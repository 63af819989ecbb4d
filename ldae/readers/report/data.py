"""The data on the page: the numbers of images and classes, some images of each class, what was left out; no torch."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel

from ldae.runtime.arrays import open_array
from ldae.runtime.files import read_json

TILE = 96  # pixels of an image on the contact sheet at most
CLASSES = 24  # on the sheet; a data set with more shows as many, spread over all
IMAGES = 16  # on the sheet, or one of each class


class LeftOut(BaseModel):
    """The files and folders among the images that were not used."""

    endings: dict[str, int] = {}  # files of other kinds, by ending
    hidden: int = 0  # or system files and folders
    special: int = 0  # pipes, sockets and devices
    circles: int = 0  # links to a folder around them
    folders: tuple[str, ...] = ()  # beside the two splits


class Manifest(BaseModel):
    """`manifest.json` of the prepared images, as far as the page shows it."""

    classes: tuple[str, ...]
    counts: dict[str, dict[str, int]]  # of images, by split and class
    broken: tuple[dict[str, str], ...] = ()  # images with their `path` and `reason`
    left_out: LeftOut = LeftOut()


class Tile(NamedTuple):
    """A class on the contact sheet."""

    name: str
    num: int  # of its training images
    images: list[str]  # data URIs


class Data(NamedTuple):
    """What the page says about its data before any result."""

    settings: dict[str, Any]  # the scale's `dataset`
    manifest: Manifest | None  # None where there are no prepared images
    tiles: list[Tile]

    @classmethod
    def read(cls, settings: dict[str, Any], folder: Path) -> Data:
        """The data set of a scale, with its prepared images in a folder."""
        path = folder / "manifest.json"
        manifest = Manifest.model_validate(read_json(path)) if path.is_file() else None
        data = cls(settings, manifest, [])
        return data._replace(tiles=list(_tiles(folder, manifest, plain=data.is_photos)) if manifest else [])

    @property
    def is_photos(self) -> bool:
        """Whether the images are the tinted crops of photographs that come with the packages."""
        return bool(self.settings["source"] == "photos")

    @property
    def name(self) -> str:
        """The name of the data set's folder."""
        return Path(self.settings["path"]).name or self.settings["path"]

    @property
    def num_classes(self) -> int:
        """The number of classes; 0 where it is unknown."""
        return len(self.manifest.classes) if self.manifest else 0

    def num_images(self, split: str) -> int | None:
        """The number of images of a split, where it is known."""
        return sum(self.manifest.counts[split].values()) if self.manifest else self.settings.get(split)

    @property
    def most_frequent(self) -> float:
        """The share of the most frequent class among the validation images; 0 where it is unknown."""
        counts = self.manifest.counts.get("val", {}) if self.manifest else {}
        return max(counts.values()) / sum(counts.values()) if sum(counts.values()) else 0.0


def _tiles(folder: Path, manifest: Manifest, *, plain: bool) -> Iterator[Tile]:
    """The first training images of each class, or of some classes spread over all; none if the images are absent."""
    files = [folder / name for name in ("train.npy", "train_labels.npy")]
    if not all(path.is_file() for path in files):
        return
    images, labels = (open_array(path, mapped=True) for path in files)
    classes = manifest.classes
    shown = np.unique(np.linspace(0, len(classes) - 1, min(CLASSES, len(classes))).round().astype(int))
    for label in shown.tolist():
        places = np.flatnonzero(labels == label)[: max(1, IMAGES // len(shown))]
        name = classes[label].replace("_", " ") if plain else classes[label]
        num = manifest.counts["train"].get(classes[label], 0)
        yield Tile(name, num, [_encoded(images[place]) for place in places])


def _encoded(pixels: NDArray[np.uint8]) -> str:
    """An image (3, H, W) as a data URI, scaled down where it is large."""
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    if image.width > TILE:
        image = image.resize((TILE, TILE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
