"""Whether tables, figures and claims name rows that exist and that have what they show; no torch."""

from __future__ import annotations

from ldae.study.checking import StudyError, alternatives, listed, nearest
from ldae.study.file import Claim, DimensionFigure, Figure, Paper, RowsFigure, StudyFile, Table
from ldae.study.rows import Point, Variant
from ldae.study.tokenizers import kinds_with


def check_names(
    definition: Table | Figure | Claim,
    file: StudyFile,
    variants: dict[str, Variant],
    sweeps: dict[str, list[Point]],
    place: str,
) -> None:
    """Refuses a table, figure or claim that names what does not exist, or asks of a row what it does not have.

    Raises a `StudyError` that names the table, figure or claim.
    """
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
            if name not in variants or not variants[name].spec.tokenizer.traits.has_filters:
                raise StudyError(
                    f"{place}.filters: {name!r} has no filters; name a row of {alternatives(kinds_with('has_filters'))}"
                )
        return
    rows = [variants[point.variant] for name in figure.rows for point in sweeps.get(name, [Point(name, "", Paper())])]
    for row in rows:
        if figure.kind == "samples" and not row.fid:
            raise StudyError(f"{place}: {row.name!r} has no samples; name rows with paper.fid or fid: true")
        if figure.kind == "curves" and row.spec.method.weights is not None:
            raise StudyError(f"{place}: {row.name!r} was not trained here and has no curve; name trained rows")
        if figure.kind in ("noise", "denoising") and not row.spec.method.traits.denoises:
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
