"""Stage: turns photographs or a user's images into arrays that training reads without decoding anything.

The arrays are filled in place on disk by a pool of processes, so that memory stays small whatever the data set. Each
image is a function of the configuration and of its position, so that the bytes do not depend on the pool; and a journal
beside each array tells how far it is, so that a killed stage goes on where it was.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
from numpy.typing import NDArray

from ldae.arrays import all_row_sums, new_array, release, save_array
from ldae.files import sha256, whole, write_json
from ldae.journal import LEFT_OUT, Drawn, Journal, Outcome, begun
from ldae.process import die_with_parent
from ldae.progress import progress
from ldae.record import lineage
from ldae.sources import Broken, Images, Source, fingerprint, folder, photos, tars
from ldae.spec import Dataset, DatasetStage, Folder, Photos

CHUNK = 128  # images a task
AHEAD = 4  # tasks a process that wait for it or are done already
MOST_BROKEN = 0.01  # of a split's images

Run = Callable[[Callable[["Chunk"], list[Outcome]], Iterator["Chunk"]], Iterator[list[Outcome]]]


class Chunk(NamedTuple):
    """A task of the pool: images, and where in the array at `target` they go."""

    target: Path
    start: int
    images: Images


class Split(NamedTuple):
    """What a split's images came with; broken ones are in neither array."""

    labels: NDArray[np.int64]  # (N,)
    groups: NDArray[np.int64]  # (N,) 0..G-1
    broken: list[Broken]


def prepare(stage: DatasetStage, *, revision: int, out: Path, workers: int) -> None:
    """Writes the arrays of both splits and, last, their manifest into the folder `out`.

    Raises:
        ValueError: in one line, when the data set cannot be used as it is; nothing is written then.
    """
    dataset, size = stage.dataset, stage.dataset.stored
    source = _open(dataset)
    made, pictures = lineage("dataset", stage, revision), fingerprint.identity(source.listing)
    out.mkdir(parents=True, exist_ok=True)
    _check_space(source, size, out)
    splits, sums, digests = {}, {}, []
    identity = json.dumps([made, pictures, PIL.__version__], sort_keys=True)
    with ExitStack() as stack:
        run = stack.enter_context(_pool(workers))
        for name, images in source.splits.items():
            journal = stack.enter_context(begun(out / f"{name}.npy", identity))
            splits[name] = _draw(name, images, size, journal, run)
            sums[name] = all_row_sums(journal.target)
            digests.append(journal.digests)
        if fingerprint.identity(fingerprint.listing(dataset)) != pictures:
            raise ValueError("the pictures were changed while they were prepared; start again")
        (out / "manifest.json").unlink(missing_ok=True)  # an older one must not vouch for new arrays
    for name, split in splits.items():
        save_array(out / f"{name}_labels.npy", split.labels)
        save_array(out / f"{name}_groups.npy", split.groups)
        save_array(out / f"{name}_checksums.npy", sums[name])
    listing = source.listing
    if listing is not None and isinstance(dataset, Folder):
        listing = listing.with_digests(np.concatenate(digests))
    sources = fingerprint.record(listing, out / "sources.npz")
    manifest = _manifest(dataset, source.classes, splits, out)
    write_json(out / "manifest.json", manifest | {"sources": sources, "pillow": PIL.__version__, "lineage": made})


def _open(dataset: Dataset) -> Source:
    if isinstance(dataset, Photos):
        return photos.load(dataset)
    return folder.load(dataset) if isinstance(dataset, Folder) else tars.load(dataset)


def _check_space(source: Source, size: int, out: Path) -> None:
    """Refuses what the disk cannot hold: a mapped file that outgrows it kills its writer without a word."""
    need = sum(len(images.labels) for images in source.splits.values()) * 3 * size**2
    free = shutil.disk_usage(out).free
    if need > free:
        raise ValueError(f"{out}: the prepared images take {need / 1e9:.1f} GB; the disk has {free / 1e9:.1f} GB left")


