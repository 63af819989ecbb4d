"""A lock on a folder: one process at a time works there, and renews a heartbeat while it does."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ldae.runtime.stopping import stopping

HEARTBEAT_SECONDS = 10.0
SILENT_SECONDS = 6 * HEARTBEAT_SECONDS  # without a heartbeat, after which a process on another machine counts as dead


@contextmanager
def sole_holder(folder: Path, log: Callable[[str], None]) -> Iterator[None]:
    """Waits until no other process holds `folder`, then holds it until the block ends.

    On one machine the kernel's file lock decides; it ends with its process. Between machines, where a network file
    system may not share that lock, the age of the holder's heartbeat decides: the modification time of `lock`.

    Raises:
        Stopped: if this process is asked to stop while it waits.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lock"
    logged = False
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        holder = _try_lock(descriptor)
        if holder is None:
            break
        os.close(descriptor)
        if not logged:
            log(f"waiting: {folder} is held by process {holder.get('pid')} on {holder.get('host')}")
            logged = True
        stopping.check(f"while it waited for {folder}")
        time.sleep(1.0)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode(), 0)
        yield
    finally:
        os.ftruncate(descriptor, 0)
        os.close(descriptor)


class Holder(NamedTuple):
    """The process that holds a folder, or that died while it held it."""

    host: str
    pid: int
    age: float  # seconds since its last heartbeat
    lives: bool  # whether the process exists; True on another machine, where that is unknown


def holder(folder: Path) -> Holder | None:
    """The process that holds a folder, read without taking the lock; None if no process holds it."""
    path = folder / "lock"
    try:
        content, age = path.read_text(), time.time() - path.stat().st_mtime
        description: dict[str, Any] = json.loads(content) if content.strip() else {}
    except (OSError, ValueError):  # no lock, or one that is being written
        return None
    if not description:
        return None
    lives = description["host"] != socket.gethostname() or Path(f"/proc/{description['pid']}").exists()
    return Holder(description["host"], description["pid"], age, lives)


def _try_lock(descriptor: int) -> dict[str, Any] | None:
    """Takes the lock and returns None, or returns the description of its holder."""
    content = os.pread(descriptor, 4096, 0)
    holder: dict[str, Any] = json.loads(content) if content.strip() else {}
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return holder
    elsewhere = holder and holder["host"] != socket.gethostname()
    if elsewhere and time.time() - os.fstat(descriptor).st_mtime < SILENT_SECONDS:
        return holder
    return None


def heartbeat(folder: Path) -> None:
    """Renews the heartbeat of a folder that this process holds."""
    os.utime(folder / "lock")
