"""A study and its scale from YAML: every row as its parent plus one change, checked before anything is built; no torch.

A mistake is a `StudyError`: one line that names the file, the row, the key, what was found and what would be right.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from ldae.study.checking import StudyError, check_folder_name, checked, first_mistake, listed, nearest, read_yaml
from ldae.study.file import (
    Claim,
    DimensionFigure,
    Figure,
    Paper,
    RowsFigure,
    SchedulesFigure,
    StudyFile,
    Table,
    Target,
)
from ldae.study.record import Lineage, digest, lineage
from ldae.study.scale_file import not_of_a_row, not_of_a_study, read_scale
from ldae.study.schedules import SCHEDULES, sampled
from ldae.study.spec import (
    AdoptStage,
    Architecture,
    BaselineStage,
    ClassifierStage,
    ConvolutionalStage,
    DatasetStage,
    DenoiserStage,
    DenoiseStage,
    Features,
    FinetuneStage,
    JudgeStage,
    PretrainStage,
    ProbeStage,
    SampleStage,
    Scale,
    Spec,
    TokenizerStage,
    tokenizer_stage,
)

LINEAR = ("pca", "patch_vae", "patch_ae")  # the tokenizers that have filters to be shown
# What the graph's rules are called: tables and figures are targets too, each by its own name.
RULES = (
    "main all all_tables all_figures dataset tokenizer convolutional_tokenizer classifier pretrain pretrain_baseline "
    "adopt adopt_baseline probe probe_pixels finetune sample reference judge denoise table figure claims cost cost_all "
    "report report_main"
).split()
OVERRIDES = ("scale", "seeds", "study")  # what a command line may say


@dataclass(frozen=True)
class Variant:
    """A resolved row."""

    name: str
    label: str
    parent: str | None
    spec: Spec
    paper: Paper
    finetune: bool
    fid: bool


@dataclass(frozen=True)
class Point:
    """A row as a table sees it: a sweep may give it another label, and knows its value."""

    variant: str
    label: str
    paper: Paper
    value: Any = None


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
            raise StudyError(f"{path.name}: {both[0]!r} names a table and a figure; rename one, for both are targets")
        name, scale = read_scale(root / "scales", file.scale)
        variants, sweeps = resolve(file, scale, path.name)
        for kind, views in (("tables", file.tables), ("figures", file.figures), ("claims", file.claims)):
            for view, definition in views.items():
                _check_names(definition, file, variants, sweeps, f"{path.name}: {kind}.{view}")
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
            offsets=tuple(sorted(offsets)), time=features.time, noisy=features.noisy, probing=self.scale.probing
        )

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
                {"name": name, **{key: table[key] for key in ("title", "series") if key in table}}
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
        f"{folder}: no study here or above (no config.yaml beside scales/); run ldae in the project's folder"
    )


def _check_names(
    definition: Table | Figure | Claim,
    file: StudyFile,
    variants: dict[str, Variant],
    sweeps: dict[str, list[Point]],
    place: str,
) -> None:
    """Refuses a table, figure or claim that names what does not exist, or asks of a row what it does not have."""
    known = [*variants, *sweeps]
    for name in [*definition.names, *getattr(definition, "filters", {}).values()]:
        if name not in known:
            raise StudyError(
                f"{place}: there is no row or sweep {name!r}{nearest(name, known)}; known: {listed(known)}"
            )
    for name in (getattr(definition, "series", None) or {}).values():
        if name not in sweeps:
            raise StudyError(f"{place}.series: {name!r} is a row, not a sweep; sweeps: {listed(sweeps)}")
    if isinstance(definition, Claim):
        _check_claim(definition, file, variants, sweeps, place)
    elif isinstance(definition, DimensionFigure | RowsFigure):
        _check_figure(definition, variants, sweeps, place)


def _check_figure(
    figure: DimensionFigure | RowsFigure, variants: dict[str, Variant], sweeps: dict[str, list[Point]], place: str
) -> None:
    """Refuses a figure of rows that do not have what it shows."""
    if isinstance(figure, DimensionFigure):
        for name in figure.filters.values():
            if name not in variants or variants[name].spec.tokenizer.kind not in LINEAR:
                raise StudyError(f"{place}.filters: {name!r} has no filters; name a row of {listed(LINEAR)}")
        return
    rows = [variants[point.variant] for name in figure.rows for point in sweeps.get(name, [Point(name, "", Paper())])]
    for row in rows:
        if figure.kind == "samples" and not row.fid:
            raise StudyError(f"{place}: {row.name!r} has no samples; name rows with paper.fid or fid: true")
        if figure.kind == "curves" and row.spec.method.weights is not None:
            raise StudyError(f"{place}: {row.name!r} was not trained here and has no curve; name trained rows")
        if figure.kind in ("noise", "denoising") and row.spec.method.name != "denoiser":
            raise StudyError(f"{place}: {row.name!r} does not denoise; name a denoiser's row")


def _check_claim(
    claim: Claim, file: StudyFile, variants: dict[str, Variant], sweeps: dict[str, list[Point]], place: str
) -> None:
    for name in claim.sum or ():
        if name not in variants:
            raise StudyError(f"{place}.sum: {name!r} is a sweep; name single rows, e.g. {sweeps[name][0].variant!r}")
    for name in claim.rank or ():
        if name not in variants or not variants[name].fid:
            raise StudyError(f"{place}.rank: {name!r} has no samples to judge; name rows with paper.fid or fid: true")
    if claim.peak is not None:
        if claim.peak not in sweeps:
            raise StudyError(f"{place}.peak: {claim.peak!r} is a row, not a sweep; sweeps: {listed(sweeps)}")
        (values,) = file.sweeps[claim.peak].over.values()  # also those that this scale's networks have no block for
        for value in claim.among or ():
            if value not in values:
                raise StudyError(
                    f"{place}.among: {claim.peak} has no value {value!r}; values: {listed(map(str, values))}"
                )


def resolve(file: StudyFile, scale: Scale, where: str) -> tuple[dict[str, Variant], dict[str, list[Point]]]:
    """Every run by name, and every sweep's runs: a point that equals a named row is that row and trains once.

    Args:
        file: the study.
        scale: its size; a sweep's points that probe a block which its networks lack are left out.
        where: the study's name, for messages.

    Raises:
        StudyError: for any mistake in a row or a sweep, by its name.
    """
    variants: dict[str, Variant] = {}
    names: dict[Spec, str] = {}
    for name, row in file.variants.items():
        place = f"{where}: variants.{name}"
        parent = _parent(row.parent, variants, place) if row.parent is not None else None
        spec = _changed(parent.spec if parent else Spec(), row.set, place)
        plain = _plain(spec, scale)
        if plain in names:
            raise StudyError(f"{place}: equals row {names[plain]!r}; a row must change something")
        _check_recipe(spec, scale, place)
        if not _has_block(spec, scale):
            size = scale.size_of(spec)
            raise StudyError(
                f"{place}.set: features.offset: there is no block {spec.features.offset} of {size.encoder_blocks} + "
                f"{size.decoder_blocks}, counted from the encoder's last"
            )
        if spec.method.weights is not None and spec.method.name == "denoiser" and not scale.convolutional.published:
            raise StudyError(
                f"{place}: method.weights of a DiT, which works on the latents of Stable Diffusion's VAE; "
                "name that as convolutional.published in the scale file"
            )
        names[plain] = name
        variant = Variant(name, row.label, row.parent, spec, row.paper, row.finetune, row.fid)
        variants[name] = _variant(variant, place)
    sweeps: dict[str, list[Point]] = {}
    for name, sweep in file.sweeps.items():
        place = f"{where}: sweeps.{name}"
        if name in variants:
            raise StudyError(f"{place}: a row has this name already; rename one of them")
        parent = _parent(sweep.parent, variants, place)
        ((key, values),) = sweep.over.items()
        for measure, numbers in sweep.paper.items():
            if len(numbers) != len(values):
                raise StudyError(
                    f"{place}.paper.{measure}: {len(numbers)} numbers for {len(values)} values of {key}; "
                    "give one each, null where the paper has none"
                )
        sweeps[name] = []
        for index, value in enumerate(values):
            spec = _changed(parent.spec, sweep.set | {key: value}, place)
            if not _has_block(spec, scale):
                continue
            _check_recipe(spec, scale, place)
            plain = _plain(spec, scale)
            paper = Paper(**{measure: numbers[index] for measure, numbers in sweep.paper.items()})
            label = _labelled(sweep.label, value, place)
            point = names.setdefault(plain, _point_name(name, value))
            if point in variants and _plain(variants[point].spec, scale) != plain:
                raise StudyError(
                    f"{place}: value {value!r} is named {point!r}, as another run is; rename the sweep or that"
                )
            if point not in variants:
                variant = Variant(point, label, sweep.parent, spec, paper, finetune=False, fid=False)
                variants[point] = _variant(variant, place)
            sweeps[name].append(Point(point, label, paper, value))
    return variants, sweeps


def _variant(variant: Variant, place: str) -> Variant:
    """The variant, fine-tuned and sampled from where the paper gives a number or the study asks for one."""
    spec = variant.spec
    if variant.finetune or variant.paper.finetune is not None:
        if spec.method.weights is not None:
            raise StudyError(f"{place}: published weights are probed as they are; rows trained here can be fine-tuned")
        if spec.method.name == "denoiser" and spec.tokenizer.kind == "conv":
            raise StudyError(
                f"{place}: tokenizer.kind 'conv' cannot be fine-tuned: no patch embedding can stand for its network; "
                "finetune: true and paper.finetune need a patch-wise tokenizer"
            )
        variant = replace(variant, finetune=True)
    if not variant.fid and variant.paper.fid is None:
        return variant
    if spec.method.name != "denoiser":
        raise StudyError(f"{place}: {spec.method.name} cannot be sampled from; FID needs a denoiser")
    if obstacle := SCHEDULES[spec.noise.schedule](spec.noise.sigma).obstacle:
        raise StudyError(
            f"{place}: noise.schedule {spec.noise.schedule!r} cannot be sampled from: {obstacle}; "
            f"FID needs one of {listed(sampled())}"
        )
    return replace(variant, fid=True)


def _plain(spec: Spec, scale: Scale) -> Spec:
    """A row's specification without a weight decay that is the scale's own: with it the row is the same."""
    recipe = spec.recipe
    if recipe.weight_decay != scale.recipe_for(spec.method.name).weight_decay:
        return spec
    return spec.model_copy(update={"recipe": recipe.model_copy(update={"weight_decay": None})})


def _check_recipe(spec: Spec, scale: Scale, place: str) -> None:
    """Refuses a batch that is not a whole number of images for each process."""
    if spec.method.weights is not None:
        return
    try:
        training, processes = scale.training_of(spec), scale.resources.processes
    except ValueError as error:
        raise StudyError(f"{place}.set: {error}") from None
    if processes and training.batch % processes:
        raise StudyError(
            f"{place}.set: recipe.batch: {training.batch} images cannot be divided among {processes} GPUs; "
            "give another multiple"
        )


def _has_block(spec: Spec, scale: Scale) -> bool:
    """Whether the network has the block that the row probes."""
    size = scale.size_of(spec)
    blocks = size.encoder_blocks + (size.decoder_blocks if spec.method.name == "denoiser" else 0)
    return 1 <= size.encoder_blocks + spec.features.offset <= blocks


def _labelled(label: str, value: Any, place: str) -> str:
    """A sweep's label with its value in the place of `{value}`."""
    try:
        return label.format(value=value)
    except (KeyError, IndexError, ValueError, AttributeError):
        raise StudyError(f"{place}.label: {label!r} cannot take {value!r}; write e.g. 'd = {{value}}'") from None


def _point_name(sweep: str, value: Any) -> str:
    """The name of a sweep's run, safe in a file name: a minus becomes `m`, a point `p`."""
    text = f"_{value.lower()}" if isinstance(value, str) else f"{value:g}"
    return sweep + re.sub(r"[^a-z0-9_]", "_", text.replace("-", "m").replace(".", "p"))


def _parent(name: str, variants: dict[str, Variant], place: str) -> Variant:
    if name not in variants:
        known = list(variants)
        raise StudyError(
            f"{place}.from: no row {name!r} stands above{nearest(name, known)}; above stand: {listed(known) or 'none'}"
        )
    return variants[name]


def _changed(spec: Spec, changes: dict[str, Any], place: str) -> Spec:
    try:
        changed = spec.changed(changes)
    except KeyError as error:
        key, known = error.args
        hint = not_of_a_row(key, known) or f"unknown key {key!r}{nearest(key, known)}; allowed: {listed(known)}"
        raise StudyError(f"{place}.set: {hint}") from None
    except ValidationError as error:
        raise StudyError(f"{place}.set: {first_mistake(Spec, error)}") from None
    for key in changes:
        if why := changed.unused(key):
            raise StudyError(f"{place}.set: {key}: changes nothing here: {why}")
    return changed


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
