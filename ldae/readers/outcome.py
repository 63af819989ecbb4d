"""What a run has come to, for its last lines: tables, numbers and their paths, or why jobs have failed; no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ldae.measures.intervals import Estimate
from ldae.overview.state import State
from ldae.overview.status import log_of, progress_of
from ldae.study.definitions import describe
from ldae.study.graph import PAGES, Graph
from ldae.study.study import Study


def outcome(study: Study, root: Path, names: list[str]) -> Iterator[str]:
    """A finished run's results: a row's accuracy, a table in full, and the path of each, as lines.

    Args:
        study: with its scale.
        root: the folder that holds `results/`.
        names: the rows, sweeps and other targets that have been run.
    """
    graph = Graph(study, root)
    rows = [row for name in names if name in study.variants or name in study.sweeps for row in study.rows([name])]
    yield from _rows(graph, rows)
    for name in names:
        if name not in study.variants and name not in study.sweeps:
            yield from _target(graph, name)


def failures(study: Study, root: Path, names: list[str], *, since: float) -> Iterator[str]:
    """The jobs that have failed since a time, in seconds since 1970: the last line of each one's log, and its path."""
    state = State(Graph(study, root))
    for job in state.graph.all_jobs_for(names):
        log = log_of(job, state.graph)
        if not log.is_file() or log.stat().st_mtime < since:
            continue
        progress = progress_of(job, state, driven=False)
        if progress.word == "failed":
            yield f"{job.title} has failed: {progress.last_line}"
            yield f"    its log: {log}"


def _rows(graph: Graph, rows: list[str]) -> Iterator[str]:
    """The numbers of rows over all seeds, each with the record of its first probe."""
    from ldae.readers.results import collect

    if not rows:
        return
    jobs = graph.jobs_for(rows)
    records = {stage: [job.record for job in jobs if job.stage == stage] for stage in ("probe", "finetune", "judge")}
    found = collect(
        describe(graph, rows),
        dataset=graph.jobs["dataset"].record,
        probes=records["probe"],
        finetunes=records["finetune"],
        distances=records["judge"],
    )
    seeds = graph.study.file.seeds
    for row, result in found.rows.items():
        words = [f"accuracy {_percent(result.accuracy)}, with random weights {100 * result.random.value:.1f} %"]
        if result.finetuned is not None:
            words.append(f"fine-tuned {_percent(result.finetuned)}")
        if result.distance is not None:
            words.append(f"{result.distance.name} {result.distance.infinite:.2f} ± {result.distance.error:.2f}")
        place = graph.jobs[f"probe/{graph.study.probes[row]}/seed{seeds[0]}"].record
        yield f"{row}: {'; '.join(words)}"
        others = f" and {len(seeds) - 1} more {'seed' if len(seeds) == 2 else 'seeds'}" if len(seeds) > 1 else ""
        yield f"    {place}{others}"


def _target(graph: Graph, name: str) -> Iterator[str]:
    """A table in full and its path, the path of a figure or a page, and of the common targets a table and the page."""
    jobs = graph.jobs_for([name])
    tables = [job for job in jobs if job.stage in ("table", "claims", "cost")]
    if len(jobs) == 1 or name in ("main", "all"):
        shown = [job.files[0] for job in tables][:1]
        yield from (shown[0].read_text(encoding="utf-8").rstrip(), "") if shown else ()
    if name in ("main", "all"):
        page = {"main": "report_main", "all": "report"}[name]
        yield f"All of it on one page: {graph.jobs[page].files[0]}"
        return
    for job in jobs:
        yield f"{'the page: ' if job.place in PAGES else ''}{job.files[0]}"


def _percent(share: Estimate) -> str:
    return f"{100 * share.value:.1f} % [{100 * share.low:.1f}, {100 * share.high:.1f}]"
