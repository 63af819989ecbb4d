"""A user's data set: class folders of image files, with or without existing splits."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np

from ldae.data.division import UNDIVIDED
from ldae.data.sources import Source
from ldae.data.sources.listing import Listing
from ldae.data.sources.pixels import ImageFiles
from ldae.data.sources.tree import Entry, Tree, printable
from ldae.study.scale import Folder

# Names of the folders of a data set that is split already, in any case.
TRAIN = {"train", "training"}
VAL = {"val", "valid", "validation", "dev"}
TEST = {"test", "testing"}

Classes = dict[str, list[Entry]]  # a class -> its images, sorted by their paths


def load(dataset: Folder) -> Source:
    """Lists all images; a `ValueError` says in one line what is wrong with the folder or the scale."""
    tree = Tree(Path(dataset.path).expanduser())
    try:
        folders = _split_folders(tree, dataset)
        splits = _existing_splits(tree, folders) if folders else {UNDIVIDED: _undivided(tree)}
    except ValueError as error:
        raise ValueError(printable(str(error))) from None
    (names, *_) = splits.values()
    files = [  # of the whole pool, by part, then by class and path
        (part, label, file)
        for part, classes in splits.items()
        for label, files_of_class in enumerate(classes.values())
        for file in files_of_class
    ]
    parts, labels = (np.array([file[column] for file in files], dtype=np.int64) for column in (0, 1))
    entries = [entry for _, _, entry in files]
    images = ImageFiles(tree.root, dataset.stored, tuple(entry.path for entry in entries), labels, white=dataset.white)
    return Source(tuple(names), images, parts, dataset.val_fraction, Listing.of(entries, tree.folders), tree.left_out)


def check(dataset: Folder) -> None:
    """Raises the same `ValueError` as `load` for the outermost folder, without listing the images."""
    try:
        _split_folders(Tree(Path(dataset.path).expanduser()), dataset)
    except ValueError as error:
        raise ValueError(printable(str(error))) from None


def _split_folders(tree: Tree, dataset: Folder) -> tuple[str, str] | None:
    """The two folders of splits, or None for class folders; a `ValueError` if one is missing or ambiguous."""
    root, val, divides = tree.root, dataset.val, dataset.val_fraction is not None
    if not root.is_dir():
        raise ValueError(f"{root}: is not a folder; write where the images are as dataset.path in the scale file")
    names = tree.level("")[0]
    train, validation, test = ([name for name in names if name.lower() in words] for words in (TRAIN, VAL, TEST))
    if val is not None:
        if val not in names:
            raise ValueError(f"{root}: has no folder {val!r}, which dataset.val names; it has {_few(set(names))}")
        train, validation = train or [name for name in names if name != val and name not in test], [val]
        if not train:
            raise ValueError(f"{root}: has no train/ beside {val}/")
    if train and test and not validation:
        raise ValueError(
            f"{root}: has {train[0]}/ and {test[0]}/ but no val/; write val: {test[0]} next to path in the scale file "
            f"to validate on {test[0]}/"
        )
    if not validation or not train:
        if divides:
            return None
        raise ValueError(
            f"{root}: does not have both train/ and val/; write dataset.val_fraction in the scale file, e.g. 0.1, to "
            "split its class folders"
        )
    for purpose, candidates in (("training", train), ("validation", validation)):
        if len(candidates) > 1:
            folders = " and ".join(f"{name}/" for name in candidates)
            raise ValueError(f"{root}: {folders} may each be the split for {purpose}; rename those that are not")
    if divides:
        raise ValueError(
            f"{root}: has {train[0]}/ and {validation[0]}/ already; remove dataset.val_fraction from the scale file"
        )
    tree.left_out.folders += [name for name in names if name not in (train[0], validation[0])]
    return train[0], validation[0]


def _existing_splits(tree: Tree, folders: tuple[str, str]) -> dict[int, Classes]:
    """The training and the validation part of a tree that has folders for them."""
    train, val = folders
    parts = {part: _classes(tree, folder) for part, folder in enumerate(folders)}
    in_train, in_val = (classes.keys() for classes in parts.values())
    if in_train != in_val:
        raise ValueError(
            f"{tree.root}: {train}/ and {val}/ must have the same class folders; "
            f"only in {train}/: {_few(in_train - in_val)}; only in {val}/: {_few(in_val - in_train)}"
        )
    return parts


def _undivided(tree: Tree) -> Classes:
    """The classes of a tree that replications divide."""
    classes = _classes(tree, "")
    _refuse_splits(tree.root, classes)
    for name, files in classes.items():
        if len(files) < 2:
            raise ValueError(f"{tree.root / name}: has a single image; to split a class takes two at least")
    return classes


def _refuse_splits(root: Path, classes: Classes) -> None:
    """Refuses folders that all contain the same subfolders and no images: they are splits, not classes."""
    below = {tuple(sorted({file.path.split("/")[1] for file in files})) for files in classes.values()}
    direct = any(file.path.count("/") == 1 for files in classes.values() for file in files)
    if direct or len(below) > 1 or len(*below) < 2:
        return
    (inner,) = below
    words = TRAIN | VAL | TEST
    if all(name.lower() in words for name in inner):
        raise ValueError(
            f"{root}: each of {_few(set(classes))} holds {_few(set(inner))}; put the splits above the classes: "
            f"{inner[0]}/{next(iter(classes))}"
        )
    raise ValueError(
        f"{root}: {_few(set(classes))} hold the same folders ({_few(set(inner))}), so they are splits and not classes; "
        "name them train and val, or write the one to validate on as val next to path in the scale file"
    )


def _classes(tree: Tree, folder: str) -> Classes:
    """The class folders in `folder` in alphabetical order, with their images; `ValueError` if one is empty."""
    place = tree.root / folder
    folders, stray = tree.level(folder)
    if len(folders) < 2:
        deeper = f"; the folders in {folders[0]}/ may be the classes" if folders else ""
        raise ValueError(f"{place}: needs two class folders at least, has {len(folders)}{deeper}")
    if stray:
        raise ValueError(
            f"{tree.root / stray[0].path}: is in no class folder; move it into one, or away ({len(stray)} such images)"
        )
    classes: Classes = {}
    # in composed Unicode, because macOS stores accents as separate characters:
    for spelling, name in sorted((printable(unicodedata.normalize("NFC", name)), name) for name in folders):
        if spelling in classes:
            raise ValueError(f"{place}: has two class folders that are called {spelling}; rename one")
        classes[spelling] = tree.pictures(f"{folder}/{name}" if folder else name)
        if not classes[spelling]:
            raise ValueError(f"{place / name}: has no images in a readable format{tree.left_out.in_words()}")
    return classes


def _few(names: set[str]) -> str:
    """The first few names of a set, for a message."""
    ordered = sorted(map(printable, names))
    return ", ".join(ordered[:3] + ["..."] * (len(ordered) > 3)) or "none"
