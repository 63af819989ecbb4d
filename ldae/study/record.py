"""The record of a result: its lineage and its inputs, which decide whether it is current, and its provenance.

A lineage says, for each stage behind a result, what that stage read of the row and of the scale. The inputs are digests
of the earlier results that a job really used.
"""

from __future__ import annotations

import hashlib
import json
import platform
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Required, TypedDict

from pydantic import BaseModel

from ldae.runtime.files import checksums, read_json, sha256, write_json
from ldae.runtime.process import Rank, imports, process_seconds
from ldae.study.base import Config
from ldae.study.stages import FOLDERS, RECORDS, STAGES

Lineage = dict[str, dict[str, Any]]  # stage -> what it read of the row and of the scale, and its revision
# keys of a view's definition that name results, or their expected lineages
SHOWN_RESULTS = ("lineage", "untrained_lineage", "finetuned", "distance", "pixels", "records", "results", "inputs")
LONGEST = 80  # characters of a value in a message
PACKAGE = Path(__file__).parent.parent
# The code of views is cheap to run again, so its bytes are part of what a view is made from.
NUMBERS = ("readers/results.py", "measures/intervals.py", "data/division.py")
VERDICTS = ("readers/claims.py", "readers/verdicts.py", "readers/ranks.py", "measures/power.py")
WORDS = ("readers/layout.py", "readers/machines.py", "readers/estimand.py")
TABLES = ("readers/tables.py", *WORDS)
CODE = {
    "table": (*TABLES, *NUMBERS),
    "figure": ("readers/figures/*.py", "study/schedules.py", "readers/variations.py", *VERDICTS, *WORDS, *NUMBERS),
    "claims": (*VERDICTS, *WORDS, *NUMBERS),
    "variation": ("readers/variations.py", *VERDICTS, *WORDS, *NUMBERS),
    "cost": (*TABLES, *NUMBERS),
    "report": ("readers/report/*.*", "readers/variations.py", *TABLES, *VERDICTS, *NUMBERS),
}
SHOWS_PROVENANCE = ("cost", "report")  # these also show when, where and how long jobs ran
SHOWS_DEVICES = ("table", "claims")  # these name the devices of probes


def lineage(stage: str, spec: Config, revision: int | str, *inputs: Lineage) -> Lineage:
    """The lineage of a result: those of its inputs, and its own stage."""
    merged = dict(pair for each in inputs for pair in each.items())
    return merged | {stage: {"revision": revision, "spec": spec.sparse()}}


def digest(value: Any) -> str:
    """A short name for a lineage or another plain value: equal for equal ones, and short enough for a command line.

    A `path` in it does not count: where a file or a folder of pictures lies is no part of what it holds.
    """
    return hashlib.sha256(json.dumps(_without_paths(value), sort_keys=True).encode()).hexdigest()[:16]


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_paths(inner) for key, inner in value.items() if key != "path"}
    return [_without_paths(inner) for inner in value] if isinstance(value, list | tuple) else value


def differences(recorded: Lineage, expected: Lineage) -> list[str]:
    """What differs between the lineage of a result and the one that it should have, a line each, first stage first."""
    lines = []
    for stage in {**expected, **recorded}:
        if stage not in recorded or stage not in expected:
            lines.append(f"{stage}: {'is new' if stage not in recorded else 'is gone'}")
            continue
        before, after = recorded[stage], expected[stage]
        if before["revision"] != after["revision"]:
            change = f"revision {before['revision']} -> {after['revision']}"
            lines.append(f"{stage}: {'its code changed' if isinstance(after['revision'], str) else change}")
        old, new = (dict(leaves(_without_paths(step["spec"]))) for step in (before, after))
        changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        settings = [key for key in changed if key.rpartition(".")[2] not in SHOWN_RESULTS]
        if len(settings) < len(changed):
            lines.append(f"{stage}: shows other results than the study asks for now")
        lines += [f"{stage}: {key} {_text(old, key)} -> {_text(new, key)}" for key in settings]
    return lines


