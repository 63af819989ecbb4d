"""A study and its scale from YAML, checked before anything is built; no torch.

A mistake is a `StudyError`: one line that names the file, the row, the key, what was found and what would be right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml

from ldae.study.base import Architecture
from ldae.study.checking import StudyError, check_folder_name, checked, listed, nearest, read_yaml
from ldae.study.checks import check_names
from ldae.study.file import DimensionFigure, Figure, RowsFigure, SchedulesFigure, StudyFile, Table, Target
from ldae.study.measures import DEFAULT_MEASURES, ordered
from ldae.study.record import Lineage, digest, lineage
from ldae.study.rows import Point, Variant, resolve
from ldae.study.scale import Scale
from ldae.study.scale_file import not_of_a_study, read_scale
from ldae.study.spec import Features, Spec
from ldae.study.stage_specs import (
    AdoptStage,
    BaselineStage,
    ClassifierStage,
    ConvolutionalStage,
    DatasetStage,
    DenoiserStage,
    DenoiseStage,
    FinetuneStage,
    JudgeStage,
    PretrainStage,
    ProbeStage,
    SampleStage,
    TokenizerStage,
    tokenizer_stage,
)

# What the graph's rules are called: tables and figures are targets too, each by its own name.
RULES = (
    "main all all_tables all_figures dataset tokenizer convolutional_tokenizer classifier pretrain pretrain_baseline "
    "adopt adopt_baseline probe probe_pixels finetune sample reference judge denoise table figure claims cost cost_all "
    "report report_main"
).split()
OVERRIDES = ("scale", "seeds", "study")  # what a command line may say


@dataclass(frozen=True)
class Study:
    """A study at a scale, resolved."""

    file: StudyFile
    scale_name: str
    scale: Scale
    variants: dict[str, Variant]
    sweeps: dict[str, list[Point]]
    name: str | None = None  # of another study than the folder's own

    @classmethod
    def load(cls, root: Path, overrides: Mapping[str, Any]) -> Study:
        """Reads the study below `root` and its scale.

        Args:
            root: the folder with `config.yaml` and `scales/`.
            overrides: `scale`, `seeds` and `study` (another study's file), as given on a command line.

        Raises:
            StudyError: for any mistake in them.
        """
        for key in overrides:
            if key not in OVERRIDES:
                raise StudyError(
                    f"--config: unknown key {key!r}{nearest(key, OVERRIDES)}; allowed: {listed(OVERRIDES)}"
                )
        own = root / "config.yaml"
        path = Path(str(overrides["study"])) if "study" in overrides else own
        other = None if path.resolve() == own.resolve() else path.stem
        if "study" not in overrides and not path.exists():
            raise StudyError(f"{path}: no study here; run this in the project's folder")
        if other is not None:
            check_folder_name(path)
        values = read_yaml(path, path.name)
        given = {key: _from_text(key, value) for key, value in overrides.items() if key != "study"}
        for key, value in given.items():
            checked(StudyFile, values | {key: value}, "--config", only=key)
        file = checked(StudyFile, values | given, path.name, elsewhere=not_of_a_study)
        if len(set(file.seeds)) < len(file.seeds):
            raise StudyError(f"{path.name}: seeds: {file.seeds} names a seed twice")
        taken = [view for view in (*file.tables, *file.figures) if view in RULES]
        if taken:
            raise StudyError(f"{path.name}: {taken[0]!r} is the name of a rule; give that table or figure another")
        both = [view for view in file.tables if view in file.figures]
        if both:
            raise StudyError(
                f"{path.name}: {both[0]!r} names a table and a figure; rename one, because both are targets"
            )
        name, scale = read_scale(root / "scales", file.scale)
        variants, sweeps = resolve(file, scale, path.name)
        for kind, views in (("tables", file.tables), ("figures", file.figures), ("claims", file.claims)):
            for view, definition in views.items():
                check_names(definition, file, variants, sweeps, f"{path.name}: {kind}.{view}")
        if other is not None and (root / "scales" / f"{other}.yaml").is_file():
            raise StudyError(
                f"{path}: a scale is called {other!r} too, and results/{other} is its folder; rename the study"
            )
        return cls(file, name, scale, variants, sweeps, other)

    @property
    def results(self) -> Path:
        """The folder of the results, below the project's: two studies at one scale do not share one."""
        return Path("results", *([self.name] if self.name is not None else []), self.scale_name)

    def rows(self, names: Iterable[str]) -> list[str]:
        """The variants behind the names of rows and sweeps, in order, each once."""
        return list(dict.fromkeys(point.variant for name in names for point in self.points(name)))

    def points(self, name: str) -> list[Point]:
        """The points of a sweep, or the one row of this name."""
        if name in self.sweeps:
            return self.sweeps[name]
        variant = self.variants[name]
        return [Point(name, variant.label, variant.paper)]

    @cached_property
    def runs(self) -> dict[str, str]:
        """For each variant, the first one that shares its pretraining: they differ in what is probed."""
        first: dict[Spec, str] = {}
        return {
            name: first.setdefault(variant.spec.model_copy(update={"features": Features()}), name)
            for name, variant in self.variants.items()
        }

    @cached_property
    def probes(self) -> dict[str, str]:
        """For each variant, the first one that shares its probe: they differ in the block, and one pass serves all."""
        first: dict[tuple[str, int, bool], str] = {}
        features = {name: variant.spec.features for name, variant in self.variants.items()}
        return {name: first.setdefault((self.runs[name], f.time, f.noisy), name) for name, f in features.items()}

    @cached_property
    def urgency(self) -> list[str]:
        """All variants, those of the main tables and figures first.

        Of these the ones whose probe serves most rows lead: it takes longest, and should not run alone at the end.
        """
        views = [*self.file.tables.values(), *self.file.figures.values()]
        main = self.rows(name for view in views if view.target == "main" for name in view.names)
        served = Counter(self.probes.values())
        main.sort(key=lambda row: -served[row])
        return list(dict.fromkeys([*(self.runs[row] for row in main), *main, *self.variants]))

    @cached_property
    def tokenizers(self) -> dict[str, TokenizerStage | ConvolutionalStage]:
        """The tokenizers to fit, by name."""
        rows = [v.spec.tokenizer for v in self.variants.values() if v.spec.method.name == "denoiser"]
        return {tokenizer.name: tokenizer_stage(tokenizer, self.scale) for tokenizer in rows}

    def is_denoiser(self, row: str) -> bool:
        """Whether a row is a denoiser, and not a method that the paper compares with."""
        return self.variants[row].spec.method.name == "denoiser"

    def is_convolutional(self, tokenizer: str) -> bool:
        """Whether a tokenizer is trained rather than fitted."""
        return isinstance(self.tokenizers[tokenizer], ConvolutionalStage)

    def dataset_stage(self) -> DatasetStage:
        """What preparing the images depends on."""
        return DatasetStage(dataset=self.scale.dataset)

    def classifier_stage(self, architecture: Architecture) -> ClassifierStage:
        """What training a small classifier depends on.

        Raises:
            StudyError: for one that the scale gives no recipe of.
        """
        if architecture not in self.scale.classifiers:
            raise StudyError(f"scale {self.scale_name}: classifiers.{architecture}: is missing; give its recipe")
        return ClassifierStage(architecture=architecture, classifier=self.scale.classifiers[architecture])

    def is_published(self, row: str) -> bool:
        """Whether a row takes published weights instead of training."""
        return self.variants[row].spec.method.weights is not None

    def pretrain_stage(self, row: str) -> PretrainStage | AdoptStage | BaselineStage:
        """What pretraining a row, or taking its weights, depends on."""
        spec = self.variants[row].spec
        if spec.method.name != "denoiser":
            return BaselineStage.of(spec, self.scale)
        return AdoptStage.of(spec, self.scale) if self.is_published(row) else PretrainStage.of(spec, self.scale)

    def probe_stage(self, row: str) -> ProbeStage:
        """What the probe of a row depends on; it serves all rows that differ in the block alone."""
        features = self.variants[row].spec.features
        probe = self.probes[row]
        offsets = {self.variants[name].spec.features.offset for name, other in self.probes.items() if other == probe}
        return ProbeStage(
            offsets=tuple(sorted(offsets)),
            time=features.time,
            noisy=features.noisy,
            measures=self._measures[probe],
            probing=self.scale.probing,
        )

    @cached_property
    def _measures(self) -> dict[str, tuple[str, ...]]:
        """What each probe measures: the default, and the columns of all tables with a row that it serves."""
        names = {probe: set(DEFAULT_MEASURES) for probe in self.probes.values()}
        for table in self.file.tables.values():
            for row in self.rows(table.names):
                names[self.probes[row]].update(table.columns)
        return {probe: ordered(measures) for probe, measures in names.items()}

    def pixels_stage(self) -> ProbeStage:
        """What probing raw pixels depends on."""
        return ProbeStage(probing=self.scale.probing)

    def finetune_stage(self, row: str) -> FinetuneStage:
        """What fine-tuning a row depends on."""
        return FinetuneStage.of(self.variants[row].spec, self.scale)

    def sample_stage(self) -> SampleStage:
        """What sampling from a row depends on."""
        return SampleStage(sampling=self.scale.sampling)

    def judge_stage(self) -> JudgeStage:
        """What comparing samples with true images depends on."""
        return JudgeStage(judging=self.scale.judging)

    def denoise_stage(self) -> DenoiseStage:
        """What showing a row's denoising depends on."""
        return DenoiseStage()

    def dataset_lineage(self) -> Lineage:
        """What the prepared images should have been made from."""
        return lineage("dataset", self.dataset_stage(), self.file.revisions["dataset"])

    def classifier_lineage(self, architecture: Architecture) -> Lineage:
        """What a small classifier should have been made from."""
        stage = self.classifier_stage(architecture)
        return lineage(architecture, stage, self.file.revisions["classifier"], self.dataset_lineage())

    def needs_vgg(self, tokenizer: str) -> bool:
        """Whether a tokenizer is trained with the features of the study's own VGG-style network."""
        stage = self.tokenizers[tokenizer]
        return isinstance(stage, ConvolutionalStage) and stage.needs_vgg

    def tokenizer_lineage(self, name: str) -> Lineage:
        """What a tokenizer should have been made from."""
        made = self.dataset_lineage() | (self.classifier_lineage("vgg") if self.needs_vgg(name) else {})
        return lineage("tokenizer", self.tokenizers[name], self.file.revisions["tokenizer"], made)

    def run_lineage(self, row: str) -> Lineage:
        """What the pretraining of a row should have been made from."""
        stage = self.pretrain_stage(row)
        if isinstance(stage, DenoiserStage):
            made = self.tokenizer_lineage(stage.tokenizer.name)
        else:
            made = self.dataset_lineage()
        return lineage("pretrain", stage, self.file.revisions["pretrain"], made)

    def probe_lineage(self, row: str) -> Lineage:
        """What the probe of a row should have been made from."""
        return lineage("probe", self.probe_stage(row), self.file.revisions["probe"], self.run_lineage(row))

    def pixels_lineage(self) -> Lineage:
        """What the probe of raw pixels should have been made from."""
        return lineage("probe", self.pixels_stage(), self.file.revisions["probe"], self.dataset_lineage())

    def finetune_lineage(self, row: str) -> Lineage:
        """What the fine-tuning of a row should have been made from."""
        return lineage("finetune", self.finetune_stage(row), self.file.revisions["finetune"], self.run_lineage(row))

    def sample_lineage(self, row: str) -> Lineage:
        """What the samples of a row should have been made from."""
        return lineage("sample", self.sample_stage(), self.file.revisions["sample"], self.run_lineage(row))

    def distance_lineage(self, row: str) -> Lineage:
        """What the judgement of a row's samples should have been made from."""
        made = self.sample_lineage(row)
        if self.scale.judging.features == "builtin":
            made |= self.classifier_lineage("resnet")
        return lineage("judge", self.judge_stage(), self.file.revisions["judge"], made)

    def reference_lineage(self) -> Lineage:
        """What the statistics of the true images should have been made from."""
        inputs = [self.dataset_lineage()]
        if self.scale.judging.features == "builtin":
            inputs.append(self.classifier_lineage("resnet"))
        return lineage("judge", self.judge_stage(), self.file.revisions["judge"], *inputs)

    def denoise_lineage(self, row: str) -> Lineage:
        """What the denoised pictures of a row should have been made from."""
        return lineage("denoise", self.denoise_stage(), self.file.revisions["denoise"], self.run_lineage(row))

    def describe(self, names: Iterable[str]) -> dict[str, Any]:
        """All that a table, figure or list of claims needs to know of its rows, for its command line."""
        return {
            "rows": [self._row(point) for name in names for point in self.points(name)],
            "seeds": self.file.seeds,
            "pixels": digest(self.pixels_lineage()),
        }

    def definition(self, kind: Literal["tables", "figures"], view: str) -> dict[str, Any]:
        """All that a table or figure needs to know of the study, for its command line."""
        definition: Table | DimensionFigure | RowsFigure | SchedulesFigure = getattr(self.file, kind)[view]
        hidden = {"rows", "names", "target", "filters"}
        described = definition.model_dump(exclude=hidden, exclude_none=True) | self.describe(definition.names)
        series = getattr(definition, "series", None)
        if series:
            described["series"] = [
                {"label": label, "rows": [[point.variant, point.value] for point in self.points(sweep)]}
                for label, sweep in series.items()
            ]
        filters = getattr(definition, "filters", {})
        if filters:
            described["filters"] = [
                {"label": label, "tokenizer": tokenizer.name, "dim": tokenizer.dim}
                for label, row in filters.items()
                for tokenizer in [self.variants[row].spec.tokenizer]
            ]
        return described

    def claims(self) -> dict[str, Any]:
        """All that the verdicts on the claims need to know of the study, for their command line."""
        described = []
        for name, claim in self.file.claims.items():
            values = claim.model_dump(exclude_none=True) | {"name": name}
            if claim.peak is not None:
                values["peak"] = [[point.variant, point.value] for point in self.points(claim.peak)]
            described.append(values)
        names = list(dict.fromkeys(name for claim in self.file.claims.values() for name in claim.names))
        return self.describe(names) | {"claims": described}

    def rows_on_page(self, *targets: Target) -> list[str]:
        """The rows behind the tables, figures and claims of these common targets, in the order of the study."""
        views: list[Table | Figure] = [*self.file.tables.values(), *self.file.figures.values()]
        names = [name for view in views if view.target in targets for name in view.names]
        names += [name for claim in self.file.claims.values() for name in claim.names] if "all" in targets else []
        return sorted(self.rows(names), key=list(self.variants).index)

    def page(self, *targets: Target) -> dict[str, Any]:
        """All that the page of these common targets needs to know of the study, for its command line."""
        tables = {name: table for name, table in self.file.tables.items() if table.target in targets}
        figures = {name: figure for name, figure in self.file.figures.items() if figure.target in targets}
        claims = self.file.claims if "all" in targets else {}
        described = self.describe(self.rows_on_page(*targets))
        for row in described["rows"]:
            row |= self._origin(self.variants[row["name"]])
        shown = {name: self.definition("tables", name) for name in tables}
        return described | {
            "scale": self.scale_name,
            # what a job asks of the machine changes no result
            "settings": self.scale.model_dump(mode="json", by_alias=True, exclude={"resources"}),
            "revisions": self.file.revisions,
            "tables": [
                {"name": name, **{key: table[key] for key in ("title", "series", "columns") if key in table}}
                for name, table in shown.items()
            ],
            "figures": [{"name": name, "title": figure.title, "kind": figure.kind} for name, figure in figures.items()],
            "claims": [
                {"name": name, "rows": self.rows(claim.names)}
                | claim.model_dump(include={"where", "above", "below", "within"}, exclude_none=True)
                for name, claim in claims.items()
            ],
        }

    def _origin(self, variant: Variant) -> dict[str, Any]:
        """Where a row comes from: its parent, what it changes of it, and its whole specification."""
        parent = self.variants[variant.parent].spec if variant.parent is not None else Spec()
        origin: dict[str, Any] = {
            "parent": variant.parent,
            "changes": {key: [before, after] for key, (before, after) in variant.spec.changes(parent).items()},
            "spec": variant.spec.model_dump(exclude_defaults=True),
            "trained": digest(self.run_lineage(variant.name)),
        }
        if self.is_denoiser(variant.name):
            origin["tokenizer"] = variant.spec.tokenizer.name
        return origin

    def _row(self, point: Point) -> dict[str, Any]:
        """A row as its readers see it, and the digests of what its results should have been made from."""
        variant = self.variants[point.variant]
        row: dict[str, Any] = {
            "name": point.variant,
            "label": point.label,
            "paper": point.paper.model_dump(exclude_none=True),
            "run": self.runs[point.variant],
            "probe": self.probes[point.variant],
            "offset": variant.spec.features.offset,
            "lineage": digest(self.probe_lineage(point.variant)),
        }
        if variant.finetune:
            row["finetuned"] = digest(self.finetune_lineage(point.variant))
        if variant.fid:
            row["distance"] = digest(self.distance_lineage(point.variant))
        return row


def project_of(folder: Path) -> Path:
    """The folder of the project: this one, or the nearest above it that holds a study.

    Raises:
        StudyError: where none does.
    """
    for place in (folder, *folder.parents):
        if (place / "config.yaml").is_file() and (place / "scales").is_dir():
            return place
    raise StudyError(
        f"{folder}: no study here or above (no config.yaml next to scales/); run ldae in the project's folder"
    )


def _from_text(key: str, value: Any) -> Any:
    """A value of the command line, where lists arrive as text; seeds need no brackets."""
    if key == "scale":
        return str(value)
    try:
        value = yaml.safe_load(value) if isinstance(value, str) else value
        if key == "seeds" and isinstance(value, str | int):
            value = yaml.safe_load(f"[{value}]")
        return value
    except yaml.YAMLError:
        raise StudyError(f'--config: {key}: found {value!r}, which is not YAML; write e.g. "seeds=[0,1]"') from None
