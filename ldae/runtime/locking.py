"""Which Snakemake processes live, and the locks on files that they hold; the locks of dead ones are removed."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from ldae.runtime.files import write_text
from ldae.runtime.folder_lock import HEARTBEAT_SECONDS, SILENT_SECONDS
from ldae.runtime.process import started_seconds


class Driver(NamedTuple):
    """A Snakemake process that has registered in `.snakemake/drivers`, and is not known to be dead."""

    file: Path
    host: str
    pid: int
    locks: list[str] | None  # the names of its lock files; None until it has them
    beaten: float  # when it last renewed its file, on the file system's clock

    @property
    def is_here(self) -> bool:
        """Whether it runs on this machine, where its death is seen at once."""
        return self.host == socket.gethostname()


@contextmanager
def registered(folder: Path) -> Iterator[Path]:
    """Registers this process until the block ends, and renews its file meanwhile; yields that file.

    Args:
        folder: Snakemake's own folder, `.snakemake`.
    """
    path = folder / "drivers" / f"{socket.gethostname()}-{os.getpid()}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, record_of_locks(None))
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):  # the file system may be away for a while
                os.utime(path)

    threading.Thread(target=beat, daemon=True).start()
    try:
        yield path
    finally:
        ended.set()
        path.unlink(missing_ok=True)


def make_way(own: Path, locked: Callable[[], bool]) -> None:
    """Removes the locks of dead drivers, and ends this process, with one line, where a living one locks its files.

    A driver on another machine cannot be asked. It is known to live when it renews its file; until then it is waited
    for, `SILENT_SECONDS` at the most.

    Args:
        own: this process's file.
        locked: whether some of the files that it would make, or need, are locked.
    """
    first: dict[Path, float] = {}
    while True:
        os.utime(own)
        others = living(own.parent, now=own.stat().st_mtime)
        _remove_dead(own, others)
        holders = [driver for driver in others if driver.locks != []]
        if not holders or not locked():
            return
        if any(driver.is_here or driver.beaten != first.get(driver.file, driver.beaten) for driver in holders):
            sys.exit(f"Another snakemake works on some of these files: {_words(holders)}; start this when it has ended")
        if not first:
            print(f"Seeing whether another snakemake still lives: {_words(holders)}", file=sys.stderr, flush=True)
        first = {driver.file: driver.beaten for driver in holders} | first
        time.sleep(1.0)


def living(drivers: Path, *, now: float) -> list[Driver]:
    """The registered drivers that live, as far as this machine can tell; without this process."""
    found = []
    for file in drivers.glob("*.json"):
        try:
            about, beaten = json.loads(file.read_text()), file.stat().st_mtime
            driver = Driver(file, about["host"], about["pid"], about["locks"], beaten)
            if not driver.is_here:
                lives = now - beaten < SILENT_SECONDS
            else:
                lives = driver.pid != os.getpid() and started_seconds(driver.pid) == about["started"]
        except (OSError, ValueError, KeyError):  # it has ended, or the file is not a driver's
            continue
        if lives:
            found.append(driver)
    return found


def is_driven(folder: Path) -> bool:
    """Whether a Snakemake works in a folder, as far as this machine can tell; `folder` is its own, `.snakemake`."""
    return bool(living(folder / "drivers", now=time.time()))


def _remove_dead(own: Path, others: list[Driver]) -> None:
    """Removes the files and the locks of all drivers but this one and the others, which live."""
    for file in set(own.parent.glob("*.json")) - {own, *(driver.file for driver in others)}:
        file.unlink(missing_ok=True)
    if all(driver.locks is not None for driver in others):  # else an unknown lock may be a living one's
        named = {name for driver in others for name in driver.locks or ()}
        for lock in (own.parent.parent / "locks").glob("*.lock"):
            if lock.name not in named:
                lock.unlink(missing_ok=True)


def record_of_locks(locks: list[str] | None) -> str:
    """The content of this process's file, with the names of its locks; None until it has them."""
    about = {"host": socket.gethostname(), "pid": os.getpid(), "started": started_seconds(), "locks": locks}
    return json.dumps(about)


def _words(drivers: Iterable[Driver]) -> str:
    """Drivers for a message."""
    return " or ".join(f"process {driver.pid} on {driver.host}" for driver in drivers)
