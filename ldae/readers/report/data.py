"""The data on the page: what the images and the task are, some images to look at, what was left out; no torch."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ldae.runtime.arrays import open_array

TILE = 96  # pixels of a picture on the sheet at most
CLASSES = 24  # on the sheet; of more, as many are spread over all
PICTURES = 16  # on the sheet, or one of each class
TINTS = (
    "The colours are false on purpose: each crop is reduced to its brightness and tinted at random, so that structure "
    "alone tells the photographs apart."
)


class Tile(NamedTuple):
    """A class on the contact sheet."""

    name: str
    images: str  # how many it has
    pictures: list[str]  # data URIs


class Data(NamedTuple):
    """What the page says of its data before any result."""

    title: str  # a few words
    about: str  # what the images are
    task: str  # what is asked of them, and what guessing gives
    colours: str  # why they look odd; empty where they do not
    size: int  # of an image, pixels
    tiles: list[Tile]
    unseen: int  # classes that the sheet leaves out
    left_out: list[str]  # what was not used


def of(settings: dict[str, Any], manifest: dict[str, Any] | None, folder: Path) -> Data:
    """What is known of a data set.

    Args:
        settings: the scale's `dataset`.
        manifest: of the prepared images, where they lie beside the page.
        folder: with the prepared images.
    """
    synthetic = settings["source"] == "photos"
    counts = manifest["counts"] if manifest else {}
    classes = list(manifest["classes"]) if manifest else []
    train, val = (sum(counts[split].values()) if counts else settings.get(split) for split in ("train", "val"))
    size = settings["size"]
    known = train is not None and val is not None
    numbers = (
        f"{train:,} for training and {val:,} for validation" if known else "images for training and for validation"
    )
    if synthetic:
        photographs = f"{len(classes)} photographs" if classes else "photographs"
        title = f"crops of {photographs}"
        about = (
            f"Crops of {photographs} that ship with scikit-image, scikit-learn and Matplotlib: {numbers}, from "
            f"different parts of a photograph, {size} × {size} pixels each."
        )
        asks = "say which photograph a crop is from"
    else:
        name = Path(settings["path"]).name or settings["path"]
        title = f"“{name}”" + (f", {len(classes)} classes" if classes else "")
        about = f"The images of “{name}”" + (f" in {len(classes)} classes" if classes else "")
        about += f": {numbers}, cut to {size} × {size} pixels."
        asks = "name the class of an image"
    task = f"The task is to {asks}." + _chance(counts.get("val", {}))
    tiles = list(_tiles(folder, classes, counts, plain=synthetic)) if manifest else []
    return Data(
        title=title,
        about=about,
        task=task,
        colours=TINTS if synthetic else "",
        size=size,
        tiles=tiles,
        unseen=len(classes) - len(tiles) if tiles else 0,
        left_out=left_out(manifest) if manifest else [],
    )


def _chance(counts: dict[str, int]) -> str:
    """What guessing gives, and naming the most frequent class where that is better."""
    if not counts or not sum(counts.values()):
        return ""
    chance, most = 100 / len(counts), 100 * max(counts.values()) / sum(counts.values())
    frequent = f", always naming the most frequent class in {most:.1f} %" if most > chance + 1 else ""
    return f" Guessing is right in {chance:.1f} %{frequent}."


def left_out(manifest: dict[str, Any]) -> list[str]:
    """What lay among the images and was not used, a phrase for each kind."""
    broken, other = manifest.get("broken", []), manifest.get("left_out", {})
    said = []
    if broken:
        shown = "; ".join(f"{one['path']} ({one['reason']})" for one in broken[:3])
        more = f"; and {len(broken) - 3:,} more" if len(broken) > 3 else ""
        said.append(f"{_counted(len(broken), 'broken image', 'broken images')}: {shown}{more}")
    if endings := other.get("endings", {}):
        kinds = ", ".join(f"{count:,} {ending}" for ending, count in endings.items())
        said.append(f"{_counted(sum(endings.values()), 'file', 'files')} of kinds that are not read: {kinds}")
    for key, one, many in (
        ("hidden", "hidden or system file or folder", "hidden or system files or folders"),
        ("special", "pipe, socket or device", "pipes, sockets or devices"),
        ("circles", "link that leads back to its own folder", "links that lead back to their own folders"),
    ):
        if count := other.get(key):
            said.append(_counted(count, one, many))
    if folders := other.get("folders"):
        said.append(f"{_counted(len(folders), 'folder', 'folders')} beside the two splits: {', '.join(folders)}")
    return said


def _counted(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def _tiles(folder: Path, classes: list[str], counts: dict[str, Any], *, plain: bool) -> Iterator[Tile]:
    """The first training images of each class, or of some classes spread over all; none where no images lie there."""
    files = [folder / name for name in ("train.npy", "train_labels.npy")]
    if not all(path.is_file() for path in files):
        return
    images, labels = (open_array(path, mapped=True) for path in files)
    shown = np.unique(np.linspace(0, len(classes) - 1, min(CLASSES, len(classes))).round().astype(int))
    each = max(1, PICTURES // len(shown))
    for label in shown.tolist():
        places = np.flatnonzero(labels == label)[:each]
        count = counts.get("train", {}).get(classes[label], 0)
        name = classes[label].replace("_", " ") if plain else classes[label]
        yield Tile(name, f"{count:,}", [_encoded(images[place]) for place in places])


def _encoded(pixels: NDArray[np.uint8]) -> str:
    """An image (3, H, W) as a data URI, scaled down where it is large."""
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    if image.width > TILE:
        image = image.resize((TILE, TILE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
