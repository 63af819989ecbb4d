"""Where a study stands: which of its jobs have run, run, or failed, and what would run again and why; no torch."""

from __future__ import annotations

import re
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate

from ldae.overview.state import State
from ldae.runtime.folder_lock import SILENT_SECONDS, holder
from ldae.runtime.locking import is_driven
from ldae.runtime.progress import RESUMABLE
from ldae.study.graph import Graph, Job
from ldae.study.study import Study

PROGRESS = re.compile(r"\((?P<percent>\d+) %\), (?P<rate>[\d,]+ \S+/s), (?P<left>\S+) left")
STARTING_SECONDS = 300.0  # that imports may take on a slow file system
DONE = "done in "  # how the last line of a command begins that has ended well
MISTAKE = "ldae: "  # and of one that has found a mistake
INTERRUPTED = ("ldae: interrupted", "KeyboardInterrupt")
TRACEBACK = "Traceback (most recent call last)"
SHOWN = ("running", "starting", "stale", "killed", "interrupted", "failed")


class Progress(NamedTuple):
    """The state of a job and its progress.

    The state is `done`, `outdated` or `waiting`; `running` with a recent heartbeat, or `starting` without one yet;
    `stale` if the heartbeat is old; `killed` if its process ended without a message; `interrupted` by the user or
    before a time limit; or `failed` with an error. Jobs that are not done resume when they are started again.
    """

    word: str
    progress: str = ""
    rate: str = ""
    left: str = ""
    heartbeat: str = ""
    said: str = ""  # the last line of its log


def status(study: Study, root: Path, targets: list[str]) -> str:
    """Each training's progress, rate, time left and heartbeat, and the last log line of each failed job, as text.

    Args:
        study: with its scale.
        root: the folder that holds `results/`.
        targets: whose jobs; as snakemake takes them.
    """
    state, driven = State(Graph(study, root)), is_driven(root / ".snakemake")
    states = {job: progress_of(job, state, driven=driven) for job in state.graph.all_jobs_for(targets)}
    counts, others = (
        Counter(state.word for job, state in states.items() if _is_training(job) == trained)
        for trained in (True, False)
    )
    words = [f"{counts[word]} {word}" for word in ("done", "outdated", *SHOWN, "waiting") if counts[word]]
    words += [
        f"and {others[word]} other {'job' if others[word] == 1 else 'jobs'} {word}"
        for word in ("interrupted", "failed")
        if others[word]
    ]
    lines = [
        [job.title, state.word, state.progress, state.rate, state.left, state.heartbeat, state.said]
        for job, state in states.items()
        if state.word in SHOWN
    ]
    headers = ["job", "state", "done", "rate", "left", "heartbeat", "last line of its log"]
    table = ["", tabulate(lines, headers, disable_numparse=True)] if lines else []
    trainings = f"{counts.total()} {'training' if counts.total() == 1 else 'trainings'} at scale {study.scale_name}"
    return "\n".join([": ".join([trainings, ", ".join(words)][: 1 + bool(words)]), *table])


def log_of(job: Job, graph: Graph) -> Path:
    """Where a job's log lies."""
    return graph.results / "logs" / f"{job.place}.log"


def progress_of(job: Job, state: State, *, driven: bool) -> Progress:
    """The progress of a job, from its record, its lock and its log.

    Args:
        job: of the graph.
        state: of the study's results.
        driven: whether a Snakemake lives that may have started it.
    """
    graph = state.graph
    if state.is_current(job):
        return Progress("done")
    log = log_of(job, graph)
    lines = log.read_text(errors="replace").split("\n") if log.is_file() else []
    said = next((line.strip() for line in reversed(lines) if line.strip()), "")
    found = next((match for line in reversed(lines) if (match := PROGRESS.search(line))), None)
    reached = (f"{found['percent']} %", found["rate"], found["left"]) if found else ("", "", "")
    held = holder(graph.results / "resume" / job.place)
    if held is not None:
        heartbeat = f"{held.age:.0f} s ago on {held.host}"
        if held.lives and held.age < SILENT_SECONDS:
            return Progress("running", *reached, heartbeat)
        return Progress("stale" if held.lives else "killed", *reached, heartbeat, said)
    if said.startswith(INTERRUPTED) or said.endswith(RESUMABLE):
        return Progress("interrupted", reached[0], said=said)
    if said.startswith(MISTAKE) or any(line.startswith(TRACEBACK) for line in lines):
        return Progress("failed", reached[0], said=said)
    if log.is_file() and _is_training(job) and not said.startswith(DONE):
        young = time.time() - log.stat().st_mtime < STARTING_SECONDS
        return Progress(("starting" if young else "stale") if driven else "killed", said=said)
    return Progress("outdated" if job.record.is_file() else "waiting")


def why(study: Study, root: Path, targets: list[str]) -> str:
    """The jobs that would run, by the change that is the reason, as text; the arguments are those of `status`."""
    jobs: dict[str, list[str]] = {}
    for job, reason in State(Graph(study, root)).to_run(targets).items():
        jobs.setdefault(reason, []).append(job.title)
    if not jobs:
        return "Nothing would run: every result is current."
    text = []
    for reason, names in jobs.items():
        shown = "; ".join(names[:4]) + (f"; and {len(names) - 4} more" if len(names) > 4 else "")
        text.append(f"{reason}\n    {len(names)} {'job' if len(names) == 1 else 'jobs'}: {shown}")
    return "\n".join(text)


def _is_training(job: Job) -> bool:
    """Whether a job writes checkpoints."""
    return job.entry is not None and "resume" in job.entry.options
