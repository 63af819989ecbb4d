"""What is said beside the code, as far as a program can tell whether it is true."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "ldae").rglob("*.py"))


def functions(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """The public functions and methods of a module or class."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from functions(node.body, f"{node.name}.")
        elif isinstance(node, ast.FunctionDef) and (node.name == "__init__" or not node.name.startswith("_")):
            yield f"{prefix}{node.name}", node


def own(node: ast.AST) -> Iterator[ast.AST]:
    """What stands in a function, but not in one inside of it."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            yield child
            yield from own(child)


def raised(function: ast.FunctionDef) -> set[str]:
    """The errors that a function raises itself, by name."""
    calls = (node.exc for node in own(function) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call))
    return {call.func.id for call in calls if isinstance(call.func, ast.Name)}


def test_a_function_that_raises_an_error_says_so() -> None:
    for path in FILES:
        for name, function in functions(ast.parse(path.read_text()).body):
            said = ast.get_docstring(function) or ""
            assert all(error in said for error in raised(function)), f"{path}: {name}: {raised(function)}"


def test_the_citation_is_of_this_version_and_of_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)  # what the format demands
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    (paper,) = citation["references"]
    assert {"type", "title", "authors"} <= set(paper)
    assert f"[{paper['title']}]({paper['url']})" in (ROOT / "README.md").read_text()


def test_contributors_are_told_of_files_and_targets_that_there_are() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", text)) <= targets
    paths = re.findall(r"(?:tests|rules|ldae)/[\w./]+\.\w+", text)
    assert paths
    assert all((ROOT / path).is_file() for path in paths), paths
    headings = {
        re.sub(r"\W+", "-", h.lower()) for h in re.findall(r"^## (.+)$", (ROOT / "README.md").read_text(), re.M)
    }
    assert set(re.findall(r"README\.md#([\w-]+)", text)) <= headings


def test_links_in_the_documents_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
        assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == [], page


def test_the_readme_is_short_and_names_files_that_there_are() -> None:
    readme = ROOT / "README.md"
    text = readme.read_text()
    assert readme.stat().st_size <= 12_000
    assert "```\nmake " in "\n".join(text.splitlines()[:30])
    files = re.findall(r"`((?:ldae|rules|tests|scales)/[\w/]+\.\w+)`", text)
    assert len(files) > 9
    assert [file for file in files if not (ROOT / file).is_file() and file != "scales/mine.yaml"] == []
    folders = re.findall(r"^(\w+)/  ", text, re.MULTILINE)
    rooms = {path.name for path in (ROOT / "ldae").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert set(folders) == rooms


def test_each_page_of_the_documents_is_linked_to() -> None:
    text = (ROOT / "README.md").read_text()
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"(docs/{page.name})" not in text] == []
