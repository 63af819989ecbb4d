"""Replications: which images of the one pool each trains and validates on."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from manifests import images_of, write_images, write_manifest
from PIL import Image

from ldae.data.division import UNDIVIDED, Division, Pool, SplitName
from ldae.data.prepared import Split
from ldae.data.sources import photos
from ldae.runtime.files import read_json
from ldae.stages.prepare import prepare
from ldae.study.scale import Dataset, Folder, Photos
from ldae.study.stage_specs import DatasetStage

SEEDS = range(12)


def prepared(dataset: Dataset, out: Path, *, shared: bool = False) -> Path:
    prepare(DatasetStage(dataset=dataset, shared=shared), revision=1, out=out, workers=1)
    return out


def own(root: Path, fraction: float = 0.25) -> Folder:
    return Folder(source="folder", path=str(root), size=16, val_fraction=fraction)


def picture(path: Path, value: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (16, 16), value).save(path)
    return path


def tree(root: Path, num: int = 20) -> Path:
    """Two classes of grey pictures, each of another brightness."""
    for number in range(num):
        picture(root / "cat" / f"{number:02}.png", number)
        picture(root / "dog" / f"{number:02}.png", 100 + number)
    return root


@pytest.fixture(scope="module")
def some_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(Photos(source="photos", size=16, train=110, val=45), tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def some_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folder")
    return prepared(own(tree(folder / "tree")), folder / "out")


@pytest.fixture(params=["some_photos", "some_folder"])
def divided(request: pytest.FixtureRequest) -> Path:
    """Prepared images that each replication divides anew."""
    folder: Path = request.getfixturevalue(request.param)
    return folder


def test_replications_have_splits_of_their_own_and_equally_many_images(divided: Path) -> None:
    counts = read_json(divided / "manifest.json")["counts"]
    for name in get_args(SplitName):
        divisions = [Division.open(divided, name, seed) for seed in SEEDS]
        assert len({division.index.tobytes() for division in divisions}) == len(SEEDS)
        for division in divisions:
            assert division.own_splits
            assert np.bincount(division.labels).tolist() == list(counts[name].values())
            assert (np.diff(division.index) > 0).all()
            assert set(division.groups) == set(range(division.groups.max() + 1))


def test_no_image_is_in_both_splits_of_a_replication(divided: Path) -> None:
    for seed in SEEDS:
        train, val = (Division.open(divided, name, seed) for name in get_args(SplitName))
        assert not set(train.index) & set(val.index)


def test_images_are_stored_once(divided: Path) -> None:
    one, two = (Split.open(divided, "train", seed) for seed in (0, 1))
    assert one.images.path == two.images.path == divided / "images.npy"
    common, in_one, in_two = np.intersect1d(one.index, two.index, return_indices=True)
    assert 0 < len(common) < len(one)
    device = torch.device("cpu")
    assert torch.equal(one.batch(in_one, device)[0], two.batch(in_two, device)[0])
    assert [path.name for path in divided.glob("*images*")].count("images.npy") == 1


def test_a_split_reads_the_images_and_labels_of_its_index(divided: Path) -> None:
    split, division = Split.open(divided, "val", 3), Division.open(divided, "val", 3)
    expected = images_of(divided, "val", 3)
    images, labels = split.batch(np.array([4, 1]), torch.device("cpu"))
    np.testing.assert_array_equal(images, expected[[4, 1]])
    assert labels.tolist() == division.labels[[4, 1]].tolist()
    np.testing.assert_array_equal(split[2:7], expected[2:7])
    assert len(split) == len(expected)


def test_each_photograph_has_its_own_side_and_all_sides_are_equally_likely(some_photos: Path) -> None:
    parts, seeds = np.load(some_photos / "parts.npy"), range(60)
    sides = np.empty((len(seeds), len(photos.PHOTOGRAPHS)), dtype=int)
    for seed in seeds:
        for name in get_args(SplitName):
            division = Division.open(some_photos, name, seed)
            side, is_val = np.divmod(parts[division.index], 2)
            assert (is_val == (name == "val")).all()
            if name == "train":
                sides[seed, division.labels] = side
            assert (sides[seed, division.labels] == side).all()  # of a photograph, the same in both splits
    total = sides.size
    for side in range(len(photos.SIDES)):
        assert (sides == side).sum() == pytest.approx(total / 4, abs=3.5 * np.sqrt(total * 3 / 16))
    agreement = [(one == other).mean() for place, one in enumerate(sides.T) for other in sides.T[:place]]
    assert np.mean(agreement) == pytest.approx(1 / 4, abs=0.02)  # of two photographs


def test_the_number_of_validation_images_is_that_of_the_share(some_folder: Path) -> None:
    assert read_json(some_folder / "manifest.json")["counts"]["val"] == {"cat": 5, "dog": 5}
    drawn = Counter(place for seed in range(200) for place in Division.open(some_folder, "val", seed).index.tolist())
    assert len(drawn) == 40
    assert max(abs(count - 50) for count in drawn.values()) < 4 * np.sqrt(200 * 3 / 16)


def test_existing_splits_stay(tmp_path: Path) -> None:
    for split, num in (("train", 6), ("val", 3)):
        tree(tmp_path / "tree" / split, num)
    given = Folder(source="folder", path=str(tmp_path / "tree"), size=16)
    out = prepared(given, tmp_path / "out")
    for seed in SEEDS:
        train, val = (Division.open(out, name, seed) for name in get_args(SplitName))
        assert not train.own_splits and not val.own_splits
        assert (train.index.tolist(), val.index.tolist()) == (list(range(12)), list(range(12, 18)))


@pytest.mark.parametrize("source", ["photos", "folder"])
def test_shared_splits_are_those_of_seed_0(source: str, tmp_path: Path) -> None:
    dataset = Photos(source="photos", size=16, train=40, val=20) if source == "photos" else own(tree(tmp_path / "tree"))
    one = prepared(dataset, tmp_path / "one")
    shared = prepared(dataset, tmp_path / "shared", shared=True)
    for name in get_args(SplitName):
        first = Division.open(one, name, 0)
        for seed in SEEDS:
            division = Division.open(shared, name, seed)
            assert not division.own_splits
            np.testing.assert_array_equal(division.index, first.index)
    np.testing.assert_array_equal(np.load(one / "images.npy"), np.load(shared / "images.npy"))


def test_equal_files_of_a_class_stay_on_one_side(tmp_path: Path) -> None:
    root = tree(tmp_path / "tree")
    for number in range(6):
        shutil.copy(root / f"cat/{number:02}.png", root / f"cat/copy{number}.png")
    shutil.copy(root / "cat/00.png", root / "cat/third.png")
    out = prepared(own(root), tmp_path / "out")
    counts = read_json(out / "manifest.json")["counts"]
    assert sum(counts["train"].values()) + sum(counts["val"].values()) == 47
    with_copies = 0
    for seed in SEEDS:
        train, val = ({image.tobytes() for image in images_of(out, name, seed)} for name in get_args(SplitName))
        assert not train & val
        for name in get_args(SplitName):
            labels = Division.open(out, name, seed).labels
            assert np.bincount(labels).tolist() == list(counts[name].values())
        division = Division.open(out, "val", seed)
        images = images_of(out, "val", seed)
        with_copies += len(images) - len({image.tobytes() for image in images})
        assert len(set(division.groups)) == len({image.tobytes() for image in images})  # copies are one group
    assert with_copies


def test_a_class_of_one_file_and_its_copies_cannot_be_divided(tmp_path: Path) -> None:
    root = tree(tmp_path / "tree")
    shutil.rmtree(root / "dog")
    for number in range(3):
        picture(root / "dog" / f"{number}.png", 7)
    with pytest.raises(ValueError, match="the class dog has 3 images, all of them the same file; to split a class"):
        prepared(own(root), tmp_path / "out")
    for number in range(2):
        (root / "dog" / f"{number}.png").write_bytes(b"")
    with pytest.raises(ValueError, match="the class dog has a single image that can be read; to split a class"):
        prepared(own(root).model_copy(update={"broken": "allow"}), tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.npy"))


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.lists(st.lists(st.integers(1, 4), min_size=2, max_size=12), min_size=1, max_size=4),
    fraction=st.floats(0.01, 0.99),
)
def test_any_pool_is_divided_by_groups_into_equal_numbers(sizes: list[list[int]], fraction: float) -> None:
    labels = np.repeat(np.arange(len(sizes)), [sum(of_class) for of_class in sizes])
    flat = [size for of_class in sizes for size in of_class]
    groups = np.repeat(np.arange(len(flat)), flat)
    order = np.random.default_rng(0).permutation(len(labels))
    pool = Pool(labels[order], groups[order], np.full(len(labels), UNDIVIDED), fraction)
    numbers = set()
    for seed in range(4):
        train, val = (pool.places(name, seed) for name in get_args(SplitName))
        assert sorted([*train, *val]) == list(range(len(labels)))
        assert not set(pool.groups[train]) & set(pool.groups[val])
        counts = [np.bincount(pool.labels[places], minlength=len(sizes)) for places in (train, val)]
        assert min(map(min, counts)) > 0
        numbers.add(str(counts))
    assert len(numbers) == 1


def test_a_damaged_array_is_named(tmp_path: Path) -> None:
    numbers: dict[str, Any] = {"train": 4, "labels": np.arange(6) % 3, "groups": np.arange(6)}
    sums = write_images(tmp_path, np.zeros((6, 3, 8, 8), np.uint8), **numbers)
    write_manifest(tmp_path, sha256=sums)
    for name in ("labels", "groups", "parts"):
        path = tmp_path / f"{name}.npy"
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ValueError, match=rf"{name}\.npy: is damaged"):
            Division.open(tmp_path, "val", 0)
        path.write_bytes(content)
    assert Division.open(tmp_path, "val", 0).index.tolist() == [4, 5]
