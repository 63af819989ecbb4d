"""The layout of a table: its cells, from which Markdown, LaTeX, CSV and the page are rendered; no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import pandas as pd
from pydantic import BaseModel, ConfigDict

from ldae.measures.intervals import Estimate
from ldae.readers.results import Distance, RowResult
from ldae.runtime.files import write_text
from ldae.study.file import Paper
from ldae.study.results import Record

LATEX = str.maketrans({"γ": r"$\gamma$", "σ": r"$\sigma$", "√": r"$\surd$", "−": "$-$", "±": r"$\pm$", "é": r"\'e"})


class Part(BaseModel):
    """A part of a layout."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Whisker(Part):
    """A small drawing of a value with its interval, and of the prediction interval as a thin line."""

    estimate: Estimate
    axis: tuple[float, float]  # its ends; what lies beyond an end is drawn at the end
    reference: float | None = None  # the value with random weights, or the paper's value
    side: tuple[float, float] | None = None  # the part of the axis where a claim holds
    seeds: tuple[float, ...] = ()  # the value of each seed


class Cell(Part):
    """A cell of a table. Text files show the value and its detail; all else is for the page."""

    value: str = ""
    detail: str = ""  # in smaller letters beside the value
    sort: float | str | None = None  # the key by which its column sorts; cells without a key come last
    row: str = ""  # the row with the number's origin
    whisker: Whisker | None = None
    below: tuple[str, ...] = ()  # lines beneath the value
    warning: str = ""

    @classmethod
    def number(cls, value: float | None, form: str = "{:.1f}", **more: Any) -> Self:
        """A number in the format `form`; empty for None."""
        return cls() if value is None else cls(value=form.format(value), sort=round(value, 6), **more)

    @classmethod
    def percent(cls, estimate: Estimate | None, *, signed: bool = False, **more: Any) -> Self:
        """A share in percent with its interval; empty for None."""
        if estimate is None:
            return cls()
        value, _, detail = interval(estimate, signed=signed).partition(" ")
        return cls(value=value, detail=detail, sort=round(estimate.value, 6), **more)

    @property
    def text(self) -> str:
        """The cell in a text file."""
        return f"{self.value} {self.detail}".rstrip()


class Column(Part):
    """A column of a table."""

    heading: str
    short: str = ""  # the heading on the page, if it is another
    is_number: bool = True
    on_page: bool = True  # False for a column that the page shows within another one


class Line(Part):
    """A line of a table."""

    cells: tuple[Cell, ...]
    on_page: bool = True  # False for a line that the page shows within another one


class Note(Part):
    """A paragraph below a table."""

    text: str
    on_page: bool = True  # False for a paragraph that the page has once for all tables


class RowNumbers(Part):
    """The numbers of a row in full precision; accuracies are shares, from 0 to 1."""

    name: str
    label: str
    paper: Paper = Paper()
    accuracy: Estimate
    random: Estimate  # the accuracy with random weights
    gain: Estimate  # over random weights
    by_seed: dict[int, float] = {}  # the accuracy of each seed
    rate_at_edge: bool = False
    training_flops: float | None = None
    other_measures: dict[str, tuple[float, float]] = {}  # than the linear probe: trained, and with random weights
    finetuned: Estimate | None = None
    distance: Distance | None = None

    @classmethod
    def of(cls, row: RowResult, label: str, paper: Paper) -> Self:
        """The numbers of a row under the label and with the paper's numbers of one line of a table."""
        others = {name: result for name, result in row.measures.items() if name != "linear"}
        return cls(
            name=row.name,
            label=label,
            paper=paper,
            accuracy=row.accuracy,
            random=row.random,
            gain=row.linear.gain,
            by_seed=dict(zip(row.seeds, row.by_seed, strict=True)),
            rate_at_edge=row.linear.rate_at_edge,
            training_flops=row.training_flops,
            other_measures={name: (one.values.mean(), one.random_values.mean()) for name, one in others.items()},
            finetuned=row.finetuned,
            distance=row.distance,
        )

    def record(self, seeds: Iterable[int]) -> dict[str, Any]:
        """The row as a line of a CSV file, with a column for each of some seeds."""
        record: dict[str, Any] = {
            "name": self.name,
            "label": self.label,
            "paper": self.paper.probe,
            "paper_fid": self.paper.fid,
        }
        record |= _exact("accuracy", self.accuracy) | _exact("gain", self.gain) | _exact("random", self.random)
        record |= {"rate_at_edge": self.rate_at_edge, "training_flops": self.training_flops}
        record |= {f"seed{seed}": self.by_seed.get(seed) for seed in seeds}
        for name, (trained, random) in self.other_measures.items():
            record |= {name: trained, f"{name}_random": random}
        if self.finetuned is not None:
            record |= {"paper_finetuned": self.paper.finetune} | _exact("finetuned", self.finetuned)
        if self.distance is not None:
            record |= {
                "distance": self.distance.name,
                "distance_at_n": self.distance.value,
                "distance_infinite": self.distance.infinite,
                "distance_error": self.distance.error,
            }
        return record


class Layout(Part):
    """A table as it is shown, with the numbers of its rows."""

    title: str = ""
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    notes: tuple[Note | Layout, ...] = ()
    rows: tuple[RowNumbers, ...] = ()

    @classmethod
    def simple(cls, headings: Iterable[str], lines: Iterable[Iterable[Cell]], *, texts: int, title: str = "") -> Self:
        """A table with text in its first columns, as many as `texts`, and numbers in the others."""
        columns = tuple(Column(heading=text, is_number=place >= texts) for place, text in enumerate(headings))
        return cls(title=title, columns=columns, lines=tuple(Line(cells=tuple(cells)) for cells in lines))

    def on_page(self) -> Self:
        """The layout without the columns, lines and notes that the page leaves out."""
        places = [place for place, column in enumerate(self.columns) if column.on_page]
        lines = [Line(cells=tuple(line.cells[place] for place in places)) for line in self.lines if line.on_page]
        notes = [note for note in self.notes if isinstance(note, Layout) or note.on_page]
        columns = [self.columns[place] for place in places]
        return self.model_copy(update={"columns": columns, "lines": lines, "notes": notes})

    def write(self, out: Path) -> None:
        """Writes `<out>.md`, `<out>.csv` (the rows in full precision) and `<out>.tex`."""
        write_text(out.with_suffix(".md"), self.markdown() + "\n")
        seeds = sorted({seed for row in self.rows for seed in row.by_seed})
        records = pd.DataFrame([row.record(seeds) for row in self.rows])
        write_text(out.with_suffix(".csv"), records.to_csv(index=False, float_format="%.6f"))
        latex = self._frame().to_latex(index=False, escape=True, caption=self.title)
        write_text(out.with_suffix(".tex"), typographic(latex).translate(LATEX))

    def markdown(self) -> str:
        """The table in Markdown, with its title above and its notes below it."""
        notes = [note.markdown() if isinstance(note, Layout) else note.text for note in self.notes]
        table = self._frame().to_markdown(index=False, disable_numparse=True)
        return "\n\n".join([*([f"## {self.title}"] if self.title else []), table, *notes])

    def _frame(self) -> pd.DataFrame:
        cells = [[cell.text for cell in line.cells] for line in self.lines]
        return pd.DataFrame(cells, columns=[column.heading for column in self.columns])


class TableRecord(Record):
    """`<table>.json`."""

    layout: Layout


def interval(estimate: Estimate, unit: str = "", *, signed: bool = False) -> str:
    """A share in percent with its interval; `unit` follows the value."""
    value, low, high = (f"{100 * part:{'+' if signed else ''}.1f}" for part in estimate[:3])
    return f"{value}{unit} [{low}, {high}]"


def typographic(text: str) -> str:
    """A text with a minus sign, U+2212, in place of the hyphen before each negative number."""
    return re.sub(r"(?<![\w.])-(?=\d)", "−", text)


def _exact(name: str, estimate: Estimate) -> dict[str, float | None]:
    """A number in a CSV file, with its interval and its prediction interval."""
    low, high = estimate.prediction or (None, None)
    return {
        name: estimate.value,
        f"{name}_low": estimate.low,
        f"{name}_high": estimate.high,
        f"{name}_prediction_low": low,
        f"{name}_prediction_high": high,
    }
