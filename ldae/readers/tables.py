"""Tables of rows and of sweeps, and the cost of all jobs, from results alone; no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ldae.measures.intervals import outlying
from ldae.readers.estimand import estimand
from ldae.readers.layout import Cell, Column, Layout, Line, Note, RowNumbers, Whisker, interval
from ldae.readers.machines import devices_of
from ldae.readers.results import Distance, Results
from ldae.runtime.files import read_json, write_text
from ldae.study.definitions import SeriesDefinition, TableDefinition
from ldae.study.measures import MEASURES
from ldae.study.record import seconds_of
from ldae.study.results import TokenizerRecord
from ldae.study.stages import RECORDS
from ldae.study.tokenizers import TOKENIZERS

COLUMNS = (
    "Accuracy and gain: [95 % interval] of the mean, over seeds and groups of images. ± over seeds: the standard "
    "deviation of the seeds' accuracies. Gain: over the same network with random weights, on the same images."
)
FINE_TUNED = (
    "Fine-tuned: the encoder trained end to end with labels, as a plain Vision Transformer, after the recipe of the "
    "paper's App. B, as the scale file has it; averaged weights."
)
UNITS = {9: "G", 12: "T", 15: "P", 18: "E", 21: "Z"}
PERCEPTUAL = {  # by the network of the perceptual loss in a tokenizer's record
    "builtin": "The perceptual loss (builtin) compares the activations of a small VGG-style network that the study "
    "trains with labels on the same images, where the paper has VGG16, trained on ImageNet.",
    "VGG16": "The perceptual loss compares VGG16's activations, as LPIPS does.",
}


def write_table(definition: TableDefinition, results: Results, *, tokenizers: Sequence[Path] = (), out: Path) -> Layout:
    """Writes `<out>.md`, `<out>.csv` (full precision) and `<out>.tex`; returns the layout of the table.

    Accuracies are in percent, each with its 95 % interval; the gain is over the same network with random weights.

    Args:
        definition: the table of the study.
        results: of its rows.
        tokenizers: `tokenizer.json` of the fits of a table of series, or of those with a perceptual loss.
        out: path of the files, without ending.
    """
    fits = [TokenizerRecord.read(path) for path in tokenizers]
    rows = [RowNumbers.of(results.rows[line.name], line.label, line.paper) for line in definition.rows]
    by_name = {row.name: row for row in rows}  # a row may have two lines: its own, and one as a point of a sweep
    notes: list[Note | Layout] = [Note(text=_protocol(definition, results, by_name)), Note(text=estimand(definition))]
    notes += [Note(text=text) for row in by_name.values() if (text := outliers(row))]
    if definition.series is not None:
        table = _series(definition.series, by_name)
        notes += [Note(text=COLUMNS, on_page=False), *_reconstructions(fits, table.columns)]
    else:
        table = _rows(definition, rows)
        notes.append(Note(text=explanation(definition.columns), on_page=False))
    notes += table.notes
    perceptual = dict.fromkeys(fit.perceptual for fit in fits if fit.perceptual is not None)
    notes += [Note(text=PERCEPTUAL[network]) for network in perceptual]
    notes += [Note(text=text) for text in devices_of(results.rows.values())]
    layout = table.model_copy(update={"title": definition.title, "notes": tuple(notes), "rows": tuple(rows)})
    layout.write(out)
    return layout


def _rows(definition: TableDefinition, rows: list[RowNumbers]) -> Layout:
    """A line for each row."""
    axis = (0.0, min(1.0, max(row.accuracy.high for row in rows)))
    cells: list[dict[Column, Cell]] = []  # of each row
    numbers = [len(row.by_seed) for row in rows]
    for row in rows:
        cells.append({Column(heading="row", is_number=False): Cell(value=row.label, sort=row.label, row=row.name)})
        for name in definition.columns:
            cells[-1] |= _linear(row, numbers, axis) if name == "linear" else _measure(row, name)
    notes = []
    if any(row.finetuned is not None for row in rows):
        notes.append(FINE_TUNED)
        for line, row in zip(cells, rows, strict=True):
            line[Column(heading="paper, fine-tuned")] = Cell.number(row.paper.finetune)
            line[Column(heading="fine-tuned")] = Cell.percent(row.finetuned, row=row.name)
    judged = [row.distance for row in rows if row.distance is not None]
    if judged:
        notes.append(_judge(judged[0]))
        for line, row in zip(cells, rows, strict=True):
            line[Column(heading="paper, FID")] = Cell.number(row.paper.fid)
            line |= _distance(row, judged[0].name)
    if len({row.training_flops for row in rows}) > 1:
        notes.append("Training FLOPs: of one run, by formula; the table of cost has the seconds that it took.")
        for line, row in zip(cells, rows, strict=True):
            flops = Cell(value=operations(row.training_flops), sort=row.training_flops)
            line[Column(heading="training FLOPs", short="training")] = flops
    return Layout(
        columns=tuple(cells[0]),
        lines=tuple(Line(cells=tuple(line.values())) for line in cells),
        notes=tuple(Note(text=text) for text in notes),
    )


def _linear(row: RowNumbers, numbers: Sequence[int], axis: tuple[float, float]) -> dict[Column, Cell]:
    """The linear probe: the paper's accuracy, the row's, its spread over seeds, and its gain over random weights.

    `numbers` are those of the seeds of all rows.
    """
    random = f"{100 * row.random.value:.1f}"
    by_seed = tuple(row.by_seed.values()) if len(row.by_seed) > 1 else ()
    whisker = Whisker(estimate=row.accuracy, axis=axis, reference=row.random.value, seeds=by_seed)
    cells = {
        Column(heading="paper"): Cell.number(row.paper.probe),
        Column(heading="accuracy"): _accuracy(row, whisker=whisker),
    }
    if max(numbers) > 1:
        spread = 100 * float(np.std(by_seed, ddof=1)) if by_seed else None
        detail = f"of {len(row.by_seed)}" if len(set(numbers)) > 1 else ""
        cells[Column(heading="over seeds", short="± over seeds")] = Cell.number(spread, "± {:.1f}", detail=detail)
    gain = Cell.percent(row.gain, signed=True, row=row.name, below=(f"random weights {random}",))
    cells[Column(heading="gain over random")] = gain
    cells[Column(heading="random weights", on_page=False)] = Cell(value=random)
    return cells


def _accuracy(row: RowNumbers, **more: Any) -> Cell:
    """A row's accuracy, with a warning where a seed is an outlier."""
    warning = "; ".join(f"outlier: seed {seed}, {100 * row.by_seed[seed]:.1f}" for seed in _outlying(row))
    return Cell.percent(row.accuracy, row=row.name, warning=warning, **more)


