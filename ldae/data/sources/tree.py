"""Lists the image files of a folder tree, and counts everything that is left out."""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

# Formats that Pillow recognises but cannot decode, and PostScript, which it passes to another program.
NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
SYSTEM = {  # files of operating systems, NAS boxes and tools, in lower case
    "__macosx",
    "__pycache__",
    "@eadir",
    "@recently-snapshot",
    "@recycle",
    "#recycle",
    "#snapshot",
    "~snapshot",
    "$recycle.bin",
    "recycler",
    "system volume information",
    "lost+found",
    "desktop.ini",
    "ehthumbs.db",
    "thumbs.db",
    "icon\r",
}
NAMED_ENDINGS = 20  # endings of left-out files to count separately; the others are counted together
UNREADABLE = -1  # the size of a dangling link

Identity = tuple[int, int]  # device and inode of a folder


class Entry(NamedTuple):
    """An image file on disk."""

    path: str  # relative to the data set's folder
    size: int  # bytes
    time: int  # of its last change, nanoseconds


@cache
def formats() -> tuple[str, ...]:
    """The formats that the installed Pillow decodes, with HEIC if pillow-heif is installed."""
    Image.init()
    with suppress(ImportError):
        import_module("pillow_heif").register_heif_opener()
    return tuple(sorted(Image.OPEN.keys() - NOT_DECODED))


@cache
def endings() -> frozenset[str]:
    """The file name extensions of these formats, in lower case."""
    known = set(formats())
    return frozenset(ending for ending, form in Image.registered_extensions().items() if form in known)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden or belongs to an operating system, a NAS box or a tool."""
    return name.startswith(".") or name.lower() in SYSTEM


def printable(text: str) -> str:
    """A file name as one line of valid UTF-8, with unprintable characters escaped."""
    text = text.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(
        letter.encode("unicode_escape").decode() if unicodedata.category(letter) in ("Cc", "Zl", "Zp") else letter
        for letter in text
    )


@dataclass
class LeftOut:
    """What a data set's folder contains besides the image files that are read."""

    endings: Counter[str] = field(default_factory=Counter)  # other files, by extension
    hidden: int = 0  # hidden and system files and folders; a folder counts once
    special: int = 0  # FIFOs, sockets and devices
    circles: int = 0  # links to folders that are already being read
    folders: list[str] = field(default_factory=list)  # folders other than those of the two splits

    def count_ending(self, name: str) -> None:
        """Counts a file that is not an image."""
        ending = os.path.splitext(name)[1].lower()
        self.endings[ending if re.fullmatch(r"\.\w{1,8}", ending, re.ASCII) else "other" if ending else "none"] += 1

    def to_json(self) -> dict[str, Any]:
        """The non-zero counts, for the manifest."""
        common = dict(self.endings.most_common(NAMED_ENDINGS))
        if rest := self.endings.total() - sum(common.values()):
            common["other"] = common.get("other", 0) + rest
        numbers = {"hidden": self.hidden, "special": self.special, "circles": self.circles}
        counts = {"endings": dict(sorted(common.items())), **numbers, "folders": [*map(printable, self.folders)]}
        return {name: value for name, value in counts.items() if value}

    def in_words(self) -> str:
        """The non-zero counts as a sentence, for the log."""
        counts = self.to_json()
        parts = []
        if kinds := counts.get("endings"):
            number, listed = sum(kinds.values()), ", ".join(f"{ending} {num:,}" for ending, num in kinds.items())
            parts.append(f"{number:,} {_plural(number, 'file')} of other kinds ({listed})")
        if self.hidden:
            parts.append(
                f"{self.hidden:,} hidden or system {_plural(self.hidden, 'file or folder', 'files and folders')}"
            )
        if self.special:
            parts.append(
                f"{self.special:,} {_plural(self.special, 'FIFO, socket or device', 'FIFOs, sockets or devices')}"
            )
        if self.circles:
            parts.append(f"{self.circles:,} {_plural(self.circles, 'link')} to folders that are read already")
        if self.folders:
            parts.append("the " + _plural(len(self.folders), "folder") + " " + ", ".join(counts["folders"]))
        return ", ".join(parts)


class Tree:
    """A data set's folder, listed on demand; links are followed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.left_out = LeftOut()
        self.folders: dict[
            str, int
        ] = {}  # modification time in nanoseconds of each listed folder, by path relative to the root
        self._levels: dict[str, tuple[list[str], list[str]]] = {}

    def level(self, folder: str) -> tuple[list[str], list[str]]:
        """The sorted names of the subfolders and image files directly in `folder`.

        Raises:
            ValueError: for a dangling link that may have been a folder.
        """
        if folder in self._levels:  # a second listing would count left-out files twice
            return self._levels[folder]
        above, folders, pictures = self._above(folder), [], []
        for name, path, about in self._entries(folder):
            if about is not None and stat.S_ISDIR(about.st_mode):
                if _identity(about) in above:
                    self.left_out.circles += 1
                else:
                    folders.append(name)
            elif self._is_picture(name, about):
                pictures.append(name)
            elif about is None and not os.path.splitext(name)[1]:
                raise ValueError(f"{self.root / path}: is a dangling link; repair or remove it")
        self._levels[folder] = sorted(folders), sorted(pictures)
        return self._levels[folder]

    def pictures(self, folder: str) -> list[Entry]:
        """All image files in `folder` and its subfolders, sorted by path.

        A folder that links reach twice, or that contains `folder`, is not read again.
        """
        visited, entries, pending = self._above(folder), [], [folder]
        while pending:
            for name, path, about in self._entries(pending.pop()):
                if about is not None and stat.S_ISDIR(about.st_mode):
                    if _identity(about) in visited:
                        self.left_out.circles += 1
                    else:
                        visited.add(_identity(about))
                        pending.append(path)
                elif self._is_picture(name, about):
                    entries.append(
                        Entry(path, about.st_size, about.st_mtime_ns) if about else Entry(path, UNREADABLE, 0)
                    )
        return sorted(entries)

    def _above(self, folder: str) -> set[Identity]:
        """The identities of a folder and of its parents up to the root."""
        parts = Path(folder).parts
        return {_identity(os.stat(self.root.joinpath(*parts[:depth]))) for depth in range(len(parts) + 1)}

    def _entries(self, folder: str) -> Iterator[tuple[str, str, os.stat_result | None]]:
        """Name, path and status of all entries that are not hidden; the status of a dangling link is None."""
        self.folders[folder] = os.stat(self.root / folder).st_mtime_ns
        with os.scandir(self.root / folder) as entries:
            for entry in entries:
                if is_hidden(entry.name):
                    self.left_out.hidden += 1
                    continue
                path = f"{folder}/{entry.name}" if folder else entry.name
                try:
                    about = entry.stat()
                except OSError:
                    if not entry.is_symlink():
                        raise
                    about = None
                yield entry.name, path, about

    def _is_picture(self, name: str, about: os.stat_result | None) -> bool:
        """Whether a file is an image by its extension; other files are counted."""
        if about is not None and not stat.S_ISREG(about.st_mode):
            self.left_out.special += 1
            return False
        if os.path.splitext(name)[1].lower() in endings():
            return True
        self.left_out.count_ending(name)
        return False


def _identity(about: os.stat_result) -> Identity:
    return about.st_dev, about.st_ino


def _plural(number: int, one: str, several: str | None = None) -> str:
    return one if number == 1 else several or f"{one}s"
