"""A real Slurm of two nodes on this machine, for tests; see slurm/start.sh."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from graph import Graph

START = Path(__file__).parent / "slurm/start.sh"
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "unshare", "nsenter", "setpriv", "bc")
# the profile as it is, but that a test will not wait for minutes to hear of a job's end
IMPATIENT = ("--slurm-init-seconds-before-status-checks", "2", "--seconds-between-status-checks", "2")
IMPATIENT += ("--latency-wait", "5", "--max-status-checks-per-second", "5", "--max-jobs-per-timespan", "20/1s")


def why_not() -> str | None:
    """Why a Slurm cannot be started here, or None."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"no {', '.join(missing)} here (Debian: apt-get install slurm-wlm munge)"
    if os.geteuid() != 0:
        return "starting a Slurm takes root"
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        return "mount namespaces are not allowed here"
    return None


def with_tools() -> dict[str, str]:
    """The environment of a person who has activated the virtual environment."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


class Cluster:
    """A running Slurm; its commands and its snakemake live in a mount namespace of its own."""

    def __init__(self, folder: Path, holder: int) -> None:
        self.folder, self.holder = folder, holder

    def inside(self, *command: str) -> list[str]:
        """The command that runs another in the cluster's namespace."""
        return ["nsenter", "--mount", f"--target={self.holder}", *command]

    def run(self, *command: str) -> str:
        """What a command says that is run on the cluster's login node, so to speak."""
        return subprocess.run(self.inside(*command), capture_output=True, text=True, check=True).stdout

    def run_in(self, graph: Graph, *command: str) -> str:
        """What a command says that a person runs on the login node, in a graph's folder; fails when it does."""
        script = 'cd "$1" && shift && exec "$@" 2>&1'
        said = subprocess.run(
            self.inside("sh", "-c", script, "sh", str(graph.folder), *command),
            env=with_tools(),
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )
        assert said.returncode == 0, said.stdout
        return said.stdout

    def start(self, graph: Graph, *arguments: str) -> subprocess.Popen[bytes]:
        """Starts snakemake on a graph, as its user would on a login node."""
        script = 'cd "$1" && shift && exec snakemake "$@"'
        with graph.said.open("w") as said:
            return subprocess.Popen(
                self.inside("sh", "-c", script, "sh", str(graph.folder), "--profile", "slurm", *arguments, *IMPATIENT),
                env=with_tools(),
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def finish(self, graph: Graph, process: subprocess.Popen[bytes], seconds: float = 3600) -> None:
        """Waits for snakemake's end, and fails when it did."""
        returncode = process.wait(timeout=seconds)
        logs = "\n".join(path.read_text()[-2000:] for path in graph.folder.glob(".snakemake/slurm_logs/*/*/*.log"))
        assert returncode == 0, f"{graph.said.read_text()}\n{logs}"

    def jobs(self, *states: str) -> dict[str, str]:
        """The ids of the jobs in these states, and the comments that tell their rules."""
        lines = self.run("squeue", "--noheader", "--format=%i|%k", f"--states={','.join(states)}").splitlines()
        return dict(line.split("|", 1) for line in lines)

    def wait_for(self, condition: Callable[[], object], what: str, seconds: float = 900) -> None:
        """Returns once a condition holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain for {what}"
            time.sleep(0.3)

    def wait_for_training(self, graph: Graph) -> str:
        """The id of a job that is training and has saved some of it; returns once there is one."""
        found: list[str] = []

        def some() -> bool:
            found[:] = [job for job, row in self.training().items() if graph.checkpoint(row).exists()]
            return bool(found)

        self.wait_for(some, "a training")
        return found[0]

    def training(self) -> dict[str, str]:
        """The ids of the jobs that run the rule `pretrain`, and their rows."""
        running = {
            job: re.fullmatch(r"rule_pretrain_wildcards_(\w+)_0", text) for job, text in self.jobs("RUNNING").items()
        }
        return {job: found[1] for job, found in running.items() if found}

    def ask(self, job: str, what: str) -> str:
        """What squeue says of a job, in its own letters: `%N` its nodes, `%D` how many they are, `%T` its state."""
        return self.run("squeue", "--noheader", f"--format={what}", f"--jobs={job}", "--states=all").strip()

    def lose(self, node: str) -> None:
        """Ends all that runs on a node at once, as if its power were cut."""
        os.kill(self.daemon(f"slurmd-{node}"), signal.SIGKILL)
        tasks, keepers = set(), set()
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if f"SLURMD_NODENAME={node}\0".encode() in (entry / "environ").read_bytes():
                    tasks.add(int(entry.name))
                    parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                    if Path(f"/proc/{parent}/comm").read_text() == "slurmstepd\n":
                        keepers.add(parent)
            except OSError:  # it has ended meanwhile
                continue
        for process in [*keepers, *tasks]:  # Slurm's own first, so that they tell nobody
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def daemon(self, name: str) -> int:
        """The process id of `slurmctld`, `slurmd-n1` or `slurmd-n2`."""
        return int((self.folder / f"{name}.pid").read_text())


@contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """A Slurm that ends with the block."""
    holder = subprocess.Popen(["unshare", "-m", str(START), str(folder)], start_new_session=True)
    try:
        deadline = time.monotonic() + 300
        while not (folder / "ready").exists():
            assert holder.poll() is None and time.monotonic() < deadline, "Slurm did not start"
            time.sleep(0.1)
        yield Cluster(folder, holder.pid)
    finally:
        holder.send_signal(signal.SIGTERM)
        holder.wait(30)
