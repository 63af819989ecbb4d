"""The built-in data set: random crops of twenty photographs that ship inside three Python packages.

The photograph is the class. Training crops come from its upper part and validation crops from its lower part, so they
share no pixel. Colour and brightness are random, so only structure identifies the class.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ldae.data.sources import Images, Picture, Source
from ldae.runtime.files import sha256
from ldae.study.scale import Photos

FILES = {  # package -> folder, files
    "scikit-image": (
        "skimage/data",
        "astronaut.png brick.png camera.png cell.png chelsea.png clock_motion.png coffee.png coins.png grass.png "
        "gravel.png hubble_deep_field.jpg ihc.png moon.png motorcycle_left.png page.png retina.jpg rocket.jpg",
    ),
    "scikit-learn": ("sklearn/datasets/images", "china.jpg flower.jpg"),
    "matplotlib": ("matplotlib/mpl-data/sample_data", "grace_hopper.jpg"),
}
# (package, file) in the order of the labels:
PHOTOGRAPHS = [(package, f"{folder}/{name}") for package, (folder, names) in FILES.items() for name in names.split()]
TRAIN_PERCENT = 70  # of a photograph's height
SIDES = (48, 96)  # of a window, in pixels of the photograph
CELL = 80  # side of a cell, in pixels of the photograph; windows centred in one cell form a group
FLAT = 3.0  # standard deviation of a window's luminance (0..255) below which it is sky or backdrop, not structure
TRIES = 30  # windows drawn in search of one that is not flat


def load(dataset: Photos) -> Source:
    """Opens the photographs; a `ValueError` names one that is missing."""
    for label in range(len(PHOTOGRAPHS)):
        locate(label)
    counts = {"train": dataset.train, "val": dataset.val}
    splits: dict[str, Images] = {
        name: Crops(name, dataset.stored, (dataset.seed, index), range(count))
        for index, (name, count) in enumerate(counts.items())
    }
    return Source(tuple(Path(file).stem for _, file in PHOTOGRAPHS), splits)


def locate(label: int) -> Path:
    """The path of a photograph; a `ValueError` names the package, its version and the file if it is missing."""
    package, file = PHOTOGRAPHS[label]
    try:
        home = distribution(package)
    except PackageNotFoundError:
        raise ValueError(f"{package} is not installed; the photos need its {file}") from None
    path = Path(str(home.locate_file(file)))
    if not path.is_file():
        raise ValueError(f"{package} {home.version} has no file {file}; install a version that ships it")
    return path


def hashes() -> dict[str, dict[str, str]]:
    """The SHA-256 of each photograph's file, by package and name; a `ValueError` names one that is missing."""
    digests: dict[str, dict[str, str]] = {}
    for label, (package, file) in enumerate(PHOTOGRAPHS):
        digests.setdefault(package, {})[file] = sha256(locate(label))
    return digests


@cache
def luminance(label: int) -> Image.Image:
    """A decoded photograph in greyscale (mode L)."""
    with Image.open(locate(label)) as image:
        return image.convert("L")


class Window(NamedTuple):
    """A square window of a photograph; right and bottom are exclusive."""

    left: int
    top: int
    right: int
    bottom: int


def rows(split: str, height: int) -> tuple[int, int]:
    """The rows start..stop of a photograph that a split may use."""
    cut = height * TRAIN_PERCENT // 100
    return (0, cut) if split == "train" else (cut, height)


def draw_window(split: str, width: int, height: int, rng: np.random.Generator) -> Window:
    """A window of random side and position inside a split's part of a photograph."""
    start, stop = rows(split, height)
    smallest, largest = (min(side, width, stop - start) for side in SIDES)
    side = int(rng.integers(smallest, largest + 1))
    left, top = int(rng.integers(width - side + 1)), int(rng.integers(start, stop - side + 1))
    return Window(left, top, left + side, top + side)


def recolour(grey: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Colours (3, S, S) for luminance (S, S) in 0..255: random gamma, then random colours for dark and light.

    In between, the contrast is made the same for all: it tells a page from a galaxy as surely as a colour would.
    """
    tone = (grey / 255) ** np.exp(rng.uniform(np.log(0.6), np.log(1.6)))
    level = np.clip(0.5 + (tone - tone.mean()) / max(6 * tone.std(), 1e-6), 0, 1)  # three deviations to each side
    dark = rng.uniform(0.0, 0.4, (3, 1, 1))
    light = rng.uniform(0.65, 1.0, (3, 1, 1))
    pixels: NDArray[np.uint8] = np.rint(255 * (dark + (light - dark) * level)).astype(np.uint8)
    return pixels


@dataclass(frozen=True)
class Crops:
    """Random crops of one split, cycling through the photographs; each is drawn from its own randomness."""

    split: str
    size: int
    seed: tuple[int, int]
    indices: Sequence[int]
    names = ()  # crops are not files

    @property
    def labels(self) -> NDArray[np.int64]:
        """The photograph of each crop (N,)."""
        return np.array(self.indices, dtype=np.int64) % len(PHOTOGRAPHS)

    def at(self, places: Sequence[int], white: float | None = None) -> Crops:
        """The crops at some positions; their white is fixed."""
        return replace(self, indices=[self.indices[place] for place in places])

    def __iter__(self) -> Iterator[Picture]:
        return map(self._draw, self.indices)

    def _draw(self, index: int) -> Picture:
        label = index % len(PHOTOGRAPHS)
        rng, photograph = np.random.default_rng([*self.seed, index]), luminance(label)
        for _ in range(TRIES):  # until a window is not flat
            window = draw_window(self.split, *photograph.size, rng)
            piece = photograph.crop(window)  # `resize(box=...)` would read beyond the window
            if np.asarray(piece).std() >= FLAT:
                break
        scaled = piece.convert("F").resize((self.size, self.size), Image.Resampling.BICUBIC)
        grey = np.asarray(scaled).clip(0, 255)
        if rng.random() < 0.5:
            grey = grey[:, ::-1]
        row, column = (window.top + window.bottom) // 2 // CELL, (window.left + window.right) // 2 // CELL
        return Picture(recolour(grey, rng), group=(label * 1000 + row) * 1000 + column)
