"""The Snakemake process that drives a graph: what its jobs are told, what it checks first, what it is kept from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from ldae.data.sources import presence
from ldae.runtime import locking, slurm
from ldae.runtime.files import write_text
from ldae.runtime.machine import GPUS
from ldae.runtime.process import name_driver
from ldae.study.scale import Dataset

LOST_SECONDS = 900.0  # after which a job has ended that Slurm does not name, or names as none of done, failed, to come
LIMBO = ("PREEMPTED", "NODE_FAIL", "REVOKED")  # what becomes of such a job is Slurm's to say: it may queue it again


def equip_jobs(root: Path, *, gpus: int) -> None:
    """Sets the environment of all jobs: they find the `ldae` of this interpreter, and end when this process does.

    Args:
        root: the folder that holds the package.
        gpus: of each node, that the scale asks for.
    """
    for variable, folder in (("PATH", Path(sys.executable).parent), ("PYTHONPATH", root)):
        os.environ[variable] = os.pathsep.join(filter(None, [str(folder), os.environ.get(variable)]))
    name_driver()
    os.environ[GPUS] = str(gpus)


def tell_of_slurm(*, main: bool, nodes: int) -> None:
    """Tells all jobs whether they may stop before a time limit and requeue themselves, and how many nodes they have.

    Args:
        main: whether a person started this Snakemake process; a Slurm job that it runs in is theirs.
        nodes: of a job that several processes share, as the scale says.
    """
    if main:
        slurm.clear_job_environment()
        slurm.set_job_environment(submitted=False, nodes=nodes)
    elif "slurm-jobstep" in sys.argv:  # the plugin's executor inside a job, before Snakemake knows it
        slurm.clear_job_environment()
        slurm.set_job_environment(submitted=True, nodes=None)


def find_slurm(executor: Any) -> None:
    """Ends the run where jobs are to be submitted and no Slurm answers: each would fail, and be submitted again.

    Args:
        executor: Snakemake's plugin that runs the jobs.
    """
    if getattr(executor, "name", None) != "slurm":
        return
    if shutil.which("sbatch") is None:
        sys.exit("There is no Slurm here (no sbatch): type this on a login node, or leave out the profile")
    asked = subprocess.run(["sinfo", "--noheader"], capture_output=True, text=True, check=False)
    if asked.returncode:
        why = (asked.stderr.strip().splitlines() or ["sinfo says nothing"])[-1]
        sys.exit(f"Slurm does not answer here ({why}): type this on a login node, or leave out the profile")


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


def lock_for_the_living(persistence: Any) -> None:
    """Makes Snakemake ignore and remove the locks of dead processes, and name the living one that holds a lock.

    As it stands (9.27), a Snakemake that is killed leaves its files locked, and every later one stops there and asks
    for `--unlock`. With this, each one registers before it takes locks, so that a lock that no living process names
    is a dead one's, and deletes no locks but its own when it ends. A dry run takes no lock, registers nothing, and does
    not mind those of others.

    Args:
        persistence: Snakemake's class that keeps locks. Where a version has other names for its parts, it is left as
            it is.
    """
    if not all(hasattr(persistence, name) for name in ("lock", "lock_warn_only", "locked", "path")):
        return
    lock = persistence.lock

    @contextmanager
    def lock_alone(self: Any) -> Iterator[None]:
        self._delete_locks = partial(_delete_own, self._lockfile)  # its own way deletes all drivers' locks
        with locking.registered(Path(self.path)) as own:
            locking.make_way(own, lambda: bool(self.locked))
            with lock(self):
                write_text(own, locking.record_of_locks([Path(file).name for file in self._lockfile.values()]))
                yield

    persistence.lock, persistence.lock_warn_only = lock_alone, nullcontext


def _delete_own(locks: dict[str, str]) -> None:
    """Deletes the lock files of one driver, by what they lock."""
    for file in locks.values():
        Path(file).unlink(missing_ok=True)
    locks.clear()


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
