"""Broken studies and scales, hundreds of them: each ends in one line that names its place, and does nothing else."""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ldae.study import checking
from ldae.study.checking import StudyError
from ldae.study.study import Study

ROOT = Path(__file__).parents[2]
EVIL = "$(touch pwned)"
NAMES = ("a b", "a'b", 'a"b', EVIL, "a\nb", "ä", "../up", "a/b", "", "A", "1a", "`id`", "a;b", "{a}", "-a")
WRONG: tuple[Any, ...] = (
    None,
    3,
    -1,
    0,
    1.5,
    True,
    "text",
    "",
    [],
    [1],
    {},
    {"a": 1},
    float("nan"),
    float("inf"),
    EVIL,
)

Change = Callable[[dict[str, Any], dict[str, Any]], None]  # of a study and of its scale


def setter(where: int, path: tuple[str, ...], value: Any) -> Change:
    """Sets the value at a path of the study (0) or the scale (1)."""

    def change(*files: dict[str, Any]) -> None:
        place = files[where]
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = copy.deepcopy(value)

    return change


def remover(where: int, path: tuple[str, ...]) -> Change:
    """Removes what stands at a path."""

    def change(*files: dict[str, Any]) -> None:
        place = files[where]
        for key in path[:-1]:
            place = place[key]
        del place[path[-1]]

    return change


STUDY_PLACES = [
    ("scale",),
    ("seeds",),
    ("revisions",),
    ("variants",),
    ("tables",),
    ("figures",),
    ("claims",),
    ("sweeps",),
    ("variants", "pca"),
    ("variants", "pca", "label"),
    ("variants", "predict_clean", "from"),
    ("variants", "predict_clean", "set"),
    ("variants", "pca", "paper"),
    ("variants", "pca", "fid"),
    ("variants", "pca", "finetune"),
    ("tables", "table3", "rows"),
    ("tables", "table3", "target"),
    ("tables", "table3", "title"),
    ("figures", "figure6", "kind"),
    ("figures", "figure6", "rows"),
    ("claims", "clean_costs", "sum"),
    ("claims", "clean_costs", "above"),
    ("claims", "clean_costs", "text"),
]
SCALE_PLACES = [
    ("dataset",),
    ("dataset", "source"),
    ("dataset", "size"),
    ("dataset", "train"),
    ("sizes",),
    ("sizes", "half-L"),
    ("sizes", "half-L", "width"),
    ("sizes", "half-L", "heads"),
    ("training",),
    ("training", "steps"),
    ("training", "batch"),
    ("training", "rate"),
    ("training", "warmup"),
    ("finetuning",),
    ("finetuning", "batch"),
    ("finetuning", "layer_decay"),
    ("finetuning", "drop_path"),
    ("finetuning", "cutmix"),
    ("finetuning", "magnitude"),
    ("probing", "mode"),
    ("probing", "rates"),
    ("probing", "batch"),
    ("sampling", "num"),
    ("sampling", "steps"),
    ("resources", "threads"),
    ("resources", "checkpoint_seconds"),
]
FILES = tuple(yaml.safe_load((ROOT / file).read_text()) for file in ("tests/study.yaml", "scales/smoke.yaml"))


def present(where: int, path: tuple[str, ...]) -> Any:
    """What stands at a path of the study (0) or the scale (1); None where nothing does."""
    value: Any = FILES[where]
    for key in path:
        value = value.get(key)
    return value


def may_be_right(value: Any, right: Any) -> bool:
    """Whether a value could take the place of another: it is of the same type, or nothing, or nothing stood there."""
    if isinstance(value, float) and not math.isfinite(value):
        return False
    types = {float if type(each) is int else type(each) for each in (value, right) if each is not None}
    return len(types) < 2


def replacements(*, may_be_right_too: bool) -> Iterator[tuple[str, Change]]:
    """Each of `WRONG` in each place: those that are certainly mistakes, or those that may be right."""
    for where, places in enumerate((STUDY_PLACES, SCALE_PLACES)):
        for path, value in itertools.product(places, WRONG):
            if may_be_right(value, present(where, path)) == may_be_right_too:
                yield f"{'.'.join(path)}={value!r}", setter(where, path, value)


