"""Preparing images of ImageNet's size from class folders and from its tar files: the rate of a core, and what it means.

Made-up photographs of 500 x 375 pixels are decoded, cropped to 256 (or kept at 292 for random crops), written and
summed up by one process. Seconds are those of the processor, so that other work beside it does not count.
"""

from __future__ import annotations

import io
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.io import savemat

from benchmarks.comparison import save
from ldae.data.sources.tars import DEVKIT, META, TRAIN, TRUTH, VAL
from ldae.stages.prepare import prepare
from ldae.study.scale import Folder, ImageNet
from ldae.study.stage_specs import DatasetStage

CLASSES, EACH, VALIDATION = 4, 75, 10  # images of a class for training and for validation
IMAGENET, CORES = 1_281_167 + 50_000, 32
SIDE, STORED = 256, 292


def photographs(num: int) -> Iterator[bytes]:
    """JPEG files with the coarse forms and the grain of photographs."""
    rng = np.random.default_rng(0)
    for _ in range(num):
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        grain = rng.integers(-12, 13, (375, 500, 3))
        pixels = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC)) + grain
        file = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
        yield file.getvalue()


def packed(path: Path, files: dict[str, bytes]) -> None:
    """Writes a tar file."""
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_both(folder: Path) -> None:
    """The same images as a tree of class folders and as the three files of ImageNet."""
    names = [f"n{label:08d}" for label in range(CLASSES)]
    images = photographs(CLASSES * (EACH + VALIDATION))
    validation: dict[str, bytes] = {}
    inner = {}
    for label, name in enumerate(names):
        for split, num in (("train", EACH), ("val", VALIDATION)):
            place = folder / "tree" / split / name
            place.mkdir(parents=True)
            for number in range(num):
                (place / f"{name}_{number}.JPEG").write_bytes(next(images))
        files = sorted((folder / "tree/train" / name).iterdir())
        packed(folder / f"{name}.tar", {file.name: file.read_bytes() for file in files})
        inner[f"{name}.tar"] = (folder / f"{name}.tar").read_bytes()
        for file in sorted((folder / "tree/val" / name).iterdir()):
            validation[f"ILSVRC2012_val_{label}_{file.name}"] = file.read_bytes()
    packed(folder / TRAIN, inner)
    packed(folder / VAL, validation)
    meta = io.BytesIO()
    rows = [(label + 1, name) for label, name in enumerate(names)]
    savemat(meta, {"synsets": np.array(rows, dtype=[("ILSVRC2012_ID", "i4"), ("WNID", "U9")])})
    truth = "".join(f"{label + 1}\n" * VALIDATION for label in range(CLASSES)).encode()
    packed(folder / DEVKIT, {f"kit/{META}": meta.getvalue(), f"kit/{TRUTH}": truth})


def main() -> None:
    """Prepares both forms, and once more with a margin."""
    torch.set_num_threads(1)
    num = CLASSES * (EACH + VALIDATION)
    report: dict[str, object] = {
        "what": f"preparing {num} JPEGs of 500 x 375 at {SIDE} pixels in one process; ImageNet's on {CORES} cores "
        "is worked out from it, as if the cores did not wait for the disk"
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_both(folder)
        forms = {
            "folder": Folder(source="folder", path=str(folder / "tree"), size=SIDE),
            "tar": ImageNet(source="imagenet", path=str(folder), size=SIDE),
            f"folder, kept at {STORED}": Folder(source="folder", path=str(folder / "tree"), size=SIDE, store=STORED),
        }
        for form, dataset in forms.items():
            start = time.process_time()
            prepare(DatasetStage(dataset=dataset), revision=1, out=folder / "out" / form, workers=1)
            rate = num / (time.process_time() - start)
            report[f"{form}: images_per_core_second"] = round(rate, 1)
            report[f"{form}: imagenet_hours_on_{CORES}_cores"] = round(IMAGENET / rate / CORES / 3600, 3)
            report[f"{form}: imagenet_gigabytes"] = round(IMAGENET * 3 * dataset.stored**2 / 1e9)
    save("prepare", report)


if __name__ == "__main__":
    main()
