"""What the commands of tables, figures, claims and pages are told about the study; no torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from ldae.study.file import DimensionFigure, RowsFigure, SchedulesFigure, Table, Target
from ldae.study.record import digest
from ldae.study.rows import Point, Variant
from ldae.study.spec import Spec

if TYPE_CHECKING:
    from ldae.study.graph import Graph, Job


def describe(graph: Graph, names: Iterable[str]) -> dict[str, Any]:
    """The rows of a view by the names of rows and sweeps, and the seeds."""
    return {
        "rows": [_row(graph, point) for name in names for point in graph.study.points(name)],
        "seeds": graph.study.file.seeds,
        "pixels": digest(graph.job_at("probe/pixels").lineage),
    }


def view_definition(graph: Graph, kind: Literal["tables", "figures"], view: str) -> dict[str, Any]:
    """A table or figure: its title, rows, labels, and the paper's numbers."""
    study = graph.study
    definition: Table | DimensionFigure | RowsFigure | SchedulesFigure = getattr(study.file, kind)[view]
    hidden = {"rows", "names", "target", "filters"}
    described = definition.model_dump(exclude=hidden, exclude_none=True) | describe(graph, definition.names)
    if series := getattr(definition, "series", None):
        described["series"] = [
            {"label": label, "rows": [[point.variant, point.value] for point in study.points(sweep)]}
            for label, sweep in series.items()
        ]
    if filters := getattr(definition, "filters", {}):
        described["filters"] = [
            {"label": label, "tokenizer": tokenizer.name, "dim": tokenizer.dim}
            for label, row in filters.items()
            for tokenizer in [study.variants[row].spec.tokenizer]
        ]
    return described


def claims_definition(graph: Graph) -> dict[str, Any]:
    """The paper's claims and the rows that they speak of."""
    described = []
    for name, claim in graph.study.file.claims.items():
        values = claim.model_dump(exclude_none=True) | {"name": name}
        if claim.peak is not None:
            values["peak"] = [[point.variant, point.value] for point in graph.study.points(claim.peak)]
        described.append(values)
    names = dict.fromkeys(name for claim in graph.study.file.claims.values() for name in claim.names)
    return describe(graph, names) | {"claims": described}


def page_definition(graph: Graph, *targets: Target) -> dict[str, Any]:
    """A page: the tables, figures, claims and rows of some common targets, and where each row comes from."""
    study = graph.study
    tables = {name: table for name, table in study.file.tables.items() if table.target in targets}
    figures = {name: figure for name, figure in study.file.figures.items() if figure.target in targets}
    claims = study.file.claims if "all" in targets else {}
    described = describe(graph, study.rows_on_page(*targets))
    for row in described["rows"]:
        row |= _origin(graph, study.variants[row["name"]])
    shared = [graph.jobs["probe/pixels"], *graph.jobs_of(study.rows_on_page(*targets))] if described["rows"] else []
    definitions = {name: graph.jobs[f"tables/{name}"].spec for name in tables}
    return described | {
        "records": _records(graph, (job for job in shared if "row" not in job.key)),
        "scale": study.scale_name,
        # what a job asks of the machine changes no result
        "settings": study.scale.model_dump(mode="json", by_alias=True, exclude={"resources"}),
        "revisions": study.file.revisions,
        "tables": [
            {"name": name, **{key: table[key] for key in ("title", "series", "columns") if key in table}}
            for name, table in definitions.items()
        ],
        "figures": [{"name": name, "title": figure.title, "kind": figure.kind} for name, figure in figures.items()],
        "claims": [
            {"name": name, "rows": study.rows(claim.names)}
            | claim.model_dump(include={"where", "above", "below", "within"}, exclude_none=True)
            for name, claim in claims.items()
        ],
    }


def _origin(graph: Graph, variant: Variant) -> dict[str, Any]:
    """Where a row comes from: its parent, what it changes of it, and its whole specification."""
    study = graph.study
    parent = study.variants[variant.parent].spec if variant.parent is not None else Spec()
    origin: dict[str, Any] = {
        "parent": variant.parent,
        "changes": {key: [before, after] for key, (before, after) in variant.spec.changes(parent).items()},
        "spec": variant.spec.model_dump(exclude_defaults=True),
        "records": _records(graph, (job for job in graph.jobs_of([variant.name]) if "row" in job.key)),
    }
    if study.is_denoiser(variant.name):
        origin["tokenizer"] = variant.spec.tokenizer.name
    return origin


def _row(graph: Graph, point: Point) -> dict[str, Any]:
    """A row as its readers see it, and the digests of what its results should be made from."""
    study = graph.study
    variant = study.variants[point.variant]
    row: dict[str, Any] = {
        "name": point.variant,
        "label": point.label,
        "paper": point.paper.model_dump(exclude_none=True),
        "run": study.runs[point.variant],
        "probe": study.probes[point.variant],
        "offset": variant.spec.features.offset,
        "lineage": _digest(graph, "probe", study.probes[point.variant]),
    }
    if variant.finetune:
        row["finetuned"] = _digest(graph, "finetune", point.variant)
    if variant.fid:
        row["distance"] = _digest(graph, "judge", study.runs[point.variant])
    return row


def _records(graph: Graph, jobs: Iterable[Job]) -> list[list[str]]:
    """The record of each job, below the folder of results, and the digest of what it should be made from; by seed."""
    ordered = sorted(jobs, key=lambda job: (job.key.get("seed", 0), list(graph.jobs).index(job.place)))
    return [[str(job.record.relative_to(graph.results)), digest(job.lineage)] for job in ordered]


def _digest(graph: Graph, folder: str, row: str) -> str:
    """The digest of what a row's result should be made from; it is the same for each seed."""
    return digest(graph.job_at(f"{folder}/{row}/seed{graph.study.file.seeds[0]}").lineage)
