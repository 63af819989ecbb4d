"""Stage: decodes the images of a data set into arrays that training reads without decoding.

A pool of processes fills the arrays in place on disk, so memory stays small for any data set. Each image depends only
on the configuration and its position, so the bytes do not depend on the pool. A journal next to each array records the
progress, so that a killed stage can resume.
"""

from __future__ import annotations

import csv
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import PIL
from numpy.typing import NDArray

from ldae.data.division import UNDIVIDED, Pool, SplitName
from ldae.data.journal import LEFT_OUT, Journal, open_journal
from ldae.data.sources import Images, Picture, Source, opening
from ldae.data.sources.listing import UNREADABLE
from ldae.data.sources.pixels import white_above
from ldae.data.sources.tree import printable
from ldae.runtime.arrays import file_row_checksums, new_array, release_pages, save_array
from ldae.runtime.files import atomic_write, sha256, write_json
from ldae.runtime.machine import cpu_name
from ldae.runtime.process import die_with_parent
from ldae.runtime.progress import log, progress
from ldae.study.record import lineage, provenance
from ldae.study.scale import Dataset, Folder, Photos
from ldae.study.stage_specs import DatasetStage

CHUNK = 128  # images per task
AHEAD = 4  # queued or finished tasks per worker
MOST_PAIRS = 100  # pairs of equal files that a manifest lists
DARKEST = 2**14  # 16-bit colour images whose white is below this are refused


Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]


class Chunk(NamedTuple):
    """A task of the worker processes: images, and their positions in the array at `target`."""

    target: Path
    places: Sequence[int]
    images: Images


def prepare(stage: DatasetStage, *, revision: int, out: Path, workers: int) -> None:
    """Writes the arrays of the pool, and finally their manifest, into the folder `out`.

    The arrays are `images.npy` (P, 3, S', S') and `images_checksums.npy`, `labels.npy`, `groups.npy`, `parts.npy` (P,),
    as `ldae.data.division` reads them. Files of one class with the same content share a group.

    Keys of the manifest:

    - `source`, `size`, `classes`, `counts` (split -> class -> images of a replication), `sha256`;
    - `sources`: the files that were read, see `opening.record_listing`; `pillow`: the version that decoded them;
    - `broken`: path and reason of each image that could not be read, as in `broken.csv`;
    - `left_out`: what else the folder contains (`endings`: extension -> files; `hidden`, `special`, `circles`: numbers;
      `folders`: names), without zero counts;
    - `in_both`: files with the same content in both of two existing splits: their `count`, and the first `pairs`
      [train, val];
    - `white`: for grey images with more than 8 bits (otherwise None): its `level`, whether it was `measured`, the
      `largest` value, and the number of `images`.

    A `ValueError` says in one line why the data set cannot be used; no array or manifest is written then.
    """
    dataset, size = stage.dataset, stage.dataset.stored
    source = opening.open_source(dataset)
    classes = source.classes
    log(_overview(source, stage))
    own_lineage, files = lineage("dataset", stage, revision), opening.identity(source.listing)
    out.mkdir(parents=True, exist_ok=True)
    identity = json.dumps([own_lineage, files, PIL.__version__], sort_keys=True)
    with ExitStack() as stack:
        run = stack.enter_context(_pool(workers))
        journal = stack.enter_context(open_journal(out / "images.npy", identity))
        if not len(journal):
            new_array(journal.target, np.uint8, (len(source.parts), 3, size, size))
        _draw(source.images, journal, run)
        if opening.identity(opening.listing(dataset)) != files:
            raise ValueError("the pictures were changed while they were prepared; start again")
        allowed = not isinstance(dataset, Photos) and dataset.broken == "allow"
        broken = _list_broken(source, journal, out / "broken.csv", allowed=allowed)
        white = _whiten(dataset, source.images, journal, run)
        pool = _settle(source, journal)
        _check_divisible(pool, classes)
        checksums = file_row_checksums(journal.target)
        (out / "manifest.json").unlink(missing_ok=True)  # an old manifest must not describe new arrays
    arrays = {"images_checksums": checksums, "labels": pool.labels, "groups": pool.groups, "parts": pool.parts}
    sums = {}
    for name, values in arrays.items():
        path = out / f"{name}.npy"
        save_array(path, values)
        sums[path.name] = sha256(path)
    listing = source.listing
    if listing is not None and isinstance(dataset, Folder):
        listing = replace(listing, digests=journal.digests)
    counts = {
        name: np.bincount(pool.labels[pool.places(name, 0)], minlength=len(classes)).tolist()
        for name in get_args(SplitName)
    }
    manifest = {
        "source": dataset.source,
        "size": dataset.size,
        "classes": classes,
        "counts": {name: dict(zip(classes, numbers, strict=True)) for name, numbers in counts.items()},
        "sha256": sums,
        "sources": opening.record_listing(listing, out / "sources.npz"),
        "pillow": PIL.__version__,
        "broken": broken,
        "left_out": source.left_out.to_json(),
        "in_both": _in_both(source, journal),
        "white": white,
        "lineage": own_lineage,
        "provenance": provenance(cpu_name(), workers=workers),
    }
    write_json(out / "manifest.json", manifest)


