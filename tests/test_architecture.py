"""Which imports are allowed: a folder of `ldae` imports only from folders to its left."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ldae"
# From left to right; the folders of one layer do not import each other.
LAYERS = [
    {"runtime"},
    {"study"},
    {"data", "parts"},
    {"measures", "overview"},
    {"training"},
    {"stages", "readers"},
    {"commands", "api"},
    {"cli"},
]
LEVELS = {folder: level for level, folders in enumerate(LAYERS) for folder in folders}
TORCHLESS = ("study", "overview", "readers", "cli")
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def module_of(path: Path) -> str:
    """The dotted name of a file, without `ldae`."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path) for path in FILES}


def imports(path: Path, *, top_level: bool = False) -> set[str]:
    """The modules that a file imports; those of the project without `ldae`."""
    tree = ast.parse(path.read_text())
    names: set[str] = set()
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            own = {name for name in submodules if name.removeprefix("ldae.") in MODULES}
            names |= own or {node.module}
    return {name.removeprefix("ldae.") for name in names}


def test_a_folder_imports_only_from_folders_to_its_left(capsys: pytest.CaptureFixture[str]) -> None:
    arrows: Counter[tuple[str, str]] = Counter()
    wrong = []
    for path in FILES:
        folder = module_of(path).split(".")[0]
        for target in imports(path) & MODULES:
            other = target.split(".")[0]
            if other != folder:
                arrows[folder, other] += 1
                if LEVELS[other] >= LEVELS[folder]:
                    wrong.append(f"{module_of(path)} imports {target}")
    with capsys.disabled():
        print()
        for (folder, other), count in sorted(arrows.items(), key=lambda item: (LEVELS[item[0][0]], item)):
            print(f"  {folder} -> {other}: {count}")
    assert wrong == []


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_documents_show_this_order(document: str) -> None:
    order = re.compile(r"\w+(?:(?: < |, )\w+)+")
    lines = (PACKAGE.parent / document).read_text().replace("`", "")
    shown = max(order.findall(lines), key=len)
    assert [set(level.split(", ")) for level in shown.split(" < ")] == LAYERS


def test_every_room_has_its_place() -> None:
    assert {module_of(path).split(".")[0] for path in FILES} == set(LEVELS)


def test_the_parts_of_the_method_do_not_know_each_other() -> None:
    parts = {"noise", "network", "objective", "tokenizers"}
    for path in FILES:
        folder, _, name = module_of(path).partition(".")
        if folder == "parts" and name.split(".")[0] in parts:
            used = {module.split(".")[1] for module in imports(path) if module.startswith("parts.")}
            assert used & parts <= {name.split(".")[0]} | ({"noise"} if name == "objective" else set()), path


def test_a_stage_imports_no_stage() -> None:
    for path in FILES:
        if module_of(path).startswith("stages."):
            assert [name for name in imports(path) if name.startswith("stages.")] == [], path


def test_the_package_imports_no_snakemake_and_no_timm_before_it_is_used() -> None:
    for path in FILES:
        assert "snakemake" not in {name.split(".")[0] for name in imports(path)}, path
        assert "timm" not in {name.split(".")[0] for name in imports(path, top_level=True)}, path


def test_planning_and_reading_never_load_torch() -> None:
    names = [f"ldae.{name}" for name in sorted(MODULES) if name.split(".")[0] in TORCHLESS]
    code = f"""
import importlib, sys
for name in {names}:
    importlib.import_module(name)
    if "torch" in sys.modules:
        sys.exit(f"{{name}} imports torch")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
