"""A study and its scale from YAML, checked before anything is built; no torch.

A mistake is a `StudyError`: one line that names the file, the row, the key, what was found and what would be right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from ldae.study.checking import StudyError, check_folder_name, checked, listed, nearest, read_yaml
from ldae.study.file import Figure, StudyFile, Table, Target
from ldae.study.measures import DEFAULT_MEASURES, ordered
from ldae.study.names import check_names
from ldae.study.rates import Factor, Rates, check_rates, factors, rates_path, read_rates
from ldae.study.rows import Point, Setting, Variant, resolve
from ldae.study.scale import Part, Scale
from ldae.study.scale_file import not_of_a_study, read_scale, scale_names
from ldae.study.spec import Features, Spec
from ldae.study.stage_specs import (
    AnyTokenizerStage,
    PretrainingStage,
    UntrainedFeatures,
    pretraining_stage,
    tokenizer_stage,
)
from ldae.study.stages import SHARED_SEED, STAGES

# What the rules of the graph are called beside stages: tables and figures are targets too, each by its own name.
VIEWS = "table figure claims variation cost_table page cost cost_all report report_main".split()
TARGETS = ["main", "all", "all_tables", "all_figures", *VIEWS]
RULES = [*STAGES, *TARGETS]
OVERRIDES = ("scale", "seeds", "study")  # what a command line may say


@dataclass(frozen=True)
class Study:
    """A study at a scale, resolved."""

    file: StudyFile
    scale_name: str
    scale: Scale
    variants: dict[str, Variant]
    sweeps: dict[str, list[Point]]
    variations: dict[str, list[Setting]]
    name: str | None = None  # of another study than the folder's own
    rates: Rates = Rates()

    @classmethod
    def load(cls, root: Path, overrides: Mapping[str, Any]) -> Study:
        """Reads the study and its scale below the folder `root`; raises a `StudyError` for any mistake in them.

        The overrides are those of a command line: `scale`, `seeds` and `study`, another study's file.
        """
        for key in overrides:
            if key not in OVERRIDES:
                raise StudyError(
                    f"--config: unknown key {key!r}{nearest(key, OVERRIDES)}; allowed: {listed(OVERRIDES)}"
                )
        own = root / "config.yaml"
        path = Path(str(overrides.get("study", own)))
        other = None if path.resolve() == own.resolve() else path.stem
        if "study" not in overrides and not path.exists():
            raise StudyError(f"{path}: no study here; run this in the project's folder")
        if other is not None:
            check_folder_name(path)
        options = {key: _from_text(key, value) for key, value in overrides.items() if key != "study"}
        values = read_yaml(path, path.name) | options
        file = checked(StudyFile, values, path.name, overrides=options, elsewhere=not_of_a_study)
        for view in (*file.tables, *file.figures):
            if view in RULES:
                raise StudyError(f"{path.name}: {view!r} is the name of a rule; give that table or figure another")
        for view in file.tables:
            if view in file.figures:
                raise StudyError(
                    f"{path.name}: {view!r} names a table and a figure; rename one, because both are targets"
                )
        scale = read_scale(root / "scales", file.scale)
        rates, rows = rates_path(root / "scales", file.scale, other), resolve(file, scale, path.name)
        study = cls(file, file.scale, scale, rows.variants, rows.sweeps, rows.variations, other, read_rates(rates))
        check_names(study, path.name)
        _check_seeds(study, path.name)
        check_rates(study, rates)
        if other is not None and other in scale_names(root / "scales"):
            raise StudyError(
                f"{path}: a scale is called {other!r} too, and results/{other} is its folder; rename the study"
            )
        return study

    def with_seeds(self, seeds: Iterable[int]) -> Study:
        """The study with more seeds behind its own."""
        every = list(dict.fromkeys([*self.file.seeds, *seeds]))
        return replace(self, file=self.file.model_copy(update={"seeds": every}))

    @property
    def results(self) -> Path:
        """The folder of the results, below the project's: two studies at one scale do not share one."""
        return Path("results", *([self.name] if self.name is not None else []), self.scale_name)

    def rows(self, names: Iterable[str]) -> list[str]:
        """The variants behind the names of rows and sweeps, in order, each once."""
        return list(dict.fromkeys(point.variant for name in names for point in self.points(name)))

    def points(self, name: str) -> list[Point]:
        """The points of a sweep, the rows of a variation beside those that it changes, or the one row of this name."""
        if name in self.sweeps:
            return self.sweeps[name]
        names = [name]
        if name in self.variations:
            settings = [setting.rows for setting in self.variations[name]]
            names = [*settings[0], *(row for rows in settings for row in rows.values())]
        variants = (self.variants[row] for row in names)
        return [Point(variant.name, variant.label, variant.paper) for variant in variants]

    @cached_property
    def added(self) -> dict[str, list[str]]:
        """The rows of each variation that are neither rows of the file nor points of its sweeps."""
        others = {*self.file.variants, *(point.variant for points in self.sweeps.values() for point in points)}
        return {name: [row for row in self.rows([name]) if row not in others] for name in self.variations}

    def claims_under(self, variation: str) -> list[str]:
        """The claims whose rows are all among those that a variation changes."""
        bases = self.variations[variation][0].rows.keys()
        return [name for name, claim in self.file.claims.items() if bases >= set(self.rows(claim.names))]

    @cached_property
    def seeds(self) -> dict[str, tuple[int, ...]]:
        """The seeds of each variant: those of the study that its row or sweep lists, or else one of its tables.

        A row of a variation alone has those that the variation lists; if the study has none of these, all of its seeds,
        so that the other rows can be asked for at any seed.
        """
        file = self.file
        own = {name: set(row.seeds) for name, row in file.variants.items() if row.seeds is not None}
        of_sweeps: dict[str, set[int]] = {}
        for name, sweep in file.sweeps.items():
            for point in self.sweeps[name]:
                of_sweeps.setdefault(point.variant, set()).update(sweep.seeds or ())
        of_tables: dict[str, set[int]] = {}
        for table in file.tables.values():
            for row in self.rows(table.names):
                of_tables.setdefault(row, set()).update(file.seeds if table.seeds is None else table.seeds)
        lists = {name: own.get(name) or of_sweeps.get(name) or of_tables.get(name) for name in self.variants}
        for name, variation in file.variations.items():
            for row in self.added[name]:
                if row not in of_tables:
                    lists[row] = (lists[row] or set()) | (
                        set(variation.seeds or ()) & set(file.seeds) or set(file.seeds)
                    )
        return {
            name: tuple(seed for seed in file.seeds if numbers is None or seed in numbers)
            for name, numbers in lists.items()
        }

    def seeds_of(self, rows: Iterable[str]) -> tuple[int, ...]:
        """The seeds that any of some variants has, in the study's order."""
        wanted = {seed for row in rows for seed in self.seeds[row]}
        return tuple(seed for seed in self.file.seeds if seed in wanted)

    def first_seed(self, run: str) -> int:
        """The first seed of a run, which figures of single runs show."""
        return self.seeds_of(row for row, other in self.runs.items() if other == run)[0]

    def seed_of(self, part: Part, seed: int) -> int:
        """The seed of the tokenizer or classifier that a replication uses: its own, or 0 of a shared part."""
        return SHARED_SEED if part in self.scale.shared else seed

    @property
    def own_splits(self) -> bool:
        """Whether each seed has a split of its own."""
        return self.scale.divides and "dataset" not in self.scale.shared

    def shares_classifier(self, architecture: str) -> bool:
        """Whether all seeds use the classifier of seed 0: the judge of samples is one instrument for all."""
        return architecture == "resnet" or "classifier" in self.scale.shared

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
    def untrained(self) -> dict[str, str]:
        """For each variant, the first one with the same untrained network and features: they share its probe."""
        first: dict[UntrainedFeatures, str] = {}
        return {name: first.setdefault(self.untrained_features(name), name) for name in self.variants}

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
    def tokenizers(self) -> dict[str, AnyTokenizerStage]:
        """The tokenizers to fit, by name."""
        rows = [v.spec.tokenizer for v in self.variants.values() if v.spec.method.traits.denoises]
        rates = self.rates
        return {each.name: tokenizer_stage(each, self.scale, rates.of_tokenizer(each)) for each in rows}

    @cached_property
    def factors(self) -> dict[str, Factor]:
        """The factor of each variant on the scale's rate."""
        return factors(self.rates, self.variants, self.runs)

    def pretraining(self, row: str) -> PretrainingStage:
        """What the pretraining of a row depends on."""
        return pretraining_stage(self.variants[row].spec, self.scale, self.factors[row].value)

    def untrained_features(self, row: str) -> UntrainedFeatures:
        """What the probed features of a row's untrained network depend on."""
        return UntrainedFeatures.of(self.pretraining(row), self.variants[row].spec.features)

    def is_denoiser(self, row: str) -> bool:
        """Whether a row is a denoiser, and not a method that the paper compares with."""
        return self.variants[row].spec.method.traits.denoises

    def is_published(self, row: str) -> bool:
        """Whether a row takes published weights instead of training."""
        return self.variants[row].spec.method.weights is not None

    @cached_property
    def measures(self) -> dict[str, tuple[str, ...]]:
        """What each probe measures: the default, and the columns of all tables with a row that it serves."""
        names = {probe: set(DEFAULT_MEASURES) for probe in self.probes.values()}
        for table in self.file.tables.values():
            for row in self.rows(table.names):
                names[self.probes[row]].update(table.columns)
        return {probe: ordered(measures) for probe, measures in names.items()}

    @cached_property
    def pictured(self) -> list[str]:
        """The rows whose denoised pictures a figure shows."""
        figures = self.file.figures.values()
        return self.rows(name for figure in figures if figure.kind in ("noise", "denoising") for name in figure.names)

    def rows_on_page(self, *targets: Target) -> list[str]:
        """The rows behind the tables, figures and claims of these common targets, in the order of the study."""
        views: list[Table | Figure] = [*self.file.tables.values(), *self.file.figures.values()]
        names = [name for view in views if view.target in targets for name in view.names]
        names += [name for name, variation in self.file.variations.items() if variation.target in targets]
        names += [name for claim in self.file.claims.values() for name in claim.names] if "all" in targets else []
        return sorted(self.rows(names), key=list(self.variants).index)


def project_of(folder: Path) -> Path:
    """This folder or the nearest above it that holds a study; raises a `StudyError` where none does."""
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


def _check_seeds(study: Study, where: str) -> None:
    for name, seeds in study.seeds.items():
        if not seeds:
            raise StudyError(
                f"{where}: row {name!r}: seeds: none of its own or its tables' seeds is among the study's, "
                f"{listed(map(str, study.file.seeds))}; add some to the study's seeds or to the row's"
            )
