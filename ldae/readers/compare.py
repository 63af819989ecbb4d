"""Two results folders side by side: the accuracies of their common rows, and the differing settings; no torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from tabulate import tabulate

from ldae.runtime.files import read_json
from ldae.study.record import differences

COLUMNS = ["label", "accuracy", "accuracy_low", "accuracy_high"]
LISTED = 12  # differences


def compare(first: Path, second: Path) -> str:
    """The rows in tables of both folders, with the difference of their accuracies, as text.

    The two intervals are taken as independent, and so are added in quadrature: rows of two folders share neither
    images nor seeds as far as this knows.

    Args:
        first, second: results folders of two scales, studies, commits or machines.

    Raises:
        ValueError: for a folder without tables of rows, or when no row is in both.
    """
    ours, theirs = (_rows(folder) for folder in (first, second))
    common = ours.index.intersection(theirs.index, sort=False)
    if common.empty:
        raise ValueError(f"{first} and {second} have no row in common: {_some(ours.index)}; {_some(theirs.index)}")
    lines = []
    for name in common:
        (a, a_low, a_high), (b, b_low, b_high) = (100 * rows.loc[name, COLUMNS[1:]] for rows in (ours, theirs))
        low, high = b - a - np.hypot(b - b_low, a_high - a), b - a + np.hypot(b_high - b, a - a_low)
        intervals = [f"{a:.1f} [{a_low:.1f}, {a_high:.1f}]", f"{b:.1f} [{b_low:.1f}, {b_high:.1f}]"]
        lines.append([name, ours.loc[name, "label"], *intervals, f"{b - a:+.1f} [{low:+.1f}, {high:+.1f}]"])
    headers = ["row", "label", str(first), str(second), "difference"]
    text = [tabulate(lines, headers, disable_numparse=True, colalign=["left"] * 2 + ["right"] * 3)]
    text.append("Accuracy in percent [95 % interval]; the difference is the second less the first.")
    for folder, rows in ((first, ours), (second, theirs)):
        if len(alone := rows.index.difference(common, sort=False)):
            text.append(f"Only in {folder}: {_some(alone)}")
    changed = list(dict.fromkeys(line for name in common for line in _changes(first, second, str(name))))
    if changed:
        more = [f"... and {len(changed) - LISTED} more"] if len(changed) > LISTED else []
        text.append("\n  ".join(["Their settings differ:", *changed[:LISTED], *more]))
    return "\n\n".join(text)


def _rows(folder: Path) -> pd.DataFrame:
    """The rows of all tables of a folder, by name."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; name a results folder, e.g. results/laptop")
    frames = [pd.read_csv(path) for path in sorted(folder.glob("tables/*.csv"))]
    frames = [frame.set_index("name")[COLUMNS] for frame in frames if {"name", *COLUMNS} <= set(frame.columns)]
    if not frames:
        raise ValueError(f"{folder}: has no tables of rows yet; run a table first, e.g. `ldae run main`")
    found = pd.concat(frames)
    return found[~found.index.duplicated()]


def _changes(first: Path, second: Path, row: str) -> list[str]:
    """The differences of the lineages of a row's probes, if both folders have a probe under the row's name."""
    records = [sorted(folder.glob(f"probe/{row}/seed*/probe.json")) for folder in (first, second)]
    if not all(records):
        return []
    before, after = (read_json(found[0])["lineage"] for found in records)
    return differences(before, after)


def _some(names: pd.Index) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(map(str, names[:8])) + more
