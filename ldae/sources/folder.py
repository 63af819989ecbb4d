"""A user's data set: a tree of class folders, split already or to be split, of images of every common kind."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ldae.sources import Broken, Picture, Source
from ldae.spec import Folder

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
SPLITS = ("train", "val")
MOST_ELONGATED = 100  # sides, one to the other; scaled to the smaller one, a line of pixels would fill the memory

Classes = dict[str, list[str]]  # a class -> its images, as sorted paths relative to the data set


def load(dataset: Folder) -> Source:
    """Lists the images of both splits; a `ValueError` says what the tree or the scale lacks."""
    root = Path(dataset.path).expanduser()
    if not root.is_dir():
        raise ValueError(f"{root}: is no folder; write where the images are as dataset.path in the scale file")
    if all((root / split).is_dir() for split in SPLITS):
        splits = _given(root, dataset.val_fraction)
    else:
        splits = _divided(root, dataset.val_fraction, dataset.seed)
    classes = tuple(splits["train"])
    return Source(classes, {split: Files.of(root, dataset.stored, splits[split]) for split in SPLITS})


def _given(root: Path, val_fraction: float | None) -> dict[str, Classes]:
    """The splits of a tree with `train/` and `val/`."""
    if val_fraction is not None:
        raise ValueError(f"{root}: has train/ and val/ already; remove dataset.val_fraction from the scale file")
    splits = {split: _classes(root, root / split) for split in SPLITS}
    train, val = splits["train"].keys(), splits["val"].keys()
    if train != val:
        raise ValueError(
            f"{root}: train/ and val/ must have the same class folders; "
            f"only in train/: {_few(train - val)}; only in val/: {_few(val - train)}"
        )
    return splits


def _divided(root: Path, val_fraction: float | None, seed: int) -> dict[str, Classes]:
    """The splits of one tree: a random share of each class, at least one image and never all, is for validation."""
    if val_fraction is None:
        raise ValueError(
            f"{root}: does not have both train/ and val/; write dataset.val_fraction in the scale file, e.g. 0.1, "
            "to split its class folders"
        )
    splits: dict[str, Classes] = {split: {} for split in SPLITS}
    for label, (name, files) in enumerate(_classes(root, root).items()):
        if len(files) < 2:
            raise ValueError(f"{root / name}: has a single image; to split a class takes two at least")
        num_val = min(max(round(val_fraction * len(files)), 1), len(files) - 1)
        chosen = set(np.random.default_rng([seed, label]).permutation(len(files))[:num_val].tolist())
        splits["train"][name] = [file for i, file in enumerate(files) if i not in chosen]
        splits["val"][name] = [file for i, file in enumerate(files) if i in chosen]
    return splits


def _classes(root: Path, folder: Path) -> Classes:
    """The class folders in `folder` in alphabetical order, with their images; `ValueError` where any lack."""
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    names = [entry.name for entry in entries if entry.is_dir()]
    stray = [entry for entry in entries if entry.suffix.lower() in SUFFIXES and not entry.is_dir()]
    if len(names) < 2:
        raise ValueError(f"{folder}: needs two class folders at least, has {len(names)}")
    if stray:
        raise ValueError(f"{stray[0]}: is in no class folder; move it into one, or away ({len(stray)} such images)")
    classes = {name: _images(root, folder / name) for name in names}
    for name, files in classes.items():
        if not files:
            raise ValueError(f"{folder / name}: has no images ({', '.join(sorted(SUFFIXES))})")
    return classes


def _images(root: Path, folder: Path) -> list[str]:
    """The images anywhere below `folder`, as sorted paths relative to `root`; hidden files are none."""
    paths = (Path(parent, file) for parent, _, files in os.walk(folder) for file in files)
    return sorted(
        path.relative_to(root).as_posix()
        for path in paths
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )


def _few(names: set[str]) -> str:
    """The first names of a set, for a message."""
    shown = sorted(names)
    return ", ".join(shown[:3] + ["..."] * (len(shown) > 3)) or "none"


@dataclass(frozen=True)
class Files:
    """Image files of one split, by class and then by path; each is a group of its own."""

    root: Path
    size: int
    paths: tuple[str, ...]  # relative to `root`
    labels: NDArray[np.int64]  # (N,)
    first: int = 0  # position of the first file in its split

    @classmethod
    def of(cls, root: Path, size: int, classes: Classes) -> Files:
        """All files of a split."""
        labels = np.repeat(np.arange(len(classes), dtype=np.int64), [len(files) for files in classes.values()])
        return cls(root, size, tuple(file for files in classes.values() for file in files), labels)

    @property
    def fingerprint(self) -> str:
        """A digest of the files' names; the labels follow from them."""
        return hashlib.sha256("\0".join(self.paths).encode()).hexdigest()

    def part(self, start: int, stop: int) -> Files:
        """The files at positions start..stop."""
        return replace(self, paths=self.paths[start:stop], labels=self.labels[start:stop], first=self.first + start)

    def __iter__(self) -> Iterator[Picture | Broken]:
        """Decodes the files."""
        for position, path in enumerate(self.paths, self.first):
            # a disk that fails is no broken image: its error ends the stage
            yield draw((self.root / path).read_bytes(), self.size, position, path)


def draw(content: bytes, size: int, group: int, name: str) -> Picture | Broken:
    """The image in a file's content, or what is wrong with it."""
    try:
        return Picture(decode(content, size), group)
    except UnidentifiedImageError:  # its message holds an address in memory
        return Broken(name, "is no image that Pillow can read" if content else "is empty")
    except Exception as error:  # on damaged bytes the decoders raise almost anything
        return Broken(name, f"{type(error).__name__}: {error}")


def decode(content: bytes, size: int) -> NDArray[np.uint8]:
    """Decodes an image file of any kind, upright, cropped in the centre, to RGB (3, size, size)."""
    with Image.open(io.BytesIO(content)) as image:
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
