"""The graph of a study: all its jobs with their inputs and lineages, and the jobs of each target; no torch.

The jobs of stages follow from the table in `stages.py`. Tables, figures and pages, which are called views, follow from
the study's file. Nothing here reads a result: `ldae.overview.state` says which results are current.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from ldae.study import definitions
from ldae.study.base import Config
from ldae.study.checking import StudyError, listed, nearest
from ldae.study.file import DimensionFigure, Figure, SchedulesFigure, Target, VariationFigure
from ldae.study.record import Lineage, digest, lineage, place_of, view_lineage
from ldae.study.stages import STAGES, Key, Stage
from ldae.study.study import Study

FIRST_SEED = {  # figures of single runs: the option of their command, the folder, and the file that they show
    "curves": ("histories", "pretrain", "history.csv"),
    "noise": ("pictures", "denoise", "pictures.npz"),
    "denoising": ("pictures", "denoise", "pictures.npz"),
    "samples": ("samples", "samples", "examples.npy"),
}
COMMON: dict[str, tuple[Target, ...]] = {  # the common targets, and the `target` of the views that belong to each
    "main": ("main",),
    "all": ("main", "all"),
    "all_tables": ("main", "all"),
    "all_figures": ("main", "all"),
}
PAGES: dict[str, tuple[str, tuple[Target, ...]]] = {  # each page: its table of cost, and the targets on it
    "report_main": ("cost", ("main",)),
    "report": ("cost_all", ("main", "all")),
}
BESIDE = {  # what the readers of a record open beside it
    "dataset": ("labels.npy", "groups.npy", "parts.npy"),
    "probe": ("correct.npz",),
    "finetune": ("correct.npz",),
}
ENDINGS = {  # the files of a view, beside its record
    "table": ("md", "csv", "tex"),
    "figure": ("png", "svg", "csv"),
    "claims": ("md", "csv"),
    "variation": ("md", "csv"),
    "cost": ("md", "csv"),
    "report": ("html",),
}


Reads = Mapping["Job", tuple[Path, ...]]  # jobs, and the files of each that another job opens


@dataclass(frozen=True, eq=False)
class Job:
    """One job of the graph."""

    stage: str  # its key in `revisions`; "table", "figure", "claims", "variation", "cost" or "report" for a view
    own: str  # its key in lineages
    name: str  # for a reader, e.g. "pca, seed 0"
    place: str  # where its result lies in the results folder, e.g. "pretrain/pca/seed0"
    record: Path  # the file with the result's lineage
    files: tuple[Path, ...]  # the other files that later jobs or people read
    lineage: Lineage  # the expected one
    inputs: dict[str, Job] = field(repr=False)  # the jobs whose results it reads, by the option of its command
    reads: Reads = field(repr=False)
    entry: Stage | None = None  # None for a view, which is cheap and runs whenever one of its inputs does
    key: Key = field(default_factory=dict)
    is_view: bool = False
    shows: tuple[Job, ...] = ()  # views that a page shows if they have been written, without asking for them

    @property
    def title(self) -> str:
        """The stage and the name, e.g. `probe pca, seed 0`; a name that starts with its stage stands alone."""
        return self.name if self.name.startswith(self.stage) else f"{self.stage} {self.name}"

    @property
    def spec(self) -> dict[str, Any]:
        """The settings of the job, or the definition of a view."""
        spec: dict[str, Any] = self.lineage[self.own]["spec"]
        return spec


class Graph:
    """All jobs of a study at its scale and seeds."""

    def __init__(self, study: Study, root: Path = Path()) -> None:
        """Describes the jobs of a resolved study; paths of records start with the project's folder `root`."""
        self.study, self.results = study, root / study.results
        self.jobs: dict[str, Job] = {}  # by place, each behind its inputs
        needed = {stage.place.format(**key): (stage, key) for stage in STAGES.values() for key in stage.keys(study)}
        self._stages = {_any_seed(stage, key): stage for stage, key in needed.values()}
        for place in needed:
            self.job_at(place)
        self._add_views()

    def job_at(self, place: str) -> Job:
        """The job of a place in the results folder, requested or not; raises a `KeyError` where no result belongs."""
        if place not in self.jobs:
            self.jobs[place] = self._describe(*self._stage_at(place))
        return self.jobs[place]

    def _stage_at(self, place: str) -> tuple[Stage, Key]:
        for stage in STAGES.values():
            key = stage.key_of(place)
            if key is not None and (
                key.get("row") in self.study.variants or self._stages.get(_any_seed(stage, key)) is stage
            ):
                return stage, key
        raise KeyError(place)

    def _describe(self, stage: Stage, key: Key) -> Job:
        study, folder = self.study, self.results / stage.place.format(**key)
        inputs = {option: self.job_at(place) for option, place in stage.places(study, key).items()}
        spec = stage.spec(study, key)
        merged = (job.lineage for job in inputs.values())
        return Job(
            stage=stage.revision,
            own=stage.lineage_key(spec),
            name=stage.title.format(**key),
            place=stage.place.format(**key),
            record=folder / stage.record,
            files=tuple(folder / file for file in stage.files if file not in stage.absent(study, key)),
            lineage=lineage(stage.lineage_key(spec), spec, study.file.revisions[stage.revision], *merged),
            inputs=inputs,
            reads={job: (job.record, *job.files) for job in inputs.values()},
            entry=stage,
            key=key,
        )

    def producer(self, files: Iterable[Path]) -> Job | None:
        """The job that writes these files, one of which is its record; None where no job of this study does."""
        for file in files:
            if file.is_relative_to(self.results):
                try:
                    job = self.job_at(place_of(file, self.results))
                except KeyError:
                    continue
                if job.record == file:
                    return job
        return None

    def jobs_of(self, rows: Iterable[str]) -> list[Job]:
        """The jobs behind the numbers of rows, in the order of the graph; views and pictures are not among them."""
        return self.with_inputs(self._results_of(rows))

    def jobs_for(self, targets: Iterable[str]) -> list[Job]:
        """The jobs that rows, sweeps, views and common targets ask for; raises a `StudyError` for an unknown target."""
        study = self.study
        jobs: list[Job] = []
        for target in targets:
            if target in study.variants or target in study.sweeps:
                jobs += self._results_of(study.rows([target]))
            elif target in COMMON:
                jobs += [self.jobs[place] for place in self.views_of(target)]
            elif places := [place for place in (f"tables/{target}", f"figures/{target}", target) if place in self.jobs]:
                jobs.append(self.jobs[places[0]])
            else:
                claims = ["claims", *(f"claims_{name}" for name in study.variations)] if study.file.claims else []
                views = [*study.file.tables, *study.file.figures, *claims]
                known = [*COMMON, *PAGES, *views, "cost", "cost_all", *study.variants, *study.sweeps]
                raise StudyError(
                    f"{target!r} is not a target or row{nearest(target, known)}; targets: {listed(COMMON)}, ..."
                )
        return sorted(dict.fromkeys(jobs), key=lambda job: list(STAGES).index(job.entry.name) if job.entry else 0)

    def all_jobs_for(self, targets: Iterable[str]) -> list[Job]:
        """The same with all that they depend on, in the order of the graph; raises a `StudyError` likewise."""
        return self.with_inputs(self.jobs_for(targets))

    def with_inputs(self, jobs: Iterable[Job]) -> list[Job]:
        """Jobs with all that they depend on, in the order of the graph."""
        needed, left = set[Job](), list(jobs)
        while left:
            job = left.pop()
            if job not in needed:
                needed.add(job)
                left += job.inputs.values()
        return [job for job in self.jobs.values() if job in needed]

    def _results_of(self, rows: Iterable[str]) -> list[Job]:
        """The jobs whose numbers tables can show of rows, for every seed."""
        jobs: list[Job] = []
        for row in rows:
            for stage in STAGES.values():
                serving = stage.serving(self.study, row) if stage.serving is not None and stage.is_result else None
                if serving is not None:
                    keys = ({"row": serving, "seed": seed} for seed in self.study.seeds[row])
                    jobs += [self.jobs[stage.place.format(**key)] for key in keys]
        return jobs

    def priority(self, job: Job) -> int:
        """How urgent a job is: as the most urgent row that needs it; those that wait for no row come first."""
        urgency = self.study.urgency
        if job.entry is None or job.entry.comes_first(job.key):
            return len(urgency) + 1
        if "row" in job.key:
            serving, row = job.entry.serving, job.key["row"]
            rows = [name for name in urgency if serving is not None and serving(self.study, name) == row]
            return len(urgency) - urgency.index(rows[0] if rows else row)
        waiting = [other for other in self.jobs.values() if "row" in other.key and job in other.inputs.values()]
        return max(map(self.priority, waiting), default=0)

    # Views: tables, figures, the claims, the cost, pages.

    def _add_views(self) -> None:
        study = self.study
        for name in study.file.tables:
            self._add_view("table", name, f"tables/{name}", definitions.table_definition(self, name))
        for name in study.file.figures:
            self._add_view("figure", name, f"figures/{name}", definitions.figure_definition(self, name))
        if study.file.claims:
            self._add_view("claims", "claims", "tables/claims", definitions.claims_definition(self))
        for name in study.variations:
            place = f"tables/claims_{name}"
            self._add_view("variation", f"claims_{name}", place, definitions.variation_definition(self, name))
        for cost, targets in PAGES.values():
            views = [self.jobs[place] for place in self._views_in(targets)]
            needed = self.with_inputs([*views, *self._results_of(study.rows_on_page(*targets))])
            added = {job: (job.record,) for job in needed if not job.is_view and job.stage != "dataset"}
            definition = definitions.CostDefinition(results=tuple(job.place for job in added))
            self._add_view("cost", cost, f"tables/{cost}", definition, added)
        for page, (cost, targets) in PAGES.items():
            rows = study.rows_on_page(*targets)
            seeds = study.seeds_of(rows)
            common = ["dataset", *(f"pixels/seed{seed}" for seed in seeds)] if rows else []
            places = [*self._views_in(targets), f"tables/{cost}", *common]
            jobs = dict.fromkeys([*(self.jobs[place] for place in places), *self.jobs_of(rows)])
            on_page = {job: self._page_files(job) for job in jobs}
            about = definitions.page_definition(self, *targets)
            shows = tuple(self.jobs[f"tables/claims_{name}"] for name in about.variations)
            self._add_view("report", page, page, about, on_page, shows)

    def _add_view(
        self,
        stage: str,
        name: str,
        place: str,
        definition: Config,
        reads: Reads | None = None,
        shows: tuple[Job, ...] = (),
    ) -> None:
        """A table, a figure, the claims or a page; what the first three read follows from their place."""
        base, reads = self.results / place, reads if reads is not None else self._view_files(place)
        record, *files = (base.with_suffix(f".{ending}") for ending in ("json", *ENDINGS[stage]))
        inputs = {job.place: job for job in reads}
        made_from = view_lineage(stage, definition)
        job = Job(stage, stage, name, place, record, tuple(files), made_from, inputs, reads, is_view=True, shows=shows)
        self.jobs[place] = job

    def _view_files(self, place: str) -> dict[Job, tuple[Path, ...]]:
        """The files that a table, a figure or the claims open: the named ones, their records and what lies beside."""
        paths: dict[Job, dict[Path, None]] = {}
        for path in chain.from_iterable(self.command_files(place).values()):
            job = self.jobs[str(path.parent.relative_to(self.results))]
            beside = (job.record.parent / name for name in BESIDE.get(job.stage, ()))
            paths.setdefault(job, {}).update(dict.fromkeys([job.record, path, *beside]))
        return {job: tuple(files) for job, files in paths.items()}

    def _page_files(self, job: Job) -> tuple[Path, ...]:
        """The files of a job that a page opens: its record, all of a view, and the first seed's training curves."""
        if job.is_view:
            return (job.record, *job.files)
        is_first = job.stage == "pretrain" and job.key["seed"] == self.study.first_seed(job.key["row"])
        return (job.record, *(path for path in job.files if is_first and path.suffix == ".csv"))

    def command_files(self, place: str) -> dict[str, list[Path]]:
        """The files that the command of a table, a figure or the claims names, by its options."""
        kind, _, name = place.partition("/")
        study, file = self.study, self.study.file
        if kind == "figures":
            return self._figure_files(file.figures[name])
        if place in (f"tables/claims_{variation}" for variation in study.variations):
            return self._varied(name.removeprefix("claims_"))
        if name == "claims":
            return self._accuracies(claim_name for claim in file.claims.values() for claim_name in claim.names)
        table = file.tables[name]
        rows, is_series = study.rows(table.names), table.series is not None
        files = self._accuracies(table.names, distances=not is_series)
        tokenizers = [study.variants[row].spec.tokenizer for row in rows]
        fits = dict.fromkeys(fit.name for fit in tokenizers if is_series or fit.perceptual)
        files["tokenizers"] = [job.record for job in self._fits(fits, study.seeds_of(rows))]
        if not is_series:
            tuned = [row for row in rows if study.variants[row].finetune]
            files["finetunes"] = self._records(
                f"finetune/{row}/seed{seed}" for row in tuned for seed in study.seeds[row]
            )
        return files

    def _fits(self, tokenizers: Iterable[str], seeds: Iterable[int]) -> list[Job]:
        """The tokenizers of these names that replications use."""
        own = dict.fromkeys(self.study.seed_of("tokenizer", seed) for seed in seeds)
        places = (f"tokenizers/{name}/seed{seed}" for name in tokenizers for seed in own)
        return [self.jobs[place] for place in places if place in self.jobs]

    def _figure_files(self, figure: Figure) -> dict[str, list[Path]]:
        study = self.study
        if isinstance(figure, SchedulesFigure):
            return {}
        if isinstance(figure, DimensionFigure):
            figure_rows = [*study.rows(figure.names), *figure.filters.values()]
            fits = dict.fromkeys(study.variants[row].spec.tokenizer.name for row in figure.filters.values())
            first = {name: self._fits([name], study.seeds_of(figure_rows))[0] for name in fits}
            tokenizers = [job.record.with_suffix(".safetensors") for job in first.values()]
            return self._accuracies(figure.names) | {"tokenizers": tokenizers}
        if isinstance(figure, VariationFigure):
            return self._varied(figure.variation)
        if figure.kind == "trajectory":
            return self._accuracies(figure.names)
        runs = dict.fromkeys(study.runs[row] for row in study.rows(figure.names))
        option, folder, file = FIRST_SEED[figure.kind]
        return {option: [self.results / f"{folder}/{run}/seed{study.first_seed(run)}/{file}" for run in runs]}

    def _varied(self, variation: str) -> dict[str, list[Path]]:
        """The results behind the claims under a variation; samples only where a claim is about ranks."""
        claims = (self.study.file.claims[name] for name in self.study.claims_under(variation))
        return self._accuracies([variation], distances=any(claim.rank is not None for claim in claims))

    def _accuracies(self, names: Iterable[str], *, distances: bool = True) -> dict[str, list[Path]]:
        """The probes behind rows and sweeps, and the distances of their samples, for every seed."""
        study = self.study
        rows = study.rows(names)
        probes = [f"probe/{study.probes[row]}/seed{seed}" for row in rows for seed in study.seeds[row]]
        untrained = [f"untrained/{study.untrained[row]}/seed{seed}" for row in rows for seed in study.seeds[row]]
        files = {
            "dataset": self._records(["dataset"]),
            "pixels": self._records(f"pixels/seed{seed}" for seed in study.seeds_of(rows)),
            "probes": self._records(probes),
            "untrained": self._records(untrained),
        }
        if distances:
            judged = [row for row in rows if study.variants[row].fid]
            places = [f"judge/{study.runs[row]}/seed{seed}" for row in judged for seed in study.seeds[row]]
            files["distances"] = self._records(places)
        return files

    def _records(self, places: Iterable[str]) -> list[Path]:
        return [self.jobs[place].record for place in dict.fromkeys(places)]

    def _views_in(self, targets: Sequence[Target], *, tables: bool = True, figures: bool = True) -> list[str]:
        """The places of the tables, the figures and the claims of these targets."""
        file = self.study.file
        places = [f"tables/{name}" for name, table in file.tables.items() if tables and table.target in targets]
        places += [f"figures/{name}" for name, figure in file.figures.items() if figures and figure.target in targets]
        places += ["tables/claims"] if tables and file.claims and "all" in targets else []
        variations = file.variations.items() if tables else ()
        return [*places, *(f"tables/claims_{name}" for name, each in variations if each.target in targets)]

    def views_of(self, target: str) -> list[str]:
        """The places of what a common target comprises."""
        targets = COMMON[target]
        if target == "all_figures":
            return self._views_in(targets, tables=False)
        if target == "all_tables":
            return [*self._views_in(targets, figures=False), "tables/cost_all"]
        pages = [page for page, (_, on_page) in PAGES.items() if set(on_page) <= set(targets)]
        return [*self._views_in(targets), *(f"tables/{PAGES[page][0]}" for page in pages), *pages]


