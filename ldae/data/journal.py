"""A journal of the images that are already in an array on disk, so that a killed preparation can resume."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldae.data.sources import Broken, Deep
from ldae.runtime.files import path_in_errors

LEFT_OUT = -1  # the group of a broken image


class Drawn(NamedTuple):
    """What the preparation keeps of an image besides its pixels."""

    group: int
    digest: int
    deep: Deep | None = None


Outcome = Drawn | Broken


class Journal:
    """One line for each chunk of images on disk, in order, with the outcome of each image."""

    def __init__(self, target: Path, identity: str) -> None:
        """Resumes the journal of an array that was started with the same `identity`, or starts a new one."""
        self.target, self.path = target, target.with_suffix(".journal")
        self._groups, self._digests = array("q"), array("Q")
        self.broken: list[Broken] = []
        self.deep: dict[int, Deep] = {}  # by position, for images with more than 8 bits
        open_journal = self.path.read_text() if self.path.exists() and target.exists() else ""
        *lines, _ = open_journal.split("\n")  # an incomplete last line does not count
        if lines[:1] == [identity]:
            for line in lines[1:]:
                self._note([_outcome(values) for values in json.loads(line)])
        else:
            lines = [identity]
        with path_in_errors(self.path):
            self.path.write_text("".join(f"{line}\n" for line in lines))

    def __len__(self) -> int:
        """The number of images on disk."""
        return len(self._groups)

    def add(self, outcomes: list[Outcome]) -> None:
        """Appends the outcomes of the next chunk, whose images must be on disk already."""
        self._note(outcomes)
        with path_in_errors(self.path), self.path.open("a") as file:
            file.write(json.dumps(outcomes) + "\n")

    def _note(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            if isinstance(outcome, Broken):
                self.broken.append(outcome)
            elif outcome.deep is not None:
                self.deep[len(self)] = outcome.deep
            self._digests.append(outcome.digest)
            self._groups.append(LEFT_OUT if isinstance(outcome, Broken) else outcome.group)

    @property
    def groups(self) -> NDArray[np.int64]:
        """The group of each image (N,), `LEFT_OUT` for a broken one."""
        return np.array(self._groups, dtype=np.int64)

    @property
    def digests(self) -> NDArray[np.uint64]:
        """The digest of each image's file (N,)."""
        return np.array(self._digests, dtype=np.uint64)


def _outcome(values: list[Any]) -> Outcome:
    """Parses an outcome; that of a broken image starts with its path."""
    if isinstance(values[0], str):
        return Broken(*values)
    group, digest, deep = values
    return Drawn(group, digest, deep and Deep(*deep))


@contextmanager
def open_journal(path: Path, identity: str) -> Iterator[Journal]:
    """Opens the journal of an array, which gets its final name `path` if the block succeeds.

    After a kill, a disk error or Ctrl-C, the next call resumes. If the images are refused (`ValueError`), everything is
    removed.
    """
    journal = Journal(path.with_name(f".{path.name}.partial"), identity)
    try:
        yield journal
    except ValueError:
        for left in (journal.target, journal.path):
            left.unlink(missing_ok=True)
        raise
    with journal.target.open("rb") as file:
        os.fsync(file.fileno())
    journal.target.replace(path)
    journal.path.unlink()
