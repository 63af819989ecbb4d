"""Two results folders side by side: the accuracy of each row that both have, and what they were made with; no torch."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
from tabulate import tabulate

from ldae.runtime.files import read_json
from ldae.study.record import differences

COLUMNS = ["label", "accuracy", "accuracy_low", "accuracy_high"]
MOST = 12  # differences that are listed


def compare(first: Path, second: Path) -> str:
    """The rows that stand in tables of both folders, with the difference of their accuracies, as text.

    The two intervals are taken as independent: rows of two folders share neither images nor seeds as far as this knows.

    Args:
        first, second: results folders of two scales, studies, commits or machines.

    Raises:
        ValueError: for a folder without tables of rows, or when no row stands in both.
    """
    ours, theirs = (_rows(folder) for folder in (first, second))
    common = ours.index.intersection(theirs.index, sort=False)
    if common.empty:
        raise ValueError(f"{first} and {second} have no row in common: {_some(ours.index)}; {_some(theirs.index)}")
    lines = [
        [name, ours.loc[name, "label"], _interval(ours.loc[name]), _interval(theirs.loc[name])]
        + [_difference(ours.loc[name], theirs.loc[name])]
        for name in common
    ]
    headers = ["row", "label", str(first), str(second), "difference"]
    text = [tabulate(lines, headers, disable_numparse=True, colalign=["left"] * 2 + ["right"] * 3)]
    text.append("Accuracy in percent [95 % interval]; the difference is the second less the first.")
    for folder, rows in ((first, ours), (second, theirs)):
        if len(alone := rows.index.difference(common, sort=False)):
            text.append(f"Only in {folder}: {_some(alone)}")
    changed = list(dict.fromkeys(line for name in common for line in _changes(first, second, str(name))))
    listed = changed[:MOST] + ([f"... and {len(changed) - MOST} more"] if len(changed) > MOST else [])
    if changed:
        text.append("\n  ".join(["What they were made with differs:", *listed]))
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


def _interval(row: pd.Series) -> str:
    value, low, high = (100 * row[key] for key in COLUMNS[1:])
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def _difference(ours: pd.Series, theirs: pd.Series) -> str:
    """With the half-widths of both intervals in quadrature, towards each side."""
    change = theirs["accuracy"] - ours["accuracy"]
    low = change - math.hypot(theirs["accuracy"] - theirs["accuracy_low"], ours["accuracy_high"] - ours["accuracy"])
    high = change + math.hypot(theirs["accuracy_high"] - theirs["accuracy"], ours["accuracy"] - ours["accuracy_low"])
    return " ".join([f"{100 * change:+.1f}", f"[{100 * low:+.1f}, {100 * high:+.1f}]"])


def _changes(first: Path, second: Path, row: str) -> list[str]:
    """How the lineages of a row's probes differ, where both folders hold one; they may lie under another row's name."""
    records = [sorted(folder.glob(f"probe/{row}/seed*/probe.json")) for folder in (first, second)]
    if not all(records):
        return []
    before, after = (read_json(found[0])["lineage"] for found in records)
    return differences(before, after)


def _some(names: pd.Index) -> str:
    words = [str(name) for name in names[:8]]
    return ", ".join(words) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
