"""The readers as commands: tables, figures, claims, the cost and the page, from result files alone."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ldae.commands.parsing import Root
from ldae.runtime.process import imports

GROUP = "readers of results, which the rules call"
FILES = {
    "dataset": "manifest.json of the prepared images",
    "pixels": "probe.json of raw pixels",
    "probes": "probe.json of the rows",
    "finetunes": "finetune.json of the rows",
    "distances": "distance.json of the rows",
    "histories": "history.csv of the rows",
    "pictures": "pictures.npz of the rows",
    "samples": "samples.npy of the rows",
    "tokenizers": "fits or records of tokenizers",
}


def add(root: Root) -> None:
    """Adds all of them."""
    for name in ("table", "figure", "claims"):
        view = root.command(GROUP, name, f"write {'the ' if name == 'claims' else 'a '}{name} from results")
        view.set_defaults(action=_write_view, view=name)
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
    page.add_argument("--cost", type=Path, required=True, metavar="CSV", help="what the jobs have cost")
    page.add_argument("--out", type=Path, required=True, metavar="HTML", help="where to write")


def _write_view(arguments: argparse.Namespace) -> None:
    """Writes a table, a figure or the claims."""
    from ldae.readers.results import collect
    from ldae.study.definitions import DEFINITIONS
    from ldae.study.views import ViewRecord

    definition = DEFINITIONS[arguments.view].model_validate(arguments.definition)
    shown, given = definition.sparse(), {name: getattr(arguments, name) for name in FILES}
    results, folder = None, arguments.out.parent.parent
    places = [str(path.parent.relative_to(folder)) for paths in given.values() for path in paths]
    record = ViewRecord(arguments.view, definition, places=places, results=folder)
    if given["probes"]:
        (dataset,), (pixels,) = given["dataset"], given["pixels"]
        files = {name: given[name] for name in ("probes", "finetunes", "distances")}
        results = collect(shown, dataset=dataset, pixels=pixels, **files)
    if arguments.view == "figure":
        from ldae.readers.figures import Inputs, write_figure

        imports.mark()
        kinds = ("histories", "pictures", "samples", "tokenizers")
        inputs = Inputs(results, **{kind: given[kind] for kind in kinds}, schedules=_signal_powers(shown))
        write_figure(shown, inputs, out=arguments.out)
        record.write(arguments.out, ("png", "svg", "csv"))
        return
    if results is None:
        raise ValueError(f"{arguments.view}: names no --probes")
    if arguments.view == "table":
        from ldae.readers.tables import write_table

        imports.mark()
        write_table(shown, results, tokenizers=given["tokenizers"], out=arguments.out)
        record.write(arguments.out, ("md", "csv", "tex"))
    else:
        from ldae.readers.claims import write_claims

        imports.mark()
        write_claims(shown, results, out=arguments.out)
        record.write(arguments.out, ("md", "csv"))


def _signal_powers(shown: dict[str, Any]) -> dict[str, Any]:
    """The signal's power under each noise schedule that a figure shows."""
    import numpy as np

    from ldae.study.schedules import SCHEDULES

    return {label: np.square(SCHEDULES[name](1.0).signal) for label, name in shown.get("schedules", {}).items()}


def _write_cost(arguments: argparse.Namespace) -> None:
    """Adds up the cost."""
    from ldae.readers.tables import write_cost
    from ldae.study.definitions import CostDefinition
    from ldae.study.views import ViewRecord, place_of

    imports.mark()
    folder = arguments.out.parent.parent
    places = [place_of(path, folder) for path in arguments.results]
    record = ViewRecord("cost", CostDefinition(results=tuple(places)), places=places, results=folder)
    write_cost(arguments.results, out=arguments.out)
    record.write(arguments.out, ("md", "csv"))


def _write_page(arguments: argparse.Namespace) -> None:
    """Writes the page of a study."""
    from ldae.readers.report import write_page
    from ldae.study.definitions import PageDefinition
    from ldae.study.views import ViewRecord

    imports.mark()
    definition = PageDefinition.model_validate(arguments.definition)
    record = ViewRecord("report", definition, places=definition.inputs, results=arguments.results)
    write_page(definition.sparse(), results=arguments.results, cost=arguments.cost, out=arguments.out)
    record.write(arguments.out, ("html",))
