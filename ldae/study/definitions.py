"""What the commands of tables, figures, claims and pages receive about the study; no torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ldae.study.base import Config
from ldae.study.file import Claim, DimensionFigure, Paper, SchedulesFigure, Target, VariationFigure
from ldae.study.measures import MeasureName
from ldae.study.rates import rate_in_words
from ldae.study.record import digest
from ldae.study.rows import Point
from ldae.study.spec import Spec

if TYPE_CHECKING:
    from ldae.study.graph import Graph, Job

# Paths of records below the folder of results, with `{seed}` for a seed; the lineage digest of each, and its seeds.
Records = tuple[tuple[str, str, tuple[int, ...]], ...]


class RowDefinition(Config):
    """A row as readers see it, with the lineage digests that its results should have."""

    name: str
    label: str
    paper: Paper
    run: str  # the row that was trained
    probe: str  # the row whose probe has the numbers
    untrained: str  # the row whose probe of an untrained network has the numbers with random weights
    offset: int  # of the probed block
    seeds: tuple[int, ...]  # its replications
    lineage: str  # of the probe
    untrained_lineage: str  # of the untrained network's
    finetuned: str | None = None  # None for a row without fine-tuning
    distance: str | None = None  # None for a row without samples


class ViewDefinition(Config):
    """The rows of a view, and what all their results share."""

    rows: tuple[RowDefinition, ...]
    seeds: tuple[int, ...]  # of any of them, in the study's order
    pixels: str  # the lineage digest of the probe of raw pixels
    own_splits: bool = False  # whether each seed has validation images of its own
    shared: tuple[str, ...] = ()  # parts that all seeds have in common


class SeriesDefinition(Config):
    """A sweep under its label in a view."""

    label: str
    rows: tuple[tuple[str, Any], ...]  # each row with its value of the key that the sweep changes


class FilterDefinition(Config):
    """A tokenizer whose filters a figure shows."""

    label: str
    tokenizer: str
    dim: int


class TableDefinition(ViewDefinition):
    """A table; on a page it has no rows of its own."""

    name: str
    title: str
    columns: tuple[MeasureName, ...]
    series: tuple[SeriesDefinition, ...] | None = None  # None for a table with a line for each row


class ClaimDefinition(Claim):
    """A claim of the paper by its name."""

    name: str
    rows: tuple[str, ...]
    points: tuple[tuple[str, Any], ...] = ()  # the rows of the sweep `peak` with their values


class SettingDefinition(Config):
    """A variation at one value of its key, or as a whole if it has none."""

    value: Any = None
    text: str
    rows: dict[str, str]  # for each row, the row that has the further change


class VariationDefinition(ViewDefinition):
    """Claims that are also judged where all rows have a further change."""

    name: str
    key: str | None  # the key that has several values
    base: Any = None  # its value in all rows without the further change; None where they differ
    settings: tuple[SettingDefinition, ...]
    claims: tuple[ClaimDefinition, ...]


class FigureDefinition(ViewDefinition):
    """A figure; what its kind does not show is empty, and on a page it has no rows of its own."""

    name: str
    title: str
    kind: str
    series: tuple[SeriesDefinition, ...] = ()
    filters: tuple[FilterDefinition, ...] = ()
    schedules: dict[str, str] = {}  # noise schedules by label
    variation: VariationDefinition | None = None  # without rows of its own


class ClaimsDefinition(ViewDefinition):
    """The claims of the paper."""

    claims: tuple[ClaimDefinition, ...]


class PageRow(RowDefinition):
    """A row of a page, and where it comes from."""

    parent: str | None
    changes: dict[str, tuple[Any, Any]]  # by dotted key: the parent's value and the row's own
    spec: dict[str, Any]
    records: Records
    tokenizer: str | None = None  # None for a method without one
    rate: str | None = None  # the rate of its training in words; None for published weights


class PageDefinition(ViewDefinition):
    """A page: the tables, figures, claims and rows of some common targets."""

    rows: tuple[PageRow, ...]
    records: Records  # of the jobs that serve all rows
    scale: str
    settings: dict[str, Any]  # the scale's file, without what jobs ask of the machine
    revisions: dict[str, int]
    tables: tuple[TableDefinition, ...]
    figures: tuple[FigureDefinition, ...]
    claims: tuple[ClaimDefinition, ...]
    variations: dict[str, str] = {}  # under which the claims may have been judged too, with the lineage digests


class CostDefinition(Config):
    """A table of cost."""

    results: tuple[str, ...]  # the places of the results whose cost it adds up


def describe(graph: Graph, names: Iterable[str]) -> ViewDefinition:
    """The rows behind the names of rows and sweeps."""
    study, names = graph.study, list(names)
    return ViewDefinition(
        rows=tuple(_row(graph, point) for name in names for point in study.points(name)),
        seeds=study.seeds_of(study.rows(names)),
        pixels=digest(graph.job_at(f"pixels/seed{study.file.seeds[0]}").lineage),
        own_splits=study.own_splits,
        shared=study.scale.shared,
    )


def table_definition(graph: Graph, name: str) -> TableDefinition:
    """A table of the study."""
    table = graph.study.file.tables[name]
    return TableDefinition(
        **dict(describe(graph, table.names)),
        name=name,
        title=table.title,
        columns=table.columns,
        series=_series(graph, table.series) if table.series is not None else None,
    )


def figure_definition(graph: Graph, name: str) -> FigureDefinition:
    """A figure of the study."""
    figure = graph.study.file.figures[name]
    more: dict[str, Any] = {}
    if isinstance(figure, SchedulesFigure):
        more["schedules"] = figure.schedules
    elif isinstance(figure, DimensionFigure):
        tokenizers = {label: graph.study.variants[row].spec.tokenizer for label, row in figure.filters.items()}
        more["filters"] = [{"label": label, "tokenizer": t.name, "dim": t.dim} for label, t in tokenizers.items()]
        more["series"] = _series(graph, figure.series)
    elif isinstance(figure, VariationFigure):
        more["variation"] = variation_definition(graph, figure.variation).model_copy(update={"rows": ()})
    return FigureDefinition(
        **dict(describe(graph, figure.names)), name=name, title=figure.title, kind=figure.kind, **more
    )


def claims_definition(graph: Graph) -> ClaimsDefinition:
    """The paper's claims and their rows."""
    names = dict.fromkeys(name for claim in graph.study.file.claims.values() for name in claim.names)
    return ClaimsDefinition(**dict(describe(graph, names)), claims=_claims(graph))


