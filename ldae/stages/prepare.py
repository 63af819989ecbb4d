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
from typing import Any, NamedTuple

import numpy as np
import PIL
from numpy.typing import NDArray

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
    """A task of the pool: images, and their positions in the array at `target`."""

    target: Path
    places: Sequence[int]
    images: Images


def prepare(stage: DatasetStage, *, revision: int, out: Path, workers: int) -> None:
    """Writes the arrays of both splits, and finally their manifest, into the folder `out`.

    Keys of the manifest:

    - `source`, `size`, `classes`, `counts` (split -> class -> images), `groups` (split -> their number), `sha256`;
    - `sources`: the files that were read, see `opening.record_listing`; `pillow`: the version that decoded them;
    - `broken`: path and reason of each image that could not be read, as in `broken.csv`;
    - `left_out`: what else the folder contains (`endings`: extension -> files; `hidden`, `special`, `circles`: numbers;
      `folders`: names), without zero counts;
    - `in_both`: files with the same content in both splits: their `count`, and the first `pairs` [train, val];
    - `white`: for grey images with more than 8 bits (otherwise None): its `level`, whether it was `measured`, the
      `largest` value, and the number of `images`.

    A `ValueError` says in one line why the data set cannot be used; no array or manifest is written then.
    """
    dataset, size = stage.dataset, stage.dataset.stored
    source = opening.open_source(dataset)
    classes = source.classes
    train, val = (len(source.splits[name].labels) for name in ("train", "val"))
    split = f"{train:,} for training, {val:,} for validation{source.left_out.in_words()}"
    log(f"{train + val:,} images of {len(classes):,} classes: {split}")
    own_lineage, files = lineage("dataset", stage, revision), opening.identity(source.listing)
    out.mkdir(parents=True, exist_ok=True)
    identity = json.dumps([own_lineage, files, PIL.__version__], sort_keys=True)
    with ExitStack() as stack:
        run, journals = stack.enter_context(_pool(workers)), {}
        for name, images in source.splits.items():
            journals[name] = stack.enter_context(open_journal(out / f"{name}.npy", identity))
            if not len(journals[name]):  # both are created first, so that a disk that is too small is noticed at once
                new_array(journals[name].target, np.uint8, (len(images.labels), 3, size, size))
        for name, images in source.splits.items():
            _draw(name, images, journals[name], run)
        if opening.identity(opening.listing(dataset)) != files:
            raise ValueError("the pictures were changed while they were prepared; start again")
        allowed = not isinstance(dataset, Photos) and dataset.broken == "allow"
        broken = _list_broken(source, journals, out / "broken.csv", allowed=allowed)
        white = _whiten(dataset, source, journals, run)
        splits = {name: _settle(images, journals[name]) for name, images in source.splits.items()}
        for name, journal in journals.items():
            splits[name]["checksums"] = file_row_checksums(journal.target)
        (out / "manifest.json").unlink(missing_ok=True)  # an old manifest must not describe new arrays
    sums = {}
    for name, arrays in splits.items():
        for what, values in arrays.items():
            path = out / f"{name}_{what}.npy"
            save_array(path, values)
            sums[path.name] = sha256(path)
    listing = source.listing
    if listing is not None and isinstance(dataset, Folder):
        listing = replace(listing, digests=np.concatenate([journal.digests for journal in journals.values()]))
    counts = {name: np.bincount(arrays["labels"], minlength=len(classes)).tolist() for name, arrays in splits.items()}
    manifest = {
        "source": dataset.source,
        "size": dataset.size,
        "classes": classes,
        "counts": {name: dict(zip(classes, numbers, strict=True)) for name, numbers in counts.items()},
        "groups": {name: len(np.unique(arrays["groups"])) for name, arrays in splits.items()},
        "sha256": sums,
        "sources": opening.record_listing(listing, out / "sources.npz"),
        "pillow": PIL.__version__,
        "broken": broken,
        "left_out": source.left_out.to_json(),
        "in_both": _in_both(source, journals),
        "white": white,
        "lineage": own_lineage,
        "provenance": provenance(cpu_name(), workers=workers),
    }
    write_json(out / "manifest.json", manifest)


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


def _draw(name: str, images: Images, journal: Journal, run: Map) -> None:
    """Fills the rest of a split's array."""
    target, total, done = journal.target, len(images.labels), len(journal)
    with progress(f"preparing {name}", total, "images", done) as bar:
        for result in run(_fill, _chunks(target, range(done, total), images)):
            journal.add(result)
            bar.advance(len(result))


