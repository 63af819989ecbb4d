"""The manifest of prepared images that a test made itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ldae.study.results import Manifest


def write_manifest(
    folder: Path, *, size: int = 32, classes: Sequence[str] = ("a", "b", "c"), images: int = 1, **more: Any
) -> Manifest:
    """Writes and returns the manifest of images of these classes, as many as `images` of each in either split."""
    counts = {split: dict.fromkeys(classes, images) for split in ("train", "val")}
    groups = {split: images * len(classes) for split in counts}
    values = {"source": "photos", "lineage": {}, "counts": counts, "groups": groups} | more
    manifest = Manifest(size=size, classes=tuple(classes), **values)
    manifest.write(folder / "manifest.json")
    return manifest