def _measure(row: RowNumbers, name: str) -> dict[Column, Cell]:
    """Another measure than the linear probe, and below it the same with random weights."""
    measure = MEASURES[name]
    factor, form = (100.0, "{:.1f}") if measure.unit == "%" else (1.0, "{:.4g}")
    trained, random = (factor * value for value in row.other_measures[name])
    return {Column(heading=measure.title): Cell.number(trained, form, below=(f"random {form.format(random)}",))}


def _distance(row: RowNumbers, name: str) -> dict[Column, Cell]:
    """The distance of a row's samples from true images; the page shows the extrapolated distance alone."""
    at_n, infinite = Cell(), Cell()
    if row.distance is not None:
        at_n = Cell.number(row.distance.value, "{:.2f}")
        error = f"± {row.distance.error:.2f}"
        infinite = Cell.number(row.distance.infinite, "{:.2f}", detail=error, row=row.name)
    return {Column(heading=name, on_page=False): at_n, Column(heading="at infinite N", short=name): infinite}


def _judge(distance: Distance) -> str:
    """What a distance is measured with."""
    text = (
        f"{distance.name}: of {distance.num:,} samples, with averaged weights, ± its standard error; lower is better."
    )
    if distance.judge_accuracy is None:
        return text
    return (
        f"{text} It is measured with the features of a small classifier that the study trains itself, with "
        f"{100 * distance.judge_accuracy:.1f} % accuracy on validation images; it is no FID, and the two columns "
        "compare in their order alone."
    )


