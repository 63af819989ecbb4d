"""Where the page's numbers come from: each row's change, specification, runs and their provenance; no torch."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ldae.readers.report.cells import Cell, Record, Sheet
from ldae.runtime.files import history_file, read_json
from ldae.study.record import digest, leaves, seconds_of
from ldae.study.results import DistanceRecord, ProbeRecord
from ldae.study.spec import Spec
from ldae.study.stages import RECORDS

POINTS = 200  # of a curve; a longer history is averaged down to these
CURVES = ("loss", "gradient_norm")


class Made(NamedTuple):
    """A result file, and what it says of itself."""

    path: str  # below the results folder
    stage: str
    seed: str
    about: dict[str, Any]


class Row(NamedTuple):
    """A row of the study and all that was made for it."""

    name: str
    label: str
    parent: str | None
    changes: list[tuple[str, str, str]]  # key, before, after
    settings: list[tuple[str, str]]  # the whole specification by dotted keys
    spec: str  # what the row says beyond the defaults, as its commands are given it
    tokenizer: str | None
    run: str  # whose training it shares
    probe: str  # whose probe it shares
    numbers: Sheet | None
    records: list[Made]

    @property
    def provenance(self) -> Sheet | None:
        """When, where and with what its results were made."""
        return provenance_of(self.records)


def row_of(row: dict[str, Any], results: Path) -> Row:
    """A row with its records, where they lie in the results folder.

    Raises:
        ValueError: for a record that is damaged, or was made from another specification than the study's now.
    """
    found = records(row["records"], results)
    spec = Spec.model_validate(row["spec"])
    return Row(
        name=row["name"],
        label=row["label"],
        parent=row["parent"],
        changes=[(key, _value(before), _value(after)) for key, (before, after) in row["changes"].items()],
        settings=[(key, _value(value)) for key, value in leaves(spec.model_dump()) if value is not None],
        spec=spec.to_json(),
        tokenizer=row.get("tokenizer"),
        run=row["run"],
        probe=row["probe"],
        numbers=_numbers(found, row["offset"]),
        records=found,
    )


def records(expected: list[list[str]], results: Path) -> list[Made]:
    """Those of the expected records that lie in the results folder, each given by its path and its lineage's digest.

    Raises:
        ValueError: for a record that is damaged, or of another lineage.
    """
    found = (record(results, path, lineage) for path, lineage in expected)
    return [made for made in found if made is not None]


def record(results: Path, path: str, lineage: str | None = None) -> Made | None:
    """A record of the results folder, if it is there; a `ValueError` if it is not of this lineage."""
    file = results / path
    if not file.is_file():
        return None
    about = read_json(file)
    if lineage is not None and digest(about.get("lineage")) != lineage:
        raise ValueError(
            f"{file}: made from another specification than the study's now; run it again (`ldae why` says what differs)"
        )
    return Made(path, RECORDS[file.name], str(about.get("seed", "")), about)


def provenance_of(records: Iterable[Made]) -> Sheet | None:
    """When, where and with what results were made."""
    headings = ("stage", "seed", "made", "device", "commit", "versions", "seconds", "memory, MB", "file")
    lines = []
    for made in records:
        origin = made.about.get("provenance", {})  # which the prepared images have none of
        lines.append(
            [
                Cell(made.stage),
                Cell(made.seed),
                Cell(day(origin["started"]) if origin else ""),
                Cell(_device(origin)),
                Cell((origin["commit"] or "outside a checkout") if origin else ""),
                Cell(", ".join(f"{name} {version}" for name, version in origin.get("versions", {}).items())),
                Cell(f"{seconds_of(origin):.0f}" if origin else ""),
                Cell(f"{origin['peak_memory_mb']:,}" if origin else ""),
                Cell(made.path),
            ]
        )
    numbers = ("seconds", "memory, MB")
    return Sheet("", [(heading, heading in numbers) for heading in headings], lines) if lines else None


def curve(row: dict[str, Any], history: Path) -> dict[str, Any]:
    """What a training has measured against the images it had seen, as the page's script draws it."""
    with history_file(history.parent).open(encoding="utf-8", newline="") as file:
        steps = list(csv.DictReader(file))
    names = [name for name in ("images", *CURVES) if steps and name in steps[0]]  # none of a very short training
    measured = {name: [float(step[name]) for step in steps] for name in names}
    return {"row": row["name"], "label": row["label"]} | {name: _thinned(values) for name, values in measured.items()}


