"""One command in many processes: how it is divided, how it hears, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import driver
import pytest

from ldae.runtime import launch, slurm
from ldae.study.base import Size
from ldae.study.recipes import Training
from ldae.study.stage_specs import PretrainStage

RANKS = (
    "import sys; from ldae.runtime import launch; launch.GRACE = 0.5; "
    "sys.exit(launch._here([sys.executable, '-c', {!r}], 2))"
)
HERE = "import os, signal, sys, time; rank = int(os.environ['RANK']);"
HERE += " say = lambda words: os.write(1, b'%d %s\\n' % (rank, words));"
TELL = "say(b'%d' % os.getpid());"
SPEC = PretrainStage(
    size=Size(width=16, heads=2, encoder_blocks=1, decoder_blocks=1),
    training=Training(steps=3, batch=16, rate=0.1, warmup=0.1),
).to_json()


def in_two_ranks(code: str) -> subprocess.CompletedProcess[str]:
    """What becomes of code that two ranks run."""
    command = [sys.executable, "-c", RANKS.format(code)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@contextmanager
def two_ranks(code: str) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """The process that has started two ranks, and the ranks, once both run."""
    with subprocess.Popen([sys.executable, "-c", RANKS.format(code)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, [int(process.stdout.readline().split()[1]) for _ in range(2)]
        finally:
            process.kill()


def has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


@pytest.fixture
def training(prepared: Path, tmp_path: Path) -> list[str]:
    """A command that several processes can share."""
    folders = {
        "dataset": prepared / "dataset",
        "tokenizer": prepared / "pca",
        "resume": tmp_path / "r",
        "out": tmp_path,
    }
    words = [word for name, folder in folders.items() for word in (f"--{name}", str(folder))]
    return [sys.executable, "-m", "ldae.cli", "pretrain", "--row", "tiny", "--spec", SPEC, *words]


@pytest.fixture
def allocation(tmp_path: Path) -> dict[str, str]:
    """The environment of a Slurm job in which `srun` says what it is asked for, and what it would hand on."""
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\nenv | grep -E "^(LDAE|SLURM|SRUN)_" | sort\n')
    srun.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "LDAE_"))}
    return kept | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "SLURM_JOB_ID": "7"}


def test_ranks_are_numbered_and_meet_at_one_port() -> None:
    said = in_two_ranks(
        f"{HERE} say(' '.join(os.environ[n] for n in ('WORLD_SIZE', 'LOCAL_RANK', 'MASTER_PORT')).encode())"
    )
    assert said.returncode == 0, said.stderr
    first, second = sorted(line.split() for line in said.stdout.splitlines())
    assert first[:3] == ["0", "2", "0"] and second[:3] == ["1", "2", "1"]
    assert first[3] == second[3] and int(first[3]) > 1023


@pytest.mark.parametrize("rank", [0, 1])
def test_the_status_is_that_of_the_rank_that_fails_and_the_others_end(rank: int) -> None:
    said = in_two_ranks(f"{HERE} sys.exit(75) if rank == {rank} else time.sleep(600)")
    assert (said.returncode, said.stderr) == (75, "")


def test_a_rank_that_is_killed_is_named() -> None:
    said = in_two_ranks(f"{HERE} os.kill(os.getpid(), signal.SIGKILL) if rank == 1 else time.sleep(600)")
    assert (said.returncode, said.stderr) == (1, "ldae: rank 1 of 2 was ended by SIGKILL\n")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_every_rank_hears_what_the_command_is_sent(name: str) -> None:
    heard = f"signal.signal(signal.{name}, lambda *_: sys.exit(not say(b'heard')));"
    with two_ranks(f"{HERE} {heard} {TELL} time.sleep(600)") as (process, _):
        process.send_signal(getattr(signal, name))
        assert process.stdout is not None
        assert sorted(process.stdout.read().splitlines()) == ["0 heard", "1 heard"]
        assert process.wait() == 0


def test_ranks_end_with_the_command_that_is_killed() -> None:
    with two_ranks(
        f"from ldae.runtime.process import die_with_parent; die_with_parent(); {HERE} {TELL} time.sleep(600)"
    ) as (
        process,
        ranks,
    ):
        process.kill()
        process.wait()
        deadline = time.monotonic() + 60
        while not all(map(has_ended, ranks)):
            assert time.monotonic() < deadline, "a rank has outlived its command"
            time.sleep(0.02)


@pytest.mark.parametrize("variables", [{"SLURM_JOB_NUM_NODES": "2"}, {"LDAE_NODES": "7 2"}])
def test_on_several_nodes_slurm_starts_the_ranks(
    variables: dict[str, str], allocation: dict[str, str], training: list[str]
) -> None:
    command = [*training, "--processes", "4", "--threads", "6"]
    said = subprocess.run(command, env=allocation | variables, capture_output=True, text=True, check=True)
    asked = ["--nodes=2", "--ntasks=4", "--ntasks-per-node=2", "--cpus-per-task=3", "--kill-on-bad-exit=1", "--overlap"]
    asked += ["--input=none", "--quit-on-interrupt"]
    assert said.stdout.splitlines()[: len(asked) + len(command)] == [*asked, *command]
    assert "LDAE_LAUNCHER=job 7" in said.stdout.splitlines()


def test_what_slurm_says_of_a_person_s_own_step_is_no_option_of_the_ranks(
    allocation: dict[str, str], training: list[str]
) -> None:
    """srun reads SLURM_CPU_BIND as --cpu-bind, SLURM_EXPORT_ENV as --export, and so on."""
    command = [*training, "--processes", "2"]
    foreign = {
        "SLURM_CPU_BIND": "quiet,mask_cpu:0x1",
        "SLURM_EXPORT_ENV": "NONE",
        "SLURM_NTASKS": "4",
        "SRUN_DEBUG": "3",
    }
    foreign |= {"SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_NUM_NODES": "2"}
    said = subprocess.run(command, env=allocation | foreign, capture_output=True, text=True, check=True)
    kept = [line.partition("=")[0] for line in said.stdout.splitlines() if line.startswith(("SLURM_", "SRUN_"))]
    assert kept == ["SLURM_JOB_ID"]


@pytest.mark.parametrize(
    "variables",
    [
        {"SLURM_JOB_NUM_NODES": "4", "LDAE_NODES": "7 1"},  # a scale of one node in a larger allocation
        {"SLURM_JOB_NUM_NODES": "1", "LDAE_NODES": "6 2"},  # left from another job
        {"LDAE_NODES": ""},
    ],
)
def test_ranks_of_one_node_are_started_without_slurm(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here only the choice; `test_ranks.py` has a command that starts its ranks itself."""
    for name in ("SLURM_JOB_NUM_NODES", "LDAE_NODES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"SLURM_JOB_ID": "7", **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(launch, "_here", lambda command, processes: 10 + processes)
    with pytest.raises(SystemExit) as ended:
        launch.spawn_ranks(2, threads=1)
    assert ended.value.code == 12


def test_processes_that_the_nodes_cannot_share_alike_are_refused(
    allocation: dict[str, str], training: list[str]
) -> None:
    command = [*training, "--processes", "3"]
    environment = allocation | {"SLURM_JOB_NUM_NODES": "2"}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert said.returncode == 1
    assert said.stderr == "ldae: --processes: 3 cannot be divided among the 2 nodes of this job\n"


def test_a_mistake_in_a_specification_is_told_before_there_are_ranks(training: list[str]) -> None:
    command = [*training, "--spec", "{}", "--processes", "2"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == 1 and len(said.stderr.splitlines()) == 1 and "size" in said.stderr


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment of a Snakemake process in job 7, of two nodes, which was submitted from inside job 6."""
    for name in ("LDAE_JOB", "LDAE_NODES"):
        monkeypatch.setenv(name, "6 1")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    monkeypatch.setattr(slurm, "process_seconds", lambda: 50.0)
    return monkeypatch


def test_a_submitted_job_s_nodes_and_start_reach_its_commands(job: pytest.MonkeyPatch) -> None:
    """Snakemake reads its rules in the job before it removes Slurm's variables and starts the command."""
    job.setattr(sys, "argv", ["snakemake", "--executor", "slurm-jobstep", "--jobs", "1"])
    driver.set_slurm_environment(main=False, nodes=1)
    job.delenv("SLURM_JOB_NUM_NODES")
    job.setattr(slurm, "process_seconds", lambda: 0.0)
    job.setattr(sys, "argv", ["snakemake", "--cores", "all"])  # the second Snakemake of a job, which runs the command
    driver.set_slurm_environment(main=False, nodes=1)
    assert slurm.submitted_job() == "7"
    assert slurm.nodes_of_job() == 2
    assert 50 <= slurm.job_seconds() < 60
    job.setenv("SLURM_JOB_ID", "8")
    assert slurm.submitted_job() is None
    assert slurm.job_seconds() == 0.0


@pytest.mark.parametrize(("nodes", "used"), [(1, 1), (2, 2), (3, 2)])
def test_a_job_in_which_a_person_runs_snakemake_is_theirs(nodes: int, used: int, job: pytest.MonkeyPatch) -> None:
    job.setenv("LDAE_JOB", "7 0.0")  # even if it is, or looks like, one of ours
    driver.set_slurm_environment(main=True, nodes=nodes)
    assert slurm.submitted_job() is None
    assert slurm.nodes_of_job() == used
