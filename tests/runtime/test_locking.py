"""Two Snakemakes in one folder: what a living one locks, and what a dead one has left."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from driver import ignore_stale_locks
from graph import RESULTS, Graph

from ldae.runtime import locking
from ldae.runtime.locking import make_way, registered

DRIVER = """
import pathlib, sys, time
from ldae.runtime.locking import description, registered
folder = pathlib.Path(sys.argv[1])
with registered(folder) as own:
    own.write_text(description(sys.argv[2:]))
    print(flush=True)
    time.sleep(600)
"""


@contextmanager
def driver(folder: Path, *locks: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another Snakemake in `.snakemake`, which has locked files."""
    for name in locks:
        (folder / "locks").mkdir(parents=True, exist_ok=True)
        (folder / "locks" / name).touch()
    command = [sys.executable, "-c", DRIVER, str(folder), *locks]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def elsewhere(folder: Path, *locks: str, age: float) -> Path:
    """The file of a driver on another machine, and its locks."""
    file = folder / "drivers/elsewhere-1.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": 1.0, "locks": locks}))
    os.utime(file, (time.time() - age,) * 2)
    for name in locks:
        (folder / "locks").mkdir(parents=True, exist_ok=True)
        (folder / "locks" / name).touch()
    return file


def locked(folder: Path) -> Callable[[], bool]:
    return lambda: any((folder / "locks").glob("*.lock"))


def test_a_living_driver_is_named_and_keeps_its_locks(tmp_path: Path) -> None:
    with driver(tmp_path, "0.input.lock", "0.output.lock") as other, registered(tmp_path) as own:
        with pytest.raises(SystemExit, match=f"process {other.pid} on {socket.gethostname()}"):
            make_way(own, locked(tmp_path))
        assert len(list((tmp_path / "locks").iterdir())) == 2


def test_the_locks_of_a_dead_driver_are_removed_beside_those_of_a_living_one(tmp_path: Path) -> None:
    with driver(tmp_path, "0.input.lock") as dead, driver(tmp_path, "1.input.lock"), registered(tmp_path) as own:
        dead.kill()
        os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)  # it is dead, though nobody has taken notice
        make_way(own, (tmp_path / "locks/0.input.lock").exists)
        assert [file.name for file in (tmp_path / "locks").iterdir()] == ["1.input.lock"]
        assert len(list((tmp_path / "drivers").iterdir())) == 2


def test_a_driver_on_another_machine_is_waited_for_until_it_has_been_silent_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """E.g. one that ended with its Slurm job, which goes on on another node now."""
    monkeypatch.setattr(locking, "SILENT_SECONDS", 2.0)
    with registered(tmp_path) as own:
        elsewhere(tmp_path, "0.input.lock", age=0.0)
        make_way(own, locked(tmp_path))
        assert not any((tmp_path / "locks").iterdir())
    assert "process 1 on elsewhere" in capsys.readouterr().err


def test_a_driver_on_another_machine_that_renews_its_file_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with registered(tmp_path) as own:
        file = elsewhere(tmp_path, "0.input.lock", age=5.0)
        monkeypatch.setattr(time, "sleep", lambda _: os.utime(file))
        with pytest.raises(SystemExit, match="process 1 on elsewhere"):
            make_way(own, locked(tmp_path))
        assert (tmp_path / "locks/0.input.lock").exists()


@pytest.mark.parametrize("content", ["", "{", "{}", '{"host": "elsewhere", "pid": 1, "started": 1.0}'])
def test_a_file_that_is_no_driver_s_is_no_reason_to_wait(content: str, tmp_path: Path) -> None:
    (tmp_path / "drivers").mkdir()
    (tmp_path / "drivers/x.json").write_text(content)
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks/0.input.lock").touch()
    with registered(tmp_path) as own:
        make_way(own, locked(tmp_path))
    assert not any((tmp_path / "drivers").iterdir())


def test_the_parts_of_snakemake_that_keep_locks_have_their_names() -> None:
    """Else `ignore_stale_locks` does nothing."""
    from snakemake.persistence import PersistenceBase as Persistence

    before = Persistence.lock, Persistence.lock_warn_only
    ignore_stale_locks(Persistence)
    changed = Persistence.lock, Persistence.lock_warn_only
    Persistence.lock, Persistence.lock_warn_only = before
    assert changed[0] is not before[0] and changed[1] is not before[1]


def state(graph: Graph) -> dict[str, tuple[int, int]]:
    """All files of the results, and of what Snakemake and its drivers know of them."""
    folders = [graph.folder / name for name in ("results", ".snakemake/drivers", ".snakemake/locks")]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in files}


@pytest.mark.graph
def test_a_second_snakemake_for_the_same_files_names_the_first(tmp_path: Path) -> None:
    """A dry run says what it would do meanwhile, and writes nothing; so it does after the first was killed."""
    graph = Graph.fresh(tmp_path)
    graph.edit("scales/smoke.yaml", "steps: 40,", "steps: 100000,")
    graph.run(str(RESULTS / "tokenizers/pca/seed0/tokenizer.json"))
    target = str(RESULTS / "pretrain/pca/seed0/model.safetensors")
    first = graph.start(target)
    while not graph.checkpoint("pca").exists():
        assert first.poll() is None, graph.said.read_text()
        time.sleep(0.1)
    os.kill(first.pid, signal.SIGSTOP)  # so that nothing but the dry run writes
    for job in graph.jobs():
        os.kill(job, signal.SIGSTOP)
    before = state(graph)
    said = graph.dry_run(target)
    assert "pretrain" in said and "cannot be locked" not in said
    assert state(graph) == before
    second = graph.start(target)
    assert second.wait(timeout=120) == 1
    said = graph.said.read_text()
    assert f"process {first.pid} on {socket.gethostname()}" in said
    assert "--unlock" not in said and "LockException" not in said and "Traceback" not in said
    assert state(graph) == before
    locks = set((graph.folder / ".snakemake/locks").iterdir())
    other = graph.start(str(RESULTS / "pixels/seed0/probe.json"))  # other files
    assert other.wait(timeout=120) == 0, graph.said.read_text()
    assert set((graph.folder / ".snakemake/locks").iterdir()) == locks != set()
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    before = state(graph)
    assert "Directory cannot be locked" not in graph.dry_run(target)
    assert state(graph) == before
    third = graph.start(str(RESULTS / "classifiers/resnet/seed0/weights.safetensors"))
    assert third.wait(timeout=120) == 0, graph.said.read_text()