def cost(records: list[Record]) -> Sheet:
    """What the jobs have cost, by stage and device."""
    headings = ("stage", "device", "jobs", "job hours", "device hours", "of which imports, %", "most memory, MB")
    groups: dict[tuple[str, str], list[Record]] = {}
    for one in records:
        groups.setdefault((one["stage"], one["device"]), []).append(one)
    groups |= {("all", ""): records} if len(groups) > 1 else {}
    lines = []
    for (stage, device), jobs in groups.items():
        seconds = [float(job["seconds"]) for job in jobs]
        held = sum(took * int(job.get("processes") or 1) for took, job in zip(seconds, jobs, strict=True))
        imports = 100 * sum(float(job["imports"]) for job in jobs) / sum(seconds)
        memory = max(float(job["peak MB"]) for job in jobs)
        lines.append(
            [
                Cell(stage, sort=stage),
                Cell(device, sort=device),
                Cell(f"{len(jobs)}", sort=len(jobs)),
                Cell(f"{sum(seconds) / 3600:.2f}", sort=sum(seconds)),
                Cell(f"{held / 3600:.2f}", sort=held),
                Cell(f"{imports:.1f}", sort=imports),
                Cell(f"{memory:,.0f}", sort=memory),
            ]
        )
    return Sheet("", [(heading, place > 1) for place, heading in enumerate(headings)], lines)


def day(started: float) -> str:
    """A moment, in universal time."""
    return f"{datetime.fromtimestamp(started, UTC):%Y-%m-%d %H:%M} UTC"


def _numbers(records: list[Made], offset: int) -> Sheet | None:
    """What each seed's probe and judge have measured."""
    headings = ("seed", "accuracy", "random weights", "k-NN", "learning rate", "distance of samples")
    distances = {
        made.seed: DistanceRecord.parse(made.about, Path(made.path))
        for made in records
        if made.path.endswith("/distance.json")
    }
    lines = []
    for made in records:
        if made.stage != "probe":
            continue
        encoders = ProbeRecord.parse(made.about, Path(made.path)).encoders
        trained, random = (encoders[f"{kind}/{offset}"] for kind in ("trained", "random"))
        judged = distances.get(made.seed)
        edge = ", the smallest or largest tried" if trained["linear"].rate_at_edge else ""
        lines.append(
            [
                Cell(made.seed),
                *(
                    Cell(f"{100 * one.value:.2f}", f"[{100 * one.low:.1f}, {100 * one.high:.1f}]")
                    for one in (trained["linear"], random["linear"])
                ),
                Cell(f"{100 * trained['knn'].value:.2f}"),
                Cell(f"{trained['linear'].rate:g}{edge}"),
                Cell(f"{judged.infinite:.2f}", f"± {judged.error:.2f}") if judged else Cell(""),
            ]
        )
    return Sheet("", [(heading, True) for heading in headings], lines) if lines else None


def _thinned(values: list[float]) -> list[float | None]:
    """At most `POINTS` means of neighbouring values, of four digits; nothing where one is not finite."""
    parts = np.array_split(np.array(values), min(POINTS, len(values)))
    return [float(f"{mean:.4g}") if math.isfinite(mean) else None for mean in (part.mean() for part in parts)]


def _device(origin: dict[str, Any]) -> str:
    """The name of a device, and how many of them."""
    processes = origin.get("processes", 1)
    return f"{processes} x {origin['device']}" if processes > 1 else origin.get("device", "")


def _value(value: Any) -> str:
    """A value as YAML has it."""
    return value if isinstance(value, str) else json.dumps(value)