def mistakes() -> Iterator[tuple[str, Change]]:
    yield from replacements(may_be_right_too=False)
    for name in NAMES:
        yield f"row {name!r}", setter(0, ("variants", name), {"label": "x", "set": {"tokenizer.dim": 8}})
        yield f"table {name!r}", setter(0, ("tables", name), {"title": "x", "rows": ["pca"]})
        yield f"scale {name!r}", setter(0, ("scale",), name)
    for path in STUDY_PLACES[:1] + STUDY_PLACES[2:4] + [("variants", "pca", "label"), ("tables", "table3", "title")]:
        yield f"without {'.'.join(path)}", remover(0, path)
    for path in (("dataset",), ("sizes",), ("training",), ("training", "steps"), ("training", "batch"), ("probing",)):
        yield f"without {'.'.join(path)}", remover(1, path)
    unknown: list[tuple[int, tuple[str, ...]]] = [(0, ()), (0, ("variants", "pca")), (0, ("tables", "table3"))]
    unknown += [(0, ("claims", "clean_costs")), (1, ()), (1, ("dataset",)), (1, ("training",)), (1, ("sizes", "B"))]
    for where, path in unknown:
        for key in ("unknown", EVIL, "ß"):
            yield f"{'.'.join(path)}: unknown {key!r}", setter(where, (*path, key), 1)
    for key, value in (
        ("objective.predict", None),
        ("objective", "clean"),
        ("objective.predict.x", 1),
        ("tokenizer.dim", 0),
        ("tokenizer.dim", "32"),
        ("tokenizer.dim", EVIL),
        ("tokenizer.perceptual", True),
        ("noise.schedule", ["ddpm"]),
        ("network.size", "XL"),
        ("features.offset", 99),
        ("features.time", 1000),
        ("recipe.length", 0),
        ("method.name", "simclr"),
        ("method.weights", "dit.pt"),
        ("method.weights", {"path": "dit.pt"}),
        ("method.weights", {"path": EVIL, "sha256": "0" * 64, "width": 32, "heads": 2, "blocks": 2}),
        ("tokenizer.scale", "published"),
        (EVIL, 1),
        ("ä.ö", 1),
    ):
        yield f"set {key}={value!r}", setter(0, ("variants", "predict_clean", "set"), {key: value})
    for parent in ("predict_clean", "single_level", "nobody", EVIL, "pca "):  # itself, a later one, none
        yield f"from {parent!r}", setter(0, ("variants", "predict_clean", "from"), parent)
    for recipe in ({"B": 2}, {"M": 0.5}):
        yield f"layer decay {recipe!r}", setter(1, ("finetuning", "layer_decay"), recipe)
    convolutional = {"from": "pca", "label": "x", "set": {"tokenizer.kind": "conv"}}
    yield "fine-tuned through a conv tokenizer", setter(0, ("variants", "c"), convolutional | {"finetune": True})
    yield "a paper's number for it", setter(0, ("variants", "c"), convolutional | {"paper": {"finetune": 80.0}})
    yield "no change", setter(0, ("variants", "predict_clean", "set"), {})
    yield "table and figure of one name", setter(0, ("tables", "figure6"), {"title": "x", "rows": ["pca"]})
    sweep = {"from": "pca", "label": "d = {value}", "over": {"tokenizer.dim": [8, 16]}}
    for key, value in (
        ("over", {}),
        ("over", {"tokenizer.dim": [8], "noise.sigma": [1.0]}),
        ("over", {"tokenizer.dim": 8}),
        ("paper", {"probe": [1.0]}),
        ("from", "nobody"),
        ("label", None),
    ):
        yield f"sweep {key}={value!r}", setter(0, ("sweeps",), {"d": sweep | {key: value}})


def place(case: tuple[str, Change]) -> str:
    """What is mistaken: a key of a file, or a kind of thing."""
    return re.split("[= :]", case[0])[0]


def by_place(cases: Iterator[tuple[str, Change]]) -> dict[str, list[tuple[str, Change]]]:
    """Cases by the key of a file, or the kind of thing, that is mistaken."""
    return {name: list(found) for name, found in itertools.groupby(sorted(cases, key=place), place)}


