"""A study and its scale from YAML: every row as its parent plus one change, checked before anything is built; no torch.

A mistake is a `StudyError`: one line that names the file, the row, the key, what was found and what would be right.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError

from ldae.record import Lineage, digest, lineage
from ldae.spec import DatasetStage, Part, PretrainStage, ProbeStage, Scale, Spec, TokenizerStage

OVERRIDES = ("scale", "seeds", "study")  # what a command line may say
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
AnyPart = TypeVar("AnyPart", bound=Part)


class StudyError(Exception):
    """A mistake of the user's, in one line."""


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
                    f"--config: unknown key {key!r}{_nearest(key, OVERRIDES)}; allowed: {_list(OVERRIDES)}"
                )
        path = Path(overrides["study"]) if "study" in overrides else root / "config.yaml"
        values = read_yaml(path)
        given = {key: _from_text(key, value) for key, value in overrides.items() if key != "study"}
        for key, value in given.items():
            _checked(StudyFile, values | {key: value}, "--config", only=key)
        file = _checked(StudyFile, values | given, path.name)
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
                            f"{path.name}: {kind}.{view}: {row!r} is no row or sweep{_nearest(row, known)}; "
                            f"known: {_list(known)}"
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
            f"scale: {name!r} has no file {folder.name}/{name}.yaml{_nearest(name, known)}; known: {_list(known)}"
        )
    values = read_yaml(path)
    base = values.pop("from", None)
    if base is not None:
        inherited = folder / f"{base}.yaml"
        if not inherited.is_file() or base == name:
            raise StudyError(f"{folder.name}/{path.name}: from: {base!r} is no other scale of {folder.name}/")
        values = read_yaml(inherited) | values
    return name, _checked(Scale, values, f"{folder.name}/{path.name}")


class _UniqueKeys(yaml.SafeLoader):
    """YAML's own loader keeps the last of two equal keys and says nothing."""


def _unique_mapping(loader: _UniqueKeys, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key, _ in node.value:
        if key.value in seen:
            raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands here twice", key.start_mark)
        seen.add(key.value)
    return loader.construct_mapping(node, deep=True)


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; refuses one that is missing, broken, or says a key twice."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except OSError as error:
        raise StudyError(f"{path}: {(error.strerror or 'cannot be read').lower()}; name an existing file") from None
    except UnicodeDecodeError:
        raise StudyError(f"{path}: is no UTF-8 text") from None
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}:" if error.problem_mark else ""
        raise StudyError(f"{path.name}:{line} {error.problem}; mend the YAML there") from None
    except yaml.YAMLError as error:
        raise StudyError(f"{path.name}: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise StudyError(f"{path.name}: found {type(values).__name__}, expected a mapping of sections")
    return values


def _parent(name: str, variants: dict[str, Variant], place: str) -> Variant:
    if name not in variants:
        known = list(variants)
        raise StudyError(
            f"{place}.from: no row {name!r} stands above{_nearest(name, known)}; above stand: {_list(known) or 'none'}"
        )
    return variants[name]


def _changed(spec: Spec, changes: dict[str, Any], place: str) -> Spec:
    try:
        return spec.changed(changes)
    except KeyError as error:
        key, known = error.args
        raise StudyError(f"{place}.set: unknown key {key!r}{_nearest(key, known)}; allowed: {_list(known)}") from None
    except ValidationError as error:
        raise StudyError(f"{place}.set: {_first_mistake(Spec, error)}") from None


def _checked(model: type[AnyPart], values: dict[str, Any], where: str, only: str | None = None) -> AnyPart:
    """Validated values; with `only`, mistakes elsewhere than in that key are left for another check to tell."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        if only is None or any(mistake["loc"][0] == only for mistake in error.errors()):
            raise StudyError(f"{where}: {_first_mistake(model, error, only)}") from None
        return model.model_construct()


def _first_mistake(model: type[BaseModel], error: ValidationError, only: str | None = None) -> str:
    """The most telling of pydantic's complaints, in one line: an unknown key often explains one that is missing."""
    mistakes = [m for m in error.errors() if only is None or m["loc"][0] == only]
    mistake = min(mistakes, key=lambda m: m["type"] != "extra_forbidden")
    loc, kind, message = mistake["loc"], mistake["type"], mistake["msg"]
    if kind == "value_error":  # the text of our own validators, which names its key
        prefix = ".".join(map(str, loc))
        text = message.removeprefix("Value error, ")
        return text if not prefix or text.startswith(prefix) else f"{prefix}: {text}"
    key = ".".join(str(part) for part in loc if part != "[key]")
    if kind == "extra_forbidden":
        known = _known_keys(model, loc[:-1])
        return f"unknown key {key!r}{_nearest(str(loc[-1]), known)}; allowed: {_list(known)}"
    if kind == "missing":
        return f"{key}: is missing"
    if kind.startswith("union_tag"):
        context = mistake["ctx"]
        word = context["discriminator"].strip("'")
        return (
            f"{key}.{word}: found {context.get('tag')!r}, should be one of {context.get('expected_tags', 'the kinds')}"
        )
    message = message[0].lower() + message[1:]
    return f"{key}: found {mistake['input']!r}, {message.replace('input should', 'should')}"


def _known_keys(model: Any, loc: tuple[int | str, ...]) -> list[str]:
    """The keys that a configuration accepts at a place in it."""
    if isinstance(model, type) and issubclass(model, BaseModel):
        fields = {field.alias or name: field.annotation for name, field in model.model_fields.items()}
        return _known_keys(fields[str(loc[0])], loc[1:]) if loc else list(fields)
    origin, arguments = typing.get_origin(model), typing.get_args(model)
    if origin is Annotated:
        return _known_keys(arguments[0], loc)
    if origin is dict and loc:
        return _known_keys(arguments[1], loc[1:])
    if origin in (typing.Union, types.UnionType):
        chosen = [a for a in arguments if loc and isinstance(a, type) and loc[0] in _tags(a)]
        return _known_keys(chosen[0], loc[1:]) if chosen else []
    return []


def _tags(model: type[BaseModel]) -> set[Any]:
    """The words that choose a member of a union, e.g. a data set's `source`."""
    annotations = (field.annotation for field in getattr(model, "model_fields", {}).values())
    return {word for a in annotations if typing.get_origin(a) is Literal for word in typing.get_args(a)}


def _from_text(key: str, value: Any) -> Any:
    """A value of the command line, where lists arrive as text."""
    if key == "scale" or not isinstance(value, str):
        return str(value) if key == "scale" else value
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        raise StudyError(f'--config: {key}: found {value!r}, which is no YAML; write e.g. "seeds=[0,1]"') from None


def _nearest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _list(words: Iterable[str]) -> str:
    return ", ".join(words)
