"""The readers as commands: tables, figures, claims, the cost and the page, from result files alone."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ldae.commands.parsing import Root
from ldae.runtime.process import imports

if TYPE_CHECKING:
    from ldae.readers.results import Results
    from ldae.study.definitions import ViewDefinition
    from ldae.study.record import ViewRecord

GROUP = "readers of results, which the rules call"
FILES = {
    "dataset": "manifest.json of the prepared images",
    "pixels": "probe.json of raw pixels",
    "probes": "probe.json of the rows",
    "untrained": "probe.json of untrained networks",
    "finetunes": "finetune.json of the rows",
    "distances": "distance.json of the rows",
    "histories": "history.csv of the rows",
    "pictures": "pictures.npz of the rows",
    "samples": "examples.npy of the rows' samples",
    "tokenizers": "fits or records of tokenizers",
}


def add(root: Root) -> None:
    """Adds all of them."""
    actions = {
        "table": (_write_table, "write a table from results"),
        "figure": (_write_figure, "write a figure from results"),
        "claims": (_write_claims, "write the claims from results"),
        "variation": (_write_variation, "write the claims under a variation from results"),
    }
    for name, (action, about) in actions.items():
        view = root.command(GROUP, name, about)
        view.set_defaults(action=action)
        view.add_argument("--definition", type=json.loads, required=True, metavar="JSON", help="its rows and labels")
        for option, what in FILES.items():
            view.add_argument(f"--{option}", type=Path, nargs="*", default=[], metavar="FILE", help=what)
        view.add_argument("--out", type=Path, required=True, metavar="PATH", help="path of the files, without ending")
    cost = root.command(GROUP, "cost", "add up what the runs have cost, in seconds and memory")
    cost.set_defaults(action=_write_cost)
    cost.add_argument("--results", type=Path, nargs="+", required=True, metavar="JSON", help="result files")
    cost.add_argument("--out", type=Path, required=True, metavar="PATH", help="path of the files, without ending")
    page = root.command(GROUP, "report", "write the page of a study from results")
    page.set_defaults(action=_write_page)
    page.add_argument(
        "--definition", type=json.loads, required=True, metavar="JSON", help="its rows, views and settings"
    )
    page.add_argument("--results", type=Path, required=True, metavar="DIR", help="the results folder of a scale")
    page.add_argument("--cost", type=Path, required=True, metavar="JSON", help="the record of the table of cost")
    page.add_argument("--inputs", nargs="*", default=[], metavar="PLACE", help="the results that it shows")
    page.add_argument("--out", type=Path, required=True, metavar="HTML", help="where to write")


def _write_table(arguments: argparse.Namespace) -> None:
    from ldae.readers.tables import write_table
    from ldae.study.definitions import TableDefinition

    imports.mark()
    definition = TableDefinition.model_validate(arguments.definition)
    record, results = _record("table", definition, arguments), _results(definition, arguments)
    layout = write_table(definition, results, tokenizers=arguments.tokenizers, out=arguments.out)
    record.write(arguments.out, ("md", "csv", "tex"), layout=layout)


def _write_claims(arguments: argparse.Namespace) -> None:
    from ldae.readers.claims import write_claims
    from ldae.study.definitions import ClaimsDefinition

    imports.mark()
    definition = ClaimsDefinition.model_validate(arguments.definition)
    record, results = _record("claims", definition, arguments), _results(definition, arguments)
    judgement = write_claims(definition, results, out=arguments.out)
    record.write(arguments.out, ("md", "csv"), judgement=judgement)


def _write_variation(arguments: argparse.Namespace) -> None:
    from ldae.readers.variations import write_variation
    from ldae.study.definitions import VariationDefinition

    imports.mark()
    definition = VariationDefinition.model_validate(arguments.definition)
    record, results = _record("variation", definition, arguments), _results(definition, arguments)
    judged = write_variation(definition, results, out=arguments.out)
    record.write(arguments.out, ("md", "csv"), judged=judged)


def _write_figure(arguments: argparse.Namespace) -> None:
    from ldae.readers.figures import Inputs, write_figure
    from ldae.study.definitions import FigureDefinition

    imports.mark()
    definition = FigureDefinition.model_validate(arguments.definition)
    record = _record("figure", definition, arguments)
    results = _results(definition, arguments) if arguments.probes else None
    files = {kind: getattr(arguments, kind) for kind in ("histories", "pictures", "samples", "tokenizers")}
    write_figure(definition, Inputs(results, **files), out=arguments.out)
    record.write(arguments.out, ("png", "svg", "csv"))


def _record(stage: str, definition: ViewDefinition, arguments: argparse.Namespace) -> ViewRecord:
    """The record of a view of the files that the command names."""
    from ldae.study.record import ViewRecord

    folder = arguments.out.parent.parent
    files = [path for option in FILES for path in getattr(arguments, option)]
    places = [str(path.parent.relative_to(folder)) for path in files]
    return ViewRecord(stage, definition, places=places, results=folder)


def _results(definition: ViewDefinition, arguments: argparse.Namespace) -> Results:
    """The results of the rows of a view."""
    from ldae.readers.results import collect

    if not arguments.probes:
        raise ValueError("names no --probes")
    (dataset,) = arguments.dataset
    files = {name: getattr(arguments, name) for name in ("probes", "untrained", "pixels", "finetunes", "distances")}
    return collect(definition, dataset=dataset, **files)


def _write_cost(arguments: argparse.Namespace) -> None:
    from ldae.readers.tables import write_cost
    from ldae.study.definitions import CostDefinition
    from ldae.study.record import ViewRecord, place_of

    imports.mark()
    folder = arguments.out.parent.parent
    places = [place_of(path, folder) for path in arguments.results]
    record = ViewRecord("cost", CostDefinition(results=tuple(places)), places=places, results=folder)
    record.write(arguments.out, ("md", "csv"), layout=write_cost(arguments.results, out=arguments.out))


def _write_page(arguments: argparse.Namespace) -> None:
    from ldae.readers.report import varied, write_page
    from ldae.study.definitions import PageDefinition
    from ldae.study.record import ViewRecord

    imports.mark()
    definition = PageDefinition.model_validate(arguments.definition)
    shown = [f"tables/claims_{name}" for name in varied(definition, arguments.results)]
    record = ViewRecord("report", definition, places=[*arguments.inputs, *shown], results=arguments.results)
    write_page(definition, results=arguments.results, cost=arguments.cost, out=arguments.out)
    record.write(arguments.out, ("html",))
