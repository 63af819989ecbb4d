"""One command in many processes: ranks on this machine, or on all nodes of a Slurm job.

By hand because torchrun prints several tracebacks for an error and does not forward SIGUSR1, which asks ranks to stop.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import time
from typing import NoReturn

from ldae.runtime.process import LAUNCHER
from ldae.runtime.slurm import nodes_of_job, step_environment

PORTS = range(10_000, 30_000)  # where the ranks of a Slurm job meet; Linux itself assigns ports from 32768 on
GRACE = 30.0  # seconds in which ranks end by themselves once one of them has failed
FORWARDED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)


def spawn_ranks(processes: int, *, threads: int) -> NoReturn:
    """Starts this command again in several ranks with so many threads a node, and exits with their status.

    A `ValueError` says that the processes cannot be divided among the job's nodes.
    """
    command = [sys.executable, "-m", "ldae.cli", *sys.argv[1:]]
    nodes = nodes_of_job()
    if nodes == 1:
        sys.exit(_here(command, processes))
    if processes % nodes:
        raise ValueError(f"--processes: {processes} cannot be divided among the {nodes} nodes of this job")
    share = processes // nodes
    srun = ["srun", f"--nodes={nodes}", f"--ntasks={processes}", f"--ntasks-per-node={share}"]
    # A rank that has failed takes the others with it, which would wait for it. In a shell of a person's `srun --pty`
    # ranks that did not overlap with it would wait for its end.
    srun += [f"--cpus-per-task={max(1, threads // share)}", "--kill-on-bad-exit=1", "--overlap"]
    srun += ["--input=none", "--quit-on-interrupt"]  # a loop over lines keeps its input; one Ctrl-C is enough
    environment = step_environment() | {LAUNCHER: f"job {os.environ['SLURM_JOB_ID']}"}
    os.execvpe("srun", [*srun, *command], environment)


def _here(command: list[str], processes: int) -> int:
    """Runs a command in several ranks on this machine; forwards signals to them, and they end with this process."""
    ranks: list[subprocess.Popen[bytes]] = []

    def forward(number: int, _: object) -> None:
        for rank in ranks:
            rank.send_signal(number)

    for number in FORWARDED:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as behind `nohup`
            signal.signal(number, forward)
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(processes)}
    meeting |= {LAUNCHER: f"process {os.getpid()}"}
    for rank in map(str, range(processes)):
        # a group of its own, so that Ctrl-C comes once, through this process
        environment = os.environ | meeting | {"RANK": rank, "LOCAL_RANK": rank}
        ranks.append(subprocess.Popen(command, env=environment, process_group=0))
    return _status(ranks)


def _status(ranks: list[subprocess.Popen[bytes]]) -> int:
    """Waits for all ranks and returns the status of the one that failed first, or 0."""
    failed, deadline = None, math.inf
    while None in (states := [rank.poll() for rank in ranks]) or failed is None and any(states):
        if failed is None and any(states):
            failed, deadline = next(rank for rank in ranks if rank.returncode), time.monotonic() + GRACE
        if time.monotonic() > deadline:
            for rank in ranks:
                rank.kill()
        time.sleep(0.05)
    if failed is None:
        return 0
    if failed.returncode < 0:
        name = signal.Signals(-failed.returncode).name
        sys.exit(f"ldae: rank {ranks.index(failed)} of {len(ranks)} was ended by {name}")
    return failed.returncode


def _free_port() -> int:
    """A port of this machine that is free."""
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])
