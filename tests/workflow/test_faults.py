"""Thirty kills at random over the graph: any process of it, anywhere in its work, each followed by a plain start."""

from __future__ import annotations

import itertools
import math
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from graph import RESULTS, Graph

from ldae.overview.plan import plan
from ldae.overview.status import status
from ldae.stages.prepare import CHUNK
from ldae.study.scale import Photos
from ldae.study.study import Study

pytestmark = [pytest.mark.faults, pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux's pidfd")]

KILLS = int(os.environ.get("LDAE_FAULTS_KILLS", "30"))  # eight at least, for every kind of process to be among them
LATEST = 4.0  # seconds from the first sight of a process of a kind to the kill
CORES = 2  # of a graph of the tests
KINDS = {  # what a process of the graph is, by its command line; the first that fits
    "worker": rb"multiprocessing\.spawn",
    "shell": rb"bash\0-c\0|/bash\0-c",
    "stage": rb"/ldae\0",
    "driver": rb"snakemake",
}


class Process(NamedTuple):
    """A living process of a graph."""

    pid: int
    kind: str
    what: str  # e.g. the stage that it runs


def processes(graph: Graph) -> list[Process]:
    """All that work in a graph's folder now and will go on if nobody stops them."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
            inside = os.readlink(entry / "cwd") == str(graph.folder)
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:  # it has ended meanwhile
            continue
        kind = next((kind for kind, pattern in KINDS.items() if re.search(pattern, command)), None)
        if inside and state not in "ZX" and kind is not None:
            stage = re.search(rb"ldae[\0 ]([a-z-]+)", command)
            found.append(Process(int(entry.name), kind, stage[1].decode() if stage else ""))
    return found


@contextmanager
def held(process: Process) -> Iterator[int]:
    """A descriptor of a process, which cannot come to mean another one as a number can."""
    descriptor = os.pidfd_open(process.pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def strike(
    graph: Graph, driver: subprocess.Popen[bytes], kind: str, delay: float, chance: random.Random
) -> Process | None:
    """Kills a process of a kind, so long after the first one is seen; None when the driver has ended before.

    Where none of that kind is left by then, or none comes for long, because the kills before have left it nothing to
    do, any other is hit.
    """
    started, seen = time.monotonic(), math.inf
    while driver.poll() is None:
        now, living = time.monotonic(), processes(graph)
        victims = [process for process in living if process.kind == kind]
        seen = min(seen, now) if victims else seen
        if now - seen >= delay or now - started >= 60:
            victim = chance.choice(victims or living or [Process(driver.pid, "driver", "")])
            try:
                with held(victim) as descriptor:
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            except ProcessLookupError:  # it has ended just now
                continue
            return victim
        time.sleep(0.02)
    return None


class Trainings:
    """The finished trainings of a graph, none of which may be trained again."""

    def __init__(self, graph: Graph) -> None:
        self.folder = graph.folder / RESULTS / "resume"
        self.known: dict[Path, tuple[int, int]] = {}

    def check(self) -> None:
        """Fails if a training that was finished has been taken up again: its last file would be another one."""
        for path in self.folder.rglob("finished.pt"):
            about = path.stat()
            first = self.known.setdefault(path, (about.st_ino, about.st_mtime_ns))
            assert first == (about.st_ino, about.st_mtime_ns), f"{path} was made twice"


def fresh(folder: Path) -> Graph:
    """A graph whose preparation and trainings outlast every delay of a kill, however fast the machine is."""
    folder.mkdir()
    graph = Graph.fresh(folder)
    study = Study.load(graph.folder, {"scale": "smoke"}).scale
    assert isinstance(study.dataset, Photos) and study.training.steps is not None
    chunks = study.dataset.train // CHUNK
    slower(graph, "ldae/stages/prepare.py", "array.flush()", 2 * LATEST * CORES / chunks)
    slower(graph, "ldae/training/loop.py", "run.update(inputs, labels)", 2 * LATEST / study.training.steps)
    return graph


def slower(graph: Graph, file: str, call: str, seconds: float) -> None:
    """Makes a call in a graph's own code take so much longer."""
    graph.edit(file, call, f"(__import__('time').sleep({seconds}), {call})[1]")


def begun(finished: Graph, folder: Path) -> Graph:
    """A graph whose images and tokenizer are there already, so that kills reach what comes after them."""
    graph = Graph(shutil.copytree(finished.folder, folder))
    for name in ("pretrain", "probe", "tables", "figures", "resume"):
        shutil.rmtree(folder / RESULTS / name)
    return graph


def attack(graph: Graph, kills: int, counts: Counter[str], chance: random.Random) -> list[Process]:
    """Starts a graph and hits it, again and again, so often or until it has come to its end; what was hit.

    The next kind to be hit is one of those that were hit least.
    """
    trainings, struck = Trainings(graph), []
    for _ in range(kills):
        prepared = (graph.folder / RESULTS / "dataset/manifest.json").exists()
        kinds = [kind for kind in KINDS if kind != "worker" or not prepared]  # nobody else has a pool
        so_far = counts + Counter(victim.kind for victim in struck)
        kind = chance.choice([kind for kind in kinds if so_far[kind] == min(so_far[other] for other in kinds)])
        driver = graph.start()
        victim = strike(graph, driver, kind, chance.uniform(0.0, LATEST), chance)
        code = driver.wait(timeout=900)  # a driver whose job was killed gives up; a killed one is gone
        graph.wait_for_jobs_to_end(60)
        trainings.check()
        ask(graph)
        if code == 0:
            break
        assert victim is not None, graph.said.read_text()  # nothing fails unless it is hit
        struck.append(victim)
        print(f"killed a {victim.kind} {victim.what}", flush=True)
    graph.run()
    trainings.check()
    return struck


def test_thirty_kills_anywhere_end_in_the_same_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seed = int(os.environ.get("LDAE_FAULTS_SEED", time.time_ns() % 2**32))
    chance = random.Random(seed)
    struck: list[Process] = []
    counts: Counter[str] = Counter()
    with capsys.disabled():
        print(f"\nLDAE_FAULTS_SEED={seed}", flush=True)
        undisturbed = fresh(tmp_path / "undisturbed")
        undisturbed.run()
        for number in itertools.count():
            if len(struck) >= KILLS:
                break
            folder = tmp_path / f"graph{number}"
            graph = begun(undisturbed, folder) if number % 2 else fresh(folder)
            hits = attack(graph, min(KILLS // 2, KILLS - len(struck)), counts, chance)
            assert graph.tables() == undisturbed.tables()
            assert hits, "the graph ended before it could be hit once"
            struck += hits
            counts.update(victim.kind for victim in hits)
        print(f"{len(struck)} kills over {number} graphs, seed {seed}: {dict(counts)}")
    assert set(counts) == set(KINDS), f"not all kinds were hit: {counts}"


def ask(graph: Graph) -> None:
    """What a person would ask after a crash is answered, whatever it has left."""
    study = Study.load(graph.folder, {"scale": "smoke"})
    assert "trainings at scale smoke" in status(study, graph.folder, ["main"])
    assert "Left to do" in plan(study, graph.folder, ["main"])
