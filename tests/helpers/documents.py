"""The blocks and commands of README, CONTRIBUTING and docs, as they stand there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# A fenced block, with the comment before it that says why no test runs it.
BLOCK = re.compile(r"^(?:<!-- not run: (?P<reason>.+?) -->\n)?```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
INLINE = re.compile(r"`((?:ldae|snakemake|make|pytest|python|source) [^`]+)`")


class Block(NamedTuple):
    """One fenced block."""

    place: str  # page and line
    kind: str  # the word after the fence
    text: str
    reason: str | None  # why it cannot run in a test


def blocks() -> Iterator[Block]:
    """All fenced blocks of all pages."""
    for page in PAGES:
        text = page.read_text()
        for found in BLOCK.finditer(text):
            line = text.count("\n", 0, found.start("text"))
            yield Block(f"{page.name}:{line}", found["kind"], found["text"], found["reason"])


def commands() -> dict[str, list[str]]:
    """The words of each command, in a block or inside a sentence, by its place and text.

    In a block whose lines begin with `$`, all other lines are output. Commands with a `<placeholder>` are left out.
    """
    lines: list[tuple[str, str]] = []
    for block in blocks():
        if block.kind in ("", "bash") and block.reason is None:
            shown = [line for line in block.text.splitlines() if line.strip() and not line.startswith("#")]
            typed = [line.removeprefix("$ ") for line in shown if line.startswith("$ ")]
            lines += [(block.place, line) for line in typed or shown]
    for page in PAGES:
        text = BLOCK.sub("", page.read_text())
        lines += [(page.name, found) for found in INLINE.findall(text) if "<" not in found]
    return {f"{place}: {line}": shlex.split(line, comments=True) for place, line in lines}
