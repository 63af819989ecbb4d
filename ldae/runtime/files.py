"""Files that are whole or absent: what carries a final name has been written, synced and renamed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

CHECKSUM = "checksum"  # a record's last key
UMASK = os.umask(0o077)  # what this process takes from its files' modes; it can only be asked by setting it
os.umask(UMASK)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name once the block has ended without an error.

    Every file of the graph has one writer at a time, so what a killed one left is written over by the next.

    Raises:
        OSError: that names `path`, where the disk is full or cannot be written; what was there before stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with named(path):
            yield partial
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            with suppress(OSError):  # on a disk that knows no modes
                partial.chmod(0o666 & ~UMASK)  # safetensors gives its files to their owner alone
            partial.replace(path)
    finally:
        with suppress(OSError):  # on a disk that cannot be written there is nothing to remove
            partial.unlink()


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Gives an `OSError` of the disk the name of a file: those of writing, unlike those of opening, have none."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and Path(error.filename).name != f".{path.name}.partial":
            raise
        if error.errno is None:  # NumPy's own
            raise OSError(f"{path}: {error}") from None
        raise OSError(error.errno, error.strerror, str(path)) from None


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole."""
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes a record as readable JSON, whole, with its keys in the order given and its checksum as the last."""
    plain = json.loads(json.dumps(value))
    write_text(path, json.dumps(plain | {CHECKSUM: _checksum(plain)}, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """Reads a record; a `ValueError` names one that is broken, or that says something else than was written."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: is not valid JSON ({error}); delete it and run again") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: is not a record (its JSON is not an object); delete it and run again")
    if value.pop(CHECKSUM, None) != _checksum(value):
        raise ValueError(f"{path}: is damaged or was edited: its checksum does not fit; delete it and run again")
    return value


def _checksum(value: dict[str, Any]) -> str:
    """Of a record as it is read."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def sums_of(*paths: Path) -> dict[str, str]:
    """The SHA-256 of files by their names, for the record beside them."""
    return {path.name: sha256(path) for path in paths}


def intact(path: Path, record: dict[str, Any]) -> Path:
    """The path of a file that is as its record says; a `ValueError` names one that is damaged."""
    if sha256(path) != record["sha256"].get(path.name):
        raise ValueError(f"{path}: is damaged: its SHA-256 is not that in its record; delete both and run again")
    return path


def history_of(run: Path) -> Path:
    """The path of a finished training's `history.csv`; a `ValueError` names one that is damaged.

    The records of trainings that were finished before it was among their checksums do not speak of it.
    """
    path, record = run / "history.csv", run / "run.json"
    about = read_json(record) if record.is_file() else {}
    return intact(path, about) if path.name in about.get("sha256", {}) else path


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sha256(path: Path, expected: str) -> None:
    """Checks that a file, which a person has put there, is the expected one.

    Raises:
        FileNotFoundError: where there is none.
        ValueError: for another file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: is absent; the file with sha256 {expected} is needed here")
    if (found := sha256(path)) != expected.lower():
        raise ValueError(f"{path}: has sha256 {found}, expected {expected}")
