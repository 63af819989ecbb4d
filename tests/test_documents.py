"""What is said beside the code, as far as a program can tell whether it is true."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent


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
    layers = {path.name for path in (ROOT / "ldae").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert set(folders) == layers


def test_each_page_of_the_documents_is_linked_to() -> None:
    text = (ROOT / "README.md").read_text()
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"(docs/{page.name})" not in text] == []
