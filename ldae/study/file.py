"""What the study's file may say: rows, sweeps, tables, figures, claims; no torch."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from ldae.study.base import Config, matching
from ldae.study.checking import listed, word
from ldae.study.measures import DEFAULT_MEASURES, MeasureName
from ldae.study.schedules import SCHEDULES
from ldae.study.stages import STAGES

Name = Annotated[str, matching("[a-z][a-z0-9_]*", "lower-case letters, digits and _, a letter first")]
Target = Literal["main", "all", "none"]  # the smallest of the common targets that a table or figure belongs to
REVISIONS = tuple(dict.fromkeys(stage.revision for stage in STAGES.values()))  # of the code of stages
Rows = Annotated[list[str], Field(min_length=1)]


def _numbers(value: Any) -> Any:
    """Seeds as a list of numbers, from text such as `0-7, 20` or a list of both; any other value as it is."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list):
        return value
    numbers: list[Any] = []
    for part in parts:
        ends = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part) if isinstance(part, str) else None
        if ends is None:
            numbers.append(part)
        else:
            first, last = int(ends[1]), int(ends[2] or ends[1])
            if last < first:
                raise ValueError(f"found {part.strip()!r}, which ends before it begins; write e.g. 0-7")
            numbers += range(first, last + 1)
    if len(set(map(str, numbers))) < len(numbers):
        raise ValueError(f"{value} names a seed twice")
    return numbers


Seeds = Annotated[list[Annotated[int, Field(ge=0)]], BeforeValidator(_numbers), Field(min_length=1)]


class Paper(Config):
    """What the paper reports for a row: accuracy in percent by linear probe and by fine-tuning, FID-50K."""

    probe: float | None = Field(default=None, examples=[65.1])
    finetune: float | None = None
    fid: float | None = None


class Row(Config):
    """A run: the run it starts from, and the one thing it changes."""

    parent: str | None = Field(default=None, alias="from")
    label: str
    set: dict[str, Any] = {}
    paper: Paper = Paper()
    finetune: bool = False  # whether it is fine-tuned though the paper gives no number
    fid: bool = False  # whether it is sampled from though the paper gives no FID
    seeds: Seeds | None = None  # of the study's seeds, those that it is replicated with; None: as its tables say


class Sweep(Config):
    """Runs that differ in the value of one key."""

    parent: str = Field(alias="from")
    label: str
    set: dict[str, Any] = {}
    over: Annotated[dict[str, list[Any]], Field(min_length=1, max_length=1)]
    paper: dict[Literal["probe", "finetune", "fid"], list[float | None]] = {}
    seeds: Seeds | None = None  # of its rows; a row that also stands alone under its own name has its own


class Variation(Config):
    """Some rows, each with the same further change, under which the claims that need no other row are judged too."""

    text: Annotated[str, Field(min_length=1)]  # what follows the label of each row
    rows: Rows  # and sweeps
    set: dict[str, Any] = {}  # on top of each row; a key that has no effect on a row is left out for that row
    over: Annotated[dict[str, list[Any]], Field(max_length=1)] = {}  # a key with several values; none for one change
    seeds: Seeds | None = None  # of the rows that it adds; None: all of the study's
    target: Target = "none"  # of its table of claims

    @model_validator(mode="after")
    def _changes(self) -> Self:
        if not self.set and not any(self.over.values()):
            raise ValueError("set: says what changes, and so does over; give at least one of the two")
        return self

    @property
    def key(self) -> str | None:
        """The key that has several values."""
        return next(iter(self.over), None)


class View(Config):
    """A table or a figure."""

    title: str
    target: Target = "all"

    @property
    def names(self) -> list[str]:
        """The rows and sweeps that it shows."""
        series: dict[str, str] | None = getattr(self, "series", None)
        return getattr(self, "rows", None) or list((series or {}).values())


