"""The graph of a study: its jobs, what each is made from, and which results still are what the study says; no torch.

The records on disk decide, and nothing else: neither Snakemake's own notes nor any file's time. A result is outdated
when the lineage in its record differs from the expected one, when it was computed from other inputs than those that lie
there now, when the pictures behind it changed, or when an input is outdated.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ldae.data.sources.fingerprint import difference
from ldae.runtime.files import read_json, sha256
from ldae.study.checking import StudyError, listed, nearest
from ldae.study.file import DimensionFigure, Figure, SchedulesFigure, Target
from ldae.study.record import Lineage, differences
from ldae.study.stage_specs import ConvolutionalStage
from ldae.study.study import Study
from ldae.study.views import digest_read, view_lineage

RESULTS = ("probe", "finetune", "judge")  # the stages whose numbers tables show of a row, in their order
FIRST_SEED = {  # figures of single runs: the option of their command, the folder, and the file that they show
    "curves": ("histories", "pretrain", "history.csv"),
    "noise": ("pictures", "denoise", "pictures.npz"),
    "denoising": ("pictures", "denoise", "pictures.npz"),
    "samples": ("samples", "samples", "samples.npy"),
}
COMMON: dict[str, tuple[Target, ...]] = {  # what the common targets comprise
    "main": ("main",),
    "all": ("main", "all"),
    "all_tables": ("main", "all"),
    "all_figures": ("main", "all"),
}
PAGES: dict[str, tuple[str, tuple[Target, ...]]] = {  # each page: its table of cost, and the targets that it shows
    "report_main": ("cost", ("main",)),
    "report": ("cost_all", ("main", "all")),
}

BESIDE = {  # what the readers of a record open beside it
    "dataset": ("val_groups.npy",),
    "probe": ("correct.npz",),
    "finetune": ("correct.npz",),
}

T = TypeVar("T", bound=Hashable)
F = TypeVar("F", bound=Hashable)


@dataclass(frozen=True, eq=False)
class Job:
    """One job of the graph."""

    stage: str
    name: str  # for a reader, e.g. "pca, seed 0"
    place: str  # where its result lies in the results folder, e.g. "pretrain/pca/seed0"
    record: Path  # what the result says of itself
    files: tuple[Path, ...]  # the other files that later jobs or people read
    lineage: Lineage  # what the record should have been made from
    inputs: dict[str, Job] = field(repr=False)  # the jobs whose results it reads, by the key in its record
    reads: Mapping[Job, tuple[Path, ...]] = field(repr=False)  # their files that it opens
    is_view: bool = False  # a table, a figure or a page, which is cheap and follows its inputs

    @property
    def title(self) -> str:
        """The stage and the name, e.g. `probe pca, seed 0`; a name that starts with its stage stands alone."""
        return self.name if self.name.startswith(self.stage) else f"{self.stage} {self.name}"

    @property
    def definition(self) -> dict[str, Any]:
        """All that the command of a view is told of the study."""
        spec: dict[str, Any] = self.lineage[self.stage]["spec"]
        return spec


class Graph:
    """All jobs of a study at its scale and seeds, and the state of their results on disk."""

    def __init__(self, study: Study, root: Path = Path()) -> None:
        """Describes the jobs; reads no result yet.

        Args:
            study: resolved, with its scale.
            root: the project's folder; paths of records start with it.
        """
        self.study, self.results = study, root / study.results
        self.jobs: dict[str, Job] = {}  # by place
        self._by_record: dict[Path, Job] = {}
        self._outdated: dict[Job, str | None] = {}
        self._read: dict[Job, dict[str, Any] | None] = {}
        self._shared_stages()
        for seed in study.file.seeds:
            self._row_stages(seed)
        self._views()

    def producer(self, files: Iterable[Path]) -> Job | None:
        """The job that writes these files, also for a seed or a result of a row that the study does not ask for."""
        found = (self._by_record.get(file) or self._extra_job(file) for file in files)
        return next((job for job in found if job is not None), None)

    def jobs_of(self, rows: Iterable[str]) -> list[Job]:
        """The jobs behind the numbers of rows, in the order of the graph; views and pictures are not among them."""
        return [job for job in self._with_inputs(self._results_of(rows)) if job.place != "judge/reference"]

    def jobs_for(self, targets: Iterable[str]) -> list[Job]:
        """The jobs that targets ask for: rows, sweeps, tables, figures, claims, pages and the common targets.

        Raises:
            StudyError: for a target that does not exist.
        """
        study = self.study
        found: list[Job] = []
        for target in targets:
            if target in study.variants or target in study.sweeps:
                found += self._results_of(study.rows([target]))
            elif target in COMMON:
                found += [self.jobs[place] for place in self.views_of(target)]
            elif (place := self._place_of_view(target)) is not None:
                found.append(self.jobs[place])
            else:
                views = [*study.file.tables, *study.file.figures, *(["claims"] if study.file.claims else [])]
                known = [*COMMON, *PAGES, *views, "cost", "cost_all", *study.variants, *study.sweeps]
                raise StudyError(
                    f"{target!r} is not a target or row{nearest(target, known)}; targets: {listed(COMMON)}, ..."
                )
        return sorted(dict.fromkeys(found), key=lambda job: RESULTS.index(job.stage) if job.stage in RESULTS else 0)

    def all_jobs_for(self, targets: Iterable[str]) -> list[Job]:
        """The same with all that they depend on, in the order of the graph.

        Raises:
            StudyError: for a target that does not exist.
        """
        return self._with_inputs(self.jobs_for(targets))

    def _with_inputs(self, jobs: Iterable[Job]) -> list[Job]:
        needed, left = set[Job](), list(jobs)
        while left:
            job = left.pop()
            if job not in needed:
                needed.add(job)
                left += job.inputs.values()
        return [job for job in self.jobs.values() if job in needed]

    def outdated(self, job: Job) -> str | None:
        """Why a result is no longer what the study says, beginning at the first stage that differs.

        None where it is current, and where there is no result.
        """
        if job not in self._outdated:
            self._outdated[job] = self._reason(job)
        return self._outdated[job]

    def is_current(self, job: Job) -> bool:
        """Whether a job has run, as the study says now, and all its files are there."""
        return not self.missing(job) and self.outdated(job) is None

    def missing(self, job: Job) -> list[Path]:
        """The files of a job's result that are absent, and its record where that is damaged."""
        absent = [path for path in job.files if not path.is_file()]
        return absent if self.record_of(job) is not None else [job.record, *absent]

    def to_run(self, targets: Iterable[str]) -> dict[Job, str]:
        """The jobs that would run for targets, in the order of the graph, each with its reason."""
        jobs = self.all_jobs_for(targets)
        running = needrun(
            jobs[::-1],
            reads=lambda job: job.reads,
            is_outdated=lambda job: self.outdated(job) is not None,
            is_missing={path for job in jobs for path in self.missing(job)}.__contains__,
            follows=lambda job: job.is_view,
            wanted={job: (job.record, *job.files) for job in self.jobs_for(targets)},
        )
        return {job: self._why(job) for job in jobs if job in running}

    def _why(self, job: Job) -> str:
        if reason := self.outdated(job):
            return reason
        missing = self.missing(job)
        if not missing:
            return "follows what it shows"
        if missing[0] != job.record:
            return f"its {missing[0].name} is absent"
        return "its record is damaged" if job.record.is_file() else "has not run yet"

    def _reason(self, job: Job) -> str | None:
        for before in job.inputs.values():
            if reason := self.outdated(before):
                return reason
        about = self.record_of(job)
        if about is None:
            return None
        if other := _other_owner(job, about):
            return f"{job.stage}: is the result of {other}"
        if found := differences(about.get("lineage", {}), job.lineage):
            return found[0] if len(found) == 1 else f"{found[0]} (and {len(found) - 1} more)"
        if other := self._other_input(job, about.get("inputs", {})):
            return f"{job.stage}: was computed from another {other} than the one that is there now"
        if job.stage == "dataset" and (
            changed := difference(self.study.scale.dataset, about, prepared=job.record.parent)
        ):
            return f"dataset: {changed}"
        if job.is_view and (edited := _not_as_written(job, about)):
            return f"{job.stage}: {edited.name} is not as it was written"
        return None

    def _other_input(self, job: Job, recorded: Mapping[str, str]) -> str | None:
        """The first input that is not the one that a result was computed from, as far as its record says."""
        for key, before in job.inputs.items():
            about = self.record_of(before)
            if about is not None and key in recorded and recorded[key] != digest_read(about, stage=job.stage):
                what = before.title if job.is_view else key
                return what if what in (before.stage, before.title) else f"{key} ({before.title})"
        return None

    def record_of(self, job: Job) -> dict[str, Any] | None:
        """What a result says of itself; None where there is none, or a damaged one, which counts as none."""
        if job not in self._read:
            try:
                self._read[job] = read_json(job.record) if job.record.is_file() else None
            except ValueError:
                self._read[job] = None
        return self._read[job]

    # ----------------------------------------------------------------------------------------------------------------
    # The jobs.
    # ----------------------------------------------------------------------------------------------------------------

    def _add(
        self,
        stage: str,
        name: str,
        place: str,
        record: str,
        files: Iterable[str],
        lineage: Lineage,
        **inputs: Job | None,
    ) -> Job:
        """A job whose result is a folder."""
        folder = self.results / place
        given = {key: job for key, job in inputs.items() if job is not None}
        paths = tuple(folder / file for file in files)
        reads = {job: (job.record, *job.files) for job in given.values()}
        return self._register(Job(stage, name, place, folder / record, paths, lineage, given, reads))

    def _register(self, job: Job) -> Job:
        self.jobs[job.place] = self._by_record[job.record] = job
        return job

    def _shared_stages(self) -> None:
        """What serves several rows: images, classifiers, tokenizers, the probe of pixels, the judge's reference."""
        study = self.study
        arrays = [
            f"{split}{part}.npy" for split in ("train", "val") for part in ("", "_labels", "_groups", "_checksums")
        ]
        dataset = self._add("dataset", "images", "dataset", "manifest.json", arrays, study.dataset_lineage())
        for architecture in study.scale.classifiers:
            place, lineage = f"classifiers/{architecture}", study.classifier_lineage(architecture)
            trained = ("weights.safetensors", "history.csv")
            self._add("classifier", architecture, place, "classifier.json", trained, lineage, dataset=dataset)
        for name, stage in study.tokenizers.items():
            files = ["tokenizer.safetensors"]
            if isinstance(stage, ConvolutionalStage):
                files += ["latents.npy", "latents_checksums.npy", "history.csv"]
            vgg = self.jobs["classifiers/vgg"] if study.needs_vgg(name) else None
            place, lineage = f"tokenizers/{name}", study.tokenizer_lineage(name)
            self._add("tokenizer", name, place, "tokenizer.json", files, lineage, dataset=dataset, vgg=vgg)
        correct, pixels = ("correct.npz",), study.pixels_lineage()
        self._add("probe", "raw pixels", "probe/pixels", "probe.json", correct, pixels, dataset=dataset)
        self._add(
            "judge",
            "true images",
            "judge/reference",
            "reference.json",
            ("reference.npz",),
            study.reference_lineage(),
            dataset=dataset,
            judge=self._judge,
        )

    @property
    def _judge(self) -> Job | None:
        """The study's own classifier, where it judges samples."""
        return self.jobs["classifiers/resnet"] if self.study.scale.judging.features == "builtin" else None

    def _row_stages(self, seed: int) -> None:
        """What is done for each row with a seed."""
        study = self.study
        for row in dict.fromkeys(study.runs.values()):
            self._pretraining(row, seed)
        for row in dict.fromkeys(study.probes.values()):
            self._probing(row, seed)
        for row, variant in study.variants.items():
            if variant.finetune:
                self._finetuning(row, seed)
        for row in dict.fromkeys(study.runs[name] for name, variant in study.variants.items() if variant.fid):
            self._judging(row, seed)
        for row in dict.fromkeys(study.runs[name] for name in study.rows(self._pictured())):
            self._denoising(row, seed)

    def _extra_job(self, record: Path) -> Job | None:
        """The job of a row that leaves a record, for a seed or a row that the study does not ask it for."""
        adding = {
            ("pretrain", "run.json"): self._pretraining,
            ("probe", "probe.json"): self._probing,
            ("finetune", "finetune.json"): self._finetuning,
            ("samples", "samples.json"): self._sampling,
            ("judge", "distance.json"): self._judging,
            ("denoise", "pictures.json"): self._denoising,
        }
        if not record.is_relative_to(self.results):
            return None
        parts = record.relative_to(self.results).parts
        add = adding.get((parts[0], parts[-1])) if len(parts) == 4 else None
        return add(parts[1], int(parts[2].removeprefix("seed"))) if add is not None else None

    def _pretraining(self, row: str, seed: int) -> Job:
        study = self.study
        denoises = study.is_denoiser(row)
        files = ["model.safetensors"] + ["ema.safetensors"] * denoises + ["history.csv"] * (not study.is_published(row))
        stage = "adopt" if study.is_published(row) else "pretrain"
        fit = self.jobs[f"tokenizers/{study.variants[row].spec.tokenizer.name}"] if denoises else None
        inputs = {"dataset": self.jobs["dataset"], "tokenizer": fit}
        name, place = f"{row}, seed {seed}", f"pretrain/{row}/seed{seed}"
        return self._add(stage, name, place, "run.json", files, study.run_lineage(row), **inputs)

    def _probing(self, row: str, seed: int) -> Job:
        return self._of_trained("probe", row, seed, "probe.json", ["correct.npz"], self.study.probe_lineage(row))

    def _finetuning(self, row: str, seed: int) -> Job:
        files, lineage = ["correct.npz", "history.csv"], self.study.finetune_lineage(row)
        return self._of_trained("finetune", row, seed, "finetune.json", files, lineage)

    def _denoising(self, row: str, seed: int) -> Job:
        return self._of_trained(
            "denoise", row, seed, "pictures.json", ["pictures.npz"], self.study.denoise_lineage(row)
        )

    def _sampling(self, row: str, seed: int) -> Job:
        files, lineage = ["samples.npy"], self.study.sample_lineage(row)
        return self._of_trained("sample", row, seed, "samples.json", files, lineage, folder="samples")

    def _judging(self, row: str, seed: int) -> Job:
        samples = self.jobs.get(f"samples/{row}/seed{seed}") or self._sampling(row, seed)
        inputs = {"samples": samples, "reference": self.jobs["judge/reference"], "judge": self._judge}
        place, lineage = f"judge/{row}/seed{seed}", self.study.distance_lineage(row)
        return self._add("judge", samples.name, place, "distance.json", (), lineage, **inputs)

    def _of_trained(
        self,
        stage: str,
        row: str,
        seed: int,
        record: str,
        files: Iterable[str],
        lineage: Lineage,
        *,
        folder: str | None = None,
    ) -> Job:
        """A job that looks at a trained row; `folder` is called as the stage where nothing else is said."""
        run = self.study.runs[row]
        trained = self.jobs.get(f"pretrain/{run}/seed{seed}") or self._pretraining(run, seed)
        inputs = {"dataset": self.jobs["dataset"], "tokenizer": trained.inputs.get("tokenizer"), "model": trained}
        name, place = f"{row}, seed {seed}", f"{folder or stage}/{row}/seed{seed}"
        return self._add(stage, name, place, record, files, lineage, **inputs)

    def _results_of(self, rows: Iterable[str]) -> list[Job]:
        """The jobs whose numbers tables can show of rows, for every seed."""
        study, places = self.study, list[str]()
        for row in rows:
            places += [f"probe/{study.probes[row]}"]
            places += [f"finetune/{row}"] if study.variants[row].finetune else []
            places += [f"judge/{study.runs[row]}"] if study.variants[row].fid else []
        return [self.jobs[f"{place}/seed{seed}"] for place in places for seed in study.file.seeds]

    def _pictured(self) -> list[str]:
        """The rows and sweeps whose denoised pictures a figure shows."""
        figures = self.study.file.figures.values()
        return [name for figure in figures if figure.kind in ("noise", "denoising") for name in figure.names]

    # ----------------------------------------------------------------------------------------------------------------
    # Views: tables, figures, the claims, the cost, pages.
    # ----------------------------------------------------------------------------------------------------------------

    def _views(self) -> None:
        study = self.study
        for name in study.file.tables:
            self._view("table", name, f"tables/{name}", study.definition("tables", name), ("md", "csv", "tex"))
        for name in study.file.figures:
            self._view("figure", name, f"figures/{name}", study.definition("figures", name), ("png", "svg", "csv"))
        if study.file.claims:
            self._view("claims", "claims", "tables/claims", study.claims(), ("md", "csv"))
        for cost, targets in PAGES.values():
            views = [*study.file.tables.values(), *study.file.figures.values()]
            rows = study.rows(name for view in views if view.target in targets for name in view.names)
            added = {job: (job.record,) for job in self.jobs_of(rows) if job.stage != "dataset"}
            definition = {"results": [job.place for job in added]}
            self._view("cost", cost, f"tables/{cost}", definition, ("md", "csv"), reads=added)
        for page in PAGES:
            shown = {job: self._page_files(job) for job in self._on_page(page)}
            definition = study.page(*PAGES[page][1]) | {"inputs": [job.place for job in shown]}
            self._view("report", page, page, definition, ("html",), reads=shown)

    def _view(
        self,
        stage: str,
        name: str,
        place: str,
        definition: dict[str, Any],
        endings: Iterable[str],
        *,
        reads: Mapping[Job, tuple[Path, ...]] | None = None,
    ) -> None:
        """A table, a figure, the claims or a page; what the first three read follows from their place."""
        base, reads = self.results / place, reads if reads is not None else self._view_files(place)
        record, *files = (base.with_suffix(f".{ending}") for ending in ("json", *endings))
        inputs = {job.place: job for job in reads}
        lineage = view_lineage(stage, definition)
        self._register(Job(stage, name, place, record, tuple(files), lineage, inputs, reads, is_view=True))

    def _view_files(self, place: str) -> dict[Job, tuple[Path, ...]]:
        """The files that a table, a figure or the claims open: the named ones, their records and what lies beside."""
        paths: dict[Job, dict[Path, None]] = {}
        for job, path in (pair for pairs in self.command_files(place).values() for pair in pairs):
            beside = (job.record.parent / name for name in BESIDE.get(job.stage, ()))
            paths.setdefault(job, {}).update(dict.fromkeys([job.record, path, *beside]))
        return {job: tuple(files) for job, files in paths.items()}

    def _page_files(self, job: Job) -> tuple[Path, ...]:
        """The files of a job that a page opens: its record, all of a view, and the first seed's training curves."""
        if job.is_view:
            return (job.record, *job.files)
        is_first = job.stage == "pretrain" and job.place.endswith(f"/seed{self.study.file.seeds[0]}")
        return (job.record, *(path for path in job.files if is_first and path.suffix == ".csv"))

    def command_files(self, place: str) -> dict[str, list[tuple[Job, Path]]]:
        """The files that the command of a table, a figure or the claims names, and the job of each, by its options."""
        kind, _, name = place.partition("/")
        file = self.study.file
        if kind == "figures":
            return self._read_by_figure(file.figures[name])
        if name == "claims":
            return self._accuracies(claim_name for claim in file.claims.values() for claim_name in claim.names)
        table = file.tables[name]
        found = self._accuracies(table.names, distances=table.series is None)
        tokenizers = [self.study.variants[row].spec.tokenizer for row in self.study.rows(table.names)]
        fits = dict.fromkeys(fit.name for fit in tokenizers if table.series is not None or fit.perceptual)
        found["tokenizers"] = self._records(f"tokenizers/{fit}" for fit in fits)
        if table.series is None:
            tuned = [row for row in self.study.rows(table.names) if self.study.variants[row].finetune]
            found["finetunes"] = self._records(f"finetune/{row}/seed{seed}" for row in tuned for seed in file.seeds)
        return found

    def _read_by_figure(self, figure: Figure) -> dict[str, list[tuple[Job, Path]]]:
        if isinstance(figure, SchedulesFigure):
            return {}
        if isinstance(figure, DimensionFigure):
            fits = dict.fromkeys(self.study.variants[row].spec.tokenizer.name for row in figure.filters.values())
            tokenizers = self._first("tokenizers/{}", fits, "tokenizer.safetensors")
            return self._accuracies(figure.names) | {"tokenizers": tokenizers}
        if figure.kind == "trajectory":
            return self._accuracies(figure.names, distances=True)
        runs, seed = (
            dict.fromkeys(self.study.runs[row] for row in self.study.rows(figure.names)),
            self.study.file.seeds[0],
        )
        option, folder, file = FIRST_SEED[figure.kind]
        return {option: self._first(f"{folder}/{{}}/seed{seed}", runs, file)}

    def _accuracies(self, names: Iterable[str], *, distances: bool = True) -> dict[str, list[tuple[Job, Path]]]:
        """The probes behind rows and sweeps, and the distances of their samples, for every seed."""
        study, seeds = self.study, self.study.file.seeds
        rows = study.rows(names)
        probes = dict.fromkeys(study.probes[row] for row in rows)
        found = {
            "dataset": self._records(["dataset"]),
            "pixels": self._records(["probe/pixels"]),
            "probes": self._records(f"probe/{row}/seed{seed}" for row in probes for seed in seeds),
        }
        if distances:
            judged = dict.fromkeys(study.runs[row] for row in rows if study.variants[row].fid)
            found["distances"] = self._records(f"judge/{row}/seed{seed}" for row in judged for seed in seeds)
        return found

    def _records(self, places: Iterable[str]) -> list[tuple[Job, Path]]:
        return [(self.jobs[place], self.jobs[place].record) for place in places]

    def _first(self, place: str, names: Iterable[str], file: str) -> list[tuple[Job, Path]]:
        """A file of each of several jobs."""
        jobs = [self.jobs[place.format(name)] for name in names]
        return [(job, job.record.parent / file) for job in jobs]

    def _views_in(self, targets: Sequence[Target], kinds: Sequence[str] = ("tables", "figures")) -> list[str]:
        """The places of the tables and figures of these targets."""
        return [
            f"{kind}/{name}"
            for kind in kinds
            for name, view in getattr(self.study.file, kind).items()
            if view.target in targets
        ]

    def _claims_in(self, targets: Sequence[Target]) -> list[str]:
        """The place of the claims, where these targets comprise them."""
        return ["tables/claims"] if "all" in targets and self.study.file.claims else []

    def views_of(self, target: str) -> list[str]:
        """The places of what a common target comprises."""
        targets = COMMON[target]
        if target == "all_figures":
            return self._views_in(targets, ["figures"])
        if target == "all_tables":
            return [*self._views_in(targets, ["tables"]), *self._claims_in(targets), "tables/cost_all"]
        pages = [page for page, (_, shown) in PAGES.items() if set(shown) <= set(targets)]
        costs = [f"tables/{PAGES[page][0]}" for page in pages]
        return [*self._views_in(targets), *self._claims_in(targets), *costs, *pages]

    def _on_page(self, page: str) -> list[Job]:
        """The jobs whose results a page shows: its views, and the records behind all of its rows."""
        cost, targets = PAGES[page]
        rows = self.study.rows_on_page(*targets)
        shared = ["dataset", "probe/pixels"] if rows else []
        places = [*self._views_in(targets), *self._claims_in(targets), f"tables/{cost}", *shared]
        jobs = [*(self.jobs[place] for place in places), *self.jobs_of(rows)]
        return list(dict.fromkeys(jobs))

    def _place_of_view(self, name: str) -> str | None:
        """Where a table, a figure, the claims, the cost or a page lies, by its name."""
        return next((place for place in (f"tables/{name}", f"figures/{name}", name) if place in self.jobs), None)


