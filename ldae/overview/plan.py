"""What a study will cost, before it runs: its jobs, their arithmetic, disk and time; no torch."""

from __future__ import annotations

import os
import statistics
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from ldae.data.sources import opening
from ldae.overview.state import State
from ldae.study.cost import Costs, DataSize
from ldae.study.graph import Graph, Job
from ldae.study.record import seconds_of
from ldae.study.scale import Photos
from ldae.study.stages import STAGES, Cost
from ldae.study.study import Study

START_SECONDS = 4.0  # of a process that imports torch
ASSUMED_CORE = 15e9  # FLOP/s of a CPU core where no job has run yet
SHARED = {stage.revision for stage in STAGES.values() if "processes" in stage.options}  # use all GPUs of the scale


@dataclass(frozen=True)
class Card:
    """The FLOP/s that an H100 has reached with networks of a width."""

    width: int  # of the network, at most
    words: str
    rates: dict[str, float]


# Where no job of a stage has run yet. Of narrow networks pretraining and the probe have been measured, with four jobs
# side by side (benchmarks/results/study-gpu-cuda.json); other stages are assumed to lose as much as pretraining does.
# Of wide networks each stage's loop has been measured (stages-imagenet-cuda.json).
CARDS = (
    Card(
        512,
        "an H100 shared by several jobs, with networks as narrow as those of the gpu scale",
        {"pretrain": 1.6e14, "probe": 0.7e14, "sample": 1.8e14, "finetune": 1.1e14, "convolutions": 0.5e14},
    ),
    Card(
        10**9,
        "an H100, with networks as wide as those of the imagenet scale",
        {"pretrain": 4e14, "probe": 4.4e14, "sample": 4.7e14, "finetune": 2.7e14, "convolutions": 1.2e14},
    ),
)


class Rates:
    """The FLOP/s of each stage: measured on this machine by the jobs on disk, or else assumed."""

    def __init__(self, study: Study, costs: Costs, root: Path) -> None:
        """Reads the records of all jobs of the scale that have run, whatever row or seed they belong to."""
        self.resources, width = study.scale.resources, study.scale.sizes["half-L"].width
        self.card = next(card for card in CARDS if width <= card.width)
        names = (path.name.removeprefix("seed") for path in (root / study.results).glob("*/*/seed*"))
        graph = Graph(study.with_seeds(sorted(int(name) for name in names if name.isdecimal())), root)
        state = State(graph)
        self.ran: list[tuple[str, float, float]] = []  # stage, FLOPs and seconds of each finished job
        for job in graph.jobs.values():
            flops, record = costs.of(job).flops, state.matching_record(job)
            if flops and "provenance" in record:
                self.ran.append((job.stage, flops, seconds_of(record["provenance"])))
        self.measured: dict[str, float] = {}
        for stage in dict.fromkeys(stage for stage, _, _ in self.ran):
            of_stage = [(flops, seconds) for other, flops, seconds in self.ran if other == stage]
            net = sum(max(seconds - START_SECONDS, 0.1) for _, seconds in of_stage)
            self.measured[stage] = sum(flops for flops, _ in of_stage) / net

    def units(self, stage: str) -> int:
        """The GPUs, or without any the CPU cores, that a job of a stage uses."""
        if not self.resources.gpu:
            return self.resources.threads
        return self.resources.processes if stage in SHARED else 1

    def of(self, stage: str) -> float:
        """The FLOP/s of a job of a stage."""
        if stage in self.measured:
            return self.measured[stage]
        rates = self.card.rates
        return self.units(stage) * (rates.get(stage, rates["convolutions"]) if self.resources.gpu else ASSUMED_CORE)

    def seconds(self, stage: str, flops: float) -> float:
        """How long a job takes."""
        return START_SECONDS + flops / self.of(stage)


