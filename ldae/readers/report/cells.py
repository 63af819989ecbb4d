"""Tables of the page: what each cell shows, what its column sorts by, and which row made its number; no torch."""

from __future__ import annotations

import base64
import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ldae.measures.intervals import Estimate, outlying
from ldae.readers.tables import COLUMNS, in_unit, interval, operations
from ldae.study.measures import MEASURES

Record = dict[str, str]  # a line of a CSV file
FILES = {"CSV": "csv", "LaTeX": "tex", "Markdown": "md"}  # of each table


class Whisker(NamedTuple):
    """A value and its interval, drawn small; every number is a share of the axis, from 0 to 1."""

    low: float
    value: float
    high: float
    reference: float | None  # what random weights give, or the paper's value
    side: tuple[float, float] | None = None  # the part of the axis where a claim holds
    seeds: tuple[float, ...] = ()  # the value of each seed


@dataclass(frozen=True)
class Cell:
    """What a table shows at one place."""

    text: str
    detail: str = ""  # smaller, beside it
    sort: float | str | None = None  # what its column sorts by; nothing sorts last
    row: str = ""  # that made it
    whisker: Whisker | None = None
    below: tuple[str, ...] = ()  # lines beneath it
    warning: str = ""  # the last of them, to be noticed


@dataclass(frozen=True)
class Sheet:
    """A table of the page."""

    title: str
    columns: list[tuple[str, bool]]  # its heading, and whether it holds numbers
    lines: list[list[Cell]]
    notes: Sequence[str | Sheet] = ()
    files: Sequence[tuple[str, str, str]] = ()  # that hold it: kind, name, and content as a data URI


def read_csv(path: Path) -> list[Record]:
    """The lines of a CSV file; every value stays text, so that a row may be called `NA`."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def share(record: Record, name: str) -> Estimate:
    """A value of a line and its interval."""
    return Estimate(*(float(record[f"{name}{end}"]) for end in ("", "_low", "_high")))


def number(text: str | None) -> float | None:
    """A number where there is one."""
    return float(text) if text else None


class Axis:
    """The range that the whiskers of a table share."""

    def __init__(self, values: Iterable[float], within: tuple[float, float] = (-math.inf, math.inf)) -> None:
        """From the smallest to the largest of the values, but not beyond what can be."""
        found = list(values)
        self.low = max(min(found), within[0])
        self.length = (min(max(found), within[1]) - self.low) or 1.0

    def at(self, value: float) -> float:
        """The share of the axis at a value; beyond its ends, the end."""
        return min(1.0, max(0.0, (value - self.low) / self.length))

    def whisker(
        self,
        estimate: Estimate,
        reference: float | None,
        *,
        side: tuple[float, float] | None = None,
        seeds: Sequence[float] = (),
    ) -> Whisker:
        """An interval on this axis."""
        low, value, high = (self.at(part) for part in (estimate.low, estimate.value, estimate.high))
        ends = (self.at(side[0]), self.at(side[1])) if side is not None else None
        given = self.at(reference) if reference is not None else None
        return Whisker(low, value, high, given, ends, tuple(self.at(seed) for seed in seeds))


def shown(estimate: Estimate, *, signed: bool = False, **more: Any) -> Cell:
    """A share in percent with its interval."""
    text, _, detail = interval(estimate, signed=signed).partition(" ")
    return Cell(text, detail, sort=estimate.value, **more)


def plain(text: str | None, form: str = "{}", scale: float = 1.0) -> Cell:
    """A number of a file, or nothing."""
    value = number(text)
    return Cell("") if value is None else Cell(form.format(scale * value), sort=value)


def table(entry: dict[str, Any], folder: Path, seeds: list[int]) -> Sheet:
    """A table of the study from its files; each number leads to the row that made it.

    Args:
        entry: its `name`, `title` and, where its lines are sweeps, `series`.
        folder: of `<name>.csv` and `<name>.md`.
        seeds: of the study.
    """
    records = read_csv(folder / f"{entry['name']}.csv")
    notes = notes_of((folder / f"{entry['name']}.md").read_text(encoding="utf-8"))
    axis = Axis([0.0, *(float(record["accuracy_high"]) for record in records)], (0.0, 1.0))
    make = _matrix if "series" in entry else _lines
    columns, lines = make(entry, records, axis, seeds)
    files = [file for kind, ending in FILES.items() if (file := _file(folder / f"{entry['name']}.{ending}", kind))]
    return Sheet(entry["title"], columns, lines, notes, files)


def _file(path: Path, kind: str) -> tuple[str, str, str] | None:
    """A file that the page holds, to be saved from it."""
    if not path.is_file():
        return None
    content = base64.b64encode(path.read_bytes()).decode()
    return kind, path.name, f"data:text/plain;charset=utf-8;base64,{content}"


def _lines(
    entry: dict[str, Any], records: list[Record], axis: Axis, seeds: list[int]
) -> tuple[list[tuple[str, bool]], list[list[Cell]]]:
    """A line for each row."""
    judged = next((record["distance"] for record in records if record.get("distance")), None)
    flops = len({record["training_flops"] for record in records}) > 1
    columns = [("row", False)]
    for measure in entry["columns"]:
        if measure == "linear":
            columns += [("paper", True), ("accuracy", True)]
            columns += [("± over seeds", True)] if len(seeds) > 1 else []
            columns.append(("gain over random", True))
        else:
            columns.append((MEASURES[measure].title.replace("-", "‑"), True))  # a hyphen that does not break
    tuned = any(record.get("finetuned") for record in records)
    columns += [("paper, fine-tuned", True), ("fine-tuned", True)] if tuned else []
    columns += [("paper, FID", True), (judged, True)] if judged else []
    columns += [("training", True)] if flops else []
    lines = []
    for record in records:
        name = record["name"]
        line = [Cell(record["label"], sort=record["label"], row=name)]
        for measure in entry["columns"]:
            line += _linear(record, axis, seeds) if measure == "linear" else [_measured(record, measure)]
        if tuned:
            line.append(plain(record["paper_finetuned"], "{:.1f}"))
            line.append(shown(share(record, "finetuned"), row=name) if record["finetuned"] else Cell(""))
        if judged:
            error = number(record["distance_error"])
            distance = plain(record["distance_infinite"], "{:.2f}")
            detail = f"± {error:.2f}" if error is not None else ""
            line += [plain(record["paper_fid"], "{:.1f}"), Cell(distance.text, detail, distance.sort, row=name)]
        if flops:
            count = number(record["training_flops"])
            line.append(Cell(operations(count), sort=count))
        lines.append(line)
    return columns, lines


def _linear(record: Record, axis: Axis, seeds: list[int]) -> list[Cell]:
    """The paper's accuracy by linear probe, the row's, its spread over several seeds, and its gain."""
    random = share(record, "random")
    cells = [plain(record["paper"], "{:.1f}"), _accuracy(record, axis, seeds)]
    if len(seeds) > 1:
        spread = float(np.std(by_seed(record, seeds), ddof=1))
        cells.append(Cell(f"± {100 * spread:.1f}", sort=spread))
    below = (f"random weights {100 * random.value:.1f}",)
    return [*cells, shown(share(record, "gain"), signed=True, row=record["name"], below=below)]


def _measured(record: Record, measure: str) -> Cell:
    """Another measure, and below it the same with random weights where the table has that."""
    value, random = float(record[measure]), number(record.get(f"{measure}_random"))
    below = () if random is None else (f"random {in_unit(measure, random)}",)
    return Cell(in_unit(measure, value), sort=value, below=below)


def by_seed(record: Record, seeds: list[int]) -> list[float]:
    """The accuracy of each seed."""
    return [float(record[f"seed{seed}"]) for seed in seeds]


def _accuracy(record: Record, axis: Axis, seeds: list[int]) -> Cell:
    """A row's accuracy, drawn with its seeds; one that stands apart is named."""
    accuracy, values = share(record, "accuracy"), by_seed(record, seeds)
    whisker = axis.whisker(accuracy, share(record, "random").value, seeds=values if len(seeds) > 1 else ())
    warning = "; ".join(f"seed {seeds[place]} apart: {100 * values[place]:.1f}" for place in outlying(values))
    return shown(accuracy, row=record["name"], whisker=whisker, warning=warning)


