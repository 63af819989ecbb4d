"""Tables of results from several machines name their devices."""

from __future__ import annotations

from pathlib import Path

import test_readers
from test_readers import a_claim, a_table, results_of

from ldae.readers.claims import write_claims
from ldae.readers.machines import devices_of
from ldae.readers.tables import write_table
from ldae.runtime.files import read_json, write_json
from ldae.study.definitions import ClaimsDefinition
from ldae.study.record import digest_read

folder = test_readers.folder


def move(folder: Path, device: str, *places: str) -> None:
    """Makes another device that of some probes."""
    for place in places:
        record = folder / place / "probe.json"
        about = read_json(record)
        write_json(record, about | {"provenance": about["provenance"] | {"device": device, "host": "a-private-name"}})


def note(folder: Path, seeds: list[int]) -> str:
    """What the table says of devices."""
    table = a_table(seeds, "first", "second")
    write_table(table, results_of(folder, table), out=folder / "table")
    text = (folder / "table.md").read_text()
    assert "a-private-name" not in text
    return next((line for line in text.splitlines() if line.startswith("Computed on")), "")


def test_a_table_names_the_devices_of_its_seeds_if_they_are_several(folder: Path) -> None:
    assert note(folder, [0, 1, 2]) == ""
    move(folder, "a fast GPU", "first/seed2", "second/seed2")
    assert note(folder, [0, 1]) == ""
    assert note(folder, [0, 1, 2]) == "Computed on 2 kinds of devices: a processor (seeds 0-1); a fast GPU (seed 2)."


def test_a_table_names_the_rows_that_one_device_has_computed_alone(folder: Path) -> None:
    move(folder, "a fast GPU", "second/seed0", "second/seed2")
    said = note(folder, [0, 1, 2])
    processor = "a processor (seeds 0-2 of “first”, seed 1 of “σ = √2 & more”)"
    assert said == f"Computed on 2 kinds of devices: {processor}; a fast GPU (seeds 0 and 2 of “σ = √2 & more”)."


def test_rows_with_fewer_seeds_do_not_lengthen_the_note(folder: Path) -> None:
    move(folder, "a fast GPU", "first/seed2", "second/seed2")
    rows = results_of(folder, a_table([0, 1, 2], "first", "second")).rows
    expected = ["Computed on 2 kinds of devices: a processor (seeds 0-1); a fast GPU (seed 2)."]
    assert devices_of([rows["first"], rows["second"].at([1, 2])]) == expected
    assert devices_of([rows["first"], rows["second"].at([0])]) == expected


def test_claims_name_the_devices_too(folder: Path) -> None:
    move(folder, "a fast GPU", "first/seed2", "second/seed2")
    claim = a_claim(text="second beats first", sum={"second": 1, "first": -1}, above=0)
    table = a_table([0, 1, 2], "first", "second")
    claims = ClaimsDefinition(rows=table.rows, seeds=table.seeds, pixels=table.pixels, claims=(claim,))
    write_claims(claims, results_of(folder, claims), out=folder / "claims")
    assert "a processor (seeds 0-1); a fast GPU (seed 2)." in (folder / "claims.md").read_text()


def test_a_table_is_written_again_if_another_device_has_computed_the_same_numbers(folder: Path) -> None:
    record = folder / "first/seed0/probe.json"
    before = read_json(record)
    move(folder, "a fast GPU", "first/seed0")
    after = read_json(record)
    assert digest_read(before, stage="table") != digest_read(after, stage="table")
    for stage in ("figure", "finetune"):
        assert digest_read(before, stage=stage) == digest_read(after, stage=stage)
