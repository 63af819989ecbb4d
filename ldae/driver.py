"""The Snakemake process that drives a graph: which ones live, and what a dead one has left locked."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from ldae.files import write_text
from ldae.process import started_seconds


def clear_stale_locks(folder: Path) -> None:
    """Registers this process as a driver, and removes Snakemake's locks when no other registered driver lives.

    Every driver registers before it can take a lock, so a lock without a living driver is a dead one's. A driver on
    another machine cannot be asked and counts as alive.

    Args:
        folder: Snakemake's own folder, `.snakemake`.
    """
    drivers = folder / "drivers"
    drivers.mkdir(parents=True, exist_ok=True)
    others_live = False
    for file in drivers.glob("*.json"):
        if _lives(file):
            others_live = True
        else:
            file.unlink(missing_ok=True)
    own = {"host": socket.gethostname(), "pid": os.getpid(), "started": started_seconds()}
    write_text(drivers / f"{own['host']}-{own['pid']}.json", json.dumps(own))
    if not others_live:
        for lock in (folder / "locks").glob("*.lock"):
            lock.unlink(missing_ok=True)


def equip_jobs(root: Path) -> None:
    """Sets the environment of all jobs: they find the `ldae` of this interpreter, and end when this process does.

    On a cluster they also learn how many nodes they have: the plugin that starts them removes what Slurm says of it.

    Args:
        root: the folder that holds the package.
    """
    for variable, folder in (("PATH", Path(sys.executable).parent), ("PYTHONPATH", root)):
        os.environ[variable] = os.pathsep.join(filter(None, [str(folder), os.environ.get(variable)]))
    os.environ["LDAE_DRIVER"] = f"{socket.gethostname()}:{os.getpid()}"
    if "SLURM_JOB_NUM_NODES" in os.environ:
        os.environ["LDAE_NODES"] = os.environ["SLURM_JOB_NUM_NODES"]


def calm(scheduler: Any) -> None:
    """Lets Snakemake's scheduler look for new jobs once in a timespan, however many jobs have ended.

    As it stands (9.27), each look sets a timer for the next, and each job that ends starts one more such chain: after
    200 jobs the driver looks 200 times a second and takes a core for itself. Where a version has other names for these
    parts, it is left as it is.
    """
    if not hasattr(scheduler, "_schedule_reevalutation") or not hasattr(scheduler, "_open_jobs"):
        return
    waiting = threading.Event()

    def look() -> None:
        waiting.clear()
        scheduler._open_jobs.release()

    def schedule(delay: float) -> None:
        if not waiting.is_set():
            waiting.set()
            timer = threading.Timer(delay, look)
            timer.daemon = True
            timer.start()

    scheduler._schedule_reevalutation = schedule


def _lives(file: Path) -> bool:
    """Whether the process that a driver's file names still runs: one of its number and its starting time."""
    try:
        record = json.loads(file.read_text())
        if record["host"] != socket.gethostname():
            return True
        return record["pid"] != os.getpid() and started_seconds(record["pid"]) == record["started"]
    except (OSError, ValueError, KeyError):  # gone, or not a driver's file
        return False
