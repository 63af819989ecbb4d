"""The process of a stage: its rank, its age, its memory, and the processes that it ends with."""

from __future__ import annotations

import ctypes
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
from typing import NamedTuple

DRIVER = "LDAE_DRIVER"  # "<host> <process id> <start>" of the Snakemake process whose stage this is
# What started this process as one of several ranks: "process <id>" of `ldae` itself, or "job <id>" of its srun.
LAUNCHER = "LDAE_LAUNCHER"
TORCHRUN = ("TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
PR_SET_PDEATHSIG = 1  # linux/prctl.h
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h


def die_with_parent() -> None:
    """Asks Linux to kill this process when its parent ends, so that no worker outlives a killed stage."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died between the two calls
        os.kill(os.getpid(), signal.SIGKILL)


def name_driver() -> None:
    """Records this Snakemake process in the environment of the stages that it starts."""
    os.environ[DRIVER] = f"{socket.gethostname()} {os.getpid()} {started_seconds()}"


def die_with_driver() -> None:
    """Makes this process, a stage, end when the Snakemake process that started it ends.

    The shell between the two would outlive Snakemake, so the stage watches Snakemake itself. Does nothing for a stage
    that a user started, or that runs on another machine, where Slurm ends it.
    """
    host, _, process = os.environ.get(DRIVER, "").partition(" ")
    if host != socket.gethostname():
        return
    pid, _, started = process.partition(" ")
    try:
        descriptor = os.pidfd_open(int(pid))
        if started_seconds(pid) != float(started):  # another process has its number now
            raise ProcessLookupError
    except (OSError, ValueError):
        sys.exit(f"ldae: {DRIVER} names a snakemake that has ended, process {pid}; unset it to run this command alone")

    def end_with_driver() -> None:
        select.select([descriptor], [], [])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=end_with_driver, daemon=True).start()


class Rank(NamedTuple):
    """The rank of this process in a distributed training."""

    number: int
    size: int  # the number of ranks
    local: int  # the number among the ranks on this machine

    @classmethod
    def from_environment(cls) -> Rank:
        """The rank that `launch.spawn_ranks` or a user's `torchrun` assigned; otherwise 0 of 1."""
        launcher = launched_by()
        if launcher is None:
            return cls(0, 1, 0)
        srun = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
        names = srun if launcher == "srun" else ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        return cls(*(int(os.environ[name]) for name in names))


def launched_by() -> str | None:
    """The program that started this process as one of several ranks: `ldae`, its `srun` or `torchrun`; else None.

    SLURM_PROCID, RANK and WORLD_SIZE alone prove nothing: interactive Slurm steps, MPI, Kubernetes and notebook
    services set them for processes that do not train together.
    """
    launcher = os.environ.get(LAUNCHER)
    if launcher == f"process {os.getppid()}":
        return "ldae"
    if "SLURM_STEP_ID" in os.environ and launcher == f"job {os.environ.get('SLURM_JOB_ID')}":
        return "srun"
    return "torchrun" if all(os.environ.get(name) for name in TORCHRUN) else None


def started_seconds(pid: int | str = "self") -> float:
    """When a process on this machine started, in seconds since the machine did.

    psutil's date is off by up to a second and moves with the clock. An `OSError` (`ProcessLookupError`): it has ended.
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
    """Lets Ctrl-C end this process at once inside the block; some libraries print an exception in their import."""

    def leave(*_: object) -> None:
        os.write(2, b"" if Rank.from_environment().number else b"ldae: interrupted\n")
        os._exit(1)

    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # neither ignored, as behind `nohup`, nor handled by a caller
        signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def keep_memory() -> None:
    """Makes glibc keep freed blocks of up to 32 MB, its largest threshold, for the next tensor of the same size."""
    # else the kernel clears every page again at each step, a quarter of a convolutional tokenizer's time on a CPU
    library = ctypes.CDLL(None)
    library.mallopt(M_MMAP_THRESHOLD, 2**25)
    library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    library.mallopt(M_TOP_PAD, 2**24)
