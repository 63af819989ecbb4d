"""Atomic writes, records with checksums, and SHA-256 of files; a file with its final name is complete."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

CHECKSUM = "checksum"  # the last key of a record
UMASK = os.umask(0o077)  # Python can only read the umask by setting it
os.umask(UMASK)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """An atomic write: yields a temporary path next to `path`, which is synced and renamed if the block succeeds.

    Every file of the graph has one writer at a time, so a writer overwrites the temporary file of a killed one. If the
    disk is full or not writable, an `OSError` names `path`, and the previous file remains.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with path_in_errors(path):
            yield partial
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            with suppress(OSError):  # a file system without modes
                partial.chmod(0o666 & ~UMASK)  # safetensors lets only the owner read its files
            partial.replace(path)
    finally:
        with suppress(OSError):  # a read-only disk has nothing to remove
            partial.unlink()


@contextmanager
def path_in_errors(path: Path) -> Iterator[None]:
    """Adds the path to an `OSError`: errors while writing, unlike those while opening, do not name the file."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and Path(error.filename).name != f".{path.name}.partial":
            raise
        if error.errno is None:  # raised by NumPy
            raise OSError(f"{path}: {error}") from None
        raise OSError(error.errno, error.strerror, str(path)) from None


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file atomically."""
    with atomic_write(path) as partial:
        partial.write_bytes(content)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes a record atomically; see `record_text`."""
    write_text(path, record_text(value))


def record_text(value: dict[str, Any]) -> str:
    """A record as indented JSON, with its keys in the given order and its checksum last."""
    plain = json.loads(json.dumps(value))
    return json.dumps(plain | {CHECKSUM: _checksum(plain)}, indent=1) + "\n"


def read_json(path: Path) -> Any:
    """Reads a record; a `ValueError` names the file if it is not a record or its checksum does not match."""
    return parse_json(path.read_bytes(), path)


def parse_json(content: bytes, path: Path) -> Any:
    """The record in the bytes of a file; a `ValueError` names `path`, as that of `read_json` does."""
    try:
        value = json.loads(content.decode("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: is not valid JSON ({error}); delete it and run again") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: is not a record (its JSON is not an object); delete it and run again")
    if value.pop(CHECKSUM, None) != _checksum(value):
        raise ValueError(f"{path}: is damaged or was edited: its checksum does not match; delete it and run again")
    return value


def _checksum(value: dict[str, Any]) -> str:
    """The checksum of a record without its checksum."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def checksums(*paths: Path) -> dict[str, str]:
    """The SHA-256 of files by their names, for the record next to them."""
    return {path.name: sha256(path) for path in paths}


def verified(path: Path, sums: Mapping[str, str]) -> Path:
    """The path of a file whose SHA-256 matches that of its name in a record; a `ValueError` names a damaged file."""
    if sha256(path) != sums.get(path.name):
        raise ValueError(f"{path}: is damaged: its SHA-256 differs from its record; delete both and run again")
    return path


def history_file(run: Path) -> Path:
    """The path of a training's `history.csv`; a `ValueError` names it if it differs from the training's record."""
    path, record = run / "history.csv", run / "run.json"
    sums = read_json(record).get("sha256", {}) if record.is_file() else {}
    return verified(path, sums) if path.name in sums else path


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sha256(path: Path, expected: str) -> None:
    """Checks a file that the user has provided: `FileNotFoundError`, or `ValueError` if its SHA-256 differs."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: does not exist; put the file with sha256 {expected} there")
    if (actual := sha256(path)) != expected.lower():
        raise ValueError(f"{path}: has sha256 {actual}, expected {expected}")