def _other_owner(job: Job, about: Mapping[str, Any]) -> str | None:
    """The row and seed that a record names, where its folder is that of others."""
    row, _, seed = job.name.rpartition(", seed ")
    named = f"{about.get('row', row)}, seed {about.get('seed', seed)}"
    return named if row and named != job.name else None


def _not_as_written(view: Job, about: Mapping[str, Any]) -> Path | None:
    """The first file of a view that is not the one that its record speaks of."""
    sums = about.get("sha256", {})
    written = (path for path in view.files if path.name in sums and path.is_file())
    return next((path for path in written if sha256(path) != sums[path.name]), None)


def needrun(
    jobs: Sequence[T],
    *,
    reads: Callable[[T], Mapping[T, Iterable[F]]],
    is_outdated: Callable[[T], bool],
    is_missing: Callable[[F], bool],
    follows: Callable[[T], bool],
    wanted: Mapping[T, Iterable[F]],
) -> set[T]:
    """Which jobs have to run: outdated ones, and those that lack a file that is wanted, or that one that runs reads.

    A current result is not computed again because an input that was deleted is.

    Args:
        jobs: all that belong to the targets, each before its inputs.
        reads: the files that a job reads, by the job that they come from.
        is_outdated: whether a job's result is not what it should be.
        is_missing: whether a file is absent.
        follows: whether a job runs whenever one of its inputs does, as a table does.
        wanted: the jobs whose results are the targets, and their files.
    """
    running: set[T] = set()
    while True:
        before = len(running)
        read: dict[T, set[F]] = {job: set(files) for job, files in wanted.items()}
        for job in jobs:
            if is_outdated(job) or any(map(is_missing, read.get(job, ()))):
                running.add(job)
            if job in running:
                for source, files in reads(job).items():
                    read.setdefault(source, set()).update(files)
        running |= {job for job in jobs[::-1] if follows(job) and not running.isdisjoint(reads(job))}
        if len(running) == before:
            return running
