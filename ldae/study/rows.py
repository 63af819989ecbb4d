"""The rows of a study, resolved: every row as its parent plus one change, every sweep as its points; no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from pydantic import ValidationError

from ldae.study.checking import StudyError, first_mistake, listed, nearest
from ldae.study.file import Paper, StudyFile, Variation
from ldae.study.scale import Scale
from ldae.study.scale_file import not_of_a_row
from ldae.study.schedules import sampleable
from ldae.study.spec import Spec


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
class Setting:
    """A variation at one value of its key, or as a whole if it has none."""

    value: Any
    text: str
    rows: dict[str, str]  # for each row, the name of the row that has the further change


@dataclass(frozen=True)
class Rows:
    """All rows of a study."""

    variants: dict[str, Variant]  # by name
    sweeps: dict[str, list[Point]]
    variations: dict[str, list[Setting]]


def resolve(file: StudyFile, scale: Scale, where: str) -> Rows:
    """Every run by name, every sweep's runs, and every variation's.

    A point of a sweep, or a row of a variation, that equals a named row is that row and trains once.

    A sweep's points that probe a block which the scale's networks lack are left out. Raises a `StudyError` for any
    mistake in a row, a sweep or a variation of the file `where`.
    """
    variants: dict[str, Variant] = {}
    names: dict[Spec, str] = {}
    for name, row in file.variants.items():
        place = f"{where}: variants.{name}"
        parent = _parent(row.parent, variants, place) if row.parent is not None else None
        spec = _changed(parent.spec if parent else Spec(), row.set, scale, place)
        plain, size = _plain(spec, scale), scale.size_of(spec)
        if plain in names:
            raise StudyError(f"{place}: equals row {names[plain]!r}; a row must change something")
        if not _has_block(spec, scale):
            raise StudyError(
                f"{place}.set: features.offset: there is not a block {spec.features.offset} of {size.encoder_blocks} + "
                f"{size.decoder_blocks}, counted from the encoder's last"
            )
        if spec.method.weights is not None and spec.method.traits.denoises and not scale.convolutional.published:
            raise StudyError(
                f"{place}: method.weights of a DiT, which works on the latents of Stable Diffusion's VAE; "
                "name that as convolutional.published in the scale file"
            )
        names[plain] = name
        variant = Variant(name, row.label, row.parent, spec, row.paper, row.finetune, row.fid)
        variants[name] = _evaluated(variant, place)
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
            spec = _changed(parent.spec, sweep.set | {key: value}, scale, place)
            if not _has_block(spec, scale):
                continue
            plain, label = _plain(spec, scale), _labelled(sweep.label, value, f"{place}.label")
            paper = Paper(**{measure: numbers[index] for measure, numbers in sweep.paper.items()})
            point = names.setdefault(plain, _point_name(name, value))
            if point not in variants:
                variant = Variant(point, label, sweep.parent, spec, paper, finetune=False, fid=False)
                variants[point] = _evaluated(variant, place)
            elif _plain(variants[point].spec, scale) != plain:
                raise StudyError(
                    f"{place}: value {value!r} would be named {point!r}, the name of another row; rename one of them"
                )
            sweeps[name].append(Point(point, label, paper, value))
    rows = Rows(variants, sweeps, {})
    for name, variation in file.variations.items():
        ranks = [set(claim.rank) for claim in file.claims.values() if claim.rank]
        place = f"{where}: variations.{name}"
        rows.variations[name] = list(_settings(rows, names, scale, name, variation, ranks, place))
    return rows


def _settings(
    rows: Rows,
    names: dict[Spec, str],
    scale: Scale,
    name: str,
    variation: Variation,
    ranks: list[set[str]],
    place: str,
) -> Iterable[Setting]:
    """The settings of a variation, whose new rows join `rows` and `names`.

    Those that a claim about ranks names, of which `ranks` has the rows, are sampled from.
    """
    variants, sweeps, key = rows.variants, rows.sweeps, variation.key
    known = [*variants, *sweeps]
    if name in known:
        raise StudyError(f"{place}: a row or sweep has this name already; rename one of them")
    if unknown := next((row for row in variation.rows if row not in known), None):
        raise StudyError(f"{place}.rows: no row or sweep {unknown!r}{nearest(unknown, known)}; known: {listed(known)}")
    named = ([point.variant for point in sweeps[row]] if row in sweeps else [row] for row in variation.rows)
    bases = dict.fromkeys(chain.from_iterable(named))
    ranked = {row for rank in ranks if bases.keys() >= rank for row in rank}
    for value in variation.over[key] if key is not None else [None]:
        further = variation.set | ({key: value} if key is not None else {})
        text = variation.text if key is None else _labelled(variation.text, value, f"{place}.text")
        setting = Setting(value, text, {})
        for base in bases:
            row = variants[base]
            spec = _varied(row.spec, further, scale, place)
            plain, own = _plain(spec, scale), f"{base}_{name}"
            if plain == _plain(row.spec, scale):
                which = f"{key}: {value} leaves" if key is not None else "leaves"
                raise StudyError(
                    f"{place}: {which} row {base!r} as it is; take the row{' or the value' * bool(key)} out"
                )
            if not _has_block(spec, scale):
                raise StudyError(f"{place}: row {base!r} has no block {spec.features.offset} from the encoder's last")
            own = names.setdefault(plain, own if key is None else _point_name(own, value))
            if own in sweeps or (own in variants and _plain(variants[own].spec, scale) != plain):
                raise StudyError(f"{place}: row {base!r} would be named {own!r}, which is taken; rename the variation")
            if own not in variants:
                variant = Variant(own, f"{row.label}, {text}", base, spec, Paper(), finetune=False, fid=base in ranked)
                variants[own] = _evaluated(variant, place)
            setting.rows[base] = own
        yield setting


def _varied(spec: Spec, changes: dict[str, Any], scale: Scale, place: str) -> Spec:
    """A row with changes, but for keys that have no effect on it."""
    try:
        changed = spec.changed(changes)
    except (KeyError, ValueError):
        return _changed(spec, changes, scale, place)  # which says what is wrong
    return _changed(spec, {key: value for key, value in changes.items() if not changed.unused(key)}, scale, place)


def _evaluated(variant: Variant, place: str) -> Variant:
    """The variant, fine-tuned and sampled from where the paper gives a number or the study asks for one."""
    spec, denoises = variant.spec, variant.spec.method.traits.denoises
    finetune = variant.finetune or variant.paper.finetune is not None
    fid = variant.fid or variant.paper.fid is not None
    if finetune and spec.method.weights is not None:
        raise StudyError(f"{place}: published weights are probed as they are; rows trained here can be fine-tuned")
    if finetune and denoises and not spec.tokenizer.traits.linear:
        raise StudyError(
            f"{place}: tokenizer.kind {spec.tokenizer.kind!r} cannot be fine-tuned: no patch embedding can replace "
            "its network; finetune: true and paper.finetune need a patch-wise tokenizer"
        )
    if fid and not denoises:
        raise StudyError(f"{place}: {spec.method.name} cannot be sampled from; FID needs a denoiser")
    if fid and (obstacle := spec.noise.levels.obstacle):
        raise StudyError(
            f"{place}: noise.schedule {spec.noise.schedule!r} cannot be sampled from: {obstacle}; "
            f"FID needs one of {listed(sampleable())}"
        )
    return replace(variant, finetune=finetune, fid=fid)


def _plain(spec: Spec, scale: Scale) -> Spec:
    """A row's specification without a weight decay that is the scale's own: with it the row is the same."""
    recipe = spec.recipe
    if recipe.weight_decay != scale.recipe_for(spec.method.name).weight_decay:
        return spec
    return spec.model_copy(update={"recipe": recipe.model_copy(update={"weight_decay": None})})


def _check_recipe(spec: Spec, scale: Scale) -> None:
    """Raises a `ValueError` for a batch that is not a whole number of images for each process."""
    training, processes = scale.training_of(spec), scale.resources.processes
    if processes and training.batch % processes:
        raise ValueError(
            f"recipe.batch: {training.batch} images cannot be divided among {processes} GPUs; give another multiple"
        )


def _has_block(spec: Spec, scale: Scale) -> bool:
    """Whether the network has the block that the row probes."""
    size = scale.size_of(spec)
    blocks = size.encoder_blocks + (size.decoder_blocks if spec.method.traits.denoises else 0)
    return 1 <= size.encoder_blocks + spec.features.offset <= blocks


def _labelled(label: str, value: Any, place: str) -> str:
    """A label at `place` with a value in the place of `{value}`."""
    try:
        return label.format(value=value)
    except (KeyError, IndexError, ValueError, AttributeError):
        raise StudyError(f"{place}: {label!r} cannot take {value!r}; write e.g. 'd = {{value}}'") from None


def _point_name(sweep: str, value: Any) -> str:
    """The name of a sweep's run, safe in a file name: a minus becomes `m`, a point `p`."""
    text = f"_{value.lower()}" if isinstance(value, str) else f"{value:g}"
    return sweep + re.sub(r"[^a-z0-9_]", "_", text.replace("-", "m").replace(".", "p"))


def _parent(name: str, variants: dict[str, Variant], place: str) -> Variant:
    if name not in variants:
        known = list(variants)
        raise StudyError(
            f"{place}.from: no row {name!r} above this one{nearest(name, known)}; rows above: {listed(known) or 'none'}"
        )
    return variants[name]


def _changed(spec: Spec, changes: dict[str, Any], scale: Scale, place: str) -> Spec:
    try:
        changed = spec.changed(changes)
        if changed.method.weights is None:
            _check_recipe(changed, scale)
    except KeyError as error:
        key, known = error.args
        hint = not_of_a_row(key, known) or f"unknown key {key!r}{nearest(key, known)}; allowed: {listed(known)}"
        raise StudyError(f"{place}.set: {hint}") from None
    except ValidationError as error:
        raise StudyError(f"{place}.set: {first_mistake(Spec, error.errors())}") from None
    except ValueError as error:
        raise StudyError(f"{place}.set: {error}") from None
    for key in changes:
        if why := changed.unused(key):
            raise StudyError(f"{place}.set: {key}: changes nothing here: {why}")
    return changed
