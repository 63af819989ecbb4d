"""A stand-in for `ldae` in the jobs of a graph: it writes the files and the record of a job, and computes nothing.

Each job adds its place in the results folder to the file that the variable RAN names. The variable BYTES changes what
it writes; with a stage before a colon, only what that stage writes. One process serves all jobs, because starting
Python for each would take most of a test's time.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ldae.runtime.files import checksums, write_json
from ldae.study.definitions import (
    ClaimsDefinition,
    CostDefinition,
    FigureDefinition,
    PageDefinition,
    TableDefinition,
    VariationDefinition,
)
from ldae.study.graph import ENDINGS
from ldae.study.record import ViewRecord, common_lineage, digest, inputs_of, place_of
from ldae.study.stages import FOLDERS, STAGES, Stage

DEFINITIONS = {
    "table": TableDefinition,
    "figure": FigureDefinition,
    "claims": ClaimsDefinition,
    "variation": VariationDefinition,
    "cost": CostDefinition,
    "report": PageDefinition,
}
COMMANDS = {stage.command: stage for stage in STAGES.values()}
PROGRAM = """#!/usr/bin/env bash
exec 3<>/dev/tcp/127.0.0.1/{port}
printf '%s\\0' $(($# + 3)) "$PWD" "$RAN" "$BYTES" "$@" >&3
error=$(cat <&3)
[ -z "$error" ] || {{ echo "$error" >&2; exit 1; }}
"""


@contextmanager
def served(folder: Path) -> Iterator[None]:
    """Puts an `ldae` into a folder, whose calls a process answers until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        process = multiprocessing.get_context("fork").Process(target=_serve, args=(server,), daemon=True)
        process.start()
        program = folder / "ldae"
        program.write_text(PROGRAM.format(port=server.getsockname()[1]))
        program.chmod(0o755)
        yield
        process.kill()
        process.join()


def _serve(server: socket.socket) -> None:
    """Does one job after the other: reads a command's words, each with a NUL behind it, and answers with its error."""
    while True:
        connection, _ = server.accept()
        with connection, connection.makefile("rb") as stream:
            number = int(_word(stream))
            folder, ran, changed, command, *words = (_word(stream) for _ in range(number))
            os.chdir(folder)
            try:
                place = _do(command, words, changed)
                with open(ran, "a") as file:
                    file.write(f"{place}\n")
            except Exception:
                connection.sendall(traceback.format_exc().encode())


def _word(stream: BinaryIO) -> str:
    return b"".join(iter(lambda: stream.read(1), b"\0")).decode()


def _do(command: str, words: list[str], changed: str) -> str:
    """Writes what a command would; returns the job's place in the results folder."""
    options: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("--"):
            values = options.setdefault(word[2:], [])
        else:
            values.append(word)
    out = Path(options["out"][0])
    if command in COMMANDS:
        return _stage(COMMANDS[command], options, out, changed)
    return _view(command, options, out)


def _stage(stage: Stage, options: dict[str, list[str]], out: Path, changed: str) -> str:
    folders = {option: Path(values[0]) for option, values in options.items() if option in FOLDERS}
    record, spec = out / stage.record, json.loads(options["spec"][0])
    own = {"revision": int(options["revision"][0]), "spec": spec}
    lineage = common_lineage(folders) | {spec.get("architecture", stage.revision): own}
    assert digest(lineage) == options["lineage"][0]
    out.mkdir(parents=True, exist_ok=True)
    of_stage, colon, text = changed.partition(":")
    if colon:
        changed = text if of_stage == stage.name else ""
    for name in stage.files:
        (out / name).write_text(f"{place_of(record, _results(out))} {digest(lineage)} {changed}")
    about: dict[str, Any] = {"lineage": lineage, "inputs": inputs_of(**folders), "provenance": {"seconds": 5.0}}
    if "seed" in options:
        about |= {"seed": int(options["seed"][0])}
    if "architecture" in spec:
        about |= {"architecture": spec["architecture"]}
    if stage.name == "dataset":
        counts = {split: {"a": 100, "b": 100} for split in ("train", "val")}
        about |= {"source": "photos", "size": 64, "classes": ["a", "b"], "counts": counts}
    write_json(record, about | {"sha256": checksums(*(out / name for name in stage.files))})
    return str(out.relative_to(_results(out)))


def _view(command: str, options: dict[str, list[str]], out: Path) -> str:
    results = _results(out)
    if command == "cost":
        places = [place_of(Path(path), results) for path in options["results"]]
        values: dict[str, Any] = {"results": places}
    else:
        values = json.loads(options["definition"][0])
        files = [
            Path(word) for option in sorted(options) for word in options[option] if option not in ("definition", "out")
        ]
        places = options.get("inputs") or [str(file.parent.relative_to(results)) for file in files]
    definition = DEFINITIONS[command].model_validate(values)
    record = ViewRecord(command, definition, places=places, results=results)
    for ending in ENDINGS[command]:
        out.with_suffix(f".{ending}").write_text(digest([values, record.inputs]))
    record.write(out, ENDINGS[command])
    return str(out.with_suffix("").relative_to(results))


def _results(path: Path) -> Path:
    """The folder of the results of the scale `smoke` that a path lies in."""
    return next(folder for folder in path.parents if folder.name == "smoke")
