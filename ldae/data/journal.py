"""A journal of the images that are already in an array on disk, so that a killed preparation can resume."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ldae.data.sources import Picture
from ldae.runtime.files import path_in_errors

LEFT_OUT = -1  # the group of a broken image


class Journal:
    """One line for each chunk of images on disk, in order, with all but the pixels of each image."""

    def __init__(self, target: Path, identity: str) -> None:
        """Resumes the journal of an array that was started with the same `identity`, or starts a new one."""
        self.target, self.path = target, target.with_suffix(".journal")
        self._groups, self._digests = array("q"), array("Q")
        # by position in the array:
        self.broken: dict[int, str] = {}
        self.grey: dict[int, float] = {}
        self.colour: dict[int, float] = {}
        previous = self.path.read_text() if self.path.exists() and target.exists() else ""
        *lines, _ = previous.split("\n")  # an incomplete last line does not count
        if lines[:1] == [identity]:
            for line in lines[1:]:
                self._note([Picture(*values) for values in json.loads(line)])
        else:
            lines = [identity]
        with path_in_errors(self.path):
            self.path.write_text("".join(f"{line}\n" for line in lines))

    def __len__(self) -> int:
        """The number of images on disk."""
        return len(self._groups)

    def add(self, pictures: list[Picture]) -> None:
        """Appends the next chunk, without its pixels, which must be on disk already."""
        self._note(pictures)
        with path_in_errors(self.path), self.path.open("a") as file:
            file.write(json.dumps(pictures) + "\n")

    def _note(self, pictures: list[Picture]) -> None:
        for picture in pictures:
            place = len(self)
            if picture.broken:
                self.broken[place] = picture.broken
            if picture.grey is not None:
                self.grey[place] = picture.grey
            if picture.colour is not None:
                self.colour[place] = picture.colour
            group = place if picture.group is None else picture.group
            self._groups.append(LEFT_OUT if picture.broken else group)
            self._digests.append(picture.digest)

    @property
    def groups(self) -> NDArray[np.int64]:
        """The group of each image (N,), `LEFT_OUT` for a broken one."""
        return np.array(self._groups, dtype=np.int64)

    @property
    def digests(self) -> NDArray[np.uint64]:
        """The digest of each image's file (N,)."""
        return np.array(self._digests, dtype=np.uint64)


@contextmanager
def open_journal(path: Path, identity: str) -> Iterator[Journal]:
    """Opens the journal of an array, which gets its final name `path` if the block succeeds.

    After a kill, a disk error or Ctrl-C, the next call resumes; a refusal (`ValueError`) removes everything.
    """
    journal = Journal(path.with_name(f".{path.name}.partial"), identity)
    try:
        yield journal
    except ValueError:
        journal.target.unlink(missing_ok=True)
        journal.path.unlink(missing_ok=True)
        raise
    with journal.target.open("rb") as file:
        os.fsync(file.fileno())
    journal.target.replace(path)
    journal.path.unlink()
