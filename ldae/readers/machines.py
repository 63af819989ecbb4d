"""Which devices computed the numbers of a view, where they are several; no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ldae.readers.results import RowResult


def devices_of(rows: Iterable[RowResult]) -> list[str]:
    """A note on the devices of rows, with the seeds that each probed; none if all have the same one.

    A host's name may be private, so it is not shown.
    """
    rows = list(rows)
    found = dict.fromkeys(device for row in rows for device in row.devices)
    if len(found) < 2:
        return []
    texts = [f"{device or 'an unknown device'} ({_seeds_of(device, rows)})" for device in found]
    return [f"Computed on {len(texts)} kinds of devices: {'; '.join(texts)}."]


def _seeds_of(device: str, rows: Sequence[RowResult]) -> str:
    """The seeds that a device has probed, in words; with the labels of rows, if it has not probed all rows of them."""
    own = {
        row.name: {seed for seed, other in zip(row.seeds, row.devices, strict=True) if other == device} for row in rows
    }
    every = set[int]().union(*own.values())
    if all(own[row.name] == every & set(row.seeds) for row in rows):
        return _ranges(every)
    labels: dict[str, list[str]] = {}
    for row in rows:
        if own[row.name]:
            labels.setdefault(_ranges(own[row.name]), []).append(f"“{row.label}”")
    return ", ".join(f"{seeds} of {' and '.join(of_rows)}" for seeds, of_rows in labels.items())


def _ranges(numbers: set[int]) -> str:
    """Seeds in words, e.g. `seeds 0-3 and 7`."""
    starts = sorted(n for n in numbers if n - 1 not in numbers)
    ends = sorted(n for n in numbers if n + 1 not in numbers)
    parts = [str(start) if start == end else f"{start}-{end}" for start, end in zip(starts, ends, strict=True)]
    return f"seed{'s' * (len(numbers) > 1)} {' and '.join(parts)}"
