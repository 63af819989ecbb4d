"""The Snakemake process that drives the graph: the environment of its jobs, its checks, and repairs to Snakemake."""

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

from ldae.data.sources import opening
from ldae.runtime import locking, slurm
from ldae.runtime.files import write_text
from ldae.runtime.machine import GPUS
from ldae.runtime.process import name_driver
from ldae.study.checking import StudyError
from ldae.study.graph import Graph
from ldae.study.scale import Dataset

LOST_SECONDS = 900.0  # after which a job that Slurm no longer lists, or lists in a state of `LIMBO`, counts as ended
LIMBO = ("PREEMPTED", "NODE_FAIL", "REVOKED")  # Slurm may queue such a job again


def set_job_environment(root: Path, *, gpus: int) -> None:
    """Sets the environment of all jobs: they use the `ldae` of this interpreter, and end when this process ends.

    Args:
        root: the folder that holds the package.
        gpus: how many the scale asks for on each node.
    """
    for variable, folder in (("PATH", Path(sys.executable).parent), ("PYTHONPATH", root)):
        os.environ[variable] = os.pathsep.join(filter(None, [str(folder), os.environ.get(variable)]))
    name_driver()
    os.environ[GPUS] = str(gpus)


def set_slurm_environment(*, main: bool, nodes: int) -> None:
    """Sets for all jobs whether they may requeue themselves before a time limit, and how many nodes they have.

    Args:
        main: whether a person started this Snakemake process. A Slurm job around it then belongs to that person.
        nodes: of a job that runs as several processes.
    """
    if main:
        slurm.set_job_environment(submitted=False, nodes=nodes)
    elif "slurm-jobstep" in sys.argv:  # the plugin's executor inside a job, before Snakemake knows it
        slurm.set_job_environment(submitted=True, nodes=None)


def check_targets(dag_class: Any, graph: Graph) -> None:
    """Makes Snakemake answer an unknown target with one line that suggests the nearest name.

    Args:
        dag_class: Snakemake's class of the graph of jobs.
        graph: of the study.
    """
    start = dag_class.init

    async def init(dag: Any, *arguments: Any) -> None:
        for target in dag.workflow.dag_settings.targets:
            if "/" in target or dag.workflow.is_rule(target):
                continue
            try:
                graph.jobs_for([target])
            except StudyError as error:
                sys.exit(str(error))
            sys.exit(f"{target!r} is a row or a sweep, not a target of Snakemake: use `ldae run {target}`")
        await start(dag, *arguments)

    dag_class.init = init


def require_slurm(executor: Any) -> None:
    """Ends the run if jobs go to Slurm and Slurm does not answer; else each would fail and be submitted again.

    Args:
        executor: Snakemake's plugin that runs the jobs.
    """
    if getattr(executor, "name", None) != "slurm":
        return
    if shutil.which("sbatch") is None:
        sys.exit("There is no Slurm here (no sbatch): run this on a login node, or leave out the profile")
    asked = subprocess.run(["sinfo", "--noheader"], capture_output=True, text=True, check=False)
    if asked.returncode:
        why = (asked.stderr.strip().splitlines() or ["sinfo says nothing"])[-1]
        sys.exit(f"Slurm does not answer here ({why}): run this on a login node, or leave out the profile")


def debounce(scheduler: Any) -> None:
    """Debounces the timer by which Snakemake's scheduler looks for new jobs.

    In Snakemake 9.27 each look sets a timer for the next, and each finished job starts another chain of timers: after
    200 jobs the scheduler looks 200 times a second and occupies a core. A version without these parts is left alone.
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


def ignore_stale_locks(persistence: Any) -> None:
    """Makes Snakemake remove the locks of dead processes, and name the living process that holds a lock.

    Snakemake 9.27 leaves its files locked when it is killed, and every later run stops and asks for `--unlock`. Here
    each run registers before it takes locks and deletes only its own at its end, so a lock that no living process has
    registered is stale. A dry run takes no locks, registers nothing, and ignores the locks of others.

    Args:
        persistence: Snakemake's class that keeps locks. A version without these parts is left alone.
    """
    if not all(hasattr(persistence, name) for name in ("lock", "lock_warn_only", "locked", "path")):
        return
    lock = persistence.lock

    @contextmanager
    def lock_alone(self: Any) -> Iterator[None]:
        self._delete_locks = partial(_delete_own, self._lockfile)  # Snakemake's own deletes the locks of all runs
        with locking.registered(Path(self.path)) as own:
            locking.make_way(own, lambda: bool(self.locked))
            with lock(self):
                write_text(own, locking.description([Path(file).name for file in self._lockfile.values()]))
                yield

    persistence.lock, persistence.lock_warn_only = lock_alone, nullcontext


def _delete_own(locks: dict[str, str]) -> None:
    """Deletes the lock files of one Snakemake process."""
    for file in locks.values():
        Path(file).unlink(missing_ok=True)
    locks.clear()


def warn_about_images(dataset: Dataset) -> None:
    """Prints what would stop the preparation of the images, so that a dry run reports it too."""
    if (problem := opening.problem(dataset)) is not None:
        print(problem, file=sys.stderr)


def require_images(dataset: Dataset, jobs: Iterable[Any]) -> None:
    """Ends the run if images have to be prepared that are absent or not divided into splits.

    The job would report it too, but Snakemake deletes the earlier prepared images as soon as the job starts.
    """
    if any(job.rule.name == "dataset" for job in jobs) and (problem := opening.problem(dataset)) is not None:
        sys.exit(problem)


def mend_slurm_plugin(plugin: Any) -> None:
    """Makes Snakemake's Slurm plugin keep every running job, and stop waiting for jobs that have ended.

    Version 2.8 loses all running jobs after one query that Slurm does not answer, and then waits for ever. It also
    waits for ever for a job that Slurm no longer lists, that was preempted and not queued again, or that sacct calls
    `CANCELLED by 1000`. A version without these parts is left alone.

    Args:
        plugin: the module `snakemake_executor_plugin_slurm`; None if it is not loaded.
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
            return {}, 0.0  # unknown states, so the plugin keeps all jobs
        states = {job: (state.split() or [""])[0] for job, state in states.items()}
        now = time.monotonic()
        # Slurm may list a whole array, whose ids have a `_`, as one job.
        limbo = {job for job in awaited if "_" not in job and states.get(job, LIMBO[0]) in LIMBO}
        for job in unclear.keys() - limbo:
            del unclear[job]
        for job in limbo:
            if now - unclear.setdefault(job, now) >= LOST_SECONDS:
                states[job] = (
                    "FAILED" if job in states else "UNKNOWN"
                )  # the plugin then looks for the outputs of an unknown job
        return states, seconds

    plugin.Executor.check_active_jobs, plugin.query_job_status = check_active_jobs, query_job_status
