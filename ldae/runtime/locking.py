"""Locks on folders and on the files of the graph, on one or several machines; the locks of dead processes do not count.

A process that holds a lock describes itself in a file and renews the file's modification time, its heartbeat. On its
own machine the kernel says whether it lives; on another one the age of the heartbeat does.
"""

from __future__ import annotations

import fcntl
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
from ldae.runtime.process import started_seconds
from ldae.runtime.stopping import stopping

HEARTBEAT_SECONDS = 10.0
SILENT_SECONDS = 6 * HEARTBEAT_SECONDS  # without a heartbeat, after which a process on another machine counts as dead


class Holder(NamedTuple):
    """A process that holds a lock, or that died while it held it."""

    file: Path
    host: str
    pid: int
    started: float  # seconds after its machine
    locks: list[str] | None  # of a Snakemake process: the names of its lock files; None until it has them
    heartbeat: float  # when it last renewed its file, on the file system's clock

    @property
    def is_here(self) -> bool:
        """Whether it runs on this machine, where its death is seen at once."""
        return self.host == socket.gethostname()

    @property
    def has_ended(self) -> bool:
        """Whether its process does not exist; False on another machine, where that is unknown."""
        if not self.is_here:
            return False
        try:
            return started_seconds(self.pid) != self.started
        except OSError:
            return True

    def lives(self, now: float) -> bool:
        """Whether it lives, as far as this machine can tell; `now` is on the clock of the heartbeat."""
        return not self.has_ended and (self.is_here or now - self.heartbeat < SILENT_SECONDS)


def read_holder(file: Path) -> Holder | None:
    """The process that a file describes; None if there is no such file or it describes none."""
    try:
        about, heartbeat = json.loads(file.read_text()), file.stat().st_mtime
        return Holder(file, about["host"], about["pid"], about["started"], about["locks"], heartbeat)
    except (OSError, ValueError, KeyError):
        return None


def description(locks: list[str] | None = None) -> str:
    """The content of this process's file."""
    about = {"host": socket.gethostname(), "pid": os.getpid(), "started": started_seconds(), "locks": locks}
    return json.dumps(about)


@contextmanager
def sole_holder(folder: Path, log: Callable[[str], None]) -> Iterator[None]:
    """Waits until no other process holds `folder`, or until a request to stop (`Stopped`); holds it in the block."""
    folder.mkdir(parents=True, exist_ok=True)
    path, logged = folder / "lock", False
    while (descriptor := _locked(path)) is None:
        if not logged:
            log(f"waiting: {folder} is held by {_words(filter(None, [read_holder(path)]))}")
            logged = True
        stopping.check(f"while it waited for {folder}")
        time.sleep(1.0)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, description().encode(), 0)
        yield
    finally:
        os.ftruncate(descriptor, 0)
        os.close(descriptor)


def _locked(path: Path) -> int | None:
    """The descriptor of a file that this process has locked; None if another process holds the lock."""
    holder = read_holder(path)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    with suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if holder is None or holder.is_here or not holder.lives(time.time()):
            return descriptor  # else a network file system does not share the kernel's lock between machines
    os.close(descriptor)
    return None


def heartbeat(folder: Path) -> None:
    """Renews the heartbeat of a folder that this process holds."""
    os.utime(folder / "lock")


@contextmanager
def registered(folder: Path) -> Iterator[Path]:
    """Registers this process in the folder `.snakemake` until the block ends, and yields its file, which it renews."""
    path = folder / "drivers" / f"{socket.gethostname()}-{os.getpid()}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, description())
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):  # the file system may be away for a while
                os.utime(path)

    threading.Thread(target=renew, daemon=True).start()
    try:
        yield path
    finally:
        ended.set()
        path.unlink(missing_ok=True)


def make_way(own: Path, locked: Callable[[], bool]) -> None:
    """Removes the locks of dead drivers, and ends this process, with one line, where a living one locks its files.

    A driver on another machine cannot be asked. It is known to live when it renews its file; until then it is waited
    for, `SILENT_SECONDS` at the most. `own` is this process's file; `locked` says whether files it needs are locked.
    """
    first: dict[Path, float] = {}
    while True:
        os.utime(own)
        others = living(own.parent, now=own.stat().st_mtime)
        _remove_dead(own, others)
        holders = [driver for driver in others if driver.locks != []]
        if not holders or not locked():
            return
        if any(driver.is_here or driver.heartbeat != first.get(driver.file, driver.heartbeat) for driver in holders):
            sys.exit(f"Another snakemake works on some of these files: {_words(holders)}; start this when it has ended")
        if not first:
            print(f"Seeing whether another snakemake still lives: {_words(holders)}", file=sys.stderr, flush=True)
        first = {driver.file: driver.heartbeat for driver in holders} | first
        time.sleep(1.0)


def living(drivers: Path, *, now: float) -> list[Holder]:
    """The registered Snakemake processes that live, as far as this machine can tell; without this process."""
    others = filter(None, map(read_holder, drivers.glob("*.json")))
    return [driver for driver in others if driver.lives(now) and not (driver.is_here and driver.pid == os.getpid())]


def is_driven(folder: Path) -> bool:
    """Whether a Snakemake works in a folder, as far as this machine can tell; `folder` is its own, `.snakemake`."""
    return bool(living(folder / "drivers", now=time.time()))


def _remove_dead(own: Path, others: list[Holder]) -> None:
    """Removes the files and the locks of all drivers but this one and the others, which live."""
    for file in set(own.parent.glob("*.json")) - {own, *(driver.file for driver in others)}:
        file.unlink(missing_ok=True)
    if all(driver.locks is not None for driver in others):  # else an unknown lock may be a living one's
        named = {name for driver in others for name in driver.locks or ()}
        for lock in (own.parent.parent / "locks").glob("*.lock"):
            if lock.name not in named:
                lock.unlink(missing_ok=True)


def _words(holders: Iterable[Holder]) -> str:
    """Processes for a message."""
    return " or ".join(f"process {holder.pid} on {holder.host}" for holder in holders) or "another process"
