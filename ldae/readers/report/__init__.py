"""The page: tables, figures, verdicts, curves and origins in one HTML file, from result files alone; no torch.

It asks nothing of any network, and its own policy forbids it to. Whatever comes from a study's YAML is escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ldae.readers.report import cells, data, origins, verdicts, words
from ldae.readers.report.cells import Record
from ldae.readers.report.origins import Row
from ldae.readers.tables import explanation, seeds_apart, typographic
from ldae.runtime.files import write_text
from ldae.study.measures import ordered

TEMPLATES = Path(__file__).parent
TYPES = {".svg": "image/svg+xml", ".png": "image/png"}
DESCRIPTIONS = {
    "trajectory": "Left, ours: accuracy of a linear probe with its 95 % interval. Right, the paper's on ImageNet; a "
    "point is as long on both sides. Where samples were judged, their distance from true images stands below; lower is "
    "better.",
    "dimension": "A curve for each tokenizer, with random weights dashed. A point is as high in our half as in the "
    "paper's.",
    "schedules": "The signal's share of the power at each time step.",
    "noise": "Clean images, and the same with each row's noise.",
    "denoising": "Clean validation images, the same with noise on their latents, and what the row makes of them.",
    "samples": "The first samples of each row, pixel by pixel.",
    "curves": "Loss and norm of the gradient against the images seen, each row on its own axes, as they were measured.",
}
CHAIN = "Each row is the one above it plus one change."
FILTERS = "Below, the pattern that each latent dimension adds to a patch, those of most variance first; grey is zero."
OF_DATA = ("noise", "denoising", "samples")  # kinds of figures that show images of the data


class Picture(NamedTuple):
    """A figure of the study, as the page holds it."""

    name: str
    title: str
    kind: str
    description: str
    source: str  # a data URI
    is_drawing: bool  # lines and letters alone, which may be shown light on dark
    files: list[str]  # its files in the folder of figures


def write_page(definition: dict[str, Any], *, results: Path, cost: Path, out: Path) -> None:
    """Writes the page of a study, of what lies in its results folder.

    Args:
        definition: the study's rows, tables, figures and claims, as `page_definition` gives them.
        results: with `tables/`, `figures/` and, where the numbers come from, `pretrain/`, `probe/`, `judge/` and so on.
        cost: what the jobs have cost, as CSV.
        out: the page.

    Raises:
        ValueError: for a record that is damaged, or was made from another specification than the study's now.
    """
    seeds = definition["seeds"]
    tables = [entry for entry in definition["tables"] if (results / f"tables/{entry['name']}.csv").is_file()]
    manifest = origins.record(results, "dataset/manifest.json")
    about = data.of(definition["settings"]["dataset"], manifest.about if manifest else None, results / "dataset")
    drawn = (_picture(entry, results / "figures", about.colours) for entry in definition["figures"])
    pictures = [picture for picture in drawn if picture]
    made = {entry["name"] for entry in tables} | {picture.name for picture in pictures}
    has_claims = bool(definition["claims"]) and (results / "tables/claims.csv").is_file()
    claims = verdicts.claims(definition["claims"], results / "tables", seeds) if has_claims else None
    missing = [view["title"] for view in (*definition["tables"], *definition["figures"]) if view["name"] not in made]
    if unjudged := len(definition["claims"]) - (len(claims.judged) if claims else 0):
        missing.append(f"the verdicts on {unjudged} claims")
    rows = [origins.row_of(row, results) for row in definition["rows"]]
    known = {row.name: row.label for row in rows}
    first = next((picture for picture in pictures if picture.kind == "trajectory"), None)
    steps = cells.read_csv(results / f"figures/{first.name}.csv") if first else []
    parents = {row.name: row.parent for row in rows}
    if first and all(parents.get(after["row"]) == before["row"] for before, after in pairwise(steps)):
        first = first._replace(description=f"{CHAIN} {first.description}")
    lines = [line for entry in tables for line in cells.read_csv(results / f"tables/{entry['name']}.csv")]
    measured = words.measured(lines, steps, known)
    script, style = (_asset(name) for name in ("script.js", "style.css"))
    page = {
        "scale": definition["scale"],
        "seeds": seeds,
        "data": about,
        "findings": words.findings(measured, [words.of_trajectory(step) for step in steps], claims, len(seeds)),
        "cautions": words.cautions(measured, len(seeds)),
        "apart": _apart(lines, known, seeds),
        "missing": missing,
        "first": first,
        "pictures": pictures,
        "claims": claims,
        "counts": words.verdicts_in_words(claims) if claims else "",
        "tables": {entry["name"]: cells.table(entry, results / "tables", seeds) for entry in tables},
        "columns": explanation(ordered(measure for entry in tables for measure in entry["columns"])),
        "rows": rows,
        "known": known,
        "shared": origins.provenance_of(origins.records(definition["records"], results)),
        "facts": _facts(rows, about),
        "curves": _curves(definition["rows"], results, seeds),
        "cost": origins.cost(cells.read_csv(cost)) if cost.is_file() else None,
        "settings": yaml.safe_dump(definition["settings"], sort_keys=False, default_flow_style=None, width=100),
        "revisions": definition["revisions"],
    }
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["signs"] = typographic
    template = environment.get_template("page.html")
    write_text(out, template.render(page, script=script, style=style, policy=_policy(script, style)))


def _asset(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _policy(script: str, style: str) -> str:
    """What a browser may do for this page: run its one script, use its one style sheet, show pictures that it holds."""
    sums = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (script, style))
    allowed = zip(("script-src", "style-src"), sums, strict=True)
    parts = [f"{kind} 'sha256-{value}'" for kind, value in allowed]
    return "; ".join(["default-src 'none'", "img-src data:", *parts, "base-uri 'none'", "form-action 'none'"])


def _picture(entry: dict[str, Any], folder: Path, colours: str) -> Picture | None:
    """A figure as whichever of its files is the smaller; none where it has not been drawn.

    Of a figure with images the drawing may be somewhat larger: it holds the pixels themselves, which stay sharp.
    """
    files = [path for ending in TYPES if (path := folder / f"{entry['name']}{ending}").is_file()]
    if not files:
        return None
    svg = folder / f"{entry['name']}.svg"
    is_drawing = svg.is_file() and "<image" not in svg.read_text(encoding="utf-8")
    handicap = {".svg": 1.0 if is_drawing else 0.5}
    smallest = min(files, key=lambda path: path.stat().st_size * handicap.get(path.suffix, 1.0))
    content = base64.b64encode(smallest.read_bytes()).decode()
    source = f"data:{TYPES[smallest.suffix]};base64,{content}"
    said = [DESCRIPTIONS[entry["kind"]]]
    said += [colours] if colours and entry["kind"] in OF_DATA else []
    said += [FILTERS] if entry["kind"] == "dimension" and not is_drawing else []
    there = [path.name for ending in (".csv", *TYPES) if (path := folder / f"{entry['name']}{ending}").is_file()]
    shown = {key: entry[key] for key in ("name", "title", "kind")}
    return Picture(**shown, description=" ".join(said), source=source, is_drawing=is_drawing, files=there)


def _apart(lines: list[Record], labels: dict[str, str], seeds: list[int]) -> list[str]:
    """What is to be known of each row with seeds that did not train as the others did."""
    said = {}
    for line in lines:
        label = labels.get(line["name"], line["label"])
        said[line["name"]] = seeds_apart(label, seeds, cells.by_seed(line, seeds), random=float(line["random"]))
    return [paragraph for paragraph in said.values() if paragraph]


def _facts(rows: list[Row], about: data.Data) -> dict[str, str]:
    """What the study was run on, when and by which code."""
    records = [made.about["provenance"] for row in rows for made in row.records]
    facts = {"data": about.title}
    if records:
        moments = [record["started"] for record in records]
        ends = dict.fromkeys((origins.day(min(moments)), origins.day(max(moments))))
        facts["made"] = " to ".join(ends)
        facts["device"] = _listed(record["device"] for record in records)
        facts["commit"] = _listed(record["commit"] for record in records)
    return {name: fact for name, fact in facts.items() if fact}


def _listed(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(value for value in values if value))


def _curves(rows: list[dict[str, Any]], results: Path, seeds: list[int]) -> list[dict[str, Any]]:
    """The training curves of the first seed, one for each run."""
    runs = {row["run"]: row for row in reversed(rows)}  # of rows that share a run, the first
    histories = {run: results / f"pretrain/{run}/seed{seeds[0]}/history.csv" for run in runs}
    ordered = [row for row in rows if runs[row["run"]] is row]
    return [origins.curve(row, histories[row["run"]]) for row in ordered if histories[row["run"]].is_file()]
