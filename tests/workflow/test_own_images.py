from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from graph import Graph
from PIL import Image

from ldae.data.division import Division

pytestmark = pytest.mark.graph

CLASSES = ("apple", "brick wall", "çay", "dog", "zebra")  # as people name their folders
IMAGES = 60  # of a class


def picture(number: int, shade: int) -> Image.Image:
    """A noisy picture whose size and mode differ from the next one's."""
    generator = np.random.default_rng(number)
    height, width = (int(side) for side in generator.integers(70, 200, 2))
    pixels = generator.normal(40 * shade + 40, 30, (height, width, 3)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(pixels).convert(("RGB", "L", "RGB", "P")[number % 4])


def test_a_folder_of_pictures_goes_from_nothing_to_a_table_by_one_small_file(tmp_path: Path) -> None:
    pictures = tmp_path / "my pictures"
    for shade, name in enumerate(CLASSES):
        (pictures / name).mkdir(parents=True)
        for number in range(IMAGES):
            ending = "jpg" if number % 4 != 3 else "png"  # JPEG has no palette
            picture(number + IMAGES * shade, shade).save(pictures / name / f"{number}.{ending}")
    graph = Graph.fresh(tmp_path / "graph")
    (graph.folder / "scales/mine.yaml").write_text(
        f"from: smoke\ndataset: {{source: folder, path: '{pictures}', size: 64, val_fraction: 0.2}}\n"
    )
    graph.run("table3", "--config", "scale=mine")
    results = graph.folder / "results/mine"
    table = (results / "tables/table3.md").read_text()
    assert all(label in table for label in ("patch-wise PCA baseline", "+ predict clean data", "single noise level"))
    manifest = json.loads((results / "dataset/manifest.json").read_text())
    assert manifest["classes"] == sorted(CLASSES)
    labels = {split: Division.open(results / "dataset", split, seed=0).labels for split in ("train", "val")}
    assert sum(len(part) for part in labels.values()) == IMAGES * len(CLASSES)
    assert np.bincount(labels["val"]).tolist() == [IMAGES // 5] * len(CLASSES)
    graph.edit("scales/mine.yaml", "my pictures", "mt pictures")
    assert graph.start("table3", "--config", "scale=mine").wait(timeout=300) != 0
    assert "mt pictures: is not a folder; write where the images are as dataset.path" in graph.said.read_text()
    assert json.loads((results / "dataset/manifest.json").read_text()) == manifest  # a slip loses nothing