def _series(series: Sequence[SeriesDefinition], rows: dict[str, RowNumbers]) -> Layout:
    """A line for each sweep and a column for each value; text files have the gains and the paper's numbers below it."""
    values = sorted({value for sweep in series for _, value in sweep.rows})
    lines = []
    for sweep in series:
        names = {value: name for name, value in sweep.rows}
        points = [rows[names[value]] if value in names else None for value in values]
        accuracies = [_point(row) if row is not None else Cell() for row in points]
        gains = [Cell.percent(row.gain, signed=True) if row is not None else Cell() for row in points]
        paper = [Cell.number(row.paper.probe) if row is not None else Cell() for row in points]
        lines += [
            Line(cells=(Cell(value=sweep.label, sort=sweep.label), *accuracies)),
            Line(cells=(Cell(value="- gain over random"), *gains), on_page=False),
            Line(cells=(Cell(value="- the paper"), *paper), on_page=False),
        ]
    columns = [Column(heading="", is_number=False), *(Column(heading=str(value)) for value in values)]
    return Layout(columns=tuple(columns), lines=tuple(lines))


def _point(row: RowNumbers) -> Cell:
    """A row of a sweep."""
    paper = [f"paper {row.paper.probe:.1f}"] if row.paper.probe is not None else []
    return _accuracy(row, below=(f"gain {interval(row.gain, signed=True)}", *paper))


def _reconstructions(fits: list[TokenizerRecord], columns: Sequence[Column]) -> list[Note | Layout]:
    """The reconstruction error of each tokenizer and the number of its unused dimensions, in the table's columns.

    Both are means over the fits of different seeds.
    """
    by_point: dict[tuple[str, str], list[tuple[float, int]]] = {}
    for fit in fits:
        for dim, psnr in fit.psnr.items():
            by_point.setdefault((fit.kind, str(dim)), []).append((psnr, fit.collapsed_dims))
    if not by_point:
        return []
    errors: dict[str, dict[str, str]] = {}
    for (kind, point), pairs in by_point.items():
        error, collapsed = np.mean(pairs, axis=0)
        unused = "" if TOKENIZERS[kind].one_fit else f", {collapsed:.3g} unused"
        errors.setdefault(kind, {})[point] = f"{error:.1f}{unused}"
    dims = [column.heading for column in columns[1:]]
    lines = [
        [Cell(value=text) for text in (tokenizer.title, *(errors[kind].get(dim, "") for dim in dims))]
        for kind, tokenizer in TOKENIZERS.items()
        if kind in errors
    ]
    return [
        Note(text="Reconstruction of validation images, PSNR in dB, and dimensions without information:"),
        Layout.simple(["tokenizer", *dims], lines, texts=1),
    ]


def explanation(columns: Iterable[str]) -> str:
    """What the columns of measures mean."""
    return " ".join([COLUMNS, *(MEASURES[name].about for name in columns if name != "linear")])


def _protocol(definition: TableDefinition, results: Results, rows: dict[str, RowNumbers]) -> str:
    """How the accuracies were measured, and what raw pixels and guessing give."""
    numbers = sorted({len(row.by_seed) for row in rows.values()})
    seeds = f"{numbers[0]} {'seed' if numbers == [1] else 'seeds'}"
    if len(numbers) > 1:
        seeds = f"{numbers[0]} to {numbers[-1]} seeds a row"
    text = (
        f"Linear probe accuracy in percent [95 % interval], {results.groups.shape[1]:,} validation images in "
        f"{len(np.unique(results.groups[0])):,} groups, {seeds}. "
        f"Raw pixels: {interval(results.pixels['linear'])}, k-NN {100 * results.pixels['knn'].value:.1f}. "
        f"Chance: {100 / results.classes:.1f}."
    )
    if edge := [row.label for row in rows.values() if row.rate_at_edge]:
        labels = "; ".join(edge) if len(edge) < len(rows) else "every row"
        text += f" The best learning rate of the probe was the smallest or largest tried for: {labels}."
    return text


