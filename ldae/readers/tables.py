"""Tables in Markdown, CSV and LaTeX, from results alone; no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from ldae.measures.intervals import Estimate, outlying
from ldae.readers.results import Results, RowResult
from ldae.runtime.files import read_json, write_text
from ldae.study.measures import MEASURES
from ldae.study.record import seconds_of
from ldae.study.results import TokenizerRecord
from ldae.study.stages import RECORDS
from ldae.study.tokenizers import TOKENIZERS

COLUMNS = (
    "Accuracy and gain: [95 % interval] of the mean, over seeds and groups of images. ± over seeds: the standard "
    "deviation of the seeds' accuracies. Gain: over the same network with random weights, on the same images."
)
UNITS = {9: "G", 12: "T", 15: "P", 18: "E", 21: "Z"}
LATEX = str.maketrans({"γ": r"$\gamma$", "σ": r"$\sigma$", "√": r"$\surd$", "−": "$-$", "±": r"$\pm$", "é": r"\'e"})
PERCEPTUAL = {  # what a perceptual loss has compared, as a tokenizer's record names it
    "builtin": "The perceptual loss (builtin) compares the activations of a small VGG-style network that the study "
    "trains with labels on the same images, where the paper has VGG16, trained on ImageNet.",
    "VGG16": "The perceptual loss compares VGG16's activations, as LPIPS does.",
}


def write_table(definition: dict[str, Any], results: Results, *, tokenizers: Sequence[Path] = (), out: Path) -> None:
    """Writes `<out>.md`, `<out>.csv` (full precision) and `<out>.tex`.

    Accuracies are in percent, each with its 95 % interval; the gain is over the same network with random weights.

    Args:
        definition: the table's title, and its `rows` or `series`.
        results: of its rows.
        tokenizers: `tokenizer.json` of the fits of a table of `series`, or of those with a perceptual loss.
        out: path of the files, without ending.
    """
    fits = [TokenizerRecord.read(path) for path in tokenizers]
    frame, notes = _matrix(definition, results, fits) if "series" in definition else _lines(definition, results)
    notes += [PERCEPTUAL[name] for name in {fit.perceptual: 0 for fit in fits} if name is not None]
    exact = [_record(wanted["name"], row, definition["seeds"]) for wanted, row in _shown(definition, results)]
    table = frame.to_markdown(index=False, disable_numparse=True)
    write_text(out.with_suffix(".md"), "\n\n".join([f"## {definition['title']}", table, *notes]) + "\n")
    write_text(out.with_suffix(".csv"), pd.DataFrame(exact).to_csv(index=False, float_format="%.6f"))
    latex = frame.to_latex(index=False, escape=True, caption=definition["title"])
    write_text(out.with_suffix(".tex"), typographic(latex).translate(LATEX))


def _shown(definition: dict[str, Any], results: Results) -> list[tuple[dict[str, Any], RowResult]]:
    """The lines' definitions and results; a row may have several, e.g. by its own name and as a point of a sweep."""
    return [
        (wanted, replace(results.rows[wanted["name"]], label=wanted["label"], paper=wanted["paper"]))
        for wanted in definition["rows"]
    ]


def _lines(definition: dict[str, Any], results: Results) -> tuple[pd.DataFrame, list[str]]:
    """A line for each row."""
    judged = next((row.distance for row in results.rows.values() if row.distance is not None), None)
    tuned = any(row.finetuned is not None for row in results.rows.values())
    flops = {row.training_flops for row in results.rows.values()}
    shown = []
    for _, row in _shown(definition, results):
        line = {"row": row.label}
        for name in definition["columns"]:
            line |= _accuracy(row) if name == "linear" else {MEASURES[name].title: measured(row, name)}
        if tuned:
            line["paper, fine-tuned"] = number(row.paper.get("finetune"))
            line["fine-tuned"] = "" if row.finetuned is None else interval(row.finetuned)
        if judged is not None:
            distance = row.distance
            line["paper, FID"] = number(row.paper.get("fid"))
            line[judged.name] = "" if distance is None else f"{distance.value:.2f}"
            line["at infinite N"] = "" if distance is None else f"{distance.infinite:.2f} ± {distance.error:.2f}"
        if len(flops) > 1:
            line["training FLOPs"] = operations(row.training_flops)
        shown.append(line)
    notes = [_note(definition, results), *_apart(definition, results), explanation(definition["columns"])]
    if tuned:
        notes.append(
            "Fine-tuned: the encoder trained end to end with labels, as a plain Vision Transformer, after the recipe "
            "of the paper's App. B, as the scale file has it; averaged weights."
        )
    if judged is not None:
        notes.append(
            f"{judged.name}: of {judged.num:,} samples, with averaged weights, ± its standard error; lower is better."
        )
        if judged.judge_accuracy is not None:
            notes[-1] += (
                " It is measured with the features of a small classifier that the study trains itself, with "
                f"{100 * judged.judge_accuracy:.1f} % accuracy on validation images; it is no FID, and the two columns "
                "compare in their order alone."
            )
    if len(flops) > 1:
        notes.append("Training FLOPs: of one run, by formula; the table of cost has the seconds that it took.")
    return pd.DataFrame(shown), notes


