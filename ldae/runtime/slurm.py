"""The Slurm job of this process: whether `snakemake --profile slurm` submitted it, its nodes, requeueing.

Stages never stop or requeue a user's own job, e.g. one that runs `snakemake --cores 16`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time

from ldae.runtime.process import process_seconds

JOB = "LDAE_JOB"  # "<id> <start, seconds since the epoch>" of a job that `snakemake --profile slurm` submitted
NODES = "LDAE_NODES"  # "<id> <number>": the nodes of the job that a stage may use
# The variables that identify an allocation. All others describe the step or batch script in which Slurm set them (CPU
# binding, tasks, memory, GPUs), and srun would read them as its own options.
IDENTITY = ("SLURM_JOB_ID", "SLURM_JOBID", "SLURM_CONF", "SLURM_CLUSTER_NAME", "SLURM_CLUSTERS")


def set_job_environment(*, submitted: bool, nodes: int | None) -> None:
    """Sets the variables that tell this Snakemake process's stages about its Slurm job, in place of another job's.

    Snakemake's Slurm plugin removes most of Slurm's before it starts a rule's command. `submitted`: this is the first
    process of a job that `snakemake --profile slurm` submitted; `nodes`: the most that a stage may use, None for all.
    """
    for name in (JOB, NODES):
        os.environ.pop(name, None)
    job, job_nodes = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_JOB_NUM_NODES")
    if job is not None and job_nodes is not None:
        os.environ[NODES] = f"{job} {min(int(job_nodes), nodes or int(job_nodes))}"
    if job is not None and submitted:
        os.environ[JOB] = f"{job} {time.time() - process_seconds()}"


def submitted_job() -> str | None:
    """The id of this process's job if `snakemake --profile slurm` submitted it for this stage; otherwise None."""
    return os.environ["SLURM_JOB_ID"] if _about_this_job(JOB) else None


def job_seconds() -> float:
    """Seconds since the submitted job started, by its first process's clock; without a job, since this process did."""
    started = _about_this_job(JOB)
    return time.time() - float(started) if started else process_seconds()


def nodes_of_job() -> int:
    """The number of nodes that this stage may use; 1 outside of a Slurm job."""
    if "SLURM_JOB_ID" not in os.environ:
        return 1
    return int(_about_this_job(NODES) or os.environ.get("SLURM_JOB_NUM_NODES") or 1)


def is_running() -> bool:
    """Whether Slurm still lists the submitted job as running, i.e. it was not cancelled and met no limit.

    A signal to such a job announces a preemption, or is one that the job itself requested.
    """
    job = submitted_job()
    if job is None or not shutil.which("squeue"):
        return False
    command = ["squeue", "--noheader", f"--jobs={job}", "--format=%T"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() == "RUNNING"


def requeue() -> None:
    """Asks Slurm to queue the submitted job again, so that an interrupted training restarts without the user.

    Slurm then ends the job, so this may never return. Does nothing in a user's own job.
    """
    job = submitted_job()
    if job is not None and shutil.which("scontrol"):
        subprocess.run(["scontrol", "requeue", job], check=False)


def step_environment() -> dict[str, str]:
    """The environment for an `srun` that must take its options only from its command line."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SRUN_", "SBATCH_"))}
    return ours | {name: os.environ[name] for name in IDENTITY if name in os.environ}


def _about_this_job(name: str) -> str | None:
    """A variable's value if it was set for this process's job; None if it is absent or of another job."""
    job, _, value = os.environ.get(name, "").partition(" ")
    return value if value and job == os.environ.get("SLURM_JOB_ID") else None
