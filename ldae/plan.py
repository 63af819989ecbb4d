"""What a study will cost, before it runs: its jobs, their arithmetic, disk and time; no torch."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tabulate import tabulate

from ldae.checking import StudyError, listed, nearest
from ldae.cost import (
    INCEPTION_MACS,
    autoencoder_macs,
    baseline_macs,
    classifier_macs,
    classifier_vit_macs,
    pretrain_macs,
    tokenizer_training_macs,
    transformer_macs,
    transformer_parameters,
)
from ldae.files import read_json
from ldae.record import Lineage, seconds_of
from ldae.spec import (
    NUM_TIMES,
    PATCH,
    PATCH_DIM,
    Architecture,
    BaselineStage,
    ConvolutionalStage,
    DenoiserStage,
    Photos,
    PretrainStage,
)
from ldae.variants import Study

IMAGENET = (1_281_167, 50_000, 1000)  # training and validation images, classes
START_SECONDS = 4.0  # of a process that imports torch
# FLOP/s where no job has run yet: of a CPU core, and of a GPU at imagenet scale, as an H100 did them
# (benchmarks/results/stages-imagenet-cuda.json). Small networks use less of one: at gpu scale pretraining does 1.6e14.
ASSUMED_CORE = 15e9
ASSUMED_GPU = {"pretrain": 4e14, "probe": 4.4e14, "sample": 4.7e14, "finetune": 2.7e14}
ASSUMED_CONVOLUTIONS = 1.2e14  # of a GPU in tokenizers and classifiers
SHARED = (
    "tokenizer",
    "pretrain",
    "probe",
    "finetune",
    "sample",
)  # the stages whose jobs use all GPUs that the scale names


@dataclass(frozen=True, eq=False)
class Job:
    """One job of the graph."""

    stage: str
    name: str
    flops: float
    disk: float  # bytes that it leaves
    record: Path  # what it says of itself once it has run
    made: Lineage  # what the record should have been made from

    def about(self) -> dict[str, Any] | None:
        """Its record, if it has run as the study is now."""
        about = read_json(self.record) if self.record.is_file() else {}
        return about if about.get("lineage") == self.made else None


class Data(NamedTuple):
    """The size of a data set."""

    train: int
    val: int
    classes: int
    known: bool  # and not assumed


def size_of(study: Study, results: Path, images: int | None) -> Data:
    """The size of the data set: as the scale or the prepared images say, as given, or ImageNet's."""
    manifest, dataset = results / "dataset/manifest.json", study.scale.dataset
    about: dict[str, Any] = read_json(manifest) if manifest.is_file() else {}
    if about.get("lineage") == study.dataset_lineage():
        counts: dict[str, dict[str, int]] = about["counts"]
        train, val = (sum(counts[split].values()) for split in ("train", "val"))
        return Data(train, val, len(about["classes"]), known=True)
    if isinstance(dataset, Photos):
        return Data(dataset.train, dataset.val, 20, known=True)
    if images is not None:
        return Data(images, max(1, images // 20), IMAGENET[2], known=True)
    return Data(*IMAGENET, known=False)


def rows_of(study: Study, targets: Iterable[str]) -> list[str]:
    """The rows behind targets: common ones, tables, figures, claims, sweeps and rows.

    Raises:
        StudyError: for a target that there is not.
    """
    views: dict[str, Any] = {**study.file.tables, **study.file.figures}
    common: dict[str, tuple[str, ...]] = {
        name: ("main", "all") for name in ("all", "all_tables", "all_figures", "report")
    }
    common |= dict.fromkeys(("main", "report_main"), ("main",))
    claims = [name for claim in study.file.claims.values() for name in claim.names]
    kinds: dict[str, dict[str, Any]] = {"all_tables": study.file.tables, "all_figures": study.file.figures}
    names: list[str] = []
    for target in targets:
        if target in common:
            shown = kinds.get(target, views)
            names += [name for view in shown.values() if view.target in common[target] for name in view.names]
            names += claims if target in ("all", "all_tables", "report") else []
        elif target in views:
            names += views[target].names
        elif target == "claims":
            names += claims
        elif target in study.variants or target in study.sweeps:
            names.append(target)
        else:
            known = [*common, *views, "claims", *study.variants, *study.sweeps]
            raise StudyError(f"{target!r} is no target or row{nearest(target, known)}; targets: {listed(common)}, ...")
    return study.rows(names)


class Forecast:
    """The jobs of some rows, at a study's scale."""

    def __init__(self, study: Study, results: Path, data: Data) -> None:
        """Of a study whose results lie in a folder, on data of a size."""
        self.study, self.results, self.data = study, results, data
        self.size = study.scale.dataset.size
        self.tokens = (self.size // PATCH) ** 2

    def jobs(self, rows: list[str]) -> list[Job]:
        """All jobs that the rows need, in the order of the graph; those of tables and figures cost nothing."""
        study, seeds = self.study, self.study.file.seeds
        runs = list(dict.fromkeys(study.runs[row] for row in rows))
        denoisers = [run for run in runs if study.is_denoiser(run)]
        fits = dict.fromkeys(study.variants[run].spec.tokenizer.name for run in denoisers)
        judged = [run for run in runs if any(study.variants[row].fid for row in rows if study.runs[row] == run)]
        found = [self._dataset()]
        if any(study.needs_vgg(fit) for fit in fits):
            found.append(self._classifier("vgg"))
        if judged and study.scale.judging.features == "builtin":
            found.append(self._classifier("resnet"))
        found += [self._tokenizer(fit) for fit in fits]
        found += [self._pretrain(run, seed) for run in runs for seed in seeds]
        probes = dict.fromkeys(study.probes[row] for row in rows)
        found += [self._probe(probe, seed) for probe in probes for seed in seeds]
        tuned = [row for row in rows if study.variants[row].finetune]
        found += [self._finetune(row, seed) for row in tuned for seed in seeds]
        found += [job for run in judged for seed in seeds for job in (self._sample(run, seed), self._judge(run, seed))]
        return found

    def _dataset(self) -> Job:
        record, made = self.results / "dataset/manifest.json", self.study.dataset_lineage()
        return Job(
            "dataset",
            "images",
            0.0,
            (self.data.train + self.data.val) * 3.0 * self.study.scale.dataset.stored**2,
            record,
            made,
        )

    def _classifier(self, architecture: Architecture) -> Job:
        recipe = self.study.classifier_stage(architecture).classifier
        flops = 6.0 * recipe.steps * recipe.batch * classifier_macs(architecture, recipe, self.size)
        record = self.results / "classifiers" / architecture / "classifier.json"
        return Job("classifier", architecture, flops, 0.0, record, self.study.classifier_lineage(architecture))

    def _tokenizer(self, name: str) -> Job:
        stage, disk = self.study.tokenizers[name], 0.0
        if isinstance(stage, ConvolutionalStage):
            vgg = self.study.scale.classifiers.get("vgg")
            steps = 0 if stage.is_published else stage.convolutional.steps
            flops = 2.0 * steps * stage.convolutional.batch * tokenizer_training_macs(stage, vgg, self.size)
            flops += 2.0 * 2 * self.data.train * self._encoding(name)
            disk = self.data.train * 2.0 * self.tokens * stage.dim * 2
        else:
            flops = 2.0 * stage.fitting.patches * (3 * stage.patch**2) ** 2
        record = self.results / "tokenizers" / name / "tokenizer.json"
        return Job("tokenizer", name, flops, disk, record, self.study.tokenizer_lineage(name))

    def _encoding(self, name: str) -> int:
        """Multiply-adds of tokenizing an image."""
        stage = self.study.tokenizers[name]
        if not isinstance(stage, ConvolutionalStage):
            return self.tokens * PATCH_DIM * (stage.dim or PATCH_DIM)
        recipe = stage.convolutional
        return autoencoder_macs(size=self.size, width=recipe.width, blocks=recipe.blocks, channels=stage.dim // 4)[0]

    def _pretrain(self, run: str, seed: int) -> Job:
        study, stage = self.study, self.study.pretrain_stage(run)
        if isinstance(stage, PretrainStage):
            steps = max(1, round(stage.recipe.length * stage.training.total_steps(self.data.train)))
            macs = 3 * pretrain_macs(stage, self.size)
            macs += self._encoding(stage.tokenizer.name) if stage.recipe.crop == "random" else 0
            flops, copies = 2.0 * steps * stage.training.batch * macs, 2  # and the averaged weights
        elif study.is_published(run):
            flops, copies = 0.0, 1
        else:
            assert isinstance(stage, BaselineStage)
            recipe = stage.mae or stage.moco_v3
            assert recipe is not None
            steps = recipe.total_steps(self.data.train)
            flops, copies = 6.0 * steps * recipe.batch * baseline_macs(stage, self.size), 1
        size = stage.size
        blocks = size.encoder_blocks + (size.decoder_blocks if study.is_denoiser(run) else 0)
        weights = transformer_parameters(
            width=size.width,
            blocks=blocks,
            in_dim=PATCH_DIM,
            out_dim=PATCH_DIM,
            conditioning=round(size.width * size.conditioning),
        )
        record = self.results / "pretrain" / run / f"seed{seed}" / "run.json"
        disk = 2.0 * copies * 4 * weights  # once more among the finished run's own files
        name = "adopt" if study.is_published(run) else "pretrain"
        return Job(name, f"{run}, seed {seed}", flops, disk, record, study.run_lineage(run))

    def _probe(self, probe: str, seed: int) -> Job:
        study, probing = self.study, self.study.scale.probing
        stage, size = study.probe_stage(probe), study.pretrain_stage(study.runs[probe]).size
        blocks = size.encoder_blocks + max(stage.offsets)
        macs = 2 * transformer_macs(
            tokens=self.tokens, width=size.width, blocks=blocks, in_dim=PATCH_DIM, out_dim=0, conditioning=0
        )
        augmented = (probing.views if probing.mode == "cached" else probing.epochs) * self.data.train
        flops = 2.0 * macs * (augmented + self.data.train + self.data.val)
        if study.is_denoiser(study.runs[probe]):
            name = study.variants[probe].spec.tokenizer.name
            cached = isinstance(study.tokenizers[name], ConvolutionalStage)  # of the centre crops
            images = augmented + self.data.val + (0 if cached else self.data.train)
            flops += 2.0 * images * self._encoding(name)
        heads = 2 * 2 * len(stage.offsets) * len(probing.rates) * size.width * self.data.classes
        flops += 2.0 * 2 * heads * probing.epochs * self.data.train
        record = self.results / "probe" / probe / f"seed{seed}" / "probe.json"
        return Job("probe", f"{probe}, seed {seed}", flops, 0.0, record, study.probe_lineage(probe))

    def _finetune(self, row: str, seed: int) -> Job:
        study, stage = self.study, self.study.finetune_stage(row)
        size = study.pretrain_stage(study.runs[row]).size
        macs = classifier_vit_macs(
            tokens=self.tokens,
            width=size.width,
            blocks=size.encoder_blocks + stage.offset,
            classes=self.data.classes,
        )
        recipe = stage.finetuning
        seen = 3 * recipe.total_steps(self.data.train) * recipe.batch + self.data.val  # forward passes' worth
        record = self.results / "finetune" / row / f"seed{seed}" / "finetune.json"
        weights = transformer_parameters(
            width=size.width,
            blocks=size.encoder_blocks + stage.offset,
            in_dim=PATCH_DIM,
            out_dim=self.data.classes,
            conditioning=0,
        )
        disk = 2.0 * 4 * weights  # with their average, among the finished run's own files
        return Job("finetune", f"{row}, seed {seed}", 2.0 * seen * macs, disk, record, study.finetune_lineage(row))

    def _sample(self, run: str, seed: int) -> Job:
        sampling, stage = self.study.scale.sampling, self.study.pretrain_stage(run)
        assert isinstance(stage, DenoiserStage)
        flops = 2.0 * sampling.num * min(sampling.steps, NUM_TIMES) * pretrain_macs(stage, self.size)
        record = self.results / "samples" / run / f"seed{seed}" / "samples.json"
        disk = sampling.num * 3.0 * self.size**2
        return Job("sample", f"{run}, seed {seed}", flops, disk, record, self.study.sample_lineage(run))

    def _judge(self, run: str, seed: int) -> Job:
        scale = self.study.scale
        macs = INCEPTION_MACS
        if scale.judging.features == "builtin":
            macs = classifier_macs("resnet", scale.classifiers["resnet"], self.size)
        record = self.results / "judge" / run / f"seed{seed}" / "distance.json"
        flops = 2.0 * scale.sampling.num * macs
        return Job("judge", f"{run}, seed {seed}", flops, 0.0, record, self.study.distance_lineage(run))


def measured(jobs: list[Job]) -> dict[Job, float]:
    """The seconds of those jobs that have run as the study is now; preparing the images tells none."""
    records = ((job, job.about()) for job in jobs)
    no_seconds = {"seconds": 0.0}
    return {job: seconds_of(about.get("provenance", no_seconds)) for job, about in records if about is not None}


def rates(seconds: dict[Job, float]) -> dict[str, float]:
    """FLOP/s of each stage over jobs that took so many `seconds`, their start left out."""
    pairs: dict[str, list[tuple[float, float]]] = {}
    for job, took in seconds.items():
        if job.flops:
            pairs.setdefault(job.stage, []).append((job.flops, max(took - START_SECONDS, 0.1)))
    return {stage: sum(f for f, _ in found) / sum(s for _, s in found) for stage, found in pairs.items()}


def plan(study: Study, root: Path, targets: list[str], *, images: int | None = None, slots: int | None = None) -> str:
    """A table of the cost of targets, stage by stage, as text.

    Args:
        study: with its scale.
        root: the folder that holds `results/`.
        targets: as snakemake takes them.
        images: of the training set, where neither the scale nor a prepared data set says it.
        slots: jobs side by side; by default as many as this machine's cores allow, or one GPU.
    """
    results, resources = root / study.results, study.scale.resources
    data = size_of(study, results, images)
    jobs = Forecast(study, results, data).jobs(rows_of(study, targets))
    unit = "GPU" if resources.gpu else "CPU core"
    ran = measured(jobs)
    known = rates(ran)
    slots = slots or (1 if resources.gpu else max(1, (os.cpu_count() or 1) // resources.threads))

    def units(stage: str) -> int:
        if not resources.gpu:
            return resources.threads
        return resources.processes if stage in SHARED else 1

    def assumed(stage: str) -> float:
        return units(stage) * (ASSUMED_GPU.get(stage, ASSUMED_CONVOLUTIONS) if resources.gpu else ASSUMED_CORE)

    def expected(job: Job) -> float:
        return START_SECONDS + job.flops / (known.get(job.stage) or assumed(job.stage))

    lines, left_seconds, left_units = [], 0.0, 0.0
    for stage in dict.fromkeys(job.stage for job in jobs):
        of_stage = [job for job in jobs if job.stage == stage]
        left = [job for job in of_stage if job not in ran]
        seconds = sum(map(expected, left))
        left_seconds += seconds
        left_units += seconds * units(stage)
        lines.append(
            [
                stage,
                len(of_stage),
                len(left),
                f"{sum(job.flops for job in left):.1e}",
                f"{seconds * units(stage) / 3600:.2f}",
                _size(sum(job.disk for job in left)),
                _rate(stage, known, assumed(stage)) if any(job.flops for job in of_stage) else "",
            ]
        )
    headers = ["stage", "jobs", "to do", "FLOPs", f"{unit} hours", "disk", "FLOP/s"]
    notes = [
        f"Left to do: {left_units / 3600:.2f} {unit} hours, about {_time(left_seconds / slots)} with "
        f"{slots} {'job' if slots == 1 else 'jobs'} at a time."
    ]
    if known:
        errors = [abs(expected(job) / seconds - 1) for job, seconds in ran.items() if job.flops]
        notes.append(
            f"Rates are those of {len(errors)} jobs on disk; for half of them the formula is within "
            f"{statistics.median(errors):.0%} of what they took."
        )
    if len(known) < len({job.stage for job in jobs if job.flops}):
        like = "an H100 at imagenet scale" if resources.gpu else "a slow core"
        notes.append(f"Rates in brackets are assumed, for no job of the stage has run yet: those of {like}.")
    if not data.known:
        notes.append(
            f"The images are not prepared yet: {data.train:,} for training are assumed; --images says otherwise."
        )
    return "\n".join([tabulate(lines, headers, disable_numparse=True, colalign=["left"] + ["right"] * 6), "", *notes])


def _rate(stage: str, known: dict[str, float], assumed: float) -> str:
    """A stage's FLOP/s, in brackets where no job has told it."""
    return f"{known[stage]:.1e}" if stage in known else f"({assumed:.1e})"


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