MISTAKES, DOUBTFUL = by_place(mistakes()), by_place(replacements(may_be_right_too=True))


def said(folder: Path, **overrides: Any) -> str | None:
    """The line that loading a study ends with; None if it loads. Nothing is written."""
    before = sorted(folder.rglob("*"))
    try:
        Study.load(folder, overrides)
        text = None
    except StudyError as error:
        text = str(error)
        assert len(text.splitlines()) == 1 and len(text) < 600, text
    assert sorted(folder.rglob("*")) == before
    return text


class QuickLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads the same values as the project's own, in a tenth of the time; texts that are no YAML are left to that."""


QuickLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, checking._unique_mapping)
Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Change], Path]:
    """Writes the study and the scale with a change, and returns their folder."""
    monkeypatch.setattr(checking, "_UniqueKeys", QuickLoader)
    (tmp_path / "scales").mkdir()

    def written(change: Change) -> Path:
        study, scale = copy.deepcopy(FILES)
        change(study, scale)
        (tmp_path / "config.yaml").write_text(yaml.dump(study, Dumper=Dumper, allow_unicode=True))
        (tmp_path / "scales/smoke.yaml").write_text(yaml.dump(scale, Dumper=Dumper, allow_unicode=True))
        return tmp_path

    return written


@pytest.mark.parametrize("cases", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line(cases: list[tuple[str, Change]], write: Callable[[Change], Path]) -> None:
    for name, change in cases:
        text = said(write(change))
        assert text is not None, f"{name} is taken for a study"
        assert any(word in text for word in ("config.yaml", "scales/", "scale:")), f"{name}: {text}"


@pytest.mark.parametrize("cases", DOUBTFUL.values(), ids=DOUBTFUL)
def test_another_value_of_the_right_type_loads_or_is_one_line(
    cases: list[tuple[str, Change]], write: Callable[[Change], Path]
) -> None:
    """Which of them are right, the schema alone says; tests/study/test_variants.py has the messages."""
    for name, change in cases:
        text = said(write(change))
        assert text is None or any(word in text for word in ("config.yaml", "scales/", "scale:")), f"{name}: {text}"


TEXTS = {
    "no YAML": "{",
    "a tab": "variants:\n\tpca: {}",
    "a duplicate": "scale: smoke\nscale: laptop\n",
    "a duplicate row": "variants:\n  pca: {label: x}\n  pca: {label: y}\n",
    "a list": "- a\n",
    "a number": "3",
    "nothing": "",
    "code": "scale: !!python/object/apply:os.system ['touch pwned']\n",
    "an unknown tag": "scale: !x y\n",
    "an unknown alias": "scale: *x\n",
    "two documents": "scale: smoke\n---\nscale: laptop\n",
    "a loop": "variants: &a {pca: *a}\n",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_text_that_is_no_study_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "scales").mkdir()
    (tmp_path / "scales/smoke.yaml").write_text((ROOT / "scales/smoke.yaml").read_text())
    (tmp_path / "config.yaml").write_text(text)
    assert "config.yaml" in str(said(tmp_path))


def test_bytes_that_are_no_text_and_files_that_are_none_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe\x00")
    assert "is not UTF-8 text" in str(said(tmp_path))
    (tmp_path / "config.yaml").unlink()
    assert "no study here" in str(said(tmp_path))
    (tmp_path / "config.yaml").mkdir()
    assert "config.yaml" in str(said(tmp_path))


OVERRIDES: list[dict[str, Any]] = [
    {"seeds": "[-1]"},
    {"seeds": "[]"},
    {"seeds": "zero"},
    {"seeds": EVIL},
    {"seed": 1},
    {"scale": EVIL},
    {"scale": "../smoke"},
    {"study": EVIL},
    {EVIL: 1},
]


@pytest.mark.parametrize("overrides", OVERRIDES, ids=str)
def test_a_mistake_on_the_command_line_is_one_line(overrides: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "scales").mkdir()
    (tmp_path / "scales/smoke.yaml").write_text((ROOT / "scales/smoke.yaml").read_text())
    (tmp_path / "config.yaml").write_text((ROOT / "tests/study.yaml").read_text())
    assert said(tmp_path, **overrides) is not None
