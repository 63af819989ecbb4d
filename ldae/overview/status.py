"""The progress of a study: its finished, running and failed jobs, and what would run again and why; no torch."""

from __future__ import annotations

import re
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate

from ldae.overview.state import State
from ldae.runtime.locking import SILENT_SECONDS, is_driven, read_holder
from ldae.runtime.progress import RESUMABLE
from ldae.study.graph import Graph, Job
from ldae.study.study import Study

PROGRESS = re.compile(r"\((?P<percent>\d+) %\), (?P<rate>[\d,]+ \S+/s), (?P<left>\S+) left")
STARTING_SECONDS = 300.0  # for imports on a slow file system
DONE = "done in "  # the start of a command's last line after success
MISTAKE = "ldae: "  # and after a user's mistake
INTERRUPTED = ("ldae: interrupted", "KeyboardInterrupt")
TRACEBACK = "Traceback (most recent call last)"
LISTED = ("running", "starting", "stale", "killed", "interrupted", "failed")


class JobProgress(NamedTuple):
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
    last_line: str = ""  # of its log


def status(study: Study, root: Path, targets: list[str]) -> str:
    """Each training's progress, rate, time left and heartbeat, and the last log line of each failed job, as text.

    Args:
        study: with its scale.
        root: the folder that holds `results/`.
        targets: of Snakemake, or rows; their jobs are listed.
    """
    state, driven = State(Graph(study, root)), is_driven(root / ".snakemake")
    states = {job: progress_of(job, state, driven=driven) for job in state.graph.all_jobs_for(targets)}
    trainings = Counter(progress.word for job, progress in states.items() if _is_training(job))
    others = Counter(progress.word for job, progress in states.items() if not _is_training(job))
    words = [f"{trainings[word]} {word}" for word in ("done", "outdated", *LISTED, "waiting") if trainings[word]]
    words += [f"and {_count(others[word], 'other job')} {word}" for word in ("interrupted", "failed") if others[word]]
    summary = f"{_count(trainings.total(), 'training')} at scale {study.scale_name}"
    lines = [[job.title, *progress] for job, progress in states.items() if progress.word in LISTED]
    headers = ["job", "state", "done", "rate", "left", "heartbeat", "last line of its log"]
    table = ["", tabulate(lines, headers, disable_numparse=True)] if lines else []
    return "\n".join([f"{summary}: {', '.join(words)}" if words else summary, *table])


def log_of(job: Job, graph: Graph) -> Path:
    """Where a job's log lies."""
    return graph.results / "logs" / f"{job.place}.log"


def progress_of(job: Job, state: State, *, driven: bool) -> JobProgress:
    """The progress of a job, from its record, its lock and its log.

    Args:
        job: of the graph.
        state: of the study's results.
        driven: whether a live Snakemake process may have started it.
    """
    graph = state.graph
    if state.is_current(job):
        return JobProgress("done")
    log = log_of(job, graph)
    lines = log.read_text(errors="replace").split("\n") if log.is_file() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    match = next((match for line in reversed(lines) if (match := PROGRESS.search(line))), None)
    reached = (f"{match['percent']} %", match["rate"], match["left"]) if match else ("", "", "")
    holder = read_holder(graph.results / "resume" / job.place / "lock")
    if holder is not None:
        age = time.time() - holder.heartbeat
        heartbeat = f"{age:.0f} s ago on {holder.host}"
        if not holder.has_ended and age < SILENT_SECONDS:
            return JobProgress("running", *reached, heartbeat)
        return JobProgress("killed" if holder.has_ended else "stale", *reached, heartbeat, last)
    if last.startswith(INTERRUPTED) or last.endswith(RESUMABLE):
        return JobProgress("interrupted", reached[0], last_line=last)
    if last.startswith(MISTAKE) or any(line.startswith(TRACEBACK) for line in lines):
        return JobProgress("failed", reached[0], last_line=last)
    if log.is_file() and _is_training(job) and not last.startswith(DONE):
        is_young = time.time() - log.stat().st_mtime < STARTING_SECONDS
        return JobProgress(("starting" if is_young else "stale") if driven else "killed", last_line=last)
    if not job.record.is_file():
        return JobProgress("waiting")
    is_current = state.record_of(job) is not None and state.outdated(job) is None  # though weights may be absent
    return JobProgress("done" if is_current else "outdated")


def why(study: Study, root: Path, targets: list[str]) -> str:
    """The jobs that would run, grouped by reason, as text; the arguments are those of `status`."""
    jobs: dict[str, list[str]] = {}
    for job, reason in State(Graph(study, root)).to_run(targets).items():
        jobs.setdefault(reason, []).append(job.title)
    if not jobs:
        return "Nothing would run: every result is current."
    text = []
    for reason, names in jobs.items():
        examples = "; ".join(names[:4]) + (f"; and {len(names) - 4} more" if len(names) > 4 else "")
        text.append(f"{reason}\n    {_count(len(names), 'job')}: {examples}")
    return "\n".join(text)


def _is_training(job: Job) -> bool:
    """Whether a job writes checkpoints."""
    return job.entry is not None and "resume" in job.entry.options


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
