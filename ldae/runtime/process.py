"""The life of a stage's process: when it ends, how it is stopped, and that it works in its folder alone."""

from __future__ import annotations

import ctypes
import fcntl
import json
import math
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

HEARTBEAT_SECONDS = 10.0
SILENT_SECONDS = 6 * HEARTBEAT_SECONDS  # without a heartbeat, after which a process on another machine counts as dead
DRIVER = "LDAE_DRIVER"  # "<host> <process id> <start>" of the Snakemake process whose stage this is
# What started this process as one of several ranks: "process <id>" of `ldae` itself, or "job <id>" of its srun.
LAUNCHER = "LDAE_LAUNCHER"
TORCHRUN = ("TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
STOPPED = 75  # exit status of a stage that has saved what it has done and wants to go on later (EX_TEMPFAIL)
PR_SET_PDEATHSIG = 1  # linux/prctl.h
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h


def die_with_parent() -> None:
    """Asks Linux to kill this process when its parent ends, so that no worker outlives a killed stage."""
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died between the two calls
        os.kill(os.getpid(), signal.SIGKILL)


def name_driver() -> None:
    """Names this process, a Snakemake, in the environment of the stages that it starts."""
    os.environ[DRIVER] = f"{socket.gethostname()} {os.getpid()} {started_seconds()}"


def die_with_driver() -> None:
    """Lets this process, a stage, end with the Snakemake process that drives it.

    A shell stands between the two and would outlive the driver, so the stage watches the driver itself. A stage that a
    person has started lives as long as they wish, and one on another machine than its driver as long as Slurm does.
    """
    host, _, process = os.environ.get(DRIVER, "").partition(" ")
    if host != socket.gethostname() or not hasattr(os, "pidfd_open"):
        return
    pid, _, started = process.partition(" ")
    try:
        descriptor = os.pidfd_open(int(pid))
        if started_seconds(pid) != float(started):  # another process has its number now
            raise ProcessLookupError
    except (OSError, ValueError):
        sys.exit(
            f"ldae: {DRIVER} names a snakemake that has ended, process {pid}; to run this command by itself, unset it"
        )
    threading.Thread(target=_end_with, args=(descriptor,), daemon=True).start()


def _end_with(descriptor: int) -> None:
    """Kills this process when the one behind a descriptor ends."""
    select.select([descriptor], [], [])
    os.kill(os.getpid(), signal.SIGKILL)


def keep_memory() -> None:
    """Lets glibc keep the memory that is freed, for the next tensor of its size.

    By default it gives large blocks back at once, and the kernel clears every page again when a step asks for as much
    the next time: a quarter of a convolutional tokenizer's time on a CPU. Blocks above 32 MB, the most that it can be
    told, still go back.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 2**25)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_TOP_PAD, 2**24)


class Rank(NamedTuple):
    """This process among those that share a job's work."""

    number: int
    size: int  # how many there are
    local: int  # the number among those on this machine

    @classmethod
    def from_environment(cls) -> Rank:
        """As `launch.in_ranks` or a person's `torchrun` has numbered it; alone where neither has."""
        launcher = launched_by()
        if launcher is None:
            return cls(0, 1, 0)
        srun = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
        names = srun if launcher == "srun" else ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        return cls(*(int(os.environ[name]) for name in names))


def launched_by() -> str | None:
    """What has started this process as one of several ranks: `ldae`, its `srun`, `torchrun`, or nothing.

    Interactive Slurm steps, MPI, Kubernetes and notebook services set the same variables (SLURM_PROCID, RANK,
    WORLD_SIZE) to number processes that do not share this one's work, so those alone mean nothing.
    """
    launcher = os.environ.get(LAUNCHER)
    if launcher == f"process {os.getppid()}":
        return "ldae"
    if "SLURM_STEP_ID" in os.environ and launcher == f"job {os.environ.get('SLURM_JOB_ID')}":
        return "srun"
    return "torchrun" if all(os.environ.get(name) for name in TORCHRUN) else None


class Stopped(Exception):
    """A stage has stopped, as it was asked to: a training has saved before; started again, it goes on."""


class Stopping:
    """Whether this process was asked to stop: by SIGTERM or SIGUSR1, or because its time is nearly over."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.in_time = False  # before a limit, and not because somebody wants it
        self._deadline = math.inf

    def watch(self, minutes: float | None = None, *, elapsed: float = 0.0) -> None:
        """Listens to the signals from now on, and stops in time for a limit of `minutes`, of which seconds have passed.

        A tenth of the limit, two minutes at the most, is kept for saving.
        """
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._hear)
        if minutes is not None:
            self._deadline = time.monotonic() + 60 * minutes - min(6 * minutes, 120.0) - elapsed

    def give_up(self) -> None:
        """From now on, a signal to stop ends the process's work wherever it is, by `Stopped`."""
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._abandon)

    def asked(self) -> str | None:
        """Why to stop, or None."""
        if self.reason is None and time.monotonic() > self._deadline:
            self.reason, self.in_time = "its time limit is near", True
        return self.reason

    def check(self, doing: str) -> None:
        """Raises `Stopped` if this process was asked to stop; `doing` says what it has not finished."""
        if reason := self.asked():
            raise Stopped(f"stopped {doing}: {reason}")

    def _hear(self, number: int, _: FrameType | None) -> None:
        self.reason = f"{signal.Signals(number).name} was received"

    def _abandon(self, number: int, frame: FrameType | None) -> None:
        self._hear(number, frame)
        raise Stopped(f"stopped: {self.reason}")


