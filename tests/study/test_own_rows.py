"""A user's own rows, tables and scales break no test of the project."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rows import ROOT

ROWS = """
  mine:
    from: ldae
    label: l-DAE, another noise level
    set: {noise.schedule: single, noise.sigma: 0.4}
"""
SWEEP = """
  mine_d:
    from: pca
    label: whitened PCA, d = {value}
    set: {tokenizer.scale: dimension}
    over: {tokenizer.dim: [24, 40]}
"""
TABLE = """
  my_table: {title: "Mine", rows: [ldae, mine, mine_d], target: none}
"""
SCALE = "from: laptop\ndataset: {source: folder, path: ~/pictures, size: 64, val_fraction: 0.2}\n"
READ_THE_STUDY = [  # tests that load the project's own study and scales
    "tests/study",
    "tests/overview",
    "tests/parts/test_denoiser.py",
    "tests/parts/test_formulas.py",
    "tests/test_numerics.py",
    "tests/test_recipes.py",
]


@pytest.mark.graph
def test_own_rows_and_scales_break_no_test(tmp_path: Path) -> None:
    for name in ("ldae", "workflow", "rules", "scales", "slurm", "docs", "tests", "benchmarks", "results/reference"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ROOT.iterdir():
        if file.is_file() and file.name != ".git":
            shutil.copy(file, tmp_path)
    study = (tmp_path / "config.yaml").read_text()
    for heading, text in (("\nsweeps:", ROWS), ("\nvariations:", SWEEP), ("\nfigures:", TABLE)):
        assert study.count(heading) == 1
        study = study.replace(heading, f"{text.rstrip()}\n{heading}")
    first_row = "(the paper's Table 3)\"\n    rows: [pca, predict_clean, "
    assert study.count(first_row) == 1
    (tmp_path / "config.yaml").write_text(study.replace(first_row, f"{first_row}mine, "))
    (tmp_path / "scales/mine.yaml").write_text(SCALE)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    environment.pop("PYTEST_ADDOPTS", None)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not graph and not faults"]
    said = subprocess.run(
        [*command, *READ_THE_STUDY], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stdout
