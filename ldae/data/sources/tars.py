"""ImageNet's original tar files, read without unpacking."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from ldae.data.sources import Source
from ldae.data.sources.listing import MOST_BYTES, UNKNOWN, Listing, file_digest
from ldae.data.sources.pixels import ImageFiles
from ldae.data.sources.tree import Entry
from ldae.study.scale import ImageNet

TRAIN, VAL, DEVKIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"
META, TRUTH = "data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"  # inside the development kit


class Member(NamedTuple):
    """A file inside a tar file."""

    name: str
    offset: int  # of its content in the outermost file
    size: int


def check(dataset: ImageNet) -> None:
    """Raises a `ValueError` with the first missing file."""
    root = Path(dataset.path).expanduser()
    for name in (TRAIN, VAL, DEVKIT):
        if not (root / name).is_file():
            raise ValueError(
                f"{root / name}: is absent; dataset.path should be a folder with {TRAIN}, {VAL} and {DEVKIT}"
            )


def load(dataset: ImageNet) -> Source:
    """Lists the images of both splits; a `ValueError` names a file that is missing or invalid."""
    check(dataset)
    root = Path(dataset.path).expanduser()
    classes = sorted(members(root / TRAIN), key=lambda member: member.name)
    if not classes:
        raise ValueError(f"{root / TRAIN}: holds nothing; expected a tar file for each class")
    names = tuple(PurePosixPath(member.name).stem for member in classes)
    train = [(member, label) for label, inner in enumerate(classes) for member in members(root / TRAIN, inner)]
    if lacking := set(range(len(classes))) - {label for _, label in train}:
        raise ValueError(f"{root / TRAIN}: {classes[min(lacking)].name} holds no images")
    val = sorted(members(root / VAL), key=lambda member: member.name)
    truth = validation_labels(root / DEVKIT, names)
    if len(val) != len(truth):
        raise ValueError(f"{root / VAL}: holds {len(val)} images, and {DEVKIT} has labels for {len(truth)}")
    found = [member for member, _ in train] + val
    parts = np.repeat([0, 1], [len(train), len(val)])
    places = np.array([(member.offset, member.size) for member in found], dtype=np.int64)
    pool = ImageFiles(
        root,
        dataset.stored,
        tuple(member.name for member in found),
        np.array([label for _, label in train] + truth, dtype=np.int64),
        tars=(TRAIN, VAL),
        in_tar=np.column_stack([parts, places]),
    )
    files = listing(dataset)
    digests = [
        file_digest(root / name) if size <= MOST_BYTES else UNKNOWN
        for name, size in zip(files.names, files.sizes, strict=True)
    ]
    return Source(names, pool, parts, listing=replace(files, digests=np.array(digests, dtype=np.uint64)))


def listing(dataset: ImageNet) -> Listing:
    """The three files on disk; an `OSError` names the first missing one."""
    root = Path(dataset.path).expanduser()
    files = [(name, (root / name).stat()) for name in (TRAIN, VAL, DEVKIT)]
    return Listing.of([Entry(name, status.st_size, status.st_mtime_ns) for name, status in files], {})


def members(path: Path, outer: Member | None = None) -> Iterator[Member]:
    """The files in a tar archive, or in the archive `outer` inside it; a `ValueError` names an invalid one."""
    with path.open("rb") as file:
        file.seek(outer.offset if outer else 0)
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for member in archive:
                    if member.isfile():
                        name = f"{PurePosixPath(outer.name).stem}/{member.name}" if outer else member.name
                        yield Member(name, member.offset_data, member.size)
                file.seek(archive.offset)
                # tarfile would accept another block as the end, too
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise tarfile.ReadError(f"it breaks off at byte {archive.offset}")
        except tarfile.TarError as error:
            where = f": {outer.name}, in it" if outer else ""
            raise ValueError(f"{path}: is not a complete tar file ({error}){where}") from None


def validation_labels(devkit: Path, classes: tuple[str, ...]) -> list[int]:
    """The labels of the validation images in the order of their names; a `ValueError` says what the kit lacks."""
    from scipy.io import loadmat

    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(devkit, mode="r:gz") as archive:
            for member in archive:
                content = archive.extractfile(member)
                contents |= {part: content.read() for part in (META, TRUTH) if content and member.name.endswith(part)}
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ValueError(f"{devkit}: is not a complete tar file ({error})") from None
    for part in (META, TRUTH):
        if part not in contents:
            raise ValueError(f"{devkit}: lacks {part}")
    try:
        synsets = loadmat(BytesIO(contents[META]), squeeze_me=True)["synsets"]
        names = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in np.atleast_1d(synsets)}
    except Exception as error:  # on other bytes SciPy raises almost anything
        raise ValueError(f"{devkit}: {META} has no table of classes ({type(error).__name__}: {error})") from None
    lines = [line.decode(errors="replace") for line in contents[TRUTH].split()]
    labels = {str(number): classes.index(name) for number, name in names.items() if name in classes}
    for number, line in enumerate(lines, 1):
        if line not in labels:
            raise ValueError(f"{devkit}: line {number} of {TRUTH} is {line!r}, no class of which {TRAIN} has images")
    return [labels[line] for line in lines]
