from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ldae"
PARTS = {"dataset", "noise", "network", "objective", "tokenizers"}
STAGES = {
    "prepare",
    "fit_tokenizer",
    "train_tokenizer",
    "train_classifier",
    "pretrain",
    "pretrain_baseline",
    "adopt",
    "probe",
    "finetune",
    "sample",
    "judge",
    "denoise",
    "export",
}
TORCHLESS = set(
    "spec schedules checking compare study_file variants record process slurm launch driver locking files progress "
    "cost statistics study results tables figures claims report plan status rows tracking commands prepare sources "
    "cli".split()
)


def name_of(path: Path) -> str:
    """The module or sub-package directly below `ldae`."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path, *, top_level: bool = False) -> set[str]:
    """What a file imports, `ldae.x.y` as `x`."""
    tree = ast.parse(path.read_text())
    found = set()
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "ldae":
            found |= {f"ldae.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return {name.split(".")[1] if name.startswith("ldae.") else name.split(".")[0] for name in found}


FILES = sorted(PACKAGE.rglob("*.py"))


def test_the_vocabulary_imports_nothing_of_the_project() -> None:
    names = {name_of(path) for path in FILES}
    assert imports(PACKAGE / "spec.py").isdisjoint(names)


@pytest.mark.parametrize("path", [p for p in FILES if name_of(p) in PARTS], ids=str)
def test_a_part_imports_no_other_part(path: Path) -> None:
    allowed = {name_of(path)} | ({"noise"} if name_of(path) == "objective" else set())
    assert imports(path) & PARTS <= allowed
    assert not imports(path) & STAGES


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_a_stage_imports_no_stage(stage: str) -> None:
    assert not imports(PACKAGE / f"{stage}.py") & (STAGES - {stage})


def test_the_package_knows_neither_snakemake_nor_the_study() -> None:
    assert [path for path in FILES if "snakemake" in imports(path)] == []
    for path in FILES:
        if name_of(path) != "variants":  # which is given the folder that the study lies in
            strings = [n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)]
            assert "config.yaml" not in strings, path


def test_timm_is_imported_only_where_it_is_used() -> None:
    assert [path for path in FILES if "timm" in imports(path, top_level=True)] == []


def test_planning_and_reading_never_load_torch() -> None:
    code = f"""
import importlib, sys
for name in {sorted(TORCHLESS)}:
    importlib.import_module(f"ldae.{{name}}")
    if "torch" in sys.modules:
        sys.exit(f"ldae.{{name}} imports torch")
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stderr) == (0, "")
