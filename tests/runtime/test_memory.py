"""The stages that see all images never hold them all, whatever their number and that of the steps.

They count the bytes of NumPy's arrays and of tensors, which are the same in every run; `benchmarks/stages/memory.py`
measures the memory of the whole process.
"""

from __future__ import annotations

import gc
import itertools
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from manifests import write_manifest, write_numbers
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

import ldae.stages.prepare as prepare_module
from ldae.data.sources import Picture, Source
from ldae.measures.extraction import Encoders
from ldae.measures.protocol import evaluate
from ldae.runtime.arrays import checksums_path, row_checksums
from ldae.stages.fit_tokenizer import fit_tokenizer
from ldae.stages.prepare import prepare
from ldae.stages.pretrain import pretrain
from ldae.stages.probe import open_data
from ldae.study.base import Size
from ldae.study.recipes import Probing, Training
from ldae.study.scale import Fitting, Photos
from ldae.study.spec import Tokenizer
from ldae.study.stage_specs import DatasetStage, PretrainStage, TokenizerStage
from ldae.training.step import LossTask

SIDE = 64
FEW, MANY = 1000, 3000  # images
ADDED = (MANY - FEW) * 3 * SIDE**2  # bytes


def arrays_peak(action: Callable[[], object]) -> int:
    """The most bytes of Python's objects and NumPy's arrays at a time while something is done; maps do not count."""
    gc.collect()
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def growth(action: Callable[[int], object]) -> float:
    """How much more an action takes for many images than for few, as a share of the images that are added."""
    action(FEW // 4)  # what is imported or computed once
    few, many = (arrays_peak(lambda num=num: action(num)) for num in (FEW, MANY))  # type: ignore[misc]
    return (many - few) / ADDED


def tensors() -> int:
    """The bytes of all tensors that are alive, each storage once."""
    alive = [thing.untyped_storage() for thing in gc.get_objects() if type(thing) in (torch.Tensor, torch.nn.Parameter)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in alive}.values())


@dataclass(frozen=True)
class Grey:
    """Images that cost nothing to draw."""

    num: int

    @property
    def labels(self) -> NDArray[np.int64]:
        return np.arange(self.num) % 2

    @property
    def names(self) -> tuple[str, ...]:
        return ()

    def at(self, places: Sequence[int], white: float | None = None) -> Grey:
        return replace(self, num=len(places))

    def __iter__(self) -> Iterator[Picture]:
        pixels = np.full((3, SIDE, SIDE), 7, np.uint8)
        return (Picture(pixels) for _ in range(self.num))


def test_preparing_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stage(num: int) -> None:
        monkeypatch.setattr(
            prepare_module.opening, "open_source", lambda _: Source(("a", "b"), Grey(num), np.zeros(num, np.int64))
        )
        dataset = Photos(source="photos", size=SIDE, train=num, val=100)
        prepare(DatasetStage(dataset=dataset), revision=1, out=tmp_path / str(num), workers=1)
        assert len(np.load(tmp_path / str(num) / "images.npy", mmap_mode="r")) == num

    assert growth(stage) < 0.1


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Prepared images that take no disk: zeros, but for a few."""
    made = {}
    for num in (FEW // 4, FEW, MANY):
        folder = made[num] = tmp_path_factory.mktemp(str(num))
        path, count, few = folder / "images.npy", num + 100, np.arange(100)
        images = open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, 3, SIDE, SIDE))
        sums = np.zeros(count, np.uint64)
        for part in (few, num + few):
            images[part, :, 0] = few.astype(np.uint8)[:, None, None]
            sums[part] = row_checksums(images[part])
        np.save(checksums_path(path), sums)
        numbers = write_numbers(folder, train=num, labels=np.arange(count) % 2, groups=np.arange(count))
        write_manifest(folder, size=SIDE, classes=("a", "b"), sha256=numbers)
        if num == FEW // 4:
            fit_tokenizer(
                TokenizerStage(fitting=Fitting(patches=800)), seed=0, revision=1, dataset=folder, out=folder / "pca"
            )
    return made


def test_steps_leave_no_tensors_behind(
    folders: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[int] = []
    steps, update = itertools.count(), LossTask.update

    def counted(*arguments: Any, **options: Any) -> dict[str, Any]:
        if next(steps) in (2, 19):  # the optimizer has all its moments; the last
            alive.append(tensors())
        return update(*arguments, **options)

    monkeypatch.setattr(LossTask, "update", counted)
    recipe = PretrainStage(
        tokenizer=Tokenizer(dim=8),
        size=Size(width=8, heads=1, encoder_blocks=1, decoder_blocks=1),
        training=Training(steps=20, batch=50, rate=0.01, warmup=0.0, log_every=4),
    )
    given = {"dataset": folders[FEW // 4], "tokenizer": folders[FEW // 4] / "pca", "resume": tmp_path / "resume"}
    pretrain(recipe, row="tiny", seed=0, revision=1, **given, out=tmp_path / "out", checkpoint_seconds=0.01)
    early, late = alive
    assert late == early


@pytest.mark.parametrize("mode", ["cached", "exact"])
def test_probing(mode: str, folders: dict[int, Path]) -> None:
    """The features of `cached` do grow, by design: 48 numbers an image here, 1 MB."""
    probing = Probing(mode=mode, epochs=1, warmup=0, batch=500, rates=(1.0,), extract_batch=500)
    encoders = Encoders(lambda images, _: images, lambda images: [("raw", images[:, None, :, :4, :4].flatten(2))])

    def stage(num: int) -> None:
        evaluate(encoders, open_data(folders[num], probing, seed=0), probing, seed=0, title=mode)

    assert growth(stage) < 0.1


def test_holding_the_images_would_be_seen(folders: dict[int, Path]) -> None:
    def hold(num: int) -> None:
        assert torch.from_numpy(np.load(folders[num] / "images.npy")).float().mean() >= 0

    assert growth(hold) > 0.9
