"""How rates are tuned: what is tuned, the study that tries factors on the scale's rate, and the choice; no torch.

The study of the tuning is a normal study of its own. It has the rows that are tuned with all that they are from, and a
sweep over factors for each of them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ldae.study.checking import StudyError, nearest
from ldae.study.rates import TUNING_SEEDS
from ldae.study.spec import Spec
from ldae.study.stage_specs import ConvolutionalStage
from ldae.study.study import Study

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)  # on the scale's rate, tried first
EXTENSIONS = 4  # at most so many further factors, each twice or half the last, while the best is at an edge

Scores = Mapping[float, Sequence[float] | None]  # by factor, one for each replication; None: training diverged


class Subject(NamedTuple):
    """A row or a convolutional tokenizer whose rate is tuned."""

    name: str
    row: str  # itself, or the first row with the tokenizer
    is_row: bool

    @property
    def key(self) -> str:
        """The key of a row that multiplies the rate."""
        return "recipe.rate" if self.is_row else "tokenizer.rate"

    @property
    def sweep(self) -> str:
        """The name of its sweep."""
        return f"{self.name}_rate" if self.is_row else f"tokenizer_{self.name.replace('-', '_')}_rate"


def subjects(study: Study, names: Iterable[str] = ()) -> list[Subject]:
    """The tokenizers and the rows to tune, in this order.

    By default these are all that are trained at the scale's rate, but for the rows that variations add; rows that share
    a training are tuned once. With `names` of rows, sweeps, variations and tokenizers it is those, of a variation the
    rows that it adds, and the tokenizers of these rows that have no factor yet.

    Raises:
        StudyError: for an unknown name, and for a row that is not trained here or has a rate of its own.
    """
    first: dict[str, str] = {}  # the first row with each trained tokenizer
    for row, variant in study.variants.items():
        tokenizer = variant.spec.tokenizer
        if study.is_denoiser(row) and not study.is_published(row) and tokenizer == tokenizer.at_scale_rate:
            stage = study.tokenizers[tokenizer.name]
            if isinstance(stage, ConvolutionalStage) and not stage.is_published:
                first.setdefault(tokenizer.name, row)
    names = list(names)
    rows: list[str] = []
    for name in names:
        if name in study.variants or name in study.sweeps or name in study.variations:
            named = study.added[name] if name in study.variations else study.rows([name])
            rows += named
            if obstacle := next(filter(None, map(lambda row: _obstacle(study, row), named)), None):
                raise StudyError(obstacle)
        elif name not in first:
            known = [*study.variants, *study.sweeps, *study.variations, *first]
            raise StudyError(f"{name!r} is not a row, sweep, variation or trained tokenizer{nearest(name, known)}")
    added = {row for rows_of in study.added.values() for row in rows_of}
    if not names:
        rows = [row for row in study.variants if row not in added and _obstacle(study, row) is None]
    rows = list(dict.fromkeys(study.runs[row] for row in rows))
    used = {study.variants[row].spec.tokenizer.at_scale_rate.name for row in rows if study.is_denoiser(row)}
    wanted = {name for name in used if not names or name not in study.rates.tokenizers}.union(names)
    tokenizers = [Subject(name, row, is_row=False) for name, row in first.items() if name in wanted]
    return [*tokenizers, *(Subject(row, row, is_row=True) for row in rows)]


def _obstacle(study: Study, row: str) -> str | None:
    """Why a row's rate cannot be tuned; None if it can."""
    if study.is_published(row):
        return f"row {row!r} takes published weights and is not trained; name others"
    if study.variants[row].spec.recipe.rate != 1:
        return f"row {row!r} has a recipe.rate of its own, which multiplies the factor of its parent; name others"
    return None


def tuning_name(study: Study) -> str:
    """The name of the study that tunes another."""
    return "tuning" if study.name is None else f"{study.name}_tuning"


def tuning_file(study: Study, ladders: Mapping[Subject, Sequence[float]], fits: Mapping[str, float]) -> dict[str, Any]:
    """The study that tries factors, as its file has it.

    Args:
        study: whose rows and tokenizers are tuned.
        ladders: the factors that each of them is tried with.
        fits: the factors of tokenizers, by name, with which rows are tuned; 1 for others.
    """
    needed = {subject.row for subject in ladders}
    sweeps: dict[str, dict[str, Any]] = {}
    for name, sweep in reversed(study.file.sweeps.items()):
        if needed.intersection(point.variant for point in study.sweeps[name]):
            sweeps[name] = sweep.model_dump(by_alias=True, include={"parent", "label", "set", "over"})
            needed.add(sweep.parent)
    variants: dict[str, dict[str, Any]] = {}
    for name, row in reversed(study.file.variants.items()):
        if name in needed:
            variants[name] = row.model_dump(by_alias=True, include={"parent", "label", "set"})
            needed.add(row.parent or "")
    for name in (row for rows in study.added.values() for row in rows if row in needed):
        variant = study.variants[name]  # which may change a point of a sweep, so it starts from the defaults
        changes = {key: new for key, (_, new) in variant.spec.changes(Spec()).items()}
        variants[name] = {"label": variant.label, "set": changes}
    sweeps = dict(reversed(sweeps.items()))
    for subject, factors in ladders.items():
        tokenizer = study.variants[subject.row].spec.tokenizer
        fit = tokenizer.rate * fits.get(tokenizer.at_scale_rate.name, 1.0)
        sweeps[subject.sweep] = {
            "from": subject.row,
            "label": f"{subject.name}, {{value:g}} x the rate",
            "set": {"tokenizer.rate": fit} if subject.is_row and fit != tokenizer.rate else {},
            "over": {subject.key: sorted(factors)},
        }
    return {
        "scale": study.scale_name,
        "seeds": list(TUNING_SEEDS),
        "revisions": study.file.revisions,
        "variants": dict(reversed(variants.items())),
        "sweeps": sweeps,
    }


class Choice(NamedTuple):
    """The factor that the scores of all tried ones choose."""

    factor: float
    best: float  # with the best mean
    lead: float | None  # of its mean over that of 1; None where training at the scale's rate diverged
    error: float | None  # the paired standard error of the lead; None for a single replication


def mean_of(scores: Scores, factor: float) -> float:
    """The mean over replications; where training diverged, minus infinity."""
    values = scores[factor]
    return statistics.fmean(values) if values is not None else -math.inf


def best_of(scores: Scores) -> float:
    """The factor with the best mean; of equals the one closest to 1."""
    return max(scores, key=lambda factor: (mean_of(scores, factor), -abs(math.log2(factor))))


def next_factor(scores: Scores) -> float | None:
    """The factor to try next, beyond the edge where the best one is; None if it is inside or enough were tried."""
    best = best_of(scores)
    if len(scores) >= len(FACTORS) + EXTENSIONS or min(scores) < best < max(scores):
        return None
    return 2 * best if best == max(scores) else best / 2


def choose(scores: Scores) -> Choice:
    """The best factor, or 1 if its lead over 1 is below one paired standard error."""
    best = best_of(scores)
    ours, scales = scores[best], scores[1.0]
    if ours is None or scales is None:
        return Choice(best, best, None, None)
    differences = [one - other for one, other in zip(ours, scales, strict=True)]
    lead = statistics.fmean(differences)
    error = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else None
    return Choice(best if error is None or lead >= error else 1.0, best, lead, error)
