from __future__ import annotations

import asyncio
import inspect
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple

import driver
import pytest
import torch
from driver import debounce, mend_slurm_plugin
from forked import forked
from safetensors.torch import save_file

from ldae import cli
from ldae.runtime.files import atomic_write, read_json
from ldae.study.stages import STAGES, Stage

HOST = socket.gethostname()
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_every_stage_of_the_graph_has_a_command_that_explains_its_options(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = cli.parser()
    assert re.search(rf"^ +{stage.command}\s+\w", parser.format_help(), re.MULTILINE)
    with pytest.raises(SystemExit) as ended:
        parser.parse_args([stage.command, "--help"])
    assert not ended.value.code
    said = capsys.readouterr().out
    for option in ("spec", "out", *stage.inputs, *stage.options):
        assert re.search(rf"^  --{option.replace('_', '-')} \S+\s+\w", said, re.MULTILINE), option


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.parser().parse_args(["--version"])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (ended.value.code, capsys.readouterr().out) == (0, f"ldae {project['version']}\n")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_without_unicode_is_answered(encoding: str) -> None:
    command = [sys.executable, "-m", "ldae.cli", "list"]
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    said = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
    assert (said.returncode, said.stderr) == (0, b"")
    assert b"predict_clean" in said.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pretrian"], ["unknown command", "pretrian", "'pretrain'"]),
        (["prepare", "--out", "x"], ["--spec"]),
        (["prepare", "--out", "x", "--spec", '{"dataset":{"source":"photos"}}'], ["--spec", "size"]),
        (["prepare", "--out", "x", "--spec", "{"], ["--spec"]),
        (["fit-tokenizer", "--out", "x", "--spec", "{}", "--dataset", "nowhere"], ["nowhere", "No such file"]),
    ],
)
def test_a_mistake_is_one_line_and_no_traceback(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    said = forked(*arguments)
    assert said.returncode != 0
    assert len(said.stderr.strip().splitlines()) == 1, said.stderr
    assert all(word in said.stderr for word in words), said.stderr


def test_a_stage_ends_with_the_driver_that_started_it() -> None:
    """A stage whose driver is killed goes too; its own children are asked by the same call."""
    code = (
        "import os, subprocess, sys\n"
        "from ldae.runtime.process import name_driver; name_driver()\n"
        "child = 'from ldae.runtime.process import die_with_driver as d; d(); print(flush=True); '\n"
        "child += 'import time; time.sleep(60)'\n"
        "job = subprocess.Popen([sys.executable, '-c', child], stdout=subprocess.PIPE)\n"
        "job.stdout.readline(); print(job.pid, flush=True); job.wait()"
    )
    driver = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    job = int(driver.stdout.readline())
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    driver.stdout.close()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{job}").exists() and "State:\tZ" not in Path(f"/proc/{job}/status").read_text():
        assert time.monotonic() < deadline, "the stage outlived its driver"
        time.sleep(0.02)


def test_a_stage_whose_driver_is_gone_already_does_not_start() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for host, status in ((HOST, 1), ("elsewhere", 0)):  # whose processes this machine cannot see
        said = forked("--help", LDAE_DRIVER=f"{host} {gone.pid} 0.0")
        assert said.returncode == status
    reused = forked("--help", LDAE_DRIVER=f"{HOST} {os.getpid()} 0.0")  # its number is another process's now
    assert reused.returncode == 1
    assert len(reused.stderr.splitlines()) == 1 and "LDAE_DRIVER" in reused.stderr and "unset" in reused.stderr


@pytest.mark.parametrize(
    ("asked", "job", "status", "words"),
    [
        (signal.SIGINT, None, 1, "ldae: interrupted\n"),
        (signal.SIGTERM, None, -signal.SIGTERM, ""),
        (signal.SIGTERM, "7", 75, "stopped before it began: SIGTERM was received"),  # about to be preempted
    ],
)
def test_a_stage_that_is_stopped_while_it_imports_ends_without_a_traceback(
    asked: signal.Signals, job: str | None, status: int, words: str, prepared: Path, tmp_path: Path
) -> None:
    """Libraries turn what a signal raises inside their import into errors of their own."""
    library = tmp_path / "torch/__init__.py"
    library.parent.mkdir()
    library.write_text(
        "import importlib, pathlib, sys, time\n"
        f"pathlib.Path({str(tmp_path / 'imports')!r}).touch()\n"
        "try:\n"
        "    time.sleep(1.0)\n"
        "except BaseException:\n"
        "    raise ImportError('a library failed to import')\n"
        f"sys.path.remove({str(tmp_path)!r})\n"
        "del sys.modules['torch']\n"
        "importlib.import_module('torch')\n"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("SLURM_JOB_ID", "LDAE_JOB")}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), str(ROOT)])
    if job is not None:
        environment |= {"LDAE_JOB": f"{job} {time.time()}", "SLURM_JOB_ID": job}
    command = [sys.executable, "-m", "ldae.cli", "fit-tokenizer", "--spec", "{}", "--out", str(tmp_path / "out")]
    command += ["--dataset", str(prepared / "dataset")]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as stage:
        while not (tmp_path / "imports").exists():
            assert stage.poll() is None
            time.sleep(0.02)
        stage.send_signal(asked)
        assert stage.stderr is not None
        said = stage.stderr.read()
    assert stage.returncode == status
    assert words in said and "Traceback" not in said, said


def test_a_file_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_weights_can_be_read_by_whom_other_files_can(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a.safetensors") as partial:
        save_file({"a": torch.zeros(1)}, partial)
    (tmp_path / "other.txt").touch()
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "other.txt").stat().st_mode


