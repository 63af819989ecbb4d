"""The Snakemake process that drives a graph: which ones live, and what a dead one has left locked."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

from ldae.files import write_text
from ldae.process import process_seconds, started_seconds
from ldae.sources import presence
from ldae.spec import Dataset
from ldae.tracking import TRACKING

LOST_SECONDS = 900.0  # after which a job has ended that Slurm does not name, or names as none of done, failed, to come
LIMBO = ("PREEMPTED", "NODE_FAIL", "REVOKED")  # what becomes of such a job is Slurm's to say: it may queue it again


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


def is_driven(folder: Path) -> bool:
    """Whether a registered driver lives, as far as this machine can tell; `folder` is Snakemake's own."""
    return any(_lives(file) for file in (folder / "drivers").glob("*.json"))


def equip_jobs(root: Path, tracking: Iterable[str]) -> None:
    """Sets the environment of all jobs: they find the `ldae` of this interpreter, and end when this process does.

    On a cluster they also learn when they began, of this job's first process, and how many nodes they have: the plugin
    that starts their commands removes what Slurm says of it.

    Args:
        root: the folder that holds the package.
        tracking: the trackers that trainings tell their history to.
    """
    for variable, folder in (("PATH", Path(sys.executable).parent), ("PYTHONPATH", root)):
        os.environ[variable] = os.pathsep.join(filter(None, [str(folder), os.environ.get(variable)]))
    os.environ["LDAE_DRIVER"] = f"{socket.gethostname()}:{os.getpid()}"
    os.environ[TRACKING] = ",".join(tracking)
    if "SLURM_JOB_NUM_NODES" in os.environ:
        os.environ["LDAE_NODES"] = os.environ["SLURM_JOB_NUM_NODES"]
        job = os.environ["SLURM_JOB_ID"]
        if os.environ.get("LDAE_JOB", "").partition(" ")[0] != job:
            os.environ["LDAE_JOB"] = f"{job} {time.time() - process_seconds()}"


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


def tell_of_images(dataset: Dataset) -> None:
    """Says what would keep images from being prepared, so that a dry run says it too."""
    if (problem := presence.problem(dataset)) is not None:
        print(problem, file=sys.stderr)


def find_images(dataset: Dataset, jobs: Iterable[Any]) -> None:
    """Ends the run where images are to be prepared that are not there, or not divided into splits.

    The job would say so too, but Snakemake deletes what was prepared before as soon as it starts.
    """
    if any(job.rule.name == "dataset" for job in jobs) and (problem := presence.problem(dataset)) is not None:
        sys.exit(problem)


def never_wait_in_vain(plugin: Any) -> None:
    """Lets Snakemake's Slurm plugin forget no job, and wait for none that has ended.

    As it stands (2.8), after one round of questions that Slurm does not answer it forgets all jobs that run, and waits
    for ever; so it does for a job that Slurm no longer knows, that was preempted and not queued again, or that sacct
    calls `CANCELLED by 1000`. Where a version has other names for these parts, it is left as it is.

    Args:
        plugin: the module `snakemake_executor_plugin_slurm`, or None where it is not loaded.
    """
    if not hasattr(plugin, "query_job_status") or not hasattr(plugin.Executor, "check_active_jobs"):
        return
    check, ask = plugin.Executor.check_active_jobs, plugin.query_job_status
    awaited: set[str] = set()
    unclear: dict[str, float] = {}  # since when

    async def check_active_jobs(self: Any, active_jobs: list[Any]) -> AsyncIterator[Any]:
        awaited.clear()
        awaited.update(str(job.external_jobid) for job in active_jobs)
        async for job in check(self, active_jobs):
            yield job

    async def query_job_status(command: str, logger: Any) -> tuple[dict[str, str], float]:
        states, seconds = await ask(command, logger)
        if states is None:
            return {}, 0.0  # of no job is anything known, so the plugin keeps all
        states = {job: (state.split() or [""])[0] for job, state in states.items()}
        now = time.monotonic()
        # of an array, which has a `_`, Slurm may name all jobs at once
        limbo = {job for job in awaited if "_" not in job and states.get(job, LIMBO[0]) in LIMBO}
        for job in unclear.keys() - limbo:
            del unclear[job]
        for job in limbo:
            if now - unclear.setdefault(job, now) >= LOST_SECONDS:
                states[job] = "FAILED" if job in states else "UNKNOWN"  # whose outputs are looked for
        return states, seconds

    plugin.Executor.check_active_jobs, plugin.query_job_status = check_active_jobs, query_job_status


def _lives(file: Path) -> bool:
    """Whether the process that a driver's file names still runs: one of its number and its starting time."""
    try:
        record = json.loads(file.read_text())
        if record["host"] != socket.gethostname():
            return True
        return record["pid"] != os.getpid() and started_seconds(record["pid"]) == record["started"]
    except (OSError, ValueError, KeyError):  # gone, or not a driver's file
        return False
