"""The names in a study's tables, figures, claims and variations, checked where the study is loaded; no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ldae.study.checking import StudyError, alternatives, listed, nearest
from ldae.study.file import Claim, DimensionFigure, Figure, RowsFigure, Table, VariationFigure
from ldae.study.tokenizers import kinds_with

if TYPE_CHECKING:
    from ldae.study.study import Study


def check_names(study: Study, where: str) -> None:
    """Raises a `StudyError` for a name in the study's file `where` that does not exist, or does not suit its place."""
    file = study.file
    for kind, views in (("tables", file.tables), ("figures", file.figures), ("claims", file.claims)):
        for view, definition in views.items():
            _check_view(study, definition, f"{where}: {kind}.{view}")
    for name in study.variations:
        _check_variation(study, name, f"{where}: variations.{name}")


def _check_variation(study: Study, name: str, place: str) -> None:
    view = f"claims_{name}"
    if view in (*study.file.tables, *study.file.figures, *study.variants, *study.sweeps):
        raise StudyError(f"{place}: its table would be {view!r}, which is taken; rename one of them")
    if not study.claims_under(name):
        raise StudyError(f"{place}.rows: no claim has all its rows among them; add the others")


def _check_view(study: Study, definition: Table | Figure | Claim, place: str) -> None:
    if isinstance(definition, VariationFigure):
        _check_varied(study, definition, place)
        return
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


def _check_varied(study: Study, figure: VariationFigure, place: str) -> None:
    known = study.file.variations
    if figure.variation not in known:
        hint = nearest(figure.variation, known)
        raise StudyError(
            f"{place}.variation: none is called {figure.variation!r}{hint}; known: {listed(known) or 'none'}"
        )
    values = [value for values in known[figure.variation].over.values() for value in values]
    if not values or not all(isinstance(value, int | float) for value in values):
        raise StudyError(
            f"{place}.variation: {figure.variation!r} has no numbers to draw against; give it `over` numbers"
        )


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