def _accuracy(row: RowResult) -> dict[str, str]:
    """The columns of the linear probe."""
    return {
        "paper": number(row.paper.get("probe")),
        "accuracy": interval(row.accuracy),
        **({"over seeds": f"± {100 * row.by_seed.std(ddof=1):.1f}"} if len(row.by_seed) > 1 else {}),
        "gain over random": interval(row.gain, signed=True),
        "random weights": f"{100 * row.random.value:.1f}",
    }


def explanation(columns: Iterable[str]) -> str:
    """What the columns of measures mean."""
    return " ".join([COLUMNS, *(MEASURES[name].about for name in columns if name != "linear")])


def in_unit(name: str, value: float) -> str:
    """A measure's value: an accuracy in percent, any other number as it is."""
    return f"{100 * value:.1f}" if MEASURES[name].unit == "%" else f"{value:.4g}"


def measured(row: RowResult, name: str) -> str:
    """A measure of a row."""
    return in_unit(name, float(row.measures[name].values.mean()))


def _matrix(
    definition: dict[str, Any], results: Results, tokenizers: list[TokenizerRecord]
) -> tuple[pd.DataFrame, list[str]]:
    """A line for each series: its accuracies by value, and the paper's below."""
    values = sorted({value for series in definition["series"] for _, value in series["rows"]})
    shown = []
    for series in definition["series"]:
        rows = {value: results.rows[name] for name, value in series["rows"]}
        lines = {
            series["label"]: {value: interval(row.accuracy) for value, row in rows.items()},
            "- gain over random": {value: interval(row.gain, signed=True) for value, row in rows.items()},
            "- the paper": {value: number(row.paper.get("probe")) for value, row in rows.items()},
        }
        shown += [{"": label} | {str(v): line.get(v, "") for v in values} for label, line in lines.items()]
    notes = [_note(definition, results), *_apart(definition, results), COLUMNS]
    if tokenizers:
        notes.append(_reconstructions(tokenizers, values))
    return pd.DataFrame(shown), notes


def _reconstructions(tokenizers: list[TokenizerRecord], values: list[int]) -> str:
    """The reconstruction error of each tokenizer and the number of its unused dimensions."""
    lines: dict[str, dict[int, str]] = {}
    for fit in tokenizers:
        line = lines.setdefault(fit.kind, {})
        for dim, decibel in fit.psnr.items():
            unused = f", {fit.collapsed_dims} unused" if not TOKENIZERS[fit.kind].one_fit else ""
            line[dim] = f"{decibel:.1f}{unused}"
    shown = [
        {"tokenizer": tokenizer.title} | {str(value): lines[kind].get(value, "") for value in values}
        for kind, tokenizer in TOKENIZERS.items()
        if kind in lines
    ]
    table = pd.DataFrame(shown).to_markdown(index=False, disable_numparse=True)
    return f"Reconstruction of validation images, PSNR in dB, and dimensions without information:\n\n{table}"


def _note(definition: dict[str, Any], results: Results) -> str:
    """How the numbers were measured, and what nothing gives."""
    seeds = len(definition["seeds"])
    text = (
        f"Linear probe accuracy in percent [95 % interval], {results.num_val:,} validation images in "
        f"{results.num_groups:,} groups, {seeds} {'seed' if seeds == 1 else 'seeds'}. "
        f"Raw pixels: {interval(results.pixels['linear'])}, k-NN {100 * results.pixels['knn'].value:.1f}. "
        f"Chance: {100 / results.classes:.1f}."
    )
    edge = [row.label for row in results.rows.values() if row.linear.rate_at_edge]
    if edge:
        rows = "; ".join(edge) if len(edge) < len(results.rows) else "every row"
        text += f" The best learning rate of the probe was the smallest or largest tried for: {rows}."
    return text


def _apart(definition: dict[str, Any], results: Results) -> list[str]:
    """A paragraph for each row with seeds that did not train as the others did."""
    rows = results.rows.values()
    said = (seeds_apart(row.label, definition["seeds"], row.by_seed, random=row.random.value) for row in rows)
    return [paragraph for paragraph in said if paragraph]


