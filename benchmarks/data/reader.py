"""Our reader (uint8 memory map, batches, checksums) against a loader that decodes JPEGs with Pillow, at 64 pixels.

The JPEGs have the size of ImageNet's photographs, 500 x 375; both end with mirrored floats in [-1, 1].
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.comparison import in_turn, save
from ldae.data.prepared import Split, flip, to_float
from ldae.data.sources.pixels import draw
from ldae.runtime.arrays import save_row_checksums
from ldae.runtime.files import checksums
from ldae.runtime.randomness import Randomness
from ldae.study.results import Manifest

SIDE, STORED, BATCH = 64, 20_000, 128
BATCHES = 16  # that ours reads in the time measured, since one is over too soon


def main() -> None:
    """Writes both forms of made-up photographs, then reads them in turn."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for index in range(BATCH):
            coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
            grain = rng.integers(-12, 13, (375, 500, 3))
            photograph = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC)) + grain
            Image.fromarray(photograph.clip(0, 255).astype(np.uint8)).save(folder / f"{index}.jpg", quality=90)
        files = sorted(folder.glob("*.jpg"))
        np.save(folder / "images.npy", rng.integers(0, 256, (STORED, 3, SIDE, SIDE), dtype=np.uint8))
        save_row_checksums(folder / "images.npy")
        zeros = np.zeros(STORED, dtype=np.int64)
        arrays = {"labels": zeros, "groups": np.arange(STORED), "parts": zeros}
        for what, values in arrays.items():
            np.save(folder / f"{what}.npy", values)
        sums = checksums(*(folder / f"{what}.npy" for what in arrays))
        lineage = {"dataset": {"revision": 1, "spec": {}}}
        counts = {"train": {"a": STORED}}
        manifest = Manifest(source="photos", size=SIDE, classes=("a",), counts=counts, lineage=lineage, sha256=sums)
        manifest.write(folder / "manifest.json")
        split = Split.open(folder, "train", seed=0)
        device = torch.device("cpu")
        randomness = Randomness(device, 0)

        def ours() -> None:
            for _ in range(BATCHES):
                images, _ = split.batch(rng.integers(0, STORED, BATCH), device)
                to_float(flip(images, randomness))

        def theirs() -> None:
            pictures = np.stack([draw(file.read_bytes(), SIDE).pixels for file in files])
            to_float(flip(torch.from_numpy(pictures), randomness))

        report = in_turn(ours, theirs, 10)
        reading = in_turn(lambda: split.batch(rng.integers(0, STORED, BATCHES * BATCH), device), lambda: None, 20)
    report["ours_images_per_second"] = round(BATCHES * BATCH / report["ours_seconds"])
    report["ours_images_per_second_read_alone"] = round(BATCHES * BATCH / reading["ours_seconds"])
    report["theirs_images_per_second"] = round(BATCH / report["theirs_seconds"])
    report["times_faster"] = round(BATCHES * report["times_faster"], 1)
    report["quartiles"] = [round(BATCHES * part, 1) for part in report["quartiles"]]
    save("reader", {"what": "reading training batches, ours against decoding JPEGs with Pillow"} | report)


if __name__ == "__main__":
    main()