stopping = Stopping()


def started_seconds(pid: int | str = "self") -> float:
    """When a process on this machine started, in seconds since the machine did.

    psutil gives it as a date, which is off by up to a second and moves when the clock is set.

    Raises:
        OSError: where there is none, or (`ProcessLookupError`) one that is dead already.
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    if fields[0] in "ZX":  # dead, and only waiting for its parent to take notice
        raise ProcessLookupError(f"process {pid} has ended")
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


def process_seconds() -> float:
    """Seconds since this process was started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started_seconds()


class Imports:
    """How long this process took to start and to import what it needs; 0 until that is marked."""

    seconds = 0.0

    def mark(self) -> None:
        """Says that the imports are done and the work begins."""
        self.seconds = process_seconds()


imports = Imports()


@contextmanager
def importing() -> Iterator[None]:
    """Lets Ctrl-C end this process at once inside the block, which imports.

    Some libraries turn an exception inside their import into another one, or print it.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # neither ignored, as behind `nohup`, nor handled by a caller
        signal.signal(signal.SIGINT, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _leave(*_: object) -> None:
    os.write(2, b"" if Rank.from_environment().number else b"ldae: interrupted\n")
    os._exit(1)


@contextmanager
def sole_holder(folder: Path, log: Any) -> Iterator[None]:
    """Waits until no other process works in `folder`, then holds it until the block ends.

    On one machine the kernel's own lock decides, which ends with its process. Between machines, where a network file
    system may not carry that lock, it is the age of the holder's heartbeat: the file's modification time.

    Raises:
        Stopped: when this process is asked to stop while it waits.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lock"
    told = False
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        holder = _try_lock(descriptor)
        if holder is None:
            break
        os.close(descriptor)
        if not told:
            log(f"waiting: {folder} is held by process {holder.get('pid')} on {holder.get('host')}")
            told = True
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
    """Who holds a folder, or held it when it died."""

    host: str
    pid: int
    age: float  # seconds since its last heartbeat
    lives: bool  # as far as this machine can tell


def holder(folder: Path) -> Holder | None:
    """Who `sole_holder` has given a folder to, without asking for it; None where nobody has it."""
    path = folder / "lock"
    try:
        content, age = path.read_text(), time.time() - path.stat().st_mtime
        about: dict[str, Any] = json.loads(content) if content.strip() else {}
    except (OSError, ValueError):  # none, or one that is being written now
        return None
    if not about:
        return None
    lives = about["host"] != socket.gethostname() or Path(f"/proc/{about['pid']}").exists()
    return Holder(about["host"], about["pid"], age, lives)


def _try_lock(descriptor: int) -> dict[str, Any] | None:
    """Takes the lock and returns None, or returns who holds it."""
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


def beat(folder: Path) -> None:
    """Renews the heartbeat of a folder that this process holds."""
    os.utime(folder / "lock")