def _overview(source: Source, stage: DatasetStage) -> str:
    """The numbers of images and classes, and what is left out, for the log."""
    train, val = opening.sizes(source)
    drawn = ""
    if train + val < len(source.parts):
        drawn = f", drawn from {len(source.parts):,}"
    elif source.val_fraction is not None:
        drawn = ", drawn"
    if drawn:
        drawn += " once for all seeds" if stage.shared else " anew for each seed"
    split = f"{train:,} for training, {val:,} for validation{drawn}{source.left_out.in_words()}"
    return f"{train + val:,} images of {len(source.classes):,} classes: {split}"


@contextmanager
def _pool(workers: int) -> Iterator[Map]:
    """An ordered `map` over several worker processes; with one worker, the built-in `map`.

    Only a few tasks are queued at a time; the executor's own `map` would queue all of ImageNet at once. A worker that
    ends before its task is a `ChildProcessError`.
    """
    if workers == 1:
        yield map
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker) as executor:

        def ordered_map(task: Callable[[Any], Any], arguments: Iterable[Any]) -> Iterator[Any]:
            ahead: deque[Future[Any]] = deque()
            for argument in arguments:
                ahead.append(executor.submit(task, argument))
                if len(ahead) > AHEAD * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

        try:
            yield ordered_map
        except BrokenProcessPool:
            raise ChildProcessError(
                "a worker process was killed, perhaps for memory; start again to continue"
            ) from None


def _start_worker() -> None:
    """Makes a worker end with its parent, also if the parent ended while the worker was importing."""
    die_with_parent()
    if (parent := parent_process()) is None or not parent.is_alive():
        os._exit(1)


def _draw(images: Images, journal: Journal, run: Map) -> None:
    """Fills the rest of the array."""
    target, total, done = journal.target, len(images.labels), len(journal)
    with progress("preparing", total, "images", done) as bar:
        for result in run(_fill, _chunks(target, range(done, total), images)):
            journal.add(result)
            bar.advance(len(result))


def _chunks(target: Path, places: Sequence[int], images: Images, white: float | None = None) -> Iterator[Chunk]:
    """The tasks that decode the images at some positions."""
    for start in range(0, len(places), CHUNK):
        part = places[start : start + CHUNK]
        yield Chunk(target, part, images.at(part, white))


def _whiten(dataset: Dataset, images: Images, journal: Journal, run: Map) -> dict[str, Any] | None:
    """Decodes grey images with more than 8 bits again, with one white for the whole data set.

    They were first decoded with a white from each single image. A stage that is killed here decodes all of them again.
    A `ValueError` refuses 16-bit colours that use only the lower bits. Returns the manifest's entry `white`.
    """
    configured = dataset.white if isinstance(dataset, Folder) else None
    grey, colour = journal.grey.values(), journal.colour.values()
    if any(colour) and (configured or white_above(257 * max(colour))) < DARKEST:
        raise ValueError(
            f"{len(colour):,} colour images of 16 bits have no value above {max(colour) / 255:.0%} of white, and of 16 "
            "bits only the upper 8 can be read; convert them to 8 bits a channel, with the white that is meant"
        )
    if not grey:
        return None
    level = configured or white_above(max(grey))
    log(
        f"{len(grey):,} grey images of more than 8 bits: white is {level:g}, "
        + ("as dataset.white says" if configured else "measured; dataset.white sets another")
        + f" (their largest value is {max(grey):g})"
    )
    is_final = len(np.load(journal.target, mmap_mode="r")) < len(journal)  # compacted already
    if not configured and not is_final:
        deque(run(_fill, _chunks(journal.target, list(journal.grey), images, level)), maxlen=0)
    return {"level": level, "measured": not configured, "largest": max(grey), "images": len(grey)}


def _settle(source: Source, journal: Journal) -> Pool:
    """Removes broken images from the array; returns what is known of the others."""
    labels, groups, digests = source.images.labels, journal.groups, journal.digests
    files = np.flatnonzero(digests > UNREADABLE)
    contents = np.rec.fromarrays([labels[files], digests[files]])
    _, first, content = np.unique(contents, return_index=True, return_inverse=True)
    readable = np.flatnonzero(groups != LEFT_OUT)
    groups[files] = files[first[content]]  # copies are one group
    if len(np.load(journal.target, mmap_mode="r")) > len(readable):
        _compact(journal.target, readable)
    dense = np.unique(groups[readable], return_inverse=True)[1]
    return Pool(labels[readable], dense, source.parts[readable], source.val_fraction)