def variation_definition(graph: Graph, name: str) -> VariationDefinition:
    """The claims under a variation of the study."""
    study, settings = graph.study, graph.study.variations[name]
    key, covered = study.file.variations[name].key, study.claims_under(name)
    values = [study.variants[row].spec.value(key) for row in settings[0].rows] if key is not None else [None]
    return VariationDefinition(
        **dict(describe(graph, [name])),
        name=name,
        key=key,
        base=values[0] if all(value == values[0] for value in values) else None,
        settings=tuple(SettingDefinition(value=one.value, text=one.text, rows=one.rows) for one in settings),
        claims=tuple(claim for claim in _claims(graph) if claim.name in covered),
    )


def page_definition(graph: Graph, *targets: Target) -> PageDefinition:
    """A page of some common targets."""
    study, names = graph.study, graph.study.rows_on_page(*targets)
    view = describe(graph, names)
    jobs = [*(graph.jobs[f"pixels/seed{seed}"] for seed in view.seeds), *graph.jobs_of(names)] if names else []
    tables = [table_definition(graph, name) for name, table in study.file.tables.items() if table.target in targets]
    figures = [figure_definition(graph, name) for name, each in study.file.figures.items() if each.target in targets]
    return PageDefinition(
        rows=tuple(_page_row(graph, row) for row in view.rows),
        seeds=view.seeds,
        pixels=view.pixels,
        own_splits=view.own_splits,
        shared=view.shared,
        records=_records(graph, (job for job in jobs if "row" not in job.key)),
        scale=study.scale_name,
        # what a job asks of the machine changes no result
        settings=study.scale.model_dump(mode="json", by_alias=True, exclude={"resources"}),
        revisions=study.file.revisions,
        tables=tuple(table.model_copy(update={"rows": ()}) for table in tables),
        figures=tuple(figure.model_copy(update={"rows": ()}) for figure in figures),
        claims=_claims(graph) if "all" in targets else (),
        variations={name: _digest(graph, f"tables/claims_{name}") for name in study.variations if "all" in targets},
    )