class Table(View):
    """Rows and sweeps by name, in order; or `series`: a sweep a line, its values the columns."""

    rows: Rows | None = None
    series: dict[str, str] | None = None
    seeds: Seeds | None = None  # of its rows that do not give their own; None: all of the study's
    # the probes of its rows measure these
    columns: Annotated[tuple[MeasureName, ...], Field(min_length=1)] = DEFAULT_MEASURES

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.rows is None) == (self.series is None):
            raise ValueError("rows: and series: exclude each other; give exactly one of the two")
        if self.series is not None and self.columns != DEFAULT_MEASURES:
            raise ValueError("columns: a table of series shows accuracies only; give rows, or leave columns out")
        return self


class DimensionFigure(View):
    """Accuracy against the latent dimension: a curve for each sweep; and the filters of some rows' tokenizers."""

    kind: Literal["dimension"]
    series: dict[str, str]
    filters: dict[str, str] = {}


class RowsFigure(View):
    """A figure of rows: the trajectory, noisy pictures, denoised pictures, or the training curves."""

    kind: Literal["trajectory", "noise", "denoising", "curves", "samples"]
    rows: Rows


class VariationFigure(View):
    """The claims under a variation, each against the values of its key."""

    kind: Literal["variation"]
    variation: str

    @property
    def names(self) -> list[str]:
        """The variation, which stands for all its rows."""
        return [self.variation]


class SchedulesFigure(View):
    """The noise schedules, which need no results."""

    kind: Literal["schedules"]
    schedules: dict[str, Annotated[str, word(SCHEDULES)]]

    @model_validator(mode="after")
    def _curves(self) -> Self:
        for name in self.schedules.values():
            if SCHEDULES[name](1.0).is_single:
                raise ValueError(f"schedules: {name!r} has one noise level and no curve; name others")
        return self


Figure = Annotated[DimensionFigure | RowsFigure | VariationFigure | SchedulesFigure, Field(discriminator="kind")]


class Claim(Config):
    """A statement of the paper: a weighted sum of rows, the place of a peak, or a rank correlation, and its margin."""

    text: str
    where: str  # in the paper
    sum: Annotated[dict[str, float], Field(min_length=1)] | None = None  # of accuracies, in points
    peak: str | None = None  # a sweep
    among: list[Any] | None = None  # values of the sweep, one of which is the best
    rank: Annotated[list[str], Field(min_length=2, max_length=7)] | None = (
        None  # rows whose accuracy is set against the quality of their samples
    )
    above: float | None = None
    below: float | None = None
    within: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if sum(form is not None for form in (self.sum, self.peak, self.rank)) != 1:
            raise ValueError("sum: give exactly one of sum, peak and rank")
        if (self.peak is None) != (self.among is None):
            raise ValueError("among: goes with peak, and peak with among; give both or none")
        margins = sum(margin is not None for margin in (self.above, self.below, self.within))
        if margins != (self.peak is None):
            raise ValueError("above: sum and rank need exactly one of above, below and within; peak needs none")
        return self

    @property
    def names(self) -> list[str]:
        """The rows and sweeps that it speaks of."""
        return list(self.sum or self.rank or [self.peak or ""])


class StudyFile(Config):
    """The study: one file, `config.yaml` unless another is named."""

    scale: Annotated[str, Field(min_length=1)]
    seeds: Seeds  # each is a replication: of the split, the tokenizers, the networks and all that follows
    revisions: dict[Annotated[str, word(REVISIONS)], Annotated[int, Field(ge=1)]]
    variants: Annotated[dict[Name, Row], Field(min_length=1)]
    sweeps: dict[Name, Sweep] = {}
    variations: dict[Name, Variation] = {}
    tables: dict[Name, Table] = {}
    figures: dict[Name, Figure] = {}
    claims: dict[Name, Claim] = {}

    @model_validator(mode="after")
    def _complete(self) -> Self:
        missing = [stage for stage in REVISIONS if stage not in self.revisions]
        if missing:
            raise ValueError(f"revisions: has no {listed(missing)}; write e.g. {missing[0]}: 1")
        return self