def _chunks(target: Path, places: Sequence[int], images: Images, white: float | None = None) -> Iterator[Chunk]:
    """The tasks that decode the images at some positions."""
    for start in range(0, len(places), CHUNK):
        part = places[start : start + CHUNK]
        yield Chunk(target, part, images.at(part, white))


def _whiten(dataset: Dataset, source: Source, journals: dict[str, Journal], run: Map) -> dict[str, Any] | None:
    """Decodes grey images with more than 8 bits again, with one white for the whole data set.

    They were first decoded with a white from each single image. A stage that is killed here decodes all of them again.
    A `ValueError` refuses 16-bit colours that use only the lower bits. Returns the manifest's entry `white`.
    """
    configured = dataset.white if isinstance(dataset, Folder) else None
    grey = [value for journal in journals.values() for value in journal.grey.values()]
    colour = [value for journal in journals.values() for value in journal.colour.values()]
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
    for name, journal in journals.items():
        if configured or len(np.load(journal.target, mmap_mode="r")) < len(journal):  # a compacted array is final
            continue
        deque(run(_fill, _chunks(journal.target, list(journal.grey), source.splits[name], level)), maxlen=0)
    return {"level": level, "measured": not configured, "largest": max(grey), "images": len(grey)}


def _settle(images: Images, journal: Journal) -> dict[str, NDArray[Any]]:
    """Removes broken images from a split's array; returns the labels and groups (N,) of the others."""
    groups = journal.groups
    readable = np.flatnonzero(groups != LEFT_OUT)
    if len(np.load(journal.target, mmap_mode="r")) > len(readable):
        _compact(journal.target, readable)
    return {"labels": images.labels[readable], "groups": np.unique(groups[readable], return_inverse=True)[1]}


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


def _list_broken(source: Source, journals: dict[str, Journal], path: Path, *, allowed: bool) -> list[dict[str, str]]:
    """Writes path and reason of each broken image to a CSV file, and returns them, printable on one line.

    A `ValueError` says that too many are broken and this is not `allowed`, or all of a class.
    """
    images = [
        {"path": printable(source.splits[name].names[place]), "reason": printable(reason)}
        for name, journal in journals.items()
        for place, reason in journal.broken.items()
    ]
    if not images:
        path.unlink(missing_ok=True)
        return []
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        rows = csv.DictWriter(file, ("path", "reason"), lineterminator="\n")
        rows.writeheader()
        rows.writerows(images)
    for name, journal in journals.items():
        if not journal.broken:
            continue
        split, (place, reason) = source.splits[name], next(iter(journal.broken.items()))
        num, is_one = len(journal.broken), len(journal.broken) == 1
        counts = f"{name}: {num:,} of {len(journal):,} images {'is' if is_one else 'are'} broken"
        example = f"{printable(split.names[place])}: {printable(reason)}; {path} lists {len(images):,}"
        if num > most_broken(len(journal)) and not allowed:
            raise ValueError(
                f"{counts}, too many; the first is {example}; repair or remove them, or write broken: allow next to "
                "path in the scale file to leave out any number"
            )
        readable = split.labels[journal.groups != LEFT_OUT]
        if empty := set(split.labels.tolist()) - set(readable.tolist()):
            raise ValueError(
                f"{counts}, all of the class {source.classes[min(empty)]} among them; the first is {example}"
            )
        log(f"{counts} and left out; {'it' if is_one else 'the first'} is {example}")
    return images


def _in_both(source: Source, journals: dict[str, Journal]) -> dict[str, Any]:
    """Files with the same content in both splits, for the manifest; the network has seen these validation images."""
    train, val = (journals[name].digests for name in ("train", "val"))
    places = np.flatnonzero(np.isin(val, train) & (val > UNREADABLE) & (journals["val"].groups != LEFT_OUT))
    if not len(places):
        return {"count": 0, "pairs": []}
    order = np.argsort(train, kind="stable")
    twins = order[np.searchsorted(train, val[places[:MOST_PAIRS]], sorter=order)].tolist()
    pairs = [
        [printable(source.splits["train"].names[twin]), printable(source.splits["val"].names[place])]
        for twin, place in zip(twins, places[:MOST_PAIRS].tolist(), strict=True)
    ]
    log(
        f"warning: {len(places):,} of {len(val):,} validation images are training images too; the first is "
        f"{pairs[0][1]}, the same file as {pairs[0][0]}; the manifest lists them as in_both"
    )
    return {"count": len(places), "pairs": pairs}
