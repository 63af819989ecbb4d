"""A study and its scale from YAML: every row as its parent plus one change, checked before anything is built; no torch.

A mistake is a `StudyError`: one line that names the file, the row, the key, what was found and what would be right.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError

from ldae.checking import StudyError, checked, first_mistake, listed, nearest, read_yaml
from ldae.record import Lineage, digest, lineage
from ldae.spec import DatasetStage, Part, PretrainStage, ProbeStage, Scale, Spec, TokenizerStage

OVERRIDES = ("scale", "seeds", "study")  # what a command line may say
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class Paper(Part):
    """What the paper reports for a row: linear probe accuracy in percent, FID-50K."""

    probe: float | None = None
    fid: float | None = None


class Row(Part):
    """A run: the run it starts from, and the one thing it changes."""

    parent: str | None = Field(default=None, alias="from")
    label: str
    set: dict[str, Any] = {}
    paper: Paper = Paper()


class Sweep(Part):
    """Runs that differ in the value of one key."""

    parent: str = Field(alias="from")
    label: str
    set: dict[str, Any] = {}
    over: Annotated[dict[str, list[Any]], Field(min_length=1, max_length=1)]
    paper: dict[Literal["probe", "fid"], list[float | None]] = {}


class Table(Part):
    """Rows and sweeps, by name, in order; `default: false` keeps a table out of `all`."""

    title: str
    rows: Annotated[list[str], Field(min_length=1)]
    default: bool = True


class DimensionFigure(Part):
    """Accuracy against the latent dimension: a curve for each sweep."""

    kind: Literal["dimension"]
    title: str
    series: dict[str, str]
    default: bool = True

    @property
    def rows(self) -> list[str]:
        """What it shows."""
        return list(self.series.values())


class TrajectoryFigure(Part):
    """Accuracy along the rows, each a modification of the one before."""

    kind: Literal["trajectory"]
    title: str
    rows: Annotated[list[str], Field(min_length=1)]
    default: bool = True


class StudyFile(Part):
    """The study: one file, `config.yaml` unless another is named."""

    scale: Annotated[str, Field(min_length=1)]
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    revisions: dict[Literal["dataset", "tokenizer", "pretrain", "probe"], Annotated[int, Field(ge=1)]]
    variants: Annotated[dict[Name, Row], Field(min_length=1)]
    sweeps: dict[Name, Sweep] = {}
    tables: dict[Name, Table] = {}
    figures: dict[Name, Annotated[DimensionFigure | TrajectoryFigure, Field(discriminator="kind")]] = {}


@dataclass(frozen=True)
class Variant:
    """A resolved row."""

    name: str
    label: str
    parent: str | None
    spec: Spec
    paper: Paper


@dataclass(frozen=True)
class Point:
    """A row as a sweep sees it: it may have another name elsewhere."""

    variant: str
    label: str
    paper: Paper


@dataclass(frozen=True)
class Study:
    """A study at a scale, resolved."""

    file: StudyFile
    scale_name: str
    scale: Scale
    variants: dict[str, Variant]
    sweeps: dict[str, list[Point]]

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
        path = Path(overrides["study"]) if "study" in overrides else root / "config.yaml"
        values = read_yaml(path)
        given = {key: _from_text(key, value) for key, value in overrides.items() if key != "study"}
        for key, value in given.items():
            checked(StudyFile, values | {key: value}, "--config", only=key)
        file = checked(StudyFile, values | given, path.name)
        if len(set(file.seeds)) < len(file.seeds):
            raise StudyError(f"{path.name}: seeds: {file.seeds} names a seed twice")
        name, scale = read_scale(root / "scales", file.scale)
        variants, sweeps = resolve(file, path.name)
        study = cls(file, name, scale, variants, sweeps)
        for kind, views in (("tables", file.tables), ("figures", file.figures)):
            for view, definition in views.items():
                for row in definition.rows:
                    if row not in variants and row not in sweeps:
                        known = [*variants, *sweeps]
                        raise StudyError(
                            f"{path.name}: {kind}.{view}: {row!r} is no row or sweep{nearest(row, known)}; "
                            f"known: {listed(known)}"
                        )
        return study

    def rows(self, names: Iterable[str]) -> list[str]:
        """The variants behind the names of rows and sweeps, in order, each once."""
        return list(dict.fromkeys(point.variant for name in names for point in self._points(name)))

    def _points(self, name: str) -> list[Point]:
        """The points of a sweep, or the one row of this name."""
        if name in self.sweeps:
            return self.sweeps[name]
        variant = self.variants[name]
        return [Point(name, variant.label, variant.paper)]

    def dataset_stage(self) -> DatasetStage:
        """What preparing the images depends on."""
        return DatasetStage(dataset=self.scale.dataset)

    def tokenizer_stages(self) -> dict[str, TokenizerStage]:
        """The tokenizers to fit, by name."""
        return {v.spec.tokenizer.name: TokenizerStage.of(v.spec, self.scale) for v in self.variants.values()}

    def pretrain_stage(self, row: str) -> PretrainStage:
        """What pretraining a row depends on."""
        return PretrainStage.of(self.variants[row].spec, self.scale)

    def probe_stage(self, row: str) -> ProbeStage:
        """What probing a row depends on."""
        return ProbeStage.of(self.variants[row].spec, self.scale)

    def lineage(self, row: str) -> Lineage:
        """What the probe of a row should have been made from."""
        revisions = self.file.revisions
        tokenizer = self.tokenizer_stages()[self.variants[row].spec.tokenizer.name]
        dataset = lineage("dataset", self.dataset_stage(), revisions["dataset"])
        fitted = lineage("tokenizer", tokenizer, revisions["tokenizer"], dataset)
        trained = lineage("pretrain", self.pretrain_stage(row), revisions["pretrain"], fitted)
        return lineage("probe", self.probe_stage(row), revisions["probe"], trained)

    def pixels_lineage(self) -> Lineage:
        """What the probe of raw pixels should have been made from."""
        revisions = self.file.revisions
        dataset = lineage("dataset", self.dataset_stage(), revisions["dataset"])
        return lineage("probe", self.pixels_stage(), revisions["probe"], dataset)

    def pixels_stage(self) -> ProbeStage:
        """What probing raw pixels depends on."""
        return ProbeStage(probing=self.scale.probing)

    def definition(self, kind: Literal["tables", "figures"], view: str) -> dict[str, Any]:
        """All that a table or figure needs to know of the study, for its command line."""
        definition = getattr(self.file, kind)[view]
        described = definition.model_dump(exclude={"rows", "default"}) | {
            "rows": [
                {
                    "name": point.variant,
                    "label": point.label,
                    "paper": point.paper.model_dump(exclude_none=True),
                    "lineage": digest(self.lineage(point.variant)),
                }
                for name in definition.rows
                for point in self._points(name)
            ],
            "seeds": self.file.seeds,
            "pixels": digest(self.pixels_lineage()),
        }
        if isinstance(definition, DimensionFigure):
            described["series"] = [
                {
                    "label": label,
                    "dims": {p.variant: self.variants[p.variant].spec.tokenizer.dim for p in self._points(sweep)},
                }
                for label, sweep in definition.series.items()
            ]
        return described


def resolve(file: StudyFile, where: str) -> tuple[dict[str, Variant], dict[str, list[Point]]]:
    """Every run by name, and every sweep's runs: a point that equals a named row is that row and trains once.

    Args:
        file: the study.
        where: its name, for messages.
    """
    variants: dict[str, Variant] = {}
    names: dict[Spec, str] = {}
    for name, row in file.variants.items():
        place = f"{where}: variants.{name}"
        parent = _parent(row.parent, variants, place) if row.parent is not None else None
        spec = _changed(parent.spec if parent else Spec(), row.set, place)
        if spec in names:
            raise StudyError(f"{place}: equals row {names[spec]!r}; a row must change something")
        names[spec] = name
        variants[name] = Variant(name, row.label, row.parent, spec, row.paper)
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
            paper = Paper(**{measure: numbers[index] for measure, numbers in sweep.paper.items()})
            label = sweep.label.format(value=value)
            point = names.setdefault(spec, f"{name}{value}")
            variants.setdefault(point, Variant(point, label, sweep.parent, spec, paper))
            sweeps[name].append(Point(point, label, paper))
    return variants, sweeps


def read_scale(folder: Path, name: str) -> tuple[str, Scale]:
    """A scale by name: its file in `folder`, on top of the scale it is `from`, section by section."""
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in folder.glob("*.yaml"))
        raise StudyError(
            f"scale: {name!r} has no file {folder.name}/{name}.yaml{nearest(name, known)}; known: {listed(known)}"
        )
    values = read_yaml(path)
    base = values.pop("from", None)
    if base is not None:
        inherited = folder / f"{base}.yaml"
        if not inherited.is_file() or base == name:
            raise StudyError(f"{folder.name}/{path.name}: from: {base!r} is no other scale of {folder.name}/")
        values = read_yaml(inherited) | values
    return name, checked(Scale, values, f"{folder.name}/{path.name}")


def _parent(name: str, variants: dict[str, Variant], place: str) -> Variant:
    if name not in variants:
        known = list(variants)
        raise StudyError(
            f"{place}.from: no row {name!r} stands above{nearest(name, known)}; above stand: {listed(known) or 'none'}"
        )
    return variants[name]


def _changed(spec: Spec, changes: dict[str, Any], place: str) -> Spec:
    try:
        return spec.changed(changes)
    except KeyError as error:
        key, known = error.args
        raise StudyError(f"{place}.set: unknown key {key!r}{nearest(key, known)}; allowed: {listed(known)}") from None
    except ValidationError as error:
        raise StudyError(f"{place}.set: {first_mistake(Spec, error)}") from None


def _from_text(key: str, value: Any) -> Any:
    """A value of the command line, where lists arrive as text."""
    if key == "scale" or not isinstance(value, str):
        return str(value) if key == "scale" else value
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        raise StudyError(f'--config: {key}: found {value!r}, which is no YAML; write e.g. "seeds=[0,1]"') from None