@contextmanager
def _pool(workers: int) -> Iterator[Run]:
    """A `map` over this many processes that keeps order; over this process alone for one.

    A few tasks are under way at a time: the executor's own `map` would hold all of ImageNet's at once.
    """
    if workers == 1:
        yield map
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker) as pool:

        def run(task: Callable[[Chunk], list[Outcome]], chunks: Iterator[Chunk]) -> Iterator[list[Outcome]]:
            ahead: deque[Future[list[Outcome]]] = deque()
            for chunk in chunks:
                ahead.append(pool.submit(task, chunk))
                if len(ahead) > AHEAD * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

        try:
            yield run
        except BrokenProcessPool:
            raise ChildProcessError(
                "a worker process has ended all at once; was there too little memory? Started again, it goes on there"
            ) from None


def _start_worker() -> None:
    """Binds a worker's life to its parent's, which may have ended while the worker was importing."""
    die_with_parent()
    parent = parent_process()
    if parent is None or not parent.is_alive():
        os._exit(1)


def _draw(name: str, images: Images, size: int, journal: Journal, run: Run) -> Split:
    """Fills a split's array with what it still lacks."""
    target, total = journal.target, len(images.labels)
    done = len(journal)
    if not done:
        new_array(target, np.uint8, (total, 3, size, size))
    chunks = (Chunk(target, start, images.part(start, start + CHUNK)) for start in range(done, total, CHUNK))
    with progress(f"preparing {name}", total, "images", done) as bar:
        for result in run(_fill, chunks):
            journal.add(result)
            bar.advance(len(result))
    broken = journal.broken
    if len(broken) > MOST_BROKEN * total:
        raise ValueError(
            f"{name}: {len(broken)} of {total} images are broken, more than {MOST_BROKEN:.0%}; "
            f"the first: {broken[0].path}: {broken[0].reason}"
        )
    groups = journal.groups
    kept = np.flatnonzero(groups != LEFT_OUT)
    if len(np.load(target, mmap_mode="r")) > len(kept):
        _compact(target, kept)
    return Split(images.labels[kept], np.unique(groups[kept], return_inverse=True)[1], broken)


def _fill(chunk: Chunk) -> list[Outcome]:
    """Draws images into their places; for each, its group or what is wrong with it."""
    array = np.load(chunk.target, mmap_mode="r+")
    outcomes: list[Outcome] = []
    for position, image in enumerate(chunk.images, chunk.start):
        if isinstance(image, Broken):
            outcomes.append(image)
        else:
            array[position] = image.pixels
            outcomes.append(Drawn(image.group, image.digest))
    array.flush()  # the journal will say that these are on disk
    return outcomes


def _compact(path: Path, kept: NDArray[np.int64]) -> None:
    """Leaves only the `kept` images of an array on disk."""
    images = np.load(path, mmap_mode="r")
    with whole(path) as partial:
        compacted = new_array(partial, np.uint8, (len(kept), *images.shape[1:]))
        for start in range(0, len(kept), CHUNK):
            compacted[start : start + CHUNK] = images[kept[start : start + CHUNK]]
            release(images)
            release(compacted)


def _manifest(dataset: Dataset, classes: tuple[str, ...], splits: dict[str, Split], out: Path) -> dict[str, Any]:
    """What the arrays hold, in words that are the same for every run."""
    files = [f"{name}_{part}.npy" for name in splits for part in ("labels", "groups", "checksums")]
    return {
        "source": dataset.source,
        "size": dataset.size,
        "classes": classes,
        "counts": {name: _counts(split, classes) for name, split in splits.items()},
        "groups": {name: len(np.unique(split.groups)) for name, split in splits.items()},
        "sha256": {file: sha256(out / file) for file in files},
        "broken": [
            {"path": broken.path, "reason": broken.reason} for split in splits.values() for broken in split.broken
        ],
    }


def _counts(split: Split, classes: tuple[str, ...]) -> dict[str, int]:
    found = Counter(split.labels.tolist())
    return {name: found[label] for label, name in enumerate(classes)}
