"""The last lines of a run: tables, numbers and their paths, or why jobs have failed; no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ldae.overview.state import State
from ldae.overview.status import log_of, progress_of
from ldae.study.definitions import ViewDefinition, describe
from ldae.study.graph import PAGES, Graph
from ldae.study.stages import STAGES
from ldae.study.study import Study

if TYPE_CHECKING:
    from ldae.readers.results import Results


def outcome(study: Study, root: Path, names: list[str]) -> Iterator[str]:
    """A finished run's results: a row's accuracy, a table in full, and the path of each, as lines.

    Args:
        study: with its scale.
        root: the folder that holds `results/`.
        names: the rows, sweeps and other targets of the run.
    """
    graph = Graph(study, root)
    targets = [name for name in names if name not in study.variants and name not in study.sweeps]
    yield from _rows(graph, study.rows(name for name in names if name not in targets))
    for name in targets:
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


def results_of(graph: Graph, view: ViewDefinition) -> Results:
    """The results on disk of the rows of a view, at the seeds that it has for each."""
    from ldae.readers.results import collect

    jobs = graph.jobs_for(dict.fromkeys(row.name for row in view.rows))
    jobs = [job for job in jobs if job.key.get("seed") in view.seeds and job.record.is_file()]
    records = {stage: [job.record for job in jobs if job.entry is STAGES[stage]] for stage in STAGES}
    return collect(
        view,
        dataset=graph.jobs["dataset"].record,
        probes=records["probe"],
        untrained=records["probe_untrained"],
        finetunes=records["finetune"],
        distances=records["judge"],
    )


def _rows(graph: Graph, rows: list[str]) -> Iterator[str]:
    """The numbers of rows over all seeds, each with the record of its first probe."""
    from ldae.readers.layout import interval

    if not rows:
        return
    found = results_of(graph, describe(graph, rows))
    for name, row in found.rows.items():
        numbers = [f"accuracy {interval(row.accuracy, ' %')}, with random weights {100 * row.random.value:.1f} %"]
        if row.finetuned is not None:
            numbers.append(f"fine-tuned {interval(row.finetuned, ' %')}")
        if row.distance is not None:
            numbers.append(f"{row.distance.name} {row.distance.infinite:.2f} ± {row.distance.error:.2f}")
        yield f"{name}: {'; '.join(numbers)}"
        first, *others = row.seeds
        more = f" and {len(others)} more {'seed' if len(others) == 1 else 'seeds'}" if others else ""
        yield f"    {graph.jobs[f'probe/{graph.study.probes[name]}/seed{first}'].record}{more}"


def _target(graph: Graph, name: str) -> Iterator[str]:
    """The first table of a target in full, and the paths of its files; of the common targets, the path of the page."""
    jobs = graph.jobs_for([name])
    tables = [job for job in jobs if job.stage in ("table", "claims", "variation", "cost")]
    if tables and (len(jobs) == 1 or name in ("main", "all")):
        yield tables[0].files[0].read_text(encoding="utf-8").rstrip()
        yield ""
    if name in ("main", "all"):
        page = {"main": "report_main", "all": "report"}[name]
        yield f"All of it on one page: {graph.jobs[page].files[0]}"
        return
    for job in jobs:
        yield f"{'the page: ' if job.place in PAGES else ''}{job.files[0]}"