def size_of(state: State, images: int | None) -> tuple[DataSize, str]:
    """The size of the data set: of the prepared images, as given, as counted on the disk, or ImageNet's.

    Args:
        state: of the study's results.
        images: of the training set, where they are not prepared.

    Returns:
        The size, and a note on it: a mistake that would stop the preparation.
    """
    graph = state.graph
    dataset, record = graph.study.scale.dataset, state.matching_record(graph.jobs["dataset"])
    if record:
        train, val = (sum(record["counts"][split].values()) for split in ("train", "val"))
        return DataSize(train, val, len(record["classes"])), ""
    if images is not None and not isinstance(dataset, Photos):
        return DataSize(images, max(1, images // 20), opening.IMAGENET[2]), opening.problem(dataset) or ""
    try:
        return DataSize(*opening.count(dataset)), ""
    except (ValueError, OSError) as error:
        size = DataSize(*opening.IMAGENET)
        assumed = f"{size.train:,} images for training are assumed, as in ImageNet; --images N gives another number"
        return size, f"{error}\nSo {assumed}."


def plan(study: Study, root: Path, targets: list[str], *, images: int | None = None, slots: int | None = None) -> str:
    """A table of the cost of targets, stage by stage, as text.

    Args:
        study: with its scale.
        root: the folder that holds `results/`.
        targets: as snakemake takes them.
        images: of the training set, where they are not prepared.
        slots: jobs side by side; by default as many as this machine's cores allow, or one GPU.
    """
    graph, resources = Graph(study, root), study.scale.resources
    jobs = [job for job in graph.all_jobs_for(targets) if not job.is_view]
    state = State(graph)
    to_run = state.to_run(targets)
    left = {job for job in to_run if not job.is_view}
    if not left:
        views = [job.title for job in to_run]
        what = views[0] if len(views) == 1 else f"{len(views)} tables, figures and pages"
        rest = f"; {what} would be written again" if views else ""
        names = " ".join(targets)
        return f"Nothing left to do for {names} at scale {study.scale_name}: all {len(jobs)} jobs have run{rest}."
    data, problem = size_of(state, images)
    model = Costs(study, data)
    costs, rates = {job: model.of(job) for job in jobs}, Rates(study, model, root)
    seconds = {job: rates.seconds(job.stage, costs[job].flops) for job in left}
    units = sum(taken * rates.units(job.stage) for job, taken in seconds.items())
    slots = slots or (1 if resources.gpu else max(1, (os.cpu_count() or 1) // resources.threads))
    unit = "GPU" if resources.gpu else "CPU core"
    headers = ["stage", "jobs", "to do", "FLOPs", f"{unit} hours", "disk", "FLOP/s"]
    stages = dict.fromkeys(job.stage for job in jobs)
    lines = [_line([job for job in jobs if job.stage == stage], left, costs, rates) for stage in stages]
    notes = [
        f"Left to do: {units / 3600:.2f} {unit} hours, about {_time(sum(seconds.values()) / slots)} with "
        f"{slots} {'job' if slots == 1 else 'jobs'} at a time."
    ]
    if rates.ran:
        errors = [abs(rates.seconds(stage, flops) / taken - 1) for stage, flops, taken in rates.ran]
        notes.append(
            f"Rates are measured on {len(errors)} finished jobs; for half of them the estimate is within "
            f"{statistics.median(errors):.0%} of their time."
        )
    if any(job.stage not in rates.measured for job in jobs if costs[job].flops):
        words = rates.card.words if resources.gpu else "a slow core"
        notes.append(f"Rates in brackets are assumed ({words}), because no job of the stage has run at this scale.")
    table = tabulate(lines, headers, disable_numparse=True, colalign=["left"] + ["right"] * 6)
    return "\n".join([*([f"{problem}\n"] if problem else []), table, "", *notes])


def _line(jobs: list[Job], left: set[Job], costs: dict[Job, Cost], rates: Rates) -> list[str]:
    """The line of a stage."""
    stage, to_do = jobs[0].stage, [job for job in jobs if job in left]
    hours = sum(rates.seconds(stage, costs[job].flops) for job in to_do) * rates.units(stage) / 3600
    rate = f"{rates.of(stage):.1e}" if stage in rates.measured else f"({rates.of(stage):.1e})"
    return [
        stage,
        str(len(jobs)),
        str(len(to_do)),
        f"{sum(costs[job].flops for job in to_do):.1e}",
        f"{hours:.2f}",
        _size(sum(costs[job].disk for job in to_do)),
        rate if any(costs[job].flops for job in jobs) else "",
    ]


def _size(count: float) -> str:
    """Bytes for a reader."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _time(seconds: float) -> str:
    """A duration for a reader."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
