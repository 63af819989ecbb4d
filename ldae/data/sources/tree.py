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
SYSTEM = frozenset(  # files of operating systems, NAS boxes and tools, in lower case
    "__macosx/__pycache__/@eadir/@recently-snapshot/@recycle/#recycle/#snapshot/~snapshot/$recycle.bin/recycler/"
    "system volume information/lost+found/desktop.ini/ehthumbs.db/thumbs.db/icon\r".split("/")
)
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


def printable(text: str) -> str:
    """A file name as one line of valid UTF-8, with unprintable characters escaped."""
    text = text.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(
        letter.encode("unicode_escape").decode() if unicodedata.category(letter) in ("Cc", "Zl", "Zp") else letter
        for letter in text
    )


@dataclass
class UnusedFiles:
    """What a data set's folder contains besides the image files that are read."""

    endings: Counter[str] = field(default_factory=Counter)  # other files, by extension
    hidden: int = 0  # hidden and system files and folders; a folder counts once
    special: int = 0  # FIFOs, sockets and devices
    circles: int = 0  # links to folders that are already being read
    folders: list[str] = field(default_factory=list)  # folders other than those of the two splits

    def to_json(self) -> dict[str, Any]:
        """The non-zero counts, for the manifest."""
        common = Counter(dict(self.endings.most_common(NAMED_ENDINGS)))
        if rest := self.endings.total() - common.total():
            common["other"] += rest
        numbers = {"hidden": self.hidden, "special": self.special, "circles": self.circles}
        counts = {"endings": dict(sorted(common.items())), **numbers, "folders": [*map(printable, self.folders)]}
        return {name: value for name, value in counts.items() if value}

    def in_words(self) -> str:
        """The non-zero counts as the end of a sentence; empty if nothing is left out."""
        counts = self.to_json()
        kinds = ", ".join(f"{ending} {number:,}" for ending, number in counts.get("endings", {}).items())
        numbers = (
            (self.endings.total(), f"file of other kinds ({kinds})", f"files of other kinds ({kinds})"),
            (self.hidden, "hidden or system file or folder", "hidden or system files and folders"),
            (self.special, "FIFO, socket or device", "FIFOs, sockets or devices"),
            (self.circles, "link to a folder that is read already", "links to folders that are read already"),
        )
        parts = [f"{number:,} {one if number == 1 else many}" for number, one, many in numbers if number]
        if self.folders:
            parts.append(f"the folder{'s' * (len(self.folders) > 1)} {', '.join(counts['folders'])}")
        return f"; left out: {', '.join(parts)}" if parts else ""


class Tree:
    """A data set's folder, listed on demand; links are followed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.left_out = UnusedFiles()
        self.folders: dict[str, int] = {}  # when each listed folder, relative to the root, last changed, nanoseconds
        self._contents: dict[str, tuple[dict[str, Identity], list[Entry]]] = {}

    def level(self, folder: str) -> tuple[list[str], list[Entry]]:
        """The sorted names of the subfolders, and the sorted image files, directly in `folder`."""
        folders, pictures = self._content(folder)
        return sorted(os.path.basename(path) for path in folders), sorted(pictures)

    def pictures(self, folder: str) -> list[Entry]:
        """All image files in `folder` and its subfolders, sorted by path; links may reach a folder twice."""
        visited, entries, pending = self._above(folder), [], [folder]
        while pending:
            folders, pictures = self._content(pending.pop())
            entries += pictures
            for path, identity in folders.items():
                if identity in visited:
                    self.left_out.circles += 1
                else:
                    visited.add(identity)
                    pending.append(path)
        return sorted(entries)

    def _above(self, folder: str) -> set[Identity]:
        """The identities of a folder and of its parents up to the root."""
        parts = Path(folder).parts
        return {_identity(os.stat(self.root.joinpath(*parts[:depth]))) for depth in range(len(parts) + 1)}

    def _content(self, folder: str) -> tuple[dict[str, Identity], list[Entry]]:
        """The paths of the subfolders and the image files directly in `folder`; counts what is left out, once.

        Links to folders that contain `folder` are left out; a dangling link to a possible folder is a `ValueError`.
        """
        if folder in self._contents:
            return self._contents[folder]
        self.folders[folder] = os.stat(self.root / folder).st_mtime_ns
        above, folders, pictures = self._above(folder), {}, []
        for name, path, status in self._entries(folder):
            ending = os.path.splitext(name)[1].lower()
            if status is None and not ending:
                raise ValueError(f"{self.root / path}: is a dangling link; repair or remove it")
            if status is not None and stat.S_ISDIR(status.st_mode):
                if _identity(status) in above:
                    self.left_out.circles += 1
                else:
                    folders[path] = _identity(status)
            elif status is not None and not stat.S_ISREG(status.st_mode):
                self.left_out.special += 1
            elif ending not in endings():
                kind = ending if re.fullmatch(r"\.\w{1,8}", ending, re.ASCII) else "other" if ending else "none"
                self.left_out.endings[kind] += 1
            elif status is None:
                pictures.append(Entry(path, UNREADABLE, 0))
            else:
                pictures.append(Entry(path, status.st_size, status.st_mtime_ns))
        self._contents[folder] = folders, pictures
        return folders, pictures

    def _entries(self, folder: str) -> Iterator[tuple[str, str, os.stat_result | None]]:
        """Name, path and status of all entries that are not hidden; the status of a dangling link is None."""
        with os.scandir(self.root / folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name.lower() in SYSTEM:
                    self.left_out.hidden += 1
                    continue
                try:
                    status = entry.stat()
                except OSError:
                    if not entry.is_symlink():
                        raise
                    status = None
                yield entry.name, f"{folder}/{entry.name}" if folder else entry.name, status


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino
