"""The page: tables, figures, verdicts, curves and origins in one HTML file, from result files alone; no torch.

It loads nothing from a network, and its own policy forbids it to. Whatever comes from a study's YAML is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import json
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ldae.readers.claims import ClaimsRecord
from ldae.readers.layout import Layout, RowNumbers, TableRecord, typographic
from ldae.readers.report import origins, words
from ldae.readers.report.data import contact_sheet
from ldae.readers.tables import explanation, outliers
from ldae.readers.variations import VariationRecord, Varied
from ldae.runtime.files import read_json, write_text
from ldae.study.definitions import FigureDefinition, PageDefinition
from ldae.study.measures import ordered
from ldae.study.record import digest, seconds_of
from ldae.study.results import Manifest

TEMPLATES = Path(__file__).parent
TYPES = {".svg": "image/svg+xml", ".png": "image/png"}
FILES = {"CSV": "csv", "LaTeX": "tex", "Markdown": "md"}  # of each table


class PageFigure(NamedTuple):
    """A figure of the study on the page."""

    definition: FigureDefinition
    source: str  # a data URI
    is_drawing: bool  # without images of the data; it may be shown light on dark
    files: list[str]  # its files in the folder of figures


class PageTable(NamedTuple):
    """A table of the study on the page."""

    name: str
    layout: Layout
    files: list[tuple[str, str, str]]  # kind, name, and content as a data URI


def write_page(definition: PageDefinition, *, results: Path, cost: Path, out: Path) -> None:
    """Writes the page of a study from the files in its results folder.

    Args:
        definition: the study's rows, tables, figures and claims.
        results: with `tables/`, `figures/` and, for the origins of numbers, `pretrain/`, `probe/`, `untrained/` ...
        cost: the record of the table of cost.
        out: the page.

    Raises:
        ValueError: for a record that is damaged, or was made from another specification than the study's now.
    """
    written = (_table(table.name, results / "tables") for table in definition.tables)
    tables = [table for table in written if table is not None]
    drawn = (_picture(figure, results / "figures") for figure in definition.figures)
    pictures = [picture for picture in drawn if picture is not None]
    claims = results / "tables/claims.json"
    judgement = ClaimsRecord.read(claims).judgement if definition.claims and claims.is_file() else None
    path = results / "dataset/manifest.json"
    manifest = Manifest.read(path) if path.is_file() else None
    rows = [origins.read_row(row, results) for row in definition.rows]
    labels = {row.name: row.label for row in definition.rows}
    measured: dict[str, RowNumbers] = {}
    for row in (row for table in tables for row in table.layout.rows):
        measured.setdefault(row.name, row.model_copy(update={"label": labels.get(row.name, row.label)}))
    found = list(measured.values())
    first = next((picture for picture in pictures if picture.definition.kind == "trajectory"), None)
    steps: list[str] = []
    if first is not None:
        drawn_rows = pd.read_csv(results / f"figures/{first.definition.name}.csv", dtype=str, keep_default_na=False)
        steps = drawn_rows["row"].tolist()
    parents = {row.name: row.parent for row in definition.rows}
    titles = {table.name: table.title for table in definition.tables}
    titles |= {figure.name: figure.title for figure in definition.figures}
    shown = {table.name for table in tables} | {picture.definition.name for picture in pictures}
    script, style = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("script.js", "style.css"))
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["signs"] = typographic
    environment.filters["day"], environment.filters["seconds"] = origins.day, seconds_of
    environment.filters["plain"] = lambda value: value if isinstance(value, str) else json.dumps(value)
    page = environment.get_template("page.html").render(
        script=script,
        style=style,
        policy=_policy(script, style),
        definition=definition,
        dataset=definition.settings["dataset"],
        manifest=manifest,
        tiles=contact_sheet(path.parent, manifest) if manifest is not None else [],
        findings=words.findings(found, [measured[name] for name in steps if name in measured], judgement),
        cautions=words.cautions(found, len(definition.seeds)),
        outliers=[text for row in found if (text := outliers(row))],
        missing=[title for name, title in titles.items() if name not in shown],
        first=first,
        is_chain=all(parents.get(after) == before for before, after in pairwise(steps)),
        pictures=pictures,
        judgement=judgement,
        dependence=words.dependence(varied(definition, results).values()),
        tables=tables,
        columns=explanation(ordered(measure for table in definition.tables for measure in table.columns)),
        rows=rows,
        known=labels,
        shared=origins.read_results(definition.records, results),
        curves=_curves(definition, results),
        cost=TableRecord.read(cost).layout if cost.is_file() else None,
        settings=yaml.safe_dump(definition.settings, sort_keys=False, default_flow_style=None, width=100),
    )
    write_text(out, page)


def varied(definition: PageDefinition, results: Path) -> dict[str, Varied]:
    """The claims under each variation that has been judged as the study says now."""
    found = {}
    for name, lineage in definition.variations.items():
        record = results / f"tables/claims_{name}.json"
        try:
            is_current = record.is_file() and digest(read_json(record).get("lineage")) == lineage
        except ValueError:  # a damaged record counts as none
            continue
        if is_current:
            found[name] = VariationRecord.read(record).judged
    return found


def _policy(script: str, style: str) -> str:
    """What a browser may do for this page: run its script, use its style sheet, show the images inside it."""
    sums = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (script, style))
    allowed = zip(("script-src", "style-src"), sums, strict=True)
    parts = [f"{kind} 'sha256-{value}'" for kind, value in allowed]
    return "; ".join(["default-src 'none'", "img-src data:", *parts, "base-uri 'none'", "form-action 'none'"])


def _data_uri(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _table(name: str, folder: Path) -> PageTable | None:
    """A table with its files; None if it has not been written."""
    record = folder / f"{name}.json"
    if not record.is_file():
        return None
    files = [
        (kind, path.name, _data_uri(path, "text/plain;charset=utf-8"))
        for kind, ending in FILES.items()
        if (path := folder / f"{name}.{ending}").is_file()
    ]
    return PageTable(name, TableRecord.read(record).layout.on_page(), files)


def _picture(figure: FigureDefinition, folder: Path) -> PageFigure | None:
    """The smaller file of a figure; None if it has not been drawn.

    With images of the data, the SVG may be twice as large: it holds the pixels themselves, which stay sharp.
    """
    paths = [path for ending in (".csv", *TYPES) if (path := folder / f"{figure.name}{ending}").is_file()]
    images = [path for path in paths if path.suffix in TYPES]
    if not images:
        return None
    svg = folder / f"{figure.name}.svg"
    is_drawing = svg in images and "<image" not in svg.read_text(encoding="utf-8")
    handicap = {".svg": 1.0 if is_drawing else 0.5, ".png": 1.0}
    smallest = min(images, key=lambda path: path.stat().st_size * handicap[path.suffix])
    return PageFigure(figure, _data_uri(smallest, TYPES[smallest.suffix]), is_drawing, [path.name for path in paths])


def _curves(definition: PageDefinition, results: Path) -> list[dict[str, Any]]:
    """The training curves of the first seed, one for each run, under the first of the rows that share it."""
    rows = {row.run: row for row in reversed(definition.rows)}
    first = {run: next(seed for seed in definition.seeds if seed in row.seeds) for run, row in rows.items()}
    runs = {run: results / f"pretrain/{run}/seed{seed}" for run, seed in first.items()}
    ordered_rows = [row for row in definition.rows if rows[row.run] is row]
    return [origins.curve(row, runs[row.run]) for row in ordered_rows if (runs[row.run] / "history.csv").is_file()]
