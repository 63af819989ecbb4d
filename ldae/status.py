"""Where a study stands: which of its jobs have run, run, or failed, and what would run again and why; no torch."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate

from ldae.plan import Forecast, Job, rows_of, size_of
from ldae.process import HEARTBEAT_SECONDS, holder
from ldae.study.graph import Graph
from ldae.variants import Study

PROGRESS = re.compile(r"\((?P<percent>\d+) %\), (?P<rate>[\d,]+ \S+/s), (?P<left>\S+) left")
RESUMED = ("pretrain", "tokenizer", "classifier", "finetune")  # the stages that write checkpoints
STALE_SECONDS = 6 * HEARTBEAT_SECONDS
MISTAKE = "ldae: "  # how the last line of a command begins that has found one
SHOWN = ("running", "stale", "failed")


class State(NamedTuple):
    """How a training job is doing."""

    word: str  # done, outdated, running, stale, failed or waiting
    progress: str = ""
    rate: str = ""
    left: str = ""
    heartbeat: str = ""
    said: str = ""  # the last line of its log


def status(study: Study, root: Path, targets: list[str]) -> str:
    """Every training's progress, rate, time left and heartbeat, and the last words of all jobs that failed, as text.

    Args:
        study: with its scale.
        root: the folder that holds `results/`.
        targets: whose jobs; as snakemake takes them.
    """
    results = root / study.results
    jobs = Forecast(study, results, size_of(study, results, None)).jobs(rows_of(study, targets))
    states = {job: state_of(job, results) for job in jobs}
    counts = Counter(state.word for job, state in states.items() if job.stage in RESUMED)
    words = [f"{counts[word]} {word}" for word in ("done", "outdated", *SHOWN, "waiting") if counts[word]]
    others = sum(state.word == "failed" for job, state in states.items() if job.stage not in RESUMED)
    if others:
        words.append(f"and {others} other {'job' if others == 1 else 'jobs'} failed")
    lines = [
        [f"{job.stage} {job.name}", state.word, state.progress, state.rate, state.left, state.heartbeat, state.said]
        for job, state in states.items()
        if state.word in SHOWN
    ]
    headers = ["job", "state", "done", "rate", "left", "heartbeat", "last line of its log"]
    table = ["", tabulate(lines, headers, disable_numparse=True)] if lines else []
    trainings = f"{counts.total()} trainings at scale {study.scale_name}"
    return "\n".join([": ".join([trainings, ", ".join(words)][: 1 + bool(words)]), *table])


def state_of(job: Job, results: Path) -> State:
    """How a job is doing, by its record, its lock and its log; one without a lock has failed when its log says so."""
    if job.record.is_file():
        return State("done" if job.about() is not None else "outdated")
    place = job.record.parent.relative_to(results)
    log = (results / "logs" / place).with_suffix(".log")
    lines = log.read_text(errors="replace").split("\n") if log.is_file() else []
    said = next((line.strip() for line in reversed(lines) if line.strip()), "")
    matches = (PROGRESS.search(line) for line in reversed(lines))
    found = next((match for match in matches if match), None)
    reached = (f"{found['percent']} %", found["rate"], found["left"]) if found else ("", "", "")
    held = holder(results / "resume" / place)
    if held is not None:
        word = "running" if held.lives and held.age < STALE_SECONDS else "stale"
        return State(word, *reached, f"{held.age:.0f} s ago on {held.host}", said if word == "stale" else "")
    if lines and (job.stage in RESUMED or said.startswith(MISTAKE)):
        return State("failed", reached[0], said=said)
    return State("waiting")


def why(study: Study, root: Path, targets: list[str]) -> str:
    """What of targets would run, and because of which change, as text; the arguments are those of `status`."""
    jobs: dict[str, list[str]] = {}
    for job, reason in Graph(study, root).to_run(targets).items():
        jobs.setdefault(reason, []).append(job.title)
    if not jobs:
        return "Nothing would run: every result is what the study says now."
    text = []
    for reason, names in jobs.items():
        shown = "; ".join(names[:4]) + (f"; and {len(names) - 4} more" if len(names) > 4 else "")
        text.append(f"{reason}\n    {len(names)} {'job' if len(names) == 1 else 'jobs'}: {shown}")
    return "\n".join(text)