def leaves(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested mappings and lists of mappings by dotted keys."""
    parts = values.items() if isinstance(values, dict) else enumerate(values)
    for key, value in parts:
        if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(inner, dict) for inner in value)):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _text(values: dict[str, Any], key: str) -> str:
    text = "default" if key not in values else json.dumps(values[key], ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def content(about: dict[str, Any]) -> str:
    """A digest of what later jobs read of a result, from its record; when and where it was computed does not count."""
    if "counts" in about:  # a manifest also says where the pictures came from
        return digest({key: about[key] for key in ("size", "classes", "sha256") if key in about})
    return digest({key: value for key, value in about.items() if key not in ("provenance", "inputs", "lineage")})


def common_lineage(folders: dict[str, Path], *, seed: int | None = None) -> Lineage:
    """The lineages of the results that a job reads, as one; the folders are by the options that name them.

    Raises a `ValueError` for results that do not belong together: made from different things, of other replications
    than that of `seed` or of each other, or one computed from another result than the given one.
    """
    records = {option: read_json(folder / FOLDERS[option].record) for option, folder in folders.items()}
    _check_seeds(folders, records, seed)
    merged: Lineage = {}
    origin: dict[str, Path] = {}
    for option, about in records.items():
        for stage, step in about.get("lineage", {}).items():
            if stage in merged and digest(merged[stage]) != digest(step):
                change = differences({stage: merged[stage]}, {stage: step})[0]
                raise ValueError(
                    f"{folders[option]} and {origin[stage]} do not belong together: {change}; run the graph again"
                )
            merged[stage], origin[stage] = step, folders[option]
        for used, recorded in about.get("inputs", {}).items():
            if used in records and recorded != content(records[used]):
                raise ValueError(
                    f"{folders[option]} was computed from another {used} than {folders[used]}; run the graph again"
                )
    return merged


def _check_seeds(folders: dict[str, Path], records: dict[str, dict[str, Any]], seed: int | None) -> None:
    """Raises a `ValueError` for results of different replications; a shared part belongs to all of them."""
    for option, about in records.items():
        own = about.get("architecture", RECORDS[FOLDERS[option].record])
        if "seed" not in about or about["lineage"][own]["spec"].get("shared"):
            continue
        seed = about["seed"] if seed is None else seed
        if about["seed"] != seed:
            raise ValueError(
                f"{folders[option]}: is of seed {about['seed']}, and this job is of seed {seed}; run the graph again"
            )


def inputs_of(**folders: Path) -> dict[str, str]:
    """Digests of the results that a job reads, by the names of its options."""
    return {option: content(read_json(folder / FOLDERS[option].record)) for option, folder in folders.items()}


class Options(TypedDict, total=False):
    """The options of a stage's command, beside its specification."""

    revision: Required[int]  # of the stage's code
    out: Required[Path]  # where to write
    row: str  # its name, for messages and results
    seed: int
    dataset: Path  # this and the next six: the folders of earlier results
    tokenizer: Path | None  # None for a method without one
    vgg: Path | None
    model: Path
    samples: Path
    reference: Path
    judge: Path | None
    resume: Path  # a folder for checkpoints, which outlives failed attempts
    checkpoint_seconds: float  # between two checkpoints, at least
    micro_batch: int  # images a forward pass, at most; 0 for the whole batch. Numbers change by rounding alone
    recompute: bool  # activation checkpointing; it changes no number


def origin_of(stage: str, spec: Config, options: Options) -> dict[str, Any]:
    """What a result is made from, as its record says: its `lineage` and its `inputs`; `stage` is its key in lineages.

    Raises a `ValueError` for inputs that do not belong together.
    """
    folders = {name: folder for name, folder in options.items() if name in FOLDERS and isinstance(folder, Path)}
    made_from = lineage(stage, spec, options["revision"], common_lineage(folders, seed=options.get("seed")))
    return {"lineage": made_from, "inputs": inputs_of(**folders)}


def provenance(device: str, **measured: float) -> dict[str, Any]:
    """Where and when a result was computed on a `device`, what it cost, and what the stage has measured itself."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "commit": commit(),
        "versions": {"python": sys.version.split()[0]} | {name: version(name) for name in ("torch", "numpy")},
        "host": socket.gethostname(),
        "system": platform.platform(),
        "device": device,
        "processes": Rank.from_environment().size,  # that shared the work, each with a device of its own
        "started": round(time.time() - process_seconds(), 2),  # seconds since 1970
        "seconds": round(process_seconds(), 2),
        "import_seconds": round(imports.seconds, 2),  # from the start of the process until its work began
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_memory_mb": round(usage.ru_maxrss / 1024),
    } | {name: round(value, 2) for name, value in measured.items()}


def write_record(
    path: Path, about: dict[str, Any], files: Iterable[Path], *, device: str = "CPU", **measured: float
) -> None:
    """Writes the record of a result, once its files are written.

    `about` is what the stage says of its result and its origin. The record contains the checksums of the files, the
    name of the processor or accelerator, and what the stage has measured itself, in seconds or images a second.
    """
    write_json(path, about | {"sha256": checksums(*files), "provenance": provenance(device, **measured)})


def seconds_of(provenance: dict[str, Any]) -> float:
    """What a job has cost: of a training that took several attempts, all of them."""
    return max(provenance["seconds"], provenance.get("training_seconds", 0.0))


def commit() -> str:
    """The commit of the code that runs, with a `+` when it has been edited since; empty outside a checkout."""
    command, folder = "git describe --always --abbrev=12 --dirty=+ --exclude=*".split(), Path(__file__).parent
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


# Views: tables, figures, the claims, the cost, pages.


def view_lineage(stage: str, definition: Config) -> Lineage:
    """What a view is made from, beside the results that it shows: its definition, and its code."""
    return lineage(stage, definition, _code_digest(stage))


@cache
def _code_digest(stage: str) -> str:
    files = [path for pattern in CODE[stage] for path in sorted(PACKAGE.glob(pattern))]
    return digest({str(path.relative_to(PACKAGE)): sha256(path) for path in files})


def place_of(record: Path, results: Path) -> str:
    """Where a result lies in the results folder, by its record: a stage's folder, or a view's path without ending."""
    path = record.relative_to(results)
    named = (stage for stage in STAGES.values() if stage.record == path.name)  # a figure may have the name of a record
    of_stage = any(stage.key_of(str(path.parent)) is not None for stage in named)
    return str(path.parent if of_stage else path.with_suffix(""))


def record_at(place: str, results: Path) -> Path:
    """The record of the result at a place of the results folder."""
    paths = (results / place / name for name in RECORDS)
    return next((path for path in paths if path.is_file()), results / f"{place}.json")


def digest_read(about: dict[str, Any], *, stage: str) -> str:
    """A digest of what a job of a stage reads of a result, from its record."""
    if stage in SHOWS_PROVENANCE:
        return digest(about)
    if stage in SHOWS_DEVICES and "blocks" in about:
        return digest([content(about), about.get("provenance", {}).get("device")])
    return content(about)


class ViewRecord:
    """The record of a view. Its inputs are read before the view is, so that what changes meanwhile is noticed later."""

    def __init__(self, stage: str, definition: Config, *, places: Iterable[str], results: Path) -> None:
        """Reads the records of what a table, figure, page and so on shows: those at `places` of the results folder.

        Raises a `ValueError` or `FileNotFoundError` for a record that is damaged or absent.
        """
        self.lineage = view_lineage(stage, definition)
        self.inputs = {
            place: digest_read(read_json(record_at(place, results)), stage=stage) for place in dict.fromkeys(places)
        }

    def write(self, out: Path, endings: Iterable[str], **content: BaseModel) -> None:
        """Writes `<out>.json` beside the view's files, once these are written, with the content that a page shows."""
        files = [out.with_suffix(f".{ending}") for ending in endings]
        about = {"lineage": self.lineage, "inputs": self.inputs, "sha256": checksums(*files)}
        plain = {name: part.model_dump(mode="json", exclude_defaults=True) for name, part in content.items()}
        write_json(out.with_suffix(".json"), about | plain)
