"""The paper's claims on the page: each a card with its verdict, the decided ones first; no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldae.measures.intervals import Estimate
from ldae.readers.claims import FAILS, HOLDS, UNDECIDED, marked
from ldae.readers.report.cells import Axis, Record, Sheet, Whisker, notes_of, number, read_csv


@dataclass(frozen=True)
class Judged:
    """A claim and what results say of it."""

    text: str
    where: str  # in the paper
    rows: tuple[str, ...]  # that it speaks of
    verdict: str  # one of three words
    said: str  # the verdict as it is shown
    ours: str
    paper: str
    by_gain: str  # what the gain over random weights says; empty for a rank correlation
    whisker: Whisker | None


@dataclass(frozen=True)
class Claims:
    """All claims that were judged."""

    judged: list[Judged]
    notes: list[str | Sheet]

    def given(self, word: str) -> list[Judged]:
        """Those of one verdict."""
        return [one for one in self.judged if one.verdict == word]

    @property
    def groups(self) -> list[tuple[str, list[Judged]]]:
        """The claims by verdict, what is decided first."""
        return [(word, found) for word in (HOLDS, FAILS, UNDECIDED) if (found := self.given(word))]


def claims(entries: list[dict[str, Any]], folder: Path, seeds: list[int]) -> Claims:
    """The verdicts from their files, of the claims that were judged.

    Args:
        entries: each claim's `name`, `where`, `rows` and its margin.
        folder: of `claims.csv` and `claims.md`.
        seeds: of the study.
    """
    records = {record["name"]: record for record in read_csv(folder / "claims.csv")}
    points = [record for record in records.values() if _unit(record) == "points"]
    known = [float(record[f"accuracy_{part}"]) for record in points for part in ("low", "high")]
    known += [paper for record in points if (paper := _difference(record["paper"])) is not None]
    axes = {"points": Axis([-1.0, 1.0, *known], (-100.0, 100.0)), "correlation": Axis([-1.0, 1.0])}
    judged = [_judged(entry, records[entry["name"]], axes, len(seeds)) for entry in entries if entry["name"] in records]
    return Claims(judged, notes_of((folder / "claims.md").read_text(encoding="utf-8")))


def _judged(entry: dict[str, Any], record: Record, axes: dict[str, Axis], seeds: int) -> Judged:
    whisker = None
    if unit := _unit(record):
        axis = axes[unit]
        quantity = Estimate(*(float(record[f"accuracy_{part}"]) for part in ("value", "low", "high")))
        whisker = axis.whisker(quantity, _difference(record["paper"]), side=_side(entry, axis))
    word = record["verdict_accuracy"]
    gain = record["said_gain"]
    return Judged(
        text=record["text"],
        where=entry["where"],
        rows=tuple(entry["rows"]),
        verdict=UNDECIDED if word == HOLDS and seeds == 1 else word,  # as `marked` says it
        said=marked(word, seeds),
        ours=record["said_accuracy"],
        paper=record["paper"],
        by_gain=f"{gain}: {marked(record['verdict_gain'], seeds)}" if gain else "",
        whisker=whisker,
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
