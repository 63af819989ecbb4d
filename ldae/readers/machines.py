"""Which devices computed the numbers of a table, where they are several; no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ldae.readers.results import RowResult


def devices_of(rows: Iterable[RowResult]) -> str:
    """A note on the devices of rows, with the seeds that each probed; empty if all have the same one.

    A host's name may be private, so it is not shown.
    """
    rows = list(rows)
    found: dict[str, dict[str, list[int]]] = {}  # the seeds of each row, by device and by the row's label
    for row in rows:
        for seed, device in zip(row.seeds, row.devices, strict=True):
            found.setdefault(device, {}).setdefault(row.label, []).append(seed)
    if len(found) < 2:
        return ""
    texts = [f"{device or 'an unknown device'} ({_seeds_by_row(seeds, len(rows))})" for device, seeds in found.items()]
    return f"Computed on {len(texts)} kinds of devices: {'; '.join(texts)}."


def _seeds_by_row(seeds: dict[str, list[int]], rows: int) -> str:
    """The seeds of rows in words; the labels of rows are left out if all `rows` of the table have the same seeds."""
    labels: dict[str, list[str]] = {}
    for label, numbers in seeds.items():
        labels.setdefault(_ranges(numbers), []).append(label)
    if len(labels) == 1 and len(seeds) == rows:
        return next(iter(labels))
    return ", ".join(
        f"{numbers} of {' and '.join(f'“{label}”' for label in of_rows)}" for numbers, of_rows in labels.items()
    )


def _ranges(numbers: Sequence[int]) -> str:
    """Seeds in words, e.g. `seeds 0-3 and 7`."""
    ordered = sorted(numbers)
    starts = [n for n in ordered if n - 1 not in ordered]
    ends = [n for n in ordered if n + 1 not in ordered]
    parts = [str(start) if start == end else f"{start}-{end}" for start, end in zip(starts, ends, strict=True)]
    return f"seed{'s' * (len(ordered) > 1)} {' and '.join(parts)}"