def outliers(row: RowNumbers) -> str:
    """A caution about a row whose accuracy in some seeds is an outlier; empty if there are none."""
    seeds = _outlying(row)
    if not seeds:
        return ""
    texts = {seed: f"{100 * value:.1f}" for seed, value in row.by_seed.items()}
    odd = " and ".join(texts[seed] for seed in seeds)
    others = " and ".join(text for seed, text in texts.items() if seed not in seeds)
    names = " and ".join(map(str, seeds))
    return (
        f"{'Seed' if len(seeds) == 1 else 'Seeds'} {names} of “{row.label}” did not train as the others did: {odd} "
        f"beside {others} (random weights {100 * row.random.value:.1f}). The row's mean describes neither, and its "
        "interval is wide for that reason."
    )


def _outlying(row: RowNumbers) -> list[int]:
    """The seeds of a row whose accuracies are outliers."""
    return [list(row.by_seed)[place] for place in outlying(list(row.by_seed.values()))]


def operations(count: float | None) -> str:
    """A number of floating-point operations in the largest unit of which it has a tenth, or nothing."""
    if count is None:
        return ""
    found = [(10**power, unit) for power, unit in UNITS.items() if count >= 10 ** (power - 1)]
    size, unit = found[-1] if found else (1, "")
    return f"{count / size:.2g} {unit}FLOP"


def write_cost(results: list[Path], *, out: Path) -> Layout:
    """Writes `<out>.md` and `<out>.csv`, what each job has cost; returns the table by stage and device.

    These numbers differ from one run to the next.
    """
    jobs = []
    for path in results:
        about = read_json(path)
        origin = about["provenance"]
        jobs.append(
            {
                "stage": RECORDS[path.name],
                "row": about.get("row", path.parent.name),
                "seed": about.get("seed", ""),
                "started": origin["started"],
                "seconds": seconds_of(origin),
                "imports": origin["import_seconds"],
                "peak MB": origin["peak_memory_mb"],
                "device": origin["device"],
                "processes": origin.get("processes", 1),
                "commit": origin["commit"],
            }
        )
    frame = pd.DataFrame(jobs)
    total = frame.groupby("stage", sort=False)[["seconds", "imports"]].sum()
    total["jobs"] = frame.groupby("stage").size()
    total["imports, %"] = 100 * total["imports"] / total["seconds"]
    total["peak MB"] = frame.groupby("stage")["peak MB"].max()
    seconds, imports = frame["seconds"].sum(), frame["imports"].sum()
    elapsed = (frame["started"] + frame["seconds"]).max() - frame["started"].min()
    parts = [
        "## Cost",
        total.to_markdown(floatfmt=".1f"),
        f"All {len(frame)} jobs together: {seconds / 3600:.2f} hours, "
        f"of which imports {100 * imports / seconds:.1f} %.",
        f"From the first job's start to the last one's end {elapsed / 60:.1f} minutes: on average "
        f"{seconds / elapsed:.2f} jobs were running.",
        frame.drop(columns="started").to_markdown(index=False, floatfmt=".1f"),
    ]
    write_text(out.with_suffix(".md"), "\n\n".join(parts) + "\n")
    write_text(out.with_suffix(".csv"), frame.to_csv(index=False))
    return _by_device(frame)


def _by_device(jobs: pd.DataFrame) -> Layout:
    """The cost by stage and device."""
    pairs = jobs[["stage", "device"]].drop_duplicates().itertuples(index=False, name=None)
    groups = [(*pair, jobs[(jobs["stage"] == pair[0]) & (jobs["device"] == pair[1])]) for pair in pairs]
    groups += [("all", "", jobs)] if len(groups) > 1 else []
    headings = ("stage", "device", "jobs", "job hours", "device hours", "of which imports, %", "most memory, MB")
    lines = []
    for stage, device, group in groups:
        hours = group["seconds"] / 3600
        lines.append(
            [
                Cell(value=stage, sort=stage),
                Cell(value=device, sort=device),
                Cell.number(len(group), "{}"),
                Cell.number(hours.sum(), "{:.2f}"),
                Cell.number((hours * group["processes"]).sum(), "{:.2f}"),
                Cell.number(100 * group["imports"].sum() / group["seconds"].sum()),
                Cell.number(group["peak MB"].max(), "{:,.0f}"),
            ]
        )
    return Layout.simple(headings, lines, texts=2, title="Cost")
