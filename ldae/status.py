"""Where a study stands: which of its jobs have run, run, or failed, and what would run again and why; no torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from tabulate import tabulate

from ldae.files import read_json
from ldae.plan import Forecast, Job, rows_of, size_of
from ldae.process import HEARTBEAT_SECONDS, holder
from ldae.record import Lineage
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
    results = root / "results" / study.scale_name
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


def changes(made: Lineage, wanted: Lineage) -> list[str]:
    """What differs between the lineage of a result and the one that it should have now, a line each."""
    found = []
    for stage in {**wanted, **made}:
        if stage not in made or stage not in wanted:
            found.append(f"{stage}: {'is new' if stage not in made else 'is gone'}")
            continue
        before, after = made[stage], wanted[stage]
        if before["revision"] != after["revision"]:
            found.append(f"{stage}: revision {before['revision']} -> {after['revision']}")
        old, new = dict(leaves(before["spec"])), dict(leaves(after["spec"]))
        found += [
            f"{stage}: {key} {old.get(key, 'default')} -> {new.get(key, 'default')}"
            for key in {**old, **new}
            if old.get(key) != new.get(key)
        ]
    return found


def leaves(values: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """The values of a nested mapping by dotted keys."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def why(study: Study, root: Path, targets: list[str]) -> str:
    """What of targets would run, and because of which change, as text; the arguments are those of `status`."""
    results = root / "results" / study.scale_name
    jobs: dict[str, list[str]] = {}
    for job in Forecast(study, results, size_of(study, results, None)).jobs(rows_of(study, targets)):
        if not job.record.is_file():
            reasons = ["has not run yet"]
        else:
            reasons = changes(read_json(job.record)["lineage"], job.made)
        for reason in reasons:
            jobs.setdefault(reason, []).append(f"{job.stage} {job.name}")
    if not jobs:
        return "Nothing would run: every result was made from what the study says now."
    text = []
    for reason, names in jobs.items():
        shown = "; ".join(names[:4]) + (f"; and {len(names) - 4} more" if len(names) > 4 else "")
        text.append(f"{reason}\n    {len(names)} {'job' if len(names) == 1 else 'jobs'}: {shown}")
    return "\n".join(text)
