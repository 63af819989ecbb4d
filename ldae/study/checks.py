"""Whether tables, figures and claims name rows that exist and that have what they show; no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ldae.study.checking import StudyError, alternatives, listed, nearest
from ldae.study.file import Claim, DimensionFigure, Figure, RowsFigure, Table
from ldae.study.tokenizers import kinds_with

if TYPE_CHECKING:
    from ldae.study.study import Study


def check_names(study: Study, definition: Table | Figure | Claim, place: str) -> None:
    """Raises a `StudyError` for a name that does not exist in a table, figure or claim, or for an unsuitable row."""
    known = [*study.variants, *study.sweeps]
    for name in [*definition.names, *getattr(definition, "filters", {}).values()]:
        if name not in known:
            raise StudyError(
                f"{place}: there is no row or sweep {name!r}{nearest(name, known)}; known: {listed(known)}"
            )
    for name in (getattr(definition, "series", None) or {}).values():
        if name not in study.sweeps:
            raise StudyError(f"{place}.series: {name!r} is a row, not a sweep; sweeps: {listed(study.sweeps)}")
    if isinstance(definition, Claim):
        _check_claim(study, definition, place)
    elif isinstance(definition, DimensionFigure):
        for name in definition.filters.values():
            if name not in study.variants or not study.variants[name].spec.tokenizer.traits.has_filters:
                raise StudyError(
                    f"{place}.filters: {name!r} has no filters; name a row of {alternatives(kinds_with('has_filters'))}"
                )
    elif isinstance(definition, RowsFigure):
        _check_rows(study, definition, place)


def _check_rows(study: Study, figure: RowsFigure, place: str) -> None:
    for name in study.rows(figure.rows):
        row = study.variants[name]
        if figure.kind == "samples" and not row.fid:
            raise StudyError(f"{place}: {name!r} has no samples; name rows with paper.fid or fid: true")
        if figure.kind == "curves" and row.spec.method.weights is not None:
            raise StudyError(f"{place}: {name!r} was not trained here and has no curve; name trained rows")
        if figure.kind in ("noise", "denoising") and not row.spec.method.traits.denoises:
            raise StudyError(f"{place}: {name!r} does not denoise; name a denoiser's row")


def _check_claim(study: Study, claim: Claim, place: str) -> None:
    variants, sweeps = study.variants, study.sweeps
    for name in claim.sum or ():
        if name not in variants:
            raise StudyError(f"{place}.sum: {name!r} is a sweep; name single rows, e.g. {sweeps[name][0].variant!r}")
    for name in claim.rank or ():
        if name not in variants or not variants[name].fid:
            raise StudyError(f"{place}.rank: {name!r} has no samples to judge; name rows with paper.fid or fid: true")
    if claim.peak is not None:
        if claim.peak not in sweeps:
            raise StudyError(f"{place}.peak: {claim.peak!r} is a row, not a sweep; sweeps: {listed(sweeps)}")
        (values,) = study.file.sweeps[claim.peak].over.values()  # also those whose block this scale's networks lack
        for value in claim.among or ():
            if value not in values:
                raise StudyError(
                    f"{place}.among: {claim.peak} has no value {value!r}; values: {listed(map(str, values))}"
                )
