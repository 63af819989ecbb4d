"""Tables of the page: what each cell shows, what its column sorts by, and which row made its number; no torch."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ldae.claims import HOLDS, UNDECIDED, marked
from ldae.statistics import Estimate
from ldae.tables import interval

Record = dict[str, str]  # a line of a CSV file


class Whisker(NamedTuple):
    """A value and its interval, drawn small; every number is a share of the axis, from 0 to 1."""

    low: float
    value: float
    high: float
    reference: float | None  # what random weights give, or the paper's value
    side: tuple[float, float] | None = None  # the part of the axis where a claim holds


@dataclass(frozen=True)
class Cell:
    """What a table shows at one place."""

    text: str
    detail: str = ""  # smaller, beside it
    sort: float | str | None = None  # what its column sorts by; nothing sorts last
    row: str = ""  # that made it
    whisker: Whisker | None = None
    below: tuple[str, ...] = ()  # lines beneath it
    rows: tuple[str, ...] = ()  # that it speaks of
    verdict: str = ""


@dataclass(frozen=True)
class Sheet:
    """A table of the page."""

    title: str
    columns: list[tuple[str, bool]]  # its heading, and whether it holds numbers
    lines: list[list[Cell]]
    notes: Sequence[str | Sheet] = ()


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

    def __init__(self, values: Iterable[float]) -> None:
        found = list(values)
        self.low = min(found)
        self.length = (max(found) - self.low) or 1.0

    def at(self, value: float) -> float:
        """The share of the axis at a value; beyond its ends, the end."""
        return min(1.0, max(0.0, (value - self.low) / self.length))

    def whisker(self, estimate: Estimate, reference: float | None, side: tuple[float, float] | None = None) -> Whisker:
        """An interval on this axis."""
        low, value, high = (self.at(part) for part in (estimate.low, estimate.value, estimate.high))
        ends = (self.at(side[0]), self.at(side[1])) if side is not None else None
        return Whisker(low, value, high, self.at(reference) if reference is not None else None, ends)


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
    axis = Axis([0.0, *(float(record["accuracy_high"]) for record in records)])
    make = _matrix if "series" in entry else _lines
    columns, lines = make(entry, records, axis, seeds)
    return Sheet(entry["title"], columns, lines, notes)


def _lines(
    entry: dict[str, Any], records: list[Record], axis: Axis, seeds: list[int]
) -> tuple[list[tuple[str, bool]], list[list[Cell]]]:
    """A line for each row."""
    judged = next((record["distance"] for record in records if record.get("distance")), None)
    flops = len({record["training_flops"] for record in records}) > 1
    columns = [("row", False), ("paper", True), ("accuracy", True)]
    columns += [("over seeds", True)] if len(seeds) > 1 else []
    columns += [("gain over random", True), ("random weights", True), ("k-NN", True)]
    tuned = any(record.get("finetuned") for record in records)
    columns += [("paper, fine-tuned", True), ("fine-tuned", True)] if tuned else []
    columns += [("paper, FID", True), (judged, True)] if judged else []
    columns += [("training FLOPs", True)] if flops else []
    lines = []
    for record in records:
        random, name = share(record, "random"), record["name"]
        accuracy = share(record, "accuracy")
        line = [
            Cell(record["label"], sort=record["label"], row=name),
            plain(record["paper"], "{:.1f}"),
            shown(accuracy, row=name, whisker=axis.whisker(accuracy, random.value)),
        ]
        if len(seeds) > 1:
            spread = float(np.std([float(record[f"seed{seed}"]) for seed in seeds], ddof=1))
            line.append(Cell(f"± {100 * spread:.1f}", sort=spread))
        line += [
            shown(share(record, "gain"), signed=True, row=name),
            Cell(f"{100 * random.value:.1f}", sort=random.value),
            plain(record["knn"], "{:.1f}", 100),
        ]
        if tuned:
            line.append(plain(record["paper_finetuned"], "{:.1f}"))
            line.append(shown(share(record, "finetuned"), row=name) if record["finetuned"] else Cell(""))
        if judged:
            error = number(record["distance_error"])
            distance = plain(record["distance_infinite"], "{:.2f}")
            detail = f"± {error:.2f}" if error is not None else ""
            line += [plain(record["paper_fid"], "{:.1f}"), Cell(distance.text, detail, distance.sort, row=name)]
        if flops:
            line.append(plain(record["training_flops"], "{:.1e}"))
        lines.append(line)
    return columns, lines


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
            line.append(shown(share(record, "accuracy"), row=record["name"], below=(gain, *paper)))
        lines.append(line)
    return [("", False), *((str(value), True) for value in values)], lines


def notes_of(text: str) -> list[str | Sheet]:
    """The paragraphs below a table in Markdown, and the tables among them."""
    parts = text.strip().split("\n\n")[2:]
    return [_of_pipes(part) if part.startswith("|") else part for part in parts if part]


def _of_pipes(text: str) -> Sheet:
    """A table in Markdown, whose cells hold no pipes."""
    head, _, *lines = ([part.strip() for part in line.strip().strip("|").split("|")] for line in text.splitlines())
    cells = [[Cell(part, sort=part or None) for part in line] for line in lines]
    return Sheet("", [(heading, place > 0) for place, heading in enumerate(head)], cells)


def claims(entries: list[dict[str, Any]], folder: Path, seeds: list[int]) -> Sheet:
    """The verdicts from their files, of the claims that were judged; each leads to the rows that it speaks of."""
    records = {record["name"]: record for record in read_csv(folder / "claims.csv")}
    points = [record for record in records.values() if _unit(record) == "points"]
    known = [float(record[f"accuracy_{part}"]) for record in points for part in ("low", "high")]
    known += [paper for record in points if (paper := _difference(record["paper"])) is not None]
    axes = {"points": Axis([-1.0, 1.0, *known]), "correlation": Axis([-1.0, 1.0])}
    lines = []
    for entry in entries:
        if entry["name"] not in records:
            continue
        record = records[entry["name"]]
        whisker = None
        if unit := _unit(record):
            axis = axes[unit]
            quantity = Estimate(*(float(record[f"accuracy_{part}"]) for part in ("value", "low", "high")))
            whisker = axis.whisker(quantity, _difference(record["paper"]), _side(entry, axis))
        word = record["verdict_accuracy"]
        counted = UNDECIDED if word == HOLDS and len(seeds) == 1 else word  # as `marked` says it
        verdict = marked(word, len(seeds))
        gain = f"{record['said_gain']}: {marked(record['verdict_gain'], len(seeds))}" if record["said_gain"] else ""
        lines.append(
            [
                Cell(record["text"], sort=record["text"], rows=tuple(entry["rows"])),
                Cell(verdict, sort=verdict, verdict=counted),
                Cell(record["said_accuracy"], sort=number(record["accuracy_value"]), whisker=whisker),
                Cell(record["paper"], sort=record["paper"]),
                Cell(entry["where"], sort=entry["where"]),
                Cell(gain, sort=gain),
            ]
        )
    headings = ("claim", "verdict", "ours [95 %]", "paper", "in the paper", "by gain over random weights")
    return Sheet(
        "The paper's claims",
        [(heading, False) for heading in headings],
        lines,
        notes_of((folder / "claims.md").read_text(encoding="utf-8")),
    )


def _difference(text: str) -> float | None:
    """The paper's side of a claim, where it is a number and not the place of a peak."""
    return None if text.startswith("best") else number(text)


def _side(entry: dict[str, Any], axis: Axis) -> tuple[float, float]:
    """Where on an axis the quantity must lie for a claim to hold; a peak's lead must be above 0."""
    if "within" in entry:
        return -entry["within"], entry["within"]
    if "below" in entry:
        return axis.low, entry["below"]
    return entry.get("above", 0.0), axis.low + axis.length


def _unit(record: Record) -> str:
    """Whether a claim's quantity is in points, or a rank correlation, which has no gain to be judged by."""
    if not record["accuracy_value"]:
        return ""
    return "points" if record["said_gain"] else "correlation"
