"""The Slurm job around this process: whether `snakemake --profile slurm` submitted it, its nodes, its requeueing.

A person's own job, e.g. one in which they run `snakemake --cores 16`, is never stopped or requeued by a stage.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time

from ldae.runtime.process import process_seconds

JOB = "LDAE_JOB"  # "<id> <start, seconds since the epoch>" of a job that `snakemake --profile slurm` submitted
NODES = "LDAE_NODES"  # "<id> <number>": the nodes of the job that a stage may use
# What identifies an allocation. All else that Slurm sets speaks of the step or the batch script in which it was set
# (CPU binding, tasks, memory, GPUs), and srun takes it for options of its own.
IDENTITY = ("SLURM_JOB_ID", "SLURM_JOBID", "SLURM_CONF", "SLURM_CLUSTER_NAME", "SLURM_CLUSTERS")


def mark(*, submitted: bool, nodes: int | None) -> None:
    """Tells the stages that this Snakemake process starts about the Slurm job that it runs in.

    Slurm's plugin for Snakemake removes most of Slurm's variables before it starts a rule's command.

    Args:
        submitted: whether this is the first process of a job that `snakemake --profile slurm` submitted.
        nodes: how many a stage may use, at most; None for all nodes of the job.
    """
    job, given = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_JOB_NUM_NODES")
    if job is not None and given is not None:
        os.environ[NODES] = f"{job} {min(int(given), nodes or int(given))}"
    if job is not None and submitted:
        os.environ[JOB] = f"{job} {time.time() - process_seconds()}"


def forget() -> None:
    """Removes what another Snakemake process has said of its job, e.g. one that was started in a job of the first."""
    for name in (JOB, NODES):
        os.environ.pop(name, None)


def submitted_job() -> str | None:
    """The id of the job around this process if `snakemake --profile slurm` submitted it for this stage alone."""
    return os.environ["SLURM_JOB_ID"] if _about_this_job(JOB) else None


def job_seconds() -> float:
    """Seconds since a submitted job started, on its first process's clock; without one, since this process did."""
    started = _about_this_job(JOB)
    return time.time() - float(started) if started else process_seconds()


def nodes_of_job() -> int:
    """How many nodes this stage may use; 1 outside of a Slurm job."""
    if "SLURM_JOB_ID" not in os.environ:
        return 1
    return int(_about_this_job(NODES) or os.environ.get("SLURM_JOB_NUM_NODES") or 1)


def is_wanted() -> bool:
    """Whether Slurm calls a submitted job running: it was not cancelled, and has not met a limit.

    A signal that such a job receives announces a preemption, or is what the job has asked for.
    """
    job = submitted_job()
    if job is None or not shutil.which("squeue"):
        return False
    command = ["squeue", "--noheader", f"--jobs={job}", "--format=%T"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() == "RUNNING"


def requeue() -> None:
    """Asks Slurm to queue a submitted job again, so that a training of many interruptions needs nobody to restart it.

    Slurm ends the job then, so that this may never return. Any other job is left alone.
    """
    job = submitted_job()
    if job is not None and shutil.which("scontrol"):
        subprocess.run(["scontrol", "requeue", job], check=False)


def step_environment() -> dict[str, str]:
    """The environment for an `srun` whose options are all on its command line."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SRUN_", "SBATCH_"))}
    return ours | {name: os.environ[name] for name in IDENTITY if name in os.environ}


def _about_this_job(name: str) -> str | None:
    """The value that a variable has for the job around this process; None where it is of another job, or absent."""
    job, _, value = os.environ.get(name, "").partition(" ")
    return value if value and job == os.environ.get("SLURM_JOB_ID") else None
