from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from forked import forked

from ldae.readers.compare import compare
from ldae.runtime.files import write_json

PROBE = {"dataset": {"revision": 1, "spec": {"size": 64}}, "probe": {"revision": 1, "spec": {}}}


def save(folder: Path, rows: dict[str, float], size: int) -> Path:
    """A results folder with a table of rows and a probe of each."""
    table = [
        {
            "name": name,
            "label": name.upper(),
            "accuracy": value,
            "accuracy_low": value - 0.03,
            "accuracy_high": value + 0.04,
        }
        for name, value in rows.items()
    ]
    (folder / "tables").mkdir(parents=True)
    pd.DataFrame(table).to_csv(folder / "tables/table3.csv", index=False)
    pd.DataFrame([{"stage": "probe"}]).to_csv(folder / "tables/cost.csv", index=False)
    for name in rows:
        lineage = PROBE | {"dataset": {"revision": 1, "spec": {"size": size}}}
        write_json(folder / f"probe/{name}/seed0/probe.json", {"lineage": lineage})
    return folder


def test_rows_in_both_folders_are_compared_with_intervals(tmp_path: Path) -> None:
    first = save(tmp_path / "a", {"pca": 0.30, "ldae": 0.25}, size=64)
    second = save(tmp_path / "b", {"ldae": 0.27, "mae": 0.2}, size=96)
    said = compare(first, second)
    line = next(line for line in said.splitlines() if line.startswith("ldae"))
    assert line.split() == "ldae LDAE 25.0 [22.0, 29.0] 27.0 [24.0, 31.0] +2.0 [-3.0, +7.0]".split()
    assert f"Only in {first}: pca" in said and f"Only in {second}: mae" in said
    assert "Their settings differ:\n  dataset: size 64 -> 96" in said


def test_a_folder_compared_with_itself_differs_in_nothing(tmp_path: Path) -> None:
    folder = save(tmp_path / "a", {"pca": 0.30}, size=64)
    said = compare(folder, folder)
    assert "+0.0 [" in said and "settings differ" not in said and "Only" not in said


def test_what_cannot_be_compared_is_one_line(tmp_path: Path) -> None:
    first, second = save(tmp_path / "a", {"pca": 0.30}, size=64), save(tmp_path / "b", {"mae": 0.2}, size=64)
    with pytest.raises(ValueError, match="have no row in common: pca; mae"):
        compare(first, second)
    said = forked("compare", str(first), str(tmp_path))
    assert said.returncode != 0
    assert said.stderr.splitlines() == [
        f"ldae: {tmp_path}: has no tables of rows yet; run a table first, e.g. `ldae run main`"
    ]
    with pytest.raises(ValueError, match="no such folder"):
        compare(first, tmp_path / "absent")