def _any_seed(stage: Stage, key: Key) -> str:
    """The place of a stage's results for every seed."""
    return stage.place.format(**{**key, "seed": "*"})


def options(graph: Graph, job: Job) -> list[str]:
    """The words of a job's command line that follow from the study; what the machine gives comes on top."""
    words = _of_view(graph, job) if job.entry is None else _of_stage(graph, job)
    return [word for option, values in words.items() for word in (f"--{option}", *values)]


def _of_stage(graph: Graph, job: Job) -> dict[str, Iterable[str]]:
    assert job.entry is not None
    words: dict[str, Iterable[str]] = {key: [str(job.key[key])] for key in ("row", "seed") if key in job.entry.options}
    words |= {
        "spec": [json.dumps(job.spec, sort_keys=True, separators=(",", ":"))],
        "revision": [str(job.lineage[job.own]["revision"])],
        "lineage": [digest(job.lineage)],
    }
    words |= {option: [str(before.record.parent)] for option, before in job.inputs.items()}
    if "resume" in job.entry.options:
        words["resume"] = [str(graph.results / "resume" / job.place)]
    return words | {"out": [str(graph.results / job.place)]}


def _of_view(graph: Graph, job: Job) -> dict[str, Iterable[str]]:
    if job.stage == "cost":
        return {"results": [str(before.record) for before in job.reads], "out": [str(graph.results / job.place)]}
    # In ASCII: a locale without Unicode would spoil a command's words.
    words: dict[str, Iterable[str]] = {"definition": [json.dumps(job.spec, sort_keys=True)]}
    if job.stage == "report":
        cost, inputs = graph.results / f"tables/{PAGES[job.place][0]}.json", [before.place for before in job.reads]
        words |= {"results": [str(graph.results)], "cost": [str(cost)], "inputs": inputs}
        return words | {"out": [str(job.files[0])]}
    files = graph.command_files(job.place)
    words |= {option: [str(path) for path in paths] for option, paths in files.items()}
    return words | {"out": [str(graph.results / job.place)]}
