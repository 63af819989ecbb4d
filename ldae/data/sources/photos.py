"""The built-in data set: random crops of twenty photographs that ship inside three Python packages.

The photograph is the class. Each replication holds out one side of each photograph: validation crops come from there,
training crops from the rest, so they share no pixel. The pool has the crops for all four sides. Colour and brightness
are random, so only structure identifies the class.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ldae.data.sources import Picture, Source
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
Side = Literal["bottom", "top", "left", "right"]
SIDES: tuple[Side, ...] = ("bottom", "top", "left", "right")  # each of which can be held out
TRAIN_PERCENT = 70  # of a photograph's height or width
LENGTHS = (48, 96)  # the smallest and the largest window's, in pixels of the photograph
CELL = 80  # side of a cell, in pixels of the photograph; windows centred in one cell form a group
FLAT = 3.0  # standard deviation of a window's luminance (0..255) below which it is sky or backdrop, not structure
TRIES = 30  # windows drawn in search of one that is not flat


def load(dataset: Photos) -> Source:
    """Opens the photographs; a `ValueError` names one that is missing."""
    for label in range(len(PHOTOGRAPHS)):
        locate(label)
    sides, splits = np.arange(len(SIDES)), np.repeat([0, 1], [dataset.train, dataset.val])
    crops = Crops(dataset.stored, dataset.train, range(splits.size * sides.size))
    parts = 2 * sides + splits[:, None]
    return Source(tuple(Path(file).stem for _, file in PHOTOGRAPHS), crops, parts.ravel())


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


def region(split: str, side: Side, width: int, height: int) -> Window:
    """The part of a photograph, with this side held out, that a split may use."""
    length = height if side in ("bottom", "top") else width
    cut = length * TRAIN_PERCENT // 100
    train, val = (0, cut), (cut, length)
    if side in ("top", "left"):
        train, val = (length - cut, length), (0, length - cut)
    start, stop = train if split == "train" else val
    return Window(0, start, width, stop) if side in ("bottom", "top") else Window(start, 0, stop, height)


def draw_window(part: Window, rng: np.random.Generator) -> Window:
    """A square window of random size and position inside a part of a photograph."""
    smallest, largest = (min(length, part.right - part.left, part.bottom - part.top) for length in LENGTHS)
    length = int(rng.integers(smallest, largest + 1))
    left = int(rng.integers(part.left, part.right - length + 1))
    top = int(rng.integers(part.top, part.bottom - length + 1))
    return Window(left, top, left + length, top + length)


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
    """Random crops, cycling through the photographs; each is drawn from its own randomness.

    First come those for training, then those for validation. Four crops in a row are of the same photograph, one for
    each side that can be held out, so that the n-th image of a replication always has the same label.
    """

    size: int
    train: int  # images for training of a replication
    indices: Sequence[int]
    names = ()  # crops are not files

    @property
    def labels(self) -> NDArray[np.int64]:
        """The photograph of each crop (N,)."""
        numbers = np.array(self.indices, dtype=np.int64) // len(SIDES)
        return np.where(numbers < self.train, numbers, numbers - self.train) % len(PHOTOGRAPHS)

    def at(self, places: Sequence[int], white: float | None = None) -> Crops:
        """The crops at some positions; their white is fixed."""
        return replace(self, indices=[self.indices[place] for place in places])

    def __iter__(self) -> Iterator[Picture]:
        return map(self._draw, self.indices)

    def _draw(self, index: int) -> Picture:
        number, side = divmod(index, len(SIDES))
        split = "train" if number < self.train else "val"
        number -= 0 if split == "train" else self.train
        label = number % len(PHOTOGRAPHS)
        rng, photograph = np.random.default_rng([side, split == "val", number]), luminance(label)
        part = region(split, SIDES[side], *photograph.size)
        for _ in range(TRIES):  # until a window is not flat
            window = draw_window(part, rng)
            piece = photograph.crop(window)  # `resize(box=...)` would read beyond the window
            if np.asarray(piece).std() >= FLAT:
                break
        scaled = piece.convert("F").resize((self.size, self.size), Image.Resampling.BICUBIC)
        grey = np.asarray(scaled).clip(0, 255)
        if rng.random() < 0.5:
            grey = grey[:, ::-1]
        row, column = (window.top + window.bottom) // 2 // CELL, (window.left + window.right) // 2 // CELL
        return Picture(recolour(grey, rng), group=(label * 1000 + row) * 1000 + column)
