"""The memory of the stages that see all images does not grow with their number, nor with that of steps."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

import ldae.prepare as prepare_module
from ldae import arrays
from ldae.arrays import sums_beside
from ldae.files import sums_of, write_json
from ldae.fit_tokenizer import fit_tokenizer
from ldae.prepare import prepare
from ldae.pretrain import pretrain
from ldae.probe import Encoders, evaluate, open_data
from ldae.process import M_MMAP_THRESHOLD, M_TOP_PAD, M_TRIM_THRESHOLD
from ldae.sources import Picture, Source
from ldae.spec import DatasetStage, Fitting, Photos, PretrainStage, Probing, Size, Tokenizer, TokenizerStage, Training

SIDE = 64
FEW, MANY = 1000, 5000  # images: 12 and 61 MB
ALLOWED = 20  # MB more, where holding the images would take 49

# of glibc, in bytes: from which size on blocks are the kernel's own, and how much free memory stays at the heap's end
PIECES = {M_MMAP_THRESHOLD: 2**18, M_TRIM_THRESHOLD: 2**17, M_TOP_PAD: 2**17}
RESET = Path("/proc/self/clear_refs")
pytestmark = pytest.mark.skipif(not RESET.exists(), reason="asks the Linux kernel")


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a memory map, less may stay than usual: the images here would all be within that.

    And what is freed is given back, where the C library would keep some of it, the more the longer a process lives.
    """
    monkeypatch.setattr(arrays, "RESIDENT", 2**22)
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # as glibc has it
        for parameter, size in PIECES.items():
            libc.mallopt(parameter, size)
        libc.malloc_trim(0)


def peak_memory(action: Callable[[], object]) -> int:
    """The most memory in MB that this process has had at a time while it did something."""
    gc.collect()  # what earlier tests have left is not freed on the way
    RESET.write_text("5")
    action()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024


def growth(action: Callable[[int], object]) -> int:
    """How many MB more an action takes of many than of few."""
    action(FEW // 4)  # what is made once and kept
    few, many = (peak_memory(lambda num=num: action(num)) for num in (FEW, MANY))  # type: ignore[misc]
    return many - few


@dataclass(frozen=True)
class Grey:
    """Images that cost nothing to draw."""

    num: int

    @property
    def labels(self) -> NDArray[np.int64]:
        return np.arange(self.num) % 2

    @property
    def fingerprint(self) -> str:
        return "grey"

    def part(self, start: int, stop: int) -> Grey:
        return replace(self, num=min(stop, self.num) - start)

    def __iter__(self) -> Iterator[Picture]:
        pixels = np.full((3, SIDE, SIDE), 7, np.uint8)
        return (Picture(pixels, number) for number in range(self.num))


def test_preparing_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stage(num: int) -> None:
        monkeypatch.setattr(
            prepare_module, "_open", lambda _: Source(("a", "b"), {"train": Grey(num), "val": Grey(100)})
        )
        dataset = Photos(source="photos", size=SIDE, train=num, val=100)
        prepare(DatasetStage(dataset=dataset), revision=1, out=tmp_path / str(num), workers=1)
        assert len(np.load(tmp_path / str(num) / "train.npy", mmap_mode="r")) == num

    assert growth(stage) < ALLOWED


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Prepared images that take no disk: zeros, but for a few."""
    made = {}
    for num in (FEW // 4, FEW, MANY):
        folder = made[num] = tmp_path_factory.mktemp(str(num))
        for split, count in (("train", num), ("val", 100)):
            images = open_memmap(folder / f"{split}.npy", mode="w+", dtype=np.uint8, shape=(count, 3, SIDE, SIDE))
            images[:100, :, 0] = np.arange(100, dtype=np.uint8)[:, None, None]
            sums = np.zeros(count, np.uint64)
            sums[:100] = images[:100].reshape(100, -1).view(np.uint64).sum(1, dtype=np.uint64)
            np.save(sums_beside(folder / f"{split}.npy"), sums)
            np.save(folder / f"{split}_labels.npy", np.arange(count) % 2)
            np.save(folder / f"{split}_groups.npy", np.arange(count))
        files = [folder / f"{split}_{what}.npy" for split in ("train", "val") for what in ("labels", "groups")]
        about = {"size": SIDE, "classes": ["a", "b"], "lineage": {}, "sha256": sums_of(*files)}
        write_json(folder / "manifest.json", about)
        if num == FEW // 4:
            fit_tokenizer(TokenizerStage(fitting=Fitting(patches=800)), revision=1, dataset=folder, out=folder / "pca")
    return made


def test_training(folders: dict[int, Path], tmp_path: Path) -> None:
    """Of so many images, each seen once: five times the images in five times the steps."""

    def stage(num: int) -> None:
        recipe = PretrainStage(
            tokenizer=Tokenizer(dim=8),
            size=Size(width=8, heads=1, encoder_blocks=1, decoder_blocks=1),
            training=Training(epochs=1, batch=200, rate=0.01, warmup=0.0),
        )
        out = tmp_path / str(num)
        pretrain(
            recipe,
            row="tiny",
            seed=0,
            revision=1,
            dataset=folders[num],
            tokenizer=folders[FEW // 4] / "pca",
            resume=out / "resume",
            out=out,
            checkpoint_seconds=1,
        )

    assert growth(stage) < ALLOWED


@pytest.mark.parametrize("mode", ["cached", "exact"])
def test_probing(mode: str, folders: dict[int, Path]) -> None:
    """The features of `cached` do grow, by design: 48 numbers an image here, 1 MB."""
    probing = Probing(mode=mode, epochs=1, warmup=0, batch=500, rates=(1.0,), extract_batch=500)
    encoders = Encoders(lambda images, _: images, lambda images: {"raw": images[:, :, :4, :4].flatten(1)})

    def stage(num: int) -> None:
        evaluate(encoders, open_data(folders[num], probing, 2), probing, seed=0, title=mode)

    assert growth(stage) < ALLOWED


def test_holding_the_images_would_be_seen(folders: dict[int, Path]) -> None:
    def hold(num: int) -> None:
        assert torch.from_numpy(np.load(folders[num] / "train.npy")).float().mean() >= 0

    assert growth(hold) > ALLOWED