def _check_divisible(pool: Pool, classes: Sequence[str]) -> None:
    """Refuses a class of an undivided pool of which all images that can be read are copies, with a `ValueError`."""
    if pool.val_fraction is None:
        return
    different = np.bincount(pool.labels[np.unique(pool.groups, return_index=True)[1]], minlength=len(classes))
    if different.min() < 2:
        label = int(different.argmin())
        name, num = classes[label], int((pool.labels == label).sum())
        what = "a single image that can be read" if num == 1 else f"{num:,} images, all of them the same file"
        raise ValueError(f"the class {name} has {what}; to split a class takes two different ones at least")


def _fill(chunk: Chunk) -> list[Picture]:
    """Decodes images into their positions; returns them without their pixels."""
    array = np.load(chunk.target, mmap_mode="r+")
    pictures = []
    for position, picture in zip(chunk.places, chunk.images, strict=True):
        if picture.pixels is not None:
            array[position] = picture.pixels
        pictures.append(picture._replace(pixels=None))
    array.flush()  # before the journal records that they are on disk
    return pictures


def _compact(path: Path, readable: NDArray[np.int64]) -> None:
    """Removes all but the images at the positions `readable` from an array on disk."""
    images = np.load(path, mmap_mode="r")
    with atomic_write(path) as partial:
        compacted = new_array(partial, np.uint8, (len(readable), *images.shape[1:]))
        for start in range(0, len(readable), CHUNK):
            compacted[start : start + CHUNK] = images[readable[start : start + CHUNK]]
            release_pages(images)
            release_pages(compacted)


def most_broken(images: int) -> float:
    """The most images of a split that may be broken: 10 % of up to 100, 10 of up to 1,000, 1 % of more; at least 1."""
    return max(1.0, min(0.1 * images, 10.0), 0.01 * images)


def _list_broken(source: Source, journal: Journal, path: Path, *, allowed: bool) -> list[dict[str, str]]:
    """Writes path and reason of each broken image to a CSV file, and returns them, printable on one line.

    A `ValueError` says that too many are broken and this is not `allowed`, or all of a class.
    """
    names, labels = source.images.names, source.images.labels
    images = [
        {"path": printable(names[place]), "reason": printable(reason)} for place, reason in journal.broken.items()
    ]
    if not images:
        path.unlink(missing_ok=True)
        return []
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        rows = csv.DictWriter(file, ("path", "reason"), lineterminator="\n")
        rows.writeheader()
        rows.writerows(images)
    for name, part in (("", UNDIVIDED), ("train: ", 0), ("val: ", 1)):
        places = np.flatnonzero(source.parts == part)
        broken = places[journal.groups[places] == LEFT_OUT]
        if not len(broken):
            continue
        num, is_one = len(broken), len(broken) == 1
        counts = f"{name}{num:,} of {len(places):,} images {'is' if is_one else 'are'} broken"
        first = int(broken[0])
        example = f"{printable(names[first])}: {printable(journal.broken[first])}; {path} lists {len(images):,}"
        if num > most_broken(len(places)) and not allowed:
            raise ValueError(
                f"{counts}, too many; the first is {example}; repair or remove them, or write broken: allow next to "
                "path in the scale file to leave out any number"
            )
        readable = labels[np.setdiff1d(places, broken, assume_unique=True)]
        if empty := set(labels[places].tolist()) - set(readable.tolist()):
            raise ValueError(
                f"{counts}, all of the class {source.classes[min(empty)]} among them; the first is {example}"
            )
        log(f"{counts} and left out; {'it' if is_one else 'the first'} is {example}")
    return images


def _in_both(source: Source, journal: Journal) -> dict[str, Any]:
    """Files with the same content in both existing splits; the network has seen these validation images."""
    names, digests = source.images.names, journal.digests
    train, val = (np.flatnonzero(source.parts == part) for part in (0, 1))
    readable = (digests > UNREADABLE) & (journal.groups != LEFT_OUT)
    places = val[np.isin(digests[val], digests[train]) & readable[val]]
    if not len(places):
        return {"count": 0, "pairs": []}
    order = train[np.argsort(digests[train], kind="stable")]
    twins = order[np.searchsorted(digests[order], digests[places[:MOST_PAIRS]])].tolist()
    pairs = [
        [printable(names[twin]), printable(names[place])]
        for twin, place in zip(twins, places[:MOST_PAIRS].tolist(), strict=True)
    ]
    log(
        f"warning: {len(places):,} of {len(val):,} validation images are training images too; the first is "
        f"{pairs[0][1]}, the same file as {pairs[0][0]}; the manifest lists them as in_both"
    )
    return {"count": len(places), "pairs": pairs}
