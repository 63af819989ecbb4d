"""The rows of a study at a terminal: their tree, one row in full, and the differences of two; no torch."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from ldae.overview.state import State
from ldae.study.checking import StudyError, nearest
from ldae.study.file import Sweep
from ldae.study.graph import COMMON, PAGES, Graph, Job
from ldae.study.rates import rate_in_words
from ldae.study.record import digest, leaves
from ldae.study.results import ProbeRecord
from ldae.study.spec import Spec
from ldae.study.stage_specs import DenoiserStage, FinetuneStage
from ldae.study.study import Study

OWN = "green"  # the style of what a row changes itself
WIDE = 1000  # columns of a line in a pipe, so that nothing is cut off


def say(*parts: RenderableType) -> None:
    """Prints in colour to the width of a terminal, or plainly and in full into a pipe."""
    if sys.stdout.isatty():
        Console(highlight=False).print(*parts, sep="\n")
        return
    console = Console(highlight=False, width=None if "COLUMNS" in os.environ else WIDE)
    with console.capture() as captured:
        console.print(*parts, sep="\n")
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def listing(study: Study) -> list[RenderableType]:
    """The rows as a tree, each below the row that it starts from; the sweeps; and the targets."""
    children: dict[str | None, list[str]] = {}
    for name, row in study.file.variants.items():
        children.setdefault(row.parent, []).append(name)
    rows = [
        (
            Text.assemble((branch, "dim"), _name(name)),
            study.variants[name].label,
            _changes(study.file.variants[name].set),  # last, since the longest would pad all other lines
        )
        for branch, name in _tree(children, None)
    ]
    sweeps = [
        (_name(name), sweep.parent, _over(sweep), re.sub(r"\{value[^}]*\}", "…", sweep.label))
        for name, sweep in study.file.sweeps.items()
    ]
    part_of = {"main": "main, all", "all": "all", "none": ""}
    targets = [
        (_name(name), kind, part_of[view.target], view.title)
        for kind, views in (("table", study.file.tables), ("figure", study.file.figures))
        for name, view in views.items()
    ]
    if claims := study.file.claims:
        targets.append((_name("claims"), "table", "all", f"verdicts on {len(claims)} statements of the paper"))
    for name, variation in study.file.variations.items():
        number = len(study.claims_under(name))
        text = re.sub(r"\{value[^}]*\}", "…", variation.text)
        targets.append((_name(f"claims_{name}"), "table", part_of[variation.target], f"{number} of them: {text}"))
    for page, (_, contents) in PAGES.items():
        parts = [name for name in ("main", "all") if set(contents) <= set(COMMON[name])]
        targets.append((_name(page), "page", ", ".join(parts), "All of it on one page"))
    return [
        _title("Rows", f"each starts from the row above it in the tree; scale {study.scale_name}"),
        _columns(("row", "label", "what it changes"), rows),
        "",
        _title("Sweeps", "a row is named after the sweep and its value, e.g. pca_d8"),
        _columns(("sweep", "from", "what it changes", "label"), sweeps),
        "",
        _title("Targets", "of `ldae run` and `snakemake`"),
        _columns(("target", "kind", "part of", "title"), targets),
    ]


def row_named(study: Study, name: str) -> str:
    """The name of a row or of a sweep's point; for any other, a `StudyError` suggests the nearest."""
    if name in study.variants:
        return name
    if name in study.sweeps:
        points = ", ".join(point.variant for point in study.sweeps[name])
        raise StudyError(f"{name!r} is a sweep; name one of its rows: {points}")
    raise StudyError(f"{name!r} is not a row{nearest(name, study.variants)}; `ldae list` shows all")


def row_in_full(study: Study, root: Path, name: str) -> list[RenderableType]:
    """A row's configuration with the source of each value, the settings of the scale, and the row's results.

    Args:
        study: with its scale.
        root: the folder that holds `results/`.
        name: of the row.
    """
    row = study.variants[row_named(study, name)]
    facts = [f"from {row.parent}" if row.parent is not None else "from the defaults"]
    facts += [f"in the paper {value:g} ({key})" for key, value in row.paper.model_dump(exclude_none=True).items()]
    if not study.is_published(name):
        training = study.scale.training_of(row.spec, study.factors[name].value)
        facts.append(f"{training.batch} images a step at a peak rate of {training.peak_rate:.3g}")
        facts.append(rate_in_words(study, name))
    if study.runs[name] != name:
        facts.append(f"shares the training of {study.runs[name]}; only the probed features differ")
    config = []
    for key, value in row_settings(study, name).items():
        source = source_of(study, name, key)
        style = OWN if source == name else "dim" if source == "default" else ""
        words = (key, _text(value), "this row" if source == name else source)
        config.append([Text(word, style) for word in words])
    state = State(Graph(study, root))
    results = [
        (
            job.entry.name if job.entry is not None else job.stage,
            job.name,
            Text(digest(job.lineage), "dim"),
            str(study.results / job.place),
            _state(state, job, name),
        )
        for job in state.graph.jobs_of([name])
    ]
    return [
        _title(name, row.label),
        "; ".join(facts),
        "",
        _columns(("key", "value", "given by"), config),
        "",
        _title(f"Scale {study.scale_name}", "adds"),
        _columns(("key", "value"), [(key, _text(value)) for key, value in scale_settings(study, name).items()]),
        "",
        _title("Results", "with the digest of the expected lineage"),
        _columns(("stage", "job", "lineage", "result", "state"), results),
    ]


