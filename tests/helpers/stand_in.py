"""A stand-in for `ldae` in the jobs of a graph: it writes the files and the record of a job, and computes nothing.

Each job notes its place in the results folder in the file that the variable RAN names. The variable BYTES changes what
it writes.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from ldae.runtime.files import checksums, write_json
from ldae.study.graph import ENDINGS
from ldae.study.record import common_lineage, digest, inputs_of
from ldae.study.stages import INPUTS, STAGES, Stage
from ldae.study.views import ViewRecord, place_of

COMMANDS = {stage.command: stage for stage in STAGES.values()}


def main() -> None:
    command, *words = sys.argv[1:]
    options: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("--"):
            values = options.setdefault(word[2:], [])
        else:
            values.append(word)
    out = Path(options["out"][0])
    place = _stage(COMMANDS[command], options, out) if command in COMMANDS else _view(command, options, out)
    with open(os.environ["RAN"], "a") as ran:
        ran.write(f"{place}\n")


def _stage(stage: Stage, options: dict[str, list[str]], out: Path) -> str:
    folders = {option: Path(values[0]) for option, values in options.items() if option in INPUTS}
    record, spec = out / stage.record, json.loads(options["spec"][0])
    own = {"revision": int(options["revision"][0]), "spec": spec}
    lineage = common_lineage(folders) | {spec.get("architecture", stage.revision): own}
    assert digest(lineage) == options["lineage"][0]
    out.mkdir(parents=True, exist_ok=True)
    for name in stage.files:
        (out / name).write_text(f"{place_of(record, _results(out))} {digest(lineage)} {os.environ.get('BYTES')}")
    about: dict[str, Any] = {"lineage": lineage, "inputs": inputs_of(**folders), "provenance": {"seconds": 5.0}}
    if stage.name == "dataset":
        counts = {split: {"a": 100, "b": 100} for split in ("train", "val")}
        about |= {"source": "photos", "size": 64, "classes": ["a", "b"], "counts": counts}
    write_json(record, about | {"sha256": checksums(*(out / name for name in stage.files))})
    return str(out.relative_to(_results(out)))


def _view(command: str, options: dict[str, list[str]], out: Path) -> str:
    results = _results(out)
    if command == "cost":
        places = [place_of(Path(path), results) for path in options["results"]]
        definition = {"results": places}
    else:
        definition = json.loads(options["definition"][0])
        files = [
            Path(word) for option in sorted(options) for word in options[option] if option not in ("definition", "out")
        ]
        places = definition.get("inputs") or [str(file.parent.relative_to(results)) for file in files]
    record = ViewRecord(command, definition, places=places, results=results)
    for ending in ENDINGS[command]:
        out.with_suffix(f".{ending}").write_text(digest([definition, record.inputs]))
    record.write(out, ENDINGS[command])
    return str(out.with_suffix("").relative_to(results))


def _results(path: Path) -> Path:
    """The folder of the results of the scale `smoke` that a path lies in."""
    return next(folder for folder in path.parents if folder.name == "smoke")


if __name__ == "__main__":
    main()