@pytest.mark.parametrize("text", ["", '{"a"', "[]", "null", "3", '"a"', "NaN", "\x00", "{}"])
def test_a_broken_record_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=r"a\.json: (is not valid JSON|is not a record|is damaged)"):
        read_json(tmp_path / "a.json")


def test_every_stage_runs_from_its_command(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of the rules, as a person would paste them, each finding what the one before has left."""
    dataset, tokenizer = str(prepared / "dataset"), str(tmp_path / "pca")
    size = '"size":{"decoder_blocks":1,"encoder_blocks":1,"heads":2,"width":16}'
    training = '"training":{"batch":16,"rate":0.01,"steps":3,"warmup":0.1}'
    probing = '{"probing":{"batch":24,"epochs":2,"mode":"cached","rates":[1.0],"warmup":1}}'
    folders = ["--dataset", dataset, "--tokenizer", tokenizer]
    commands = [
        ["fit-tokenizer", "--spec", '{"fitting":{"patches":100}}', "--dataset", dataset, "--out", tokenizer],
        ["pretrain", "--row", "tiny", "--spec", f"{{{size},{training}}}", *folders]
        + ["--resume", str(tmp_path / "resume"), "--out", str(tmp_path / "run"), "--micro-batch", "8"],
        [
            "probe",
            "--row",
            "tiny",
            "--spec",
            probing,
            *folders,
            "--model",
            str(tmp_path / "run"),
            "--out",
            str(tmp_path / "probe"),
        ],
        ["probe-pixels", "--spec", probing, "--dataset", dataset, "--out", str(tmp_path / "pixels")],
    ]
    for command in commands:
        monkeypatch.setattr(sys, "argv", ["ldae", *command])
        cli.main()
    assert read_json(tmp_path / "probe/probe.json")["row"] == "tiny"
    assert (tmp_path / "pixels/correct.npz").exists()


def test_the_scheduler_looks_once_in_a_timespan_however_often_it_is_asked_to() -> None:
    class Scheduler:
        def __init__(self) -> None:
            self._open_jobs = threading.Semaphore(0)

        def _schedule_reevalutation(self, delay: int) -> None:
            raise AssertionError("is replaced")

    scheduler = Scheduler()
    debounce(scheduler)
    for _ in range(2):  # and again once it has looked
        for _ in range(50):
            scheduler._schedule_reevalutation(0.2)  # type: ignore[arg-type]
        assert scheduler._open_jobs.acquire(timeout=10)
    time.sleep(0.4)
    assert not scheduler._open_jobs.acquire(blocking=False)


class Job(NamedTuple):
    external_jobid: str


def plugin(answers: list[dict[str, str] | None]) -> Any:
    """A plugin that is given these answers in turn, and reports as the real one does."""

    async def query_job_status(command: str, logger: Any) -> tuple[dict[str, str] | None, float | None]:
        answer = answers.pop(0)
        return answer, None if answer is None else 0.1

    class Executor:
        async def check_active_jobs(self, active_jobs: list[Job]) -> Any:
            states, _ = await module.query_job_status("squeue", None)
            for job in active_jobs if states is not None else ():
                self.said[job.external_jobid] = states.get(job.external_jobid, "")
                if self.said[job.external_jobid] not in ("COMPLETED", "FAILED", "CANCELLED", "UNKNOWN"):
                    yield job

        said: ClassVar[dict[str, str]] = {}

    module = SimpleNamespace(query_job_status=query_job_status, Executor=Executor)
    return module


@pytest.mark.parametrize(
    ("answers", "last"),
    [
        ([None, {"1": "RUNNING"}, {"1": "COMPLETED"}], "COMPLETED"),  # Slurm did not answer for a while
        ([{"1": "RUNNING"}, {"1": "CANCELLED by 1000"}], "CANCELLED"),  # in sacct's words
        ([{"1": "RUNNING"}, {}, {}], "UNKNOWN"),  # Slurm has forgotten it
        ([{}, {}], "UNKNOWN"),  # before anybody asked
        ([{"1": "PREEMPTED"}, {"1": "PREEMPTED"}], "FAILED"),  # and will not be queued again
        ([{"1": "PREEMPTED"}, {"1": "PENDING"}, {"1": "PREEMPTED"}, {"1": "RUNNING"}], "RUNNING"),
    ],
)
def test_no_job_is_forgotten_and_none_is_waited_for_in_vain(
    answers: list[dict[str, str] | None], last: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "LOST_SECONDS", 0.01)
    module = plugin(list(answers))
    mend_slurm_plugin(module)
    executor, jobs = module.Executor(), [Job("1")]

    async def check(jobs: list[Job]) -> list[Job]:
        return [job async for job in executor.check_active_jobs(jobs)]

    for turn in range(len(answers)):
        assert jobs, f"the job was given up after {turn} answers"
        jobs = asyncio.run(check(jobs))
        time.sleep(0.02)
    assert executor.said["1"] == last
    assert jobs == ([Job("1")] if last == "RUNNING" else [])


def test_the_parts_of_the_slurm_plugin_that_are_mended_have_their_names() -> None:
    """Else `mend_slurm_plugin` does nothing, and this plugin's faults are to be looked at again."""
    import snakemake_executor_plugin_slurm as slurm

    assert list(inspect.signature(slurm.query_job_status).parameters) == ["command", "logger"]
    assert list(inspect.signature(slurm.Executor.check_active_jobs).parameters) == ["self", "active_jobs"]
    assert "query_job_status" in slurm.Executor.check_active_jobs.__code__.co_names  # looked up in the module