def seeds_apart(label: str, seeds: list[int], accuracies: Iterable[float], *, random: float) -> str:
    """What a reader must know of a row of which some seeds stand apart; empty where none do.

    Args:
        label: of the row.
        seeds: of the study.
        accuracies: of each of them, from 0 to 1.
        random: accuracy with random weights.
    """
    values = [*accuracies]
    places = outlying(values)
    if not places:
        return ""
    odd, others = (
        [f"{100 * value:.1f}" for place, value in enumerate(values) if (place in places) == wanted]
        for wanted in (True, False)
    )
    names = " and ".join(str(seeds[place]) for place in places)
    return (
        f"{'Seed' if len(places) == 1 else 'Seeds'} {names} of “{label}” did not train as the others did: "
        f"{' and '.join(odd)} beside {' and '.join(others)} (random weights {100 * random:.1f}). The row's mean "
        "describes neither, and its interval is wide for that reason."
    )


def _record(name: str, row: RowResult, seeds: list[int]) -> dict[str, Any]:
    """A row in full precision."""
    record = (
        {"name": name, "label": row.label, "paper": row.paper.get("probe"), "paper_fid": row.paper.get("fid")}
        | _exact("accuracy", row.accuracy)
        | _exact("gain", row.gain)
        | _exact("random", row.random)
        | {
            "rate_at_edge": row.linear.rate_at_edge,
            "training_flops": row.training_flops,
        }
        | {f"seed{seed}": value for seed, value in zip(seeds, row.by_seed, strict=True)}
    )
    for measure, result in row.measures.items():
        if measure != "linear":
            record |= {measure: result.values.mean(), f"{measure}_random": result.random_values.mean()}
    if row.finetuned is not None:
        record |= {"paper_finetuned": row.paper.get("finetune")} | _exact("finetuned", row.finetuned)
    if row.distance is not None:
        record |= {
            "distance": row.distance.name,
            "distance_at_n": row.distance.value,
            "distance_infinite": row.distance.infinite,
            "distance_error": row.distance.error,
        }
    return record


def write_cost(results: list[Path], *, out: Path) -> None:
    """Writes `<out>.md` and `<out>.csv`: what each job has cost, and on what. These differ from one run to the next."""
    rows = []
    for path in results:
        about = read_json(path)
        made = about["provenance"]
        rows.append(
            {
                "stage": RECORDS[path.name],
                "row": about.get("row", path.parent.name),
                "seed": about.get("seed", ""),
                "started": made["started"],
                "seconds": seconds_of(made),
                "imports": made["import_seconds"],
                "peak MB": made["peak_memory_mb"],
                "device": made["device"],
                "processes": made.get("processes", 1),  # which older records do not tell
                "commit": made["commit"],
            }
        )
    frame = pd.DataFrame(rows)
    total = frame.groupby("stage", sort=False)[["seconds", "imports"]].sum()
    total["jobs"] = frame.groupby("stage").size()
    total["imports, %"] = 100 * total["imports"] / total["seconds"]
    total["peak MB"] = frame.groupby("stage")["peak MB"].max()
    seconds, imports = frame["seconds"].sum(), frame["imports"].sum()
    notes = [
        f"All {len(frame)} jobs together: {seconds / 3600:.2f} hours, of which imports {100 * imports / seconds:.1f} %."
    ]
    elapsed = (frame["started"] + frame["seconds"]).max() - frame["started"].min()
    notes.append(
        f"From the first job's start to the last one's end {elapsed / 60:.1f} minutes: on average "
        f"{seconds / elapsed:.2f} jobs were running."
    )
    text = "\n\n".join(
        [
            "## Cost",
            total.to_markdown(floatfmt=".1f"),
            *notes,
            frame.drop(columns="started").to_markdown(index=False, floatfmt=".1f"),
        ]
    )
    write_text(out.with_suffix(".md"), text + "\n")
    write_text(out.with_suffix(".csv"), frame.to_csv(index=False))


def number(value: float | None) -> str:
    """A percentage of the paper's, or nothing."""
    return "" if value is None else f"{value:.1f}"


def interval(estimate: Estimate, *, signed: bool = False) -> str:
    """A value in percent with its interval."""
    value, low, high = (f"{100 * part:{'+' if signed else ''}.1f}" for part in estimate)
    return f"{value} [{low}, {high}]"


def operations(count: float | None) -> str:
    """A number of floating-point operations in the largest unit of which it has a tenth, or nothing."""
    if count is None:
        return ""
    found = [(10**power, unit) for power, unit in UNITS.items() if count >= 10 ** (power - 1)]
    size, unit = found[-1] if found else (1, "")
    return f"{count / size:.2g} {unit}FLOP"


def typographic(text: str) -> str:
    """A text whose numbers below zero have a minus sign, U+2212, where plain text has a hyphen."""
    return re.sub(r"(?<![\w.])-(?=\d)", "−", text)


def _exact(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
