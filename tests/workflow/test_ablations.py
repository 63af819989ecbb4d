"""Each recipe of docs/ablations.md is applied to a copy of the project, as it stands there, and run at smoke scale."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.graph

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs/ablations.md"
LIMITS = {  # of each recipe: the lines that it may add, and the files that it may touch
    "Velocity prediction": (20, 3),
    "A sigmoid noise schedule": (15, 3),
    "A Huber error": (15, 3),
    "Register tokens": (20, 5),
    "A DCT tokenizer": (40, 3),
    "SimMIM, a third method": (80, 3),
    "The effective rank, a metric": (40, 3),
}


@dataclass(frozen=True)
class Recipe:
    """What a section of the document tells a reader to write and to type."""

    title: str
    patch: str  # all of its diffs, as `patch` reads them
    commands: list[str]

    @property
    def files(self) -> list[str]:
        """The files that it edits or adds."""
        return re.findall(r"^\+\+\+ b/(\S+)$", self.patch, re.MULTILINE)

    @property
    def added(self) -> list[str]:
        """The lines that it adds."""
        return [line[1:] for line in self.patch.splitlines() if line.startswith("+") and not line.startswith("+++")]


def recipes() -> dict[str, Recipe]:
    """The recipes by their titles, in the order of the document."""
    _, *sections = re.split(r"^### ", DOCUMENT.read_text(), flags=re.MULTILINE)
    found = {}
    for section in sections:
        title = section.partition("\n")[0]
        text = re.split(r"^## ", section, flags=re.MULTILINE)[0]
        patch = "".join(re.findall(r"^```diff\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
        commands = re.findall(r"^(ldae run .*?)(?: +#.*)?$", text, re.MULTILINE)
        if patch:
            found[title] = Recipe(title, patch, commands)
    return found


RECIPES = recipes()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project in which the images and the PCA of smoke scale are ready for every recipe."""
    folder = tmp_path_factory.mktemp("recipes") / "project"
    for name in ("workflow", "rules", "scales", "slurm", "ldae", "tests", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("config.yaml", "environment.yml", "pyproject.toml", "README.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, folder)
    run(folder, "ldae", "run", "pca", "--scale", "smoke")
    return folder


def run(folder: Path, *command: str) -> str:
    """Runs a command in a copy of the project, with that copy's package; fails where the command does."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": programs, "PYTHONPATH": str(folder)}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_document_has_all_recipes_within_their_limits() -> None:
    assert list(RECIPES) == list(LIMITS)
    for title, recipe in RECIPES.items():
        lines, files = LIMITS[title]
        assert len(recipe.added) <= lines, title
        assert len(recipe.files) <= files, title
        assert not any(file.startswith("tests/") for file in recipe.files), title


@pytest.mark.parametrize("title", LIMITS)
def test_a_recipe_runs_as_it_stands_in_the_document(title: str, project: Path, tmp_path: Path) -> None:
    recipe, folder = RECIPES[title], tmp_path / "project"
    shutil.copytree(project, folder)
    patch = subprocess.run(
        ["patch", "-p1", "--fuzz=0", "--no-backup-if-mismatch"], input=recipe.patch, cwd=folder, text=True, check=False
    )
    assert patch.returncode == 0
    before = {path: path.stat().st_mtime_ns for path in folder.glob("results/smoke/pretrain/*/*/model.safetensors")}
    assert recipe.commands
    for command in recipe.commands:
        run(folder, *command.split(), "--scale", "smoke")
    assert {path: path.stat().st_mtime_ns for path in before} == before  # nothing else is trained again
    tests = (
        "tests/test_architecture.py",
        "tests/test_words.py",
        "tests/parts/test_formulas.py",
        "tests/parts/test_tokenizers.py",
        "tests/study/test_variants.py",
    )
    run(folder, sys.executable, "-m", "pytest", "-q", "-x", *tests)
