"""Our reader (uint8 memory map, batched) against a loader that decodes JPEGs with Pillow, per core, at 64 pixels.

The JPEGs have the size of ImageNet's photographs, 500 x 375; both end with mirrored floats in [-1, 1].
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from comparison import in_turn, save
from PIL import Image

from ldae.dataset import Split, flip, to_float
from ldae.sources.folder import decode

SIDE, STORED, FILES, BATCH = 64, 20_000, 128, 128


def main() -> None:
    """Writes both forms of made-up photographs, then reads them in turn."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for index in range(FILES):
            coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
            grain = rng.integers(-12, 13, (375, 500, 3))
            photograph = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC)) + grain
            Image.fromarray(photograph.clip(0, 255).astype(np.uint8)).save(folder / f"{index}.jpg", quality=90)
        files = sorted(folder.glob("*.jpg"))
        np.save(folder / "train.npy", rng.integers(0, 256, (STORED, 3, SIDE, SIDE), dtype=np.uint8))
        np.save(folder / "train_labels.npy", np.zeros(STORED, dtype=np.int64))
        np.save(folder / "train_groups.npy", np.arange(STORED))
        split = Split.open(folder, "train")
        generator, device = torch.Generator().manual_seed(0), torch.device("cpu")

        def ours() -> torch.Tensor:
            images, _ = split.batch(rng.integers(0, STORED, 16 * BATCH), device)
            return torch.cat([to_float(flip(part, generator)) for part in images.split(BATCH)])

        def theirs() -> torch.Tensor:
            pictures = np.stack([decode(file.read_bytes(), SIDE) for file in files])
            return to_float(flip(torch.from_numpy(pictures), generator))

        report = in_turn(ours, theirs, 10)
        reading = in_turn(lambda: split.batch(rng.integers(0, STORED, 16 * BATCH), device), lambda: None, 20)
    report["ours_images_per_second"] = round(16 * BATCH / report["ours_seconds"])
    report["ours_images_per_second_read_alone"] = round(16 * BATCH / reading["ours_seconds"])
    report["theirs_images_per_second"] = round(BATCH / report["theirs_seconds"])
    report["times_faster"] = round(16 * report["times_faster"], 1)  # ours reads 16 batches in the time measured
    report["quartiles"] = [round(16 * part, 1) for part in report["quartiles"]]
    save("reader", {"what": "reading training batches, ours against decoding JPEGs with Pillow"} | report)


if __name__ == "__main__":
    main()
