"""Images kept larger than networks see them: scaled down for all that looks at whole images, as they are for crops."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from ldae.data.crops import random_resized_crop
from ldae.data.prepared import Split
from ldae.runtime.arrays import save_row_checksums
from ldae.runtime.files import read_json
from ldae.runtime.randomness import Randomness
from ldae.stages.fit_tokenizer import fit_tokenizer
from ldae.stages.prepare import prepare
from ldae.stages.pretrain import pretrain
from ldae.stages.probe import probe
from ldae.stages.train_classifier import train_classifier
from ldae.study.base import Size
from ldae.study.methods import MAETraining, MoCoTraining
from ldae.study.recipes import Probing, Training
from ldae.study.scale import Classifier, Fitting, Photos
from ldae.study.spec import Recipe, Tokenizer
from ldae.study.stage_specs import (
    BaselineStage,
    ClassifierStage,
    DatasetStage,
    PretrainStage,
    ProbeStage,
    TokenizerStage,
)

SIDE, STORED = 32, 40
SIZE = Size(width=16, heads=2, encoder_blocks=1, decoder_blocks=1)
TRAINING = {"steps": 2, "batch": 8, "rate": 0.01, "warmup": 0.0}


def photos(store: int | None = STORED) -> Photos:
    return Photos(source="photos", size=SIDE, store=store, train=40, val=24)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Prepared folders with a tokenizer's fit: of larger images, and of the same images scaled down."""
    one, other = (tmp_path_factory.mktemp(name) for name in ("one", "other"))
    prepare(DatasetStage(dataset=photos()), revision=1, out=one / "dataset", workers=1)
    fit_tokenizer(
        TokenizerStage(fitting=Fitting(patches=100)), seed=0, revision=1, dataset=one / "dataset", out=one / "tokenizer"
    )
    shutil.copytree(one, other, dirs_exist_ok=True)
    path = other / "dataset/images.npy"
    whole = replace(Split.open(one / "dataset", "train", seed=0), index=np.arange(len(np.load(path))))
    np.save(path, whole[:])
    save_row_checksums(path)
    return one, other


def test_images_are_scaled_to_the_size_that_networks_see(folders: tuple[Path, Path]) -> None:
    folder = folders[0] / "dataset"
    assert read_json(folder / "manifest.json")["size"] == SIDE
    split = Split.open(folder, "train", seed=0)
    stored = np.load(folder / "images.npy")[split.index]
    assert stored.shape == (40, 3, STORED, STORED)
    seen, labels = split.batch(np.array([7, 2]), torch.device("cpu"))
    for image, number in zip(seen, (7, 2), strict=True):
        picture = Image.fromarray(stored[number].transpose(1, 2, 0)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        expected = np.asarray(picture, np.int64).transpose(2, 0, 1)
        np.testing.assert_allclose(image.numpy().astype(np.int64), expected, rtol=0, atol=1)
    np.testing.assert_array_equal(split[7:8], seen[:1])
    whole, same = split.as_stored.batch(np.array([7, 2]), torch.device("cpu"))
    np.testing.assert_array_equal(whole, stored[[7, 2]])
    assert labels.tolist() == same.tolist() == [7, 2]


def test_without_it_nothing_has_changed() -> None:
    """The text that decides whether a data set is prepared again, and the images."""
    stage = DatasetStage(dataset=photos(store=None))
    assert stage.to_json() == '{"dataset":{"size":32,"source":"photos","train":40,"val":24}}'
    assert photos(store=None).stored == SIDE


def test_a_window_of_a_larger_image_is_scaled_to_the_size_asked_for() -> None:
    axis = torch.linspace(-1, 1, STORED)
    ramps = axis.expand(50, 3, STORED, STORED)
    crops = random_resized_crop(ramps, Randomness(torch.device("cpu"), 0), smallest=1.0, size=SIDE)
    assert crops.shape == (50, 3, SIDE, SIDE)
    slopes = crops[:, 0, 4:-4, 4:-4].diff(dim=2).mean((1, 2)).abs()
    expected = 2 / (STORED - 1) * STORED / SIDE
    assert slopes.max() < 1.02 * expected  # the whole width, or, of a tall window, three quarters of it
    assert slopes.min() > 0.7 * expected


@pytest.mark.parametrize("store", [31, 49, 0, -1])
def test_a_side_that_cannot_be_is_refused(store: int) -> None:
    with pytest.raises(ValidationError, match="store"):
        photos(store=store)


def trained(folder: Path, crop: str, out: Path) -> bytes:
    """The weights that a row of this recipe ends with."""
    pretrain(
        PretrainStage(size=SIZE, training=Training(**TRAINING), tokenizer=Tokenizer(dim=8), recipe=Recipe(crop=crop)),
        row="tiny",
        seed=0,
        revision=1,
        dataset=folder / "dataset",
        tokenizer=folder / "tokenizer",
        resume=out / "resume",
        out=out,
    )
    return (out / "model.safetensors").read_bytes()


def test_random_crops_are_cut_from_the_larger_images_and_whole_ones_scaled(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    centred = [trained(folder, "center", tmp_path / f"c-{folder.name}") for folder in folders]
    assert centred[0] == centred[1]
    random = [trained(folder, "random", tmp_path / f"r-{folder.name}") for folder in folders]
    assert random[0] != random[1]


def test_nearest_neighbours_are_those_of_whole_images(folders: tuple[Path, Path], tmp_path: Path) -> None:
    trained(folders[0], "center", tmp_path / "run")
    probing = Probing(mode="exact", epochs=2, warmup=1, batch=16, rates=(1.0,), extract_batch=16)
    found = []
    for folder in folders:
        out = tmp_path / folder.name
        probe(
            ProbeStage(probing=probing),
            row="tiny",
            revision=1,
            dataset=folder / "dataset",
            tokenizer=folder / "tokenizer",
            model=tmp_path / "run",
            out=out,
        )
        found.append(read_json(out / "probe.json")["blocks"]["0"])
    assert found[0]["knn"] == found[1]["knn"]  # of whole images alone


@pytest.mark.parametrize("method", ["mae", "moco_v3"])
def test_the_baselines_see_crops_of_the_larger_images(method: str, folders: tuple[Path, Path], tmp_path: Path) -> None:
    recipes = {
        "mae": MAETraining(**TRAINING, decoder_width=16, decoder_heads=2, decoder_blocks=1),
        "moco_v3": MoCoTraining(**TRAINING, hidden=16, out=8),
    }
    stage = BaselineStage(size=SIZE, **{method: recipes[method]})
    weights = []
    for folder in folders:
        out = tmp_path / folder.name
        pretrain(stage, row=method, seed=0, revision=1, dataset=folder / "dataset", resume=out / "resume", out=out)
        weights.append((out / "model.safetensors").read_bytes())
    assert weights[0] != weights[1]


def test_a_classifier_sees_crops_of_the_larger_images(folders: tuple[Path, Path], tmp_path: Path) -> None:
    stage = ClassifierStage(
        architecture="resnet", classifier=Classifier(width=4, steps=2, batch=8, rate=1e-3, log_every=1)
    )
    losses = []
    for folder in folders:
        out = tmp_path / folder.name
        train_classifier(stage, seed=0, revision=1, dataset=folder / "dataset", resume=out / "resume", out=out)
        losses.append((out / "history.csv").read_text())
    assert losses[0] != losses[1]