def differences(study: Study, first: str, second: str) -> list[RenderableType]:
    """The keys in which two rows differ, with both values, and the stages that they share."""
    before, after = (
        {key: _text(value) for key, value in (row_settings(study, name) | scale_settings(study, name)).items()}
        for name in (row_named(study, first), row_named(study, second))
    )
    rows = [
        (key, Text(before.get(key, ""), "red"), Text(after.get(key, ""), OWN))
        for key in {**before, **after}
        if before.get(key) != after.get(key)
    ]
    if not rows:
        return [f"{first} and {second} have the same configuration"]
    graph = Graph(study)
    jobs, others = (graph.jobs_of([name]) for name in (first, second))
    common = dict.fromkeys(job.entry.name for job in jobs if job.entry and job in others)
    own = dict.fromkeys(job.entry.name for job in [*jobs, *others] if job.entry and not (job in jobs and job in others))
    rest = f"each has its own {', '.join(own)}" if own else "one pass of the probe serves both"
    return [_columns(("key", first, second), rows), "", f"They share {', '.join(common)}; {rest}."]


def row_settings(study: Study, name: str) -> dict[str, Any]:
    """A row's settings that have an effect, by dotted keys."""
    spec = study.variants[name].spec
    return {key: value for key, value in leaves(spec.model_dump()) if value is not None and spec.unused(key) is None}


def scale_settings(study: Study, name: str) -> dict[str, Any]:
    """The scale's settings for a row, by dotted keys: data, size, tokenizer's fit, training, probe and sampling."""
    stage, scale = study.pretraining(name), study.scale
    parts: dict[str, Any] = {"dataset": scale.dataset, "size": stage.size}
    if isinstance(stage, DenoiserStage):
        fit = study.tokenizers[stage.tokenizer.name]
        parts |= {key: getattr(fit, key) for key in ("fitting", "convolutional") if hasattr(fit, key)}
    if not study.is_published(name):
        parts["training"] = scale.recipe_for(study.variants[name].spec.method.name)
    parts["probing"] = scale.probing
    if study.variants[name].finetune:
        parts["finetuning"] = FinetuneStage.of(study.variants[name].spec, scale).finetuning
    if study.variants[name].fid:
        parts |= {"sampling": scale.sampling, "judging": scale.judging}
    settings = {part: settings.model_dump() for part, settings in parts.items()}
    if (factor := study.factors[name].value) != 1:
        settings["training"]["factor"] = factor
    return {key: value for key, value in leaves(settings) if value is not None}


def source_of(study: Study, name: str, key: str) -> str:
    """The row, this one or an ancestor, that set the value of a key; `default` if none did."""
    part, field = key.split(".")[:2]

    def value(spec: Spec) -> Any:
        return getattr(getattr(spec, part), field)

    row = study.variants[name]
    while row.parent is not None and value(row.spec) == value(study.variants[row.parent].spec):
        row = study.variants[row.parent]
    return row.name if row.parent is not None or value(row.spec) != value(Spec()) else "default"


def results_for(study: Study, names: list[str]) -> list[str]:
    """Snakemake's targets for rows, sweeps and other targets.

    A row or sweep stands for all that tables can show of it, for all seeds: its probes and, if it has any, its
    fine-tuning and judged samples. Every other target stands for itself.

    Raises:
        StudyError: for any other name.
    """
    targets: list[str] = []
    graph = Graph(study)
    for name in names:
        jobs = graph.jobs_for([name])
        is_row = name in study.variants or name in study.sweeps
        targets += [str(job.record) for job in jobs] if is_row else [name]
    return list(dict.fromkeys(targets))


def _state(state: State, job: Job, row: str) -> Text:
    """Whether a job's result is on disk and current; a probe's accuracy with it."""
    if job.record in state.missing(job):
        return Text("damaged", "red") if job.record.is_file() else Text("not yet", "dim")
    if (reason := state.outdated(job)) is not None:
        return Text(f"outdated: {reason}", "yellow")
    if job.stage == "probe":
        offset = state.graph.study.variants[row].spec.features.offset
        estimates = ProbeRecord.read(job.record).blocks[offset]
        return Text(f"done: {100 * estimates['linear'].value:.1f} %", "green")
    return Text("done", "green")


def _tree(children: dict[str | None, list[str]], parent: str | None, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Each row with its branch of the tree, depth first; an only child stands in its parent's column."""
    below = children.get(parent, [])
    for name in below:
        if parent is None:
            branch, onward = "", ""
        elif len(below) == 1:
            branch, onward = "↓ ", ""
        else:
            branch, onward = ("└ ", "  ") if name == below[-1] else ("├ ", "│ ")
        yield prefix + branch, name
        yield from _tree(children, name, prefix + onward)


def _text(value: Any) -> str:
    """A value as in YAML."""
    return value if isinstance(value, str) else json.dumps(value)


def _name(name: str) -> Text:
    return Text(name, "bold cyan")


def _changes(values: dict[str, Any]) -> Text:
    """The keys that a row sets."""
    return Text(", ".join(f"{key}: {_text(value)}" for key, value in values.items()), OWN)


def _over(sweep: Sweep) -> Text:
    """The keys that the rows of a sweep set."""
    ((key, values),) = sweep.over.items()
    return _changes(sweep.set | {key: ", ".join(map(_text, values))})


def _title(name: str, rest: str) -> Text:
    return Text.assemble((name, "bold"), f": {rest}")


def _columns(names: Sequence[str], rows: Sequence[Sequence[Text | str]]) -> Table:
    """A table without lines; a narrow terminal wraps all columns but the first."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in names:
        table.add_column(name, no_wrap=name == names[0])
    for row in rows:
        table.add_row(*row)
    return table
