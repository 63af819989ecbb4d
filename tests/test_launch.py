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

import pytest

from ldae import driver, launch
from ldae.process import job_seconds, nodes_of_job, process_seconds
from ldae.spec import PretrainStage, Size, Training

RANKS = (
    "import sys; from ldae import launch; launch.GRACE = 0.5; sys.exit(launch._here([sys.executable, '-c', {!r}], 2))"
)
HERE = "import os, signal, sys, time; rank = int(os.environ['RANK']);"
HERE += " say = lambda words: os.write(1, b'%d %s\\n' % (rank, words));"
TELL = "say(b'%d' % os.getpid());"
PRETRAIN = ("pretrain", "--row", "tiny", "--dataset", "d", "--tokenizer", "t", "--resume", "r", "--out", "o")
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
def slurm(tmp_path: Path) -> dict[str, str]:
    """An environment in which `srun` says what it is asked for."""
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "LDAE_"))}
    return kept | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}


def test_ranks_are_numbered_and_meet_at_one_port() -> None:
    said = in_two_ranks(
        f"{HERE} say(' '.join(os.environ[n] for n in ('WORLD_SIZE', 'LOCAL_RANK', 'MASTER_PORT')).encode())"
    )
    assert said.returncode == 0, said.stderr
    first, second = sorted(line.split() for line in said.stdout.splitlines())
    assert first[:3] == ["0", "2", "0"] and second[:3] == ["1", "2", "1"]
    assert first[3] == second[3] and int(first[3]) in launch.PORTS


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
    with two_ranks(f"from ldae.process import die_with_parent; die_with_parent(); {HERE} {TELL} time.sleep(600)") as (
        process,
        ranks,
    ):
        process.kill()
        process.wait()
        deadline = time.monotonic() + 60
        while not all(map(has_ended, ranks)):
            assert time.monotonic() < deadline, "a rank has outlived its command"
            time.sleep(0.02)


@pytest.mark.parametrize("variable", ["SLURM_JOB_NUM_NODES", "LDAE_NODES"])
def test_on_several_nodes_slurm_starts_the_ranks(variable: str, slurm: dict[str, str]) -> None:
    command = [sys.executable, "-m", "ldae.cli", *PRETRAIN, "--spec", SPEC, "--processes", "4", "--threads", "6"]
    said = subprocess.run(command, env=slurm | {variable: "2"}, capture_output=True, text=True, check=True)
    asked = ["--nodes=2", "--ntasks=4", "--ntasks-per-node=2", "--cpus-per-task=3", "--kill-on-bad-exit=1"]
    assert said.stdout.splitlines() == [*asked, *command]


def test_processes_that_the_nodes_cannot_share_alike_are_refused(slurm: dict[str, str]) -> None:
    command = [sys.executable, "-m", "ldae.cli", *PRETRAIN, "--spec", SPEC, "--processes", "3"]
    environment = slurm | {"SLURM_JOB_NUM_NODES": "2"}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert said.returncode == 1
    assert said.stderr == "ldae: --processes: 3 cannot be divided among the 2 nodes of this job\n"


def test_a_mistake_in_a_specification_is_told_before_there_are_ranks() -> None:
    command = [sys.executable, "-m", "ldae.cli", *PRETRAIN, "--spec", "{}", "--processes", "2"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == 1 and len(said.stderr.splitlines()) == 1 and "size" in said.stderr


def test_a_job_s_nodes_and_its_beginning_reach_its_commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Snakemake reads its rules in the job before it removes Slurm's variables and starts the command."""
    for name in ("PATH", "PYTHONPATH", "LDAE_DRIVER", "LDAE_NODES", "LDAE_TRACKING"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.setenv("LDAE_JOB", "6 0.0")  # of the job that submitted this one
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    monkeypatch.setattr(driver, "process_seconds", lambda: 50.0)
    driver.equip_jobs(tmp_path, [])
    monkeypatch.delenv("SLURM_JOB_NUM_NODES")
    monkeypatch.setattr(driver, "process_seconds", lambda: 0.0)
    driver.equip_jobs(tmp_path, [])
    assert nodes_of_job() == 2
    assert 50 <= job_seconds() < 60
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    assert job_seconds() == pytest.approx(process_seconds(), abs=1)
