"""What a table, a figure, the claims, a table of cost and a page are made from, and the record of it; no torch."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ldae.runtime.files import checksums, read_json, sha256, write_json
from ldae.study.base import Config
from ldae.study.record import Lineage, content, digest, lineage
from ldae.study.stages import RECORDS

PACKAGE = Path(__file__).parent.parent
# The code of views is cheap to run again, so its bytes are part of what a view is made from.
NUMBERS = ("readers/results.py", "measures/intervals.py")
CODE = {
    "table": ("readers/tables.py", "readers/layout.py", *NUMBERS),
    "figure": ("readers/figures/*.py", "study/schedules.py", *NUMBERS),
    "claims": ("readers/claims.py", "readers/layout.py", *NUMBERS),
    "cost": ("readers/tables.py", "readers/layout.py", *NUMBERS),
    "report": ("readers/report/*.*", "readers/tables.py", "readers/claims.py", "readers/layout.py", *NUMBERS),
}
SHOWS_PROVENANCE = ("cost", "report")  # these also show when, where and how long jobs ran


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
    return str(path.parent if path.name in RECORDS else path.with_suffix(""))


def record_at(place: str, results: Path) -> Path:
    """The record of the result at a place of the results folder."""
    found = (results / place / name for name in RECORDS)
    return next((path for path in found if path.is_file()), results / f"{place}.json")


def digest_read(about: dict[str, Any], *, stage: str) -> str:
    """A digest of what a job of a stage reads of a result, from its record."""
    return digest(about) if stage in SHOWS_PROVENANCE else content(about)


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
        plain = {name: shown.model_dump(mode="json", exclude_defaults=True) for name, shown in content.items()}
        write_json(out.with_suffix(".json"), about | plain)