def _row(graph: Graph, point: Point) -> RowDefinition:
    study = graph.study
    variant, probe, run = study.variants[point.variant], study.probes[point.variant], study.runs[point.variant]
    untrained, seed = study.untrained[point.variant], study.seeds[point.variant][0]  # all seeds have the same lineages
    return RowDefinition(
        name=variant.name,
        label=point.label,
        paper=point.paper,
        run=run,
        probe=probe,
        untrained=untrained,
        offset=variant.spec.features.offset,
        seeds=study.seeds[variant.name],
        lineage=_digest(graph, f"probe/{probe}/seed{seed}"),
        untrained_lineage=_digest(graph, f"untrained/{untrained}/seed{seed}"),
        finetuned=_digest(graph, f"finetune/{variant.name}/seed{seed}") if variant.finetune else None,
        distance=_digest(graph, f"judge/{run}/seed{seed}") if variant.fid else None,
    )


def _page_row(graph: Graph, row: RowDefinition) -> PageRow:
    study = graph.study
    variant = study.variants[row.name]
    parent = study.variants[variant.parent].spec if variant.parent is not None else Spec()
    return PageRow(
        **dict(row),
        parent=variant.parent,
        changes=variant.spec.changes(parent),
        spec=variant.spec.model_dump(exclude_defaults=True),
        records=_records(graph, (job for job in graph.jobs_of([row.name]) if "row" in job.key)),
        tokenizer=variant.spec.tokenizer.name if study.is_denoiser(row.name) else None,
        rate=None if study.is_published(row.name) else rate_in_words(study, row.name),
    )


def _series(graph: Graph, series: dict[str, str]) -> tuple[SeriesDefinition, ...]:
    return tuple(SeriesDefinition(label=label, rows=_points(graph, sweep)) for label, sweep in series.items())


def _points(graph: Graph, sweep: str) -> tuple[tuple[str, Any], ...]:
    return tuple((point.variant, point.value) for point in graph.study.points(sweep))


def _claims(graph: Graph) -> tuple[ClaimDefinition, ...]:
    return tuple(
        ClaimDefinition(
            **dict(claim),
            name=name,
            rows=tuple(graph.study.rows(claim.names)),
            points=_points(graph, claim.peak) if claim.peak is not None else (),
        )
        for name, claim in graph.study.file.claims.items()
    )


def _records(graph: Graph, jobs: Iterable[Job]) -> Records:
    """The records of jobs, those that differ in the seed alone together."""
    found: dict[str, tuple[str, list[int]]] = {}
    for job in jobs:
        assert job.entry is not None  # views are not among them
        place = job.entry.place.format(**{**job.key, "seed": "{seed}"})
        found.setdefault(f"{place}/{job.record.name}", (digest(job.lineage), []))[1].append(job.key.get("seed", 0))
    return tuple((path, lineage, tuple(seeds)) for path, (lineage, seeds) in found.items())


def _digest(graph: Graph, place: str) -> str:
    """The lineage digest of the result at a place."""
    return digest(graph.job_at(place).lineage)
