"""A scale from its file, on top of the scales that it is from; and where words belong that stand in another file."""

from __future__ import annotations

from functools import reduce
from pathlib import Path
from typing import Any

from ldae.study.checking import StudyError, check_folder_name, checked, listed, nearest, read_yaml
from ldae.study.file import Row, StudyFile
from ldae.study.recipes import Training
from ldae.study.scale import Scale
from ldae.study.spec import Spec

LENGTHS = ("steps", "epochs")  # a recipe has one of them: a scale that gives one does not inherit the other
OF_A_ROW = {  # keys of the scale's recipes, and the key by which a row changes them for itself
    "steps": "recipe.length",
    "epochs": "recipe.length",
    "batch": "recipe.batch",
    "rate": "recipe.rate",
    "weight_decay": "recipe.weight_decay",
}


def scale_names(folder: Path) -> list[str]:
    """The scales in a folder; the files of rates beside them are none."""
    return sorted(path.stem for path in folder.glob("*.yaml") if not path.stem.endswith(".rates"))


def read_scale(folder: Path, name: str) -> Scale:
    """A scale by name: its file in `folder`, key by key on top of the scales that it is `from`.

    Raises a `StudyError` for a file that is missing, broken, or says what no scale can say.
    """
    names: list[str] = []
    files: list[dict[str, Any]] = []
    base: Any = name
    while base is not None:
        if base in names or str(base) not in scale_names(folder):
            known = [other for other in scale_names(folder) if other not in names]
            hint = f"{nearest(str(base), known)}; known: {listed(known)}"
            if not names:
                raise StudyError(f"scale: {name!r} has no file {folder.name}/{name}.yaml{hint}")
            file = f"{folder.name}/{names[-1]}.yaml"
            raise StudyError(f"{file}: from: there is no other scale {base!r} in {folder.name}/{hint}")
        names.append(base)
        files.append(read_yaml(folder / f"{base}.yaml", f"{folder.name}/{base}.yaml"))
        base = files[-1].pop("from", None)
    check_folder_name(Path(folder.name, f"{name}.yaml"))
    values = reduce(merged, reversed(files))
    return checked(Scale, values, f"{folder.name}/{name}.yaml", elsewhere=_not_of_a_scale)


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A section on top of the one that it is from: what it does not say is as there.

    A key that is null takes its default again. A list, and a data set of another `source`, replace what was there.
    """
    if "source" in changes and changes["source"] != base.get("source"):
        return changes
    lengths = [key for key in LENGTHS if changes.get(key) is not None]
    result = {key: value for key, value in base.items() if not lengths or key not in LENGTHS}
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


def _not_of_a_scale(keys: tuple[str, ...]) -> str | None:
    """Where a word belongs that a scale's file does not know."""
    if len(keys) == 1 and keys[0] in StudyFile.model_fields:
        return f"{keys[0]!r} is a key of config.yaml, which says what is compared; a scale says how big it is"
    if len(keys) == 1 and keys[0].partition(".")[0] in Spec.model_fields:
        return f"{keys[0]!r} belongs to a row; write it in config.yaml, under the row's set:"
    return None


def not_of_a_study(keys: tuple[str, ...]) -> str | None:
    """Where a word belongs that the study's file does not know at a place."""
    key, section = keys[-1], keys[-1].partition(".")[0]
    of_row = keys[0] in ("variants", "sweeps") and len(keys) == 3
    if of_row and section in Spec.model_fields:
        example = key if "." in key else f"{key}.{next(iter(Spec().model_dump()[section]))}"
        return f"unknown key {'.'.join(keys)!r}; put what a row changes under set:, e.g. set: {{{example}: ...}}"
    if (of_row or len(keys) == 1) and section in Scale.model_fields:
        return f"unknown key {'.'.join(keys)!r}: {_in_the_scale(key)}"
    return None


def not_of_a_row(key: str, known: list[str]) -> str | None:
    """Where a key belongs that a row cannot set, of those `known` that it can."""
    section = key.partition(".")[0]
    if section in Scale.model_fields:
        return _in_the_scale(key)
    if section in (*Row.model_fields, "from"):
        return f"{key!r} goes next to set:, not into it"
    if inside := [word for word in known if word.startswith(f"{key}.")]:
        return f"{key!r} is a part of a row; write one of its keys: {listed(inside)}"
    if same := [word for word in known if word.endswith(f".{key}")]:
        return f"unknown key {key!r}; did you mean {' or '.join(map(repr, same))}?"
    return _in_the_scale(f"training.{key}") if key in Training.model_fields else None


def _in_the_scale(key: str) -> str:
    """Says that a key stands in the scale's file, and by which key a row changes it for itself, if by any."""
    section, *fields = key.split(".")
    own = OF_A_ROW.get(fields[-1]) if section in ("training", "baselines") and fields else None
    own = "network.size" if section == "sizes" else own
    return f"{key} is a key of scales/*.yaml, the same for all rows" + (f"; a row sets {own}" if own else "")
