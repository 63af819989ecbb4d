"""The tour does what it shows, in a clean copy and without Jupyter: its code cells are plain Python."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from graph import ROOT, Graph

TOUR = ROOT / "notebooks/tour.ipynb"


def cells(kind: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(TOUR.read_text())["cells"] if cell["cell_type"] == kind]


def test_the_tour_is_small_and_was_run_without_a_mistake() -> None:
    assert TOUR.stat().st_size < 500_000
    outputs = [output for cell in cells("code") for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"stream", "display_data"}
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    said = "".join("".join(output.get("text", "")) for output in outputs)
    assert "VisionTransformer of 1 blocks" in said
    assert str(Path.home()) not in said and "/tmp" not in said


@pytest.mark.graph
def test_the_tour_runs_in_a_clean_copy(tmp_path: Path) -> None:
    graph = Graph.fresh(tmp_path, "../config.yaml")
    shutil.copytree(TOUR.parent, tmp_path / "notebooks")
    code = "\n\n".join("".join(cell["source"]) for cell in cells("code"))
    environment = os.environ | {"MPLBACKEND": "agg", "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", code]
    said = subprocess.run(
        command, cwd=tmp_path / "notebooks", env=environment, capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr
    assert (graph.folder / "results/smoke/encoders/ldae/README.md").exists()
    shown = "".join("".join(output.get("text", "")) for cell in cells("code") for output in cell["outputs"])
    numbers = re.compile(r"[\d.]+(e-\d+)?")
    assert numbers.sub("#", said.stdout) == numbers.sub("#", shown)
    (difference,) = re.findall(r"original: (\S+)", said.stdout)
    assert float(difference) < 1e-4
