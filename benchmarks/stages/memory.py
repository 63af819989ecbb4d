"""The most memory that each stage takes, for N and for 4 N images, and for S and 4 S steps.

All stages run in one process. The peak includes the libraries and what the C library keeps, so what counts is the
growth from N to 4 N images, as a share of the memory that the added images would take: a stage that keeps all images
has a share of 1 at least. Only the features of a cached probe grow by design; its exact mode, which ImageNet needs,
keeps those of one batch. Pages of memory-mapped files do not count: the kernel takes them back when it needs them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import torch

from benchmarks.comparison import save
from ldae.runtime.arrays import save_row_checksums
from ldae.runtime.files import checksums
from ldae.stages.fit_tokenizer import fit_tokenizer
from ldae.stages.judge import judge, reference
from ldae.stages.prepare import prepare
from ldae.stages.pretrain import pretrain
from ldae.stages.probe import probe
from ldae.stages.sample import sample
from ldae.stages.train_classifier import train_classifier
from ldae.stages.train_tokenizer import train_tokenizer
from ldae.study.base import Size
from ldae.study.methods import MAETraining
from ldae.study.recipes import Probing, Training
from ldae.study.results import Manifest
from ldae.study.scale import Classifier, Convolutional, Fitting, Photos, Sampling
from ldae.study.spec import Tokenizer
from ldae.study.stage_specs import (
    BaselineStage,
    ClassifierStage,
    ConvolutionalStage,
    DatasetStage,
    JudgeStage,
    PretrainStage,
    ProbeStage,
    SampleStage,
    TokenizerStage,
)

SIDE, IMAGES, STEPS = 64, 4000, 20
ADDED = 3 * IMAGES * 3 * SIDE**2 / 1e6  # MB, of the images of the larger size that the smaller has not
SIZE = Size(width=16, heads=2, encoder_blocks=1, decoder_blocks=1)
RECIPE: dict[str, Any] = {"batch": 64, "rate": 0.01, "warmup": 0.1}


def peak_memory(action: Callable[[], object]) -> int:
    """The most memory in MB that this process has to itself while it does something (Linux)."""
    status, over, seen = Path("/proc/self/status"), Event(), [0]

    def watch() -> None:
        while not over.wait(0.01):
            line = next(line for line in status.read_text().splitlines() if line.startswith("RssAnon"))
            seen.append(int(line.split()[1]) // 1024)

    watcher = Thread(target=watch)
    watcher.start()
    try:
        action()
    finally:
        over.set()
        watcher.join()
    return max(seen)


def images(folder: Path, num: int) -> Path:
    """So many prepared images of noise."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    places = np.arange(num + 500)
    np.save(folder / "images.npy", rng.integers(0, 256, (len(places), 3, SIDE, SIDE), dtype=np.uint8))
    save_row_checksums(folder / "images.npy")
    arrays = {"labels": places % 10, "groups": places, "parts": (places >= num).astype(np.int64)}
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)
    sums = checksums(*(folder / f"{name}.npy" for name in arrays))
    classes = tuple(map(str, range(10)))
    counts = {"train": dict.fromkeys(classes, num // 10), "val": dict.fromkeys(classes, 50)}
    manifest = Manifest(
        source="photos",
        size=SIDE,
        classes=classes,
        counts=counts,
        lineage={"dataset": {"revision": 1, "spec": {}}},
        sha256=sums,
    )
    manifest.write(folder / "manifest.json")
    return folder


class Stages:
    """Every stage, on data of a size and for a number of steps."""

    def __init__(self, folder: Path, num: int, steps: int) -> None:
        folder.mkdir()
        self.folder, self.num, self.steps = folder, num, steps
        self.dataset = images(folder / "dataset", num)
        self.common: dict[str, Any] = {"revision": 1, "dataset": self.dataset}

    def _training(self, name: str) -> dict[str, Any]:
        return self.common | {"resume": self.folder / "resume" / name, "out": self.folder / name}

    def prepare(self) -> None:
        """Of the photographs."""
        dataset = Photos(source="photos", size=SIDE, train=self.num, val=100)
        prepare(DatasetStage(dataset=dataset), revision=1, out=self.folder / "prepared", workers=1)

    def fit_tokenizer(self) -> None:
        """To one patch an image and token."""
        stage = TokenizerStage(fitting=Fitting(patches=16 * self.num))
        fit_tokenizer(stage, seed=0, out=self.folder / "pca", **self.common)

    def train_classifier(self) -> None:
        """The one that judges."""
        recipe = Classifier(width=4, steps=self.steps, batch=64, rate=1e-3)
        train_classifier(ClassifierStage(architecture="resnet", classifier=recipe), seed=0, **self._training("resnet"))

    def train_tokenizer(self) -> None:
        """And caching latents."""
        recipe = Convolutional(width=4, blocks=1, steps=self.steps, batch=8, rate=1e-3)
        train_tokenizer(ConvolutionalStage(dim=16, convolutional=recipe), seed=0, **self._training("vae"))

    def pretrain(self) -> None:
        """A row."""
        stage = PretrainStage(size=SIZE, training=Training(steps=self.steps, **RECIPE), tokenizer=Tokenizer(dim=16))
        pretrain(stage, row="pca", seed=0, tokenizer=self.folder / "pca", **self._training("row"))

    def pretrain_baseline(self) -> None:
        """MAE."""
        decoder = {"decoder_width": 16, "decoder_heads": 2, "decoder_blocks": 1}
        stage = BaselineStage(size=SIZE, mae=MAETraining(steps=self.steps, **RECIPE, **decoder))
        pretrain(stage, row="mae", seed=0, **self._training("mae"))

    def _probe(self, mode: Any) -> None:
        probing = Probing(mode=mode, epochs=1, warmup=0, batch=512, rates=(1.0,))
        folders = {"model": self.folder / "row", "tokenizer": self.folder / "pca", "out": self.folder / mode}
        probe(ProbeStage(probing=probing), row="pca", **folders, **self.common)

    def probe_cached(self) -> None:
        """Which holds all features."""
        self._probe("cached")

    def probe_exact(self) -> None:
        """Which holds those of a batch."""
        self._probe("exact")

    def sample(self) -> None:
        """As many samples as there are images."""
        stage = SampleStage(sampling=Sampling(num=self.num, steps=1, batch=100))
        folders = {"model": self.folder / "row", "tokenizer": self.folder / "pca", "out": self.folder / "samples"}
        sample(stage, row="pca", **folders, **self.common)

    def reference(self) -> None:
        """Of all training images."""
        reference(JudgeStage(judging={}), out=self.folder / "reference", judge=self.folder / "resnet", **self.common)

    def judge(self) -> None:
        """Of all samples."""
        folders = {"samples": self.folder / "samples", "reference": self.folder / "reference"}
        judge(JudgeStage(judging={}), revision=1, judge=self.folder / "resnet", out=self.folder / "distance", **folders)


STAGES = [name for name in vars(Stages) if not name.startswith("_")]


def main() -> None:
    """Measures every stage at both sizes, the larger one second."""
    torch.set_num_threads(1)
    report: dict[str, Any] = {
        "what": f"MB at most, for {IMAGES} and {4 * IMAGES} images of {SIDE} pixels, "
        f"{IMAGES * 3 * SIDE**2 / 1e6:.0f} and {4 * IMAGES * 3 * SIDE**2 / 1e6:.0f} MB, "
        f"in {STEPS} and {4 * STEPS} steps"
    }
    with tempfile.TemporaryDirectory() as name:
        warm, *sizes = [
            Stages(Path(name) / str(num), num, steps)
            for num, steps in ((200, 2), (IMAGES, STEPS), (4 * IMAGES, 4 * STEPS))
        ]
        for stage in STAGES:
            getattr(warm, stage)()  # what is imported or made once counts for neither
            few, many = (peak_memory(getattr(size, stage)) for size in sizes)
            report[stage] = {"mb": [few, many], "share_of_added_images": round((many - few) / ADDED, 2)}
    save("memory", report)


if __name__ == "__main__":
    main()
