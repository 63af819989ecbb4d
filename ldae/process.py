"""The life of a job: it dies with its parent, and it holds its run alone."""

from __future__ import annotations

import ctypes
import fcntl
import json
import math
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

HEARTBEAT_SECONDS = 10.0
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


def die_with_driver() -> None:
    """The same for a stage and the Snakemake process that drives it, which names itself in the environment.

    A shell stands between the two and would outlive the driver, so the stage watches the driver itself. A stage that a
    person has started lives as long as they wish, and one on another machine than its driver as long as Slurm does.
    """
    host, _, driver = os.environ.get("LDAE_DRIVER", "").rpartition(":")
    if host != socket.gethostname() or not hasattr(os, "pidfd_open"):
        return
    try:
        descriptor = os.pidfd_open(int(driver))
    except ProcessLookupError:  # it died before this process could ask
        os.kill(os.getpid(), signal.SIGKILL)
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
        """As `torchrun` or a step of Slurm's `srun` has numbered it; alone where neither has."""
        if "RANK" in os.environ:
            names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        elif "SLURM_STEP_ID" in os.environ and os.environ.get("SLURM_NTASKS", "1") != "1":
            names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
        else:
            return cls(0, 1, 0)
        return cls(*(int(os.environ[name]) for name in names))


def nodes_of_job() -> int:
    """How many nodes Slurm has given to the job that this process is in; 1 outside of one.

    Of Slurm's variables, Snakemake's plugin leaves a rule's command little but the job's number; `driver.equip_jobs`
    keeps this one.
    """
    return int(os.environ.get("SLURM_JOB_NUM_NODES") or os.environ.get("LDAE_NODES", "1"))


class Stopped(Exception):
    """A stage has stopped, as it was asked to: a training has saved before; started again, it goes on."""


class Stopping:
    """Whether this process was asked to stop: by SIGTERM or SIGUSR1, or because its time is nearly over."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.in_time = False  # before a limit, and not because somebody wants it
        self._deadline = math.inf

    def watch(self, minutes: float | None) -> None:
        """Listens to the signals from now on, and stops in time for a limit of `minutes` from the job's start.

        A tenth of the limit, two minutes at the most, is kept for saving.
        """
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._hear)
        if minutes is not None:
            self._deadline = 60 * minutes - min(6 * minutes, 120.0)

    def give_up(self) -> None:
        """From now on, a signal to stop ends the process's work wherever it is, by `Stopped`."""
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._abandon)

    def asked(self) -> str | None:
        """Why to stop, or None."""
        if self.reason is None and job_seconds() > self._deadline:
            self.reason, self.in_time = "its time limit is near", True
        return self.reason

    def _hear(self, number: int, _: FrameType | None) -> None:
        self.reason = f"{signal.Signals(number).name} was received"

    def _abandon(self, number: int, frame: FrameType | None) -> None:
        self._hear(number, frame)
        raise Stopped(f"stopped: {self.reason}")


stopping = Stopping()


def is_wanted() -> bool:
    """Whether Slurm calls this process's job running: it was not cancelled, and has not met a limit.

    A signal that such a job hears announces a preemption, or is what the job has asked for.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or not shutil.which("squeue"):
        return False
    command = ["squeue", "--noheader", f"--jobs={job}", "--format=%T"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() == "RUNNING"


def requeue() -> None:
    """Asks Slurm to queue this process's job again, so that a run of many interruptions needs nobody to restart it.

    Slurm ends the job then, so that this may never return; outside of a Slurm job it does nothing.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is not None and shutil.which("scontrol"):
        subprocess.run(["scontrol", "requeue", job], check=False)


def started_seconds(pid: int | str = "self") -> float:
    """When a process on this machine started, in seconds since the machine did.

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


def job_seconds() -> float:
    """Seconds since this process's Slurm job was started, as `driver.equip_jobs` has noted, or else the process."""
    job, _, started = os.environ.get("LDAE_JOB", "").partition(" ")
    return time.time() - float(started) if job and job == os.environ.get("SLURM_JOB_ID") else process_seconds()


@contextmanager
def sole_holder(folder: Path, log: Any) -> Iterator[None]:
    """Waits until no other process works in `folder`, then holds it until the block ends.

    On one machine the kernel's own lock decides, which ends with its process. Between machines, where a network file
    system may not carry that lock, it is the age of the holder's heartbeat: the file's modification time.
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
    if elsewhere and time.time() - os.fstat(descriptor).st_mtime < 6 * HEARTBEAT_SECONDS:
        return holder
    return None


def beat(folder: Path) -> None:
    """Renews the heartbeat of a folder that this process holds."""
    os.utime(folder / "lock")
