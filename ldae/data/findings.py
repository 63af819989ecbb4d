"""What the preparation reports about a data set: a summary, broken images, and files that are in both splits."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from ldae.data.journal import LEFT_OUT, Journal
from ldae.data.sources import Source
from ldae.data.sources.listing import UNREADABLE
from ldae.data.sources.tree import printable
from ldae.runtime.files import atomic_write
from ldae.runtime.progress import log

MOST_PAIRS = 100  # pairs of equal files that a manifest lists


def summary(source: Source) -> str:
    """One line with the numbers of images and classes, and what was left out."""
    train, val = (len(source.splits[name].labels) for name in ("train", "val"))
    counts = f"{train:,} for training, {val:,} for validation{source.left_out.in_words()}"
    return f"{train + val:,} images of {len(source.classes):,} classes: {counts}"


def most_broken(images: int) -> float:
    """The most images of a split that may be broken: 10 % of up to 100, 10 of up to 1,000, 1 % of more; at least 1."""
    return max(1.0, min(0.1 * images, 10.0), 0.01 * images)


def broken_images(source: Source, journals: dict[str, Journal]) -> list[dict[str, str]]:
    """The path and the reason of each broken image, both printable on one line."""
    return [
        {"path": printable(source.splits[name].names[place]), "reason": printable(reason)}
        for name, journal in journals.items()
        for place, reason in journal.broken.items()
    ]


def check_broken(source: Source, journals: dict[str, Journal], *, allowed: bool, out: Path) -> None:
    """Lists the broken images, if there are any, in `broken.csv` in the folder `out`.

    Too many of them in a split are a `ValueError` unless they are `allowed`, and so are all images of a class.
    """
    images, path = broken_images(source, journals), out / "broken.csv"
    if not images:
        path.unlink(missing_ok=True)
        return
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


def in_both(source: Source, journals: dict[str, Journal]) -> dict[str, Any]:
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
