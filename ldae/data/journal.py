"""How far an array of images is filled, and with what, so that a killed preparation goes on where it was."""

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

LEFT_OUT = -1  # in the place of a broken image's group


class Drawn(NamedTuple):
    """What is known of an image beside its pixels."""

    group: int
    digest: int
    deep: Deep | None = None


Outcome = Drawn | Broken


class Journal:
    """A line for each chunk of images that is on disk, in order; and what came of these images."""

    def __init__(self, target: Path, identity: str) -> None:
        """Goes on with the journal of an array that was begun with the same `identity`, or starts one."""
        self.target, self.path = target, target.with_suffix(".journal")
        self._groups, self._digests = array("q"), array("Q")
        self.broken: list[Broken] = []
        self.deep: dict[int, Deep] = {}  # position -> what is known of an image of more than 8 bits
        open_journal = self.path.read_text() if self.path.exists() and target.exists() else ""
        *lines, _ = open_journal.split("\n")  # a line that was cut short is none
        if lines[:1] == [identity]:
            for line in lines[1:]:
                self._note([_outcome(values) for values in json.loads(line)])
        else:
            lines = [identity]
        with path_in_errors(self.path):
            self.path.write_text("".join(f"{line}\n" for line in lines))

    def __len__(self) -> int:
        """The number of images that are done."""
        return len(self._groups)

    def add(self, outcomes: list[Outcome]) -> None:
        """Notes the next chunk, whose images are on disk."""
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
    """An outcome of a line: that of a broken image begins with its path."""
    if isinstance(values[0], str):
        return Broken(*values)
    group, digest, deep = values
    return Drawn(group, digest, deep and Deep(*deep))


@contextmanager
def open_journal(path: Path, identity: str) -> Iterator[Journal]:
    """The journal of an array that takes its name when the block has ended well.

    What a kill, a failing disk or an impatient person leaves is gone on with; images that are refused leave nothing.
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