def _matrix(
    entry: dict[str, Any], records: list[Record], axis: Axis, seeds: list[int]
) -> tuple[list[tuple[str, bool]], list[list[Cell]]]:
    """A line for each sweep, and a column for each of their values."""
    found = {record["name"]: record for record in records}
    values = sorted({value for series in entry["series"] for _, value in series["rows"]})
    lines = []
    for series in entry["series"]:
        rows = {value: name for name, value in series["rows"]}
        line = [Cell(series["label"], sort=series["label"])]
        for value in values:
            record = found.get(rows.get(value, ""))
            if record is None:
                line.append(Cell(""))
                continue
            gain = " ".join(["gain", interval(share(record, "gain"), signed=True)])
            paper = [f"paper {float(record['paper']):.1f}"] if record["paper"] else []
            cell = _accuracy(record, axis, seeds)
            line.append(replace(cell, whisker=None, below=(gain, *paper)))
        lines.append(line)
    return [("", False), *((str(value), True) for value in values)], lines


def notes_of(text: str) -> list[str | Sheet]:
    """The paragraphs below a table in Markdown, and the tables among them; the columns are explained once for all."""
    parts = text.strip().split("\n\n")[2:]
    return [
        _of_pipes(part) if part.startswith("|") else part for part in parts if part and not part.startswith(COLUMNS)
    ]


def _of_pipes(text: str) -> Sheet:
    """A table in Markdown, whose cells hold no pipes."""
    head, _, *lines = ([part.strip() for part in line.strip().strip("|").split("|")] for line in text.splitlines())
    cells = [[Cell(part, sort=part or None) for part in line] for line in lines]
    return Sheet("", [(heading, place > 0) for place, heading in enumerate(head)], cells)
